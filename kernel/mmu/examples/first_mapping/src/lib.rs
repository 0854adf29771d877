// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first mapping with `lazymmu`: the example of its documentation. On bare AArch64 it executes
//! the CPU's instructions. On a host it runs on the machine of the test kit, which checks each of
//! them.

#![cfg_attr(target_os = "none", no_std)]

use lazymmu::{AddressSpace, Frame, Mmu, PageRange, Prot, TablePool};

// On a host: `Mmu::for_one_task` comes from the test kit.
#[cfg(not(target_os = "none"))]
use lazymmu_testkit::ForOneTask as _;

/// Maps 512 pages of a kernel's address space to 2 MiB of memory, looks one up, and unmaps them.
///
/// # Errors
/// The errors of the library. None of them occurs here.
///
/// # Panics
/// If a page that was mapped cannot be looked up.
pub fn first_mapping() -> Result<(), lazymmu::SpaceError> {
    // SAFETY: the map is an identity map, so virtual addresses are 0 bytes above physical ones.
    static TABLES: TablePool<8> = unsafe { TablePool::new(0) };

    let mmu = Mmu::for_one_task(&TABLES);
    let mut space = AddressSpace::new_kernel(&mmu)?;
    let range = PageRange::new(0xffff_8000_0000_0000, 512)?;
    let first = Frame::from_u64(0x8000_0000).expect("a multiple of 4096");

    // Builds three tables, writes 512 entries, executes one DSB and one ISB.
    space.map(range, first, Prot::KERNEL)?;
    let page = space.query(range.start()).expect("it was mapped");
    assert_eq!(page.entry.frame(), first);

    // Empties the entries; DSB, TLBI, DSB, ISB.
    space.unmap(range)?;
    assert!(space.query(range.start()).is_none());
    Ok(())
}

#[cfg(test)]
mod tests {
    /// The library's documentation, whose first example must have the lines of this one.
    const DOCUMENTATION: &str = include_str!("../../../README.md");

    #[test]
    fn it_runs_on_the_machine_of_the_test_kit() {
        super::first_mapping().expect("eight tables are enough");
    }

    #[test]
    fn the_documentation_shows_these_lines_and_they_are_few() {
        let source = include_str!("lib.rs");
        let (_, body) = source
            .split_once("-> Result<(), lazymmu::SpaceError> {\n")
            .expect("the function");
        let (body, _) = body.split_once("\n    Ok(())").expect("its end");
        let starts_with = |start| {
            let mut lines = source.lines();
            lines.find(|line: &&str| line.starts_with(start))
        };
        let import = starts_with("use lazymmu::").expect("the import");
        let on_a_host = starts_with("use lazymmu_testkit::").expect("the import on a host");
        let why = starts_with("// On a host: ").expect("the comment above it");
        let shown = DOCUMENTATION
            .split("```")
            .nth(1)
            .expect("the first example");
        let lines: Vec<&str> = body
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        for line in lines.iter().chain([&import, &on_a_host, &why]) {
            assert!(
                shown.lines().any(|other| other == *line),
                "the documentation lacks `{line}`"
            );
        }
        assert!(lines.len() < 25, "{} lines and an import", lines.len());
        assert!(import.matches(',').count() < 6, "{import}");
    }
}
