// SPDX-License-Identifier: MIT OR Apache-2.0

//! cite-sources: a barrier, TLBI or cache operation carries its rule and its
//! witness: its documentation has `Rule:` and `Witness:`.
//!
//! An operation is a public function that returns nothing, or an entry
//! `name, "instruction"` of a macro that makes such functions.

use super::Finding;
use crate::check::source::Source;

const FILES: [&str; 3] = [
    "kernel/src/arch/barrier.rs",
    "kernel/src/arch/tlbi.rs",
    "kernel/src/arch/cache.rs",
];
const CITED: [&str; 2] = ["Rule:", "Witness:"];

/// Finds operations without them.
pub fn check(source: &Source) -> Vec<Finding> {
    if !FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in source.numbered().take(source.without_tests()) {
        let name = match public_function(&line.code) {
            Some(name) if name.starts_with('$') || returns_value(source, number) => continue,
            Some(name) => name,
            None => match macro_entry(&line.code) {
                Some(name) => name,
                None => continue,
            },
        };
        for cited in CITED {
            if !source
                .above(number)
                .any(|line| line.comment.contains(cited))
            {
                findings.push(Finding::error(
                    number,
                    format!("the documentation of {name} has no `{cited}`"),
                ));
            }
        }
    }
    findings
}

/// The name of the public function that a line of code declares.
fn public_function(code: &str) -> Option<&str> {
    let code = code.trim();
    if !code.starts_with("pub ") && !code.starts_with("pub(") {
        return None;
    }
    let (_, rest) = code.split_once("fn ")?;
    rest.split(['(', '<']).next()
}

/// Tells whether the function declared on line `number` has a return type.
fn returns_value(source: &Source, number: usize) -> bool {
    let mut signature = String::new();
    for line in &source.lines[number - 1..] {
        signature.push_str(&line.code);
        if line.code.contains('{') {
            break;
        }
    }
    let head = signature.split('{').next().unwrap_or_default();
    head.contains("->") && !head.contains("-> !")
}

/// The name in `name, "instruction"`, whose string is emptied.
fn macro_entry(code: &str) -> Option<&str> {
    let (name, rest) = code.trim().split_once(", \"\"")?;
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && !rest.contains(['(', ')', ';'])).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::check;

    const TEXT: &str = "\
/// Completes stores.
///
/// Rule: R18, D8.2.
/// Witness: host model.
#[inline(always)]
pub fn dsb_ishst() {}

/// Rule: B2.
pub(crate) unsafe fn isb() {}

fn private() {}

#[must_use]
pub fn line(
    level: u64,
) -> u64 {
}

barrier! {
    /// Rule: R33; Witness: count.
    vale1is, \"tlbi vale1is, {}\", operand
}

barrier! {
    /// Orders.
    dmb_ish, \"dmb ish\"
}
";

    #[test]
    fn public_operations_need_rule_and_witness() {
        assert_eq!(
            lines(check, "kernel/src/arch/barrier.rs", TEXT),
            [9, 26, 26]
        );
        assert_eq!(
            lines(check, "kernel/src/arch/tlbi.rs", "pub fn all() {}"),
            [1, 1]
        );
    }

    #[test]
    fn other_files_are_free() {
        assert_eq!(
            lines(check, "kernel/src/arch/sysreg.rs", "pub fn read() {}"),
            [0; 0]
        );
    }
}
