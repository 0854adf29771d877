// SPDX-License-Identifier: MIT OR Apache-2.0

//! safety-claims-are-checkable, where clippy does not look: `unsafe impl` and
//! unsafe blocks inside macro definitions have a `// SAFETY:` comment.
//!
//! Clippy checks the blocks that a macro's use expands to only in the crate that
//! uses it, and then finds the comment only at the use.

use super::Finding;
use crate::check::source::Source;

/// Finds unsafe code without the comment.
pub fn check(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    // Closing brace of the macro definition that the line is in.
    let mut macro_end: Option<String> = None;
    for (number, line) in source.numbered() {
        let indent = line.text.len() - line.text.trim_start().len();
        if line.code.contains("macro_rules!") {
            macro_end = Some(format!("{}}}", &line.text[..indent]));
        } else if macro_end
            .as_ref()
            .is_some_and(|end| line.text.trim_end() == end)
        {
            macro_end = None;
        }
        let code = line.code.trim();
        let what = if code.starts_with("unsafe impl") {
            "unsafe impl"
        } else if macro_end.is_some() && code.contains("unsafe {") {
            "unsafe block in a macro"
        } else {
            continue;
        };
        let explained = line.comment.contains("SAFETY:")
            || source
                .above(number)
                .any(|line| line.comment.contains("SAFETY:"));
        if !explained {
            findings.push(Finding::error(
                number,
                format!("{what} without a `// SAFETY:` comment above it"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::check;

    #[test]
    fn unsafe_impl_needs_a_safety_comment() {
        let text = "unsafe impl Send for A {}\n\n// SAFETY: no state.\n#[cfg(x)]\nunsafe impl Send for B {}\n";
        assert_eq!(lines(check, "a.rs", text), [1]);
    }

    #[test]
    fn unsafe_blocks_in_macros_need_one_too() {
        let text = "macro_rules! m {\n    () => {\n        unsafe { f() }\n    };\n}\nfn g() { unsafe { f() } }\n";
        assert_eq!(lines(check, "a.rs", text), [3]);
        let text = text.replace(
            "        unsafe",
            "        // SAFETY: f has no conditions here.\n        unsafe",
        );
        assert_eq!(lines(check, "a.rs", &text), [0; 0]);
    }
}
