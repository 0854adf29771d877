// SPDX-License-Identifier: MIT OR Apache-2.0

//! asm-has-three-homes: assembly is in `boot/`, `kernel/src/arch/` and the library's `aarch64/` only.

use super::Finding;
use crate::check::source::Source;

const HOMES: [&str; 3] = ["boot/", "kernel/src/arch/", "kernel/mmu/src/aarch64/"];

/// Finds assembly elsewhere; all three macros end in `asm!`.
pub fn check(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    if HOMES.iter().any(|home| path.starts_with(home)) {
        return Vec::new();
    }
    let message = format!("assembly belongs to {}", HOMES.join(" or "));
    if path.ends_with(".s") || path.ends_with(".S") {
        return vec![Finding::error(1, message)];
    }
    source
        .numbered()
        .filter(|(_, line)| source.is_rust() && line.code.contains("asm!"))
        .map(|(number, _)| Finding::error(number, message.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::check;

    const TEXT: &str = "// asm! in a comment\nlet s = \"asm!\";\nunsafe { core::arch::asm!(\"nop\") }\nglobal_asm!(\"\");\n";

    #[test]
    fn assembly_is_found_outside_its_homes() {
        assert_eq!(lines(check, "kernel/src/mm/frames.rs", TEXT), [3, 4]);
        assert_eq!(lines(check, "kernel/mmu/src/fast.S", "nop"), [1]);
    }

    #[test]
    fn assembly_is_at_home_in_three_places() {
        assert_eq!(lines(check, "boot/src/entry.rs", TEXT), [0; 0]);
        assert_eq!(lines(check, "kernel/src/arch/cache.rs", TEXT), [0; 0]);
        assert_eq!(lines(check, "kernel/mmu/src/aarch64/tlbi.rs", TEXT), [0; 0]);
    }
}
