// SPDX-License-Identifier: MIT OR Apache-2.0

//! cite-sources: every number that is cited resolves to an entry of `docs/rules.md`, every entry
//! names tests that exist, and each barrier, TLBI or cache operation carries its rule and witness.
//!
//! An entry of `docs/rules.md` is a heading `### R27` or a row of a table that begins with an
//! anchor, `| <a id="m5"></a>M5 |`. Its tests are the code spans after `Tests:` or in the row's
//! last column: the name of a test, or a text in quotation marks that a Rust file contains (a row
//! of the verdict table, a finding of the disassembly). In their place `no test:` gives a reason.

use super::Finding;
use crate::check::source::Source;
use crate::workspace::Workspace;
use std::collections::BTreeSet;
use std::sync::LazyLock;

const RULES: &str = "docs/rules.md";

/// The instructions whose documentation has `Rule:` and `Witness:`.
const OPERATIONS: [&str; 3] = [
    "kernel/mmu/src/aarch64/barrier.rs",
    "kernel/mmu/src/aarch64/tlbi.rs",
    "kernel/src/arch/cache.rs",
];

/// First letters of numbers that are cited anywhere, and of verdict rows, which are looked for in
/// comments only: in code they are names of other things. `F` is the letter of no entry, so the
/// number of a review's finding, which only that review defines, is refused.
const NUMBERS: [char; 3] = ['R', 'S', 'H'];
const ROWS: [char; 9] = ['M', 'X', 'T', 'U', 'V', 'B', 'P', 'C', 'F'];
/// Registers, fields, cores and interrupt controllers of comments, which have such names as well.
const OTHERS: [&str; 6] = ["C8", "C9", "C11", "V2", "V3", "X30"];

static ENTRIES: LazyLock<Vec<Entry>> =
    LazyLock::new(|| entries(include_str!("../../../../docs/rules.md")));

/// An entry of `docs/rules.md`.
#[derive(Debug)]
struct Entry {
    line: usize,
    name: String,
    /// Where its tests are named.
    tests: String,
}

/// Finds citations without an entry; in `docs/rules.md`, entries without tests as well.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = unresolved(source, &ENTRIES);
    findings.extend(undocumented(source));
    if source.path == RULES {
        match Source::collect(Workspace::find().root()) {
            Ok(sources) => findings.extend(unheld(&ENTRIES, &sources)),
            Err(error) => findings.push(Finding::error(1, error.to_string())),
        }
    }
    findings
}

fn entries(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> = text.lines().collect();
    let entry = |(line, text): (usize, &&str)| {
        let (name, tests) = if let Some(row) = text.strip_prefix("| <a id=\"") {
            let mut cells = row.trim_end_matches([' ', '|']).split(" | ");
            let name = cells.next()?.rsplit('>').next()?;
            (name, cells.last()?.to_owned())
        } else {
            let name = text.strip_prefix("### ").filter(|name| is_citation(name))?;
            let body = lines[line..]
                .iter()
                .take_while(|text| !text.starts_with('#'));
            let body = body.copied().collect::<Vec<_>>().join(" ");
            let tests = body.split_once("*Tests:*").map_or("", |(_, tests)| tests);
            (name, tests.to_owned())
        };
        let name = name.to_owned();
        Some(Entry { line, name, tests })
    };
    (1..).zip(&lines).filter_map(entry).collect()
}

/// The citations in a text: words such as `R27` or `R_YNJCP`, and both ends of `R1-R43`, but not
/// what is a part of a section number (`B2.10`), of a name (`Cortex-X4`) or of a path (`Gic::V3`).
fn citations(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && !"_-.:".contains(c))
        .map(|word| word.trim_matches(['-', '.', ':']))
        .filter(|word| word.split('-').all(is_citation))
        .flat_map(|word| word.split('-'))
}

fn is_citation(word: &str) -> bool {
    let Some((first, rest)) = word.split_at_checked(1) else {
        return false;
    };
    let is_number = matches!(rest.len(), 1 | 2)
        && rest.bytes().all(|byte| byte.is_ascii_digit())
        && !rest.starts_with('0');
    let is_label = first == "R"
        && rest.len() == 6
        && rest.starts_with('_')
        && rest[1..].bytes().all(|byte| byte.is_ascii_uppercase());
    is_label || is_number && (first.starts_with(NUMBERS) || first.starts_with(ROWS))
}

/// The rules at the beginning of a test's name: `r27_r29_a_page_that_moves`.
fn prefixes(function: &str) -> impl Iterator<Item = String> {
    function
        .split('_')
        .map(str::to_ascii_uppercase)
        .take_while(|word| word == "TO" || is_citation(word))
        .filter(|word| word != "TO")
}

fn unresolved(source: &Source, entries: &[Entry]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in source.numbered() {
        let numbers = citations(&line.text).filter(|word| word.starts_with(NUMBERS));
        let rows = citations(&line.comment).filter(|word| word.starts_with(ROWS));
        let mut cited: BTreeSet<String> = numbers.chain(rows).map(str::to_owned).collect();
        if let Some((_, function)) = line.code.split_once("fn ") {
            cited.extend(prefixes(function));
        }
        for word in cited {
            let is_known = entries.iter().any(|entry| entry.name == word);
            if !is_known && !OTHERS.contains(&word.as_str()) {
                let message = format!("{word} is no entry of {RULES}");
                findings.push(Finding::error(number, message));
            }
        }
    }
    findings
}

/// Entries that name no test and give no reason, name one that does not exist, or come twice.
fn unheld(entries: &[Entry], sources: &[Source]) -> Vec<Finding> {
    let rust = || sources.iter().filter(|source| source.is_rust());
    let tests: BTreeSet<&str> = rust().flat_map(tests).collect();
    let mut names = BTreeSet::new();
    let mut findings = Vec::new();
    for entry in entries {
        let mut report = |message| findings.push(Finding::error(entry.line, message));
        if !names.insert(&entry.name) {
            report(format!("{} has two entries", entry.name));
        }
        let mut named = entry.tests.split('`').skip(1).step_by(2).peekable();
        if named.peek().is_none() && !entry.tests.contains("no test: ") {
            report(format!("{} names no test and no reason", entry.name));
        }
        for test in named {
            let exists = match test.starts_with('"') {
                true => rust().any(|source| source.lines.iter().any(|l| l.text.contains(test))),
                false => tests.contains(test),
            };
            if !exists {
                report(format!("{}: there is no test {test}", entry.name));
            }
        }
    }
    findings
}

/// The tests of a Rust file: functions below `#[test]`, and cases of the kernel's suites.
fn tests(source: &Source) -> impl Iterator<Item = &str> {
    source.numbered().filter_map(|(number, line)| {
        let code = line.code.trim();
        if let Some((_, function)) = code.split_once("fn ") {
            let above = source.lines[..number - 1].iter().rev();
            let is_test = above
                .take_while(|line| !line.text.trim().is_empty())
                .any(|line| line.code.trim() == "#[test]");
            return function.split(['(', '<']).next().filter(|_| is_test);
        }
        let case = code
            .strip_prefix("case!(")
            .or(code.strip_prefix("cases!("))?;
        case.split([',', ')']).nth(1).map(str::trim)
    })
}

/// Finds operations whose documentation lacks `Rule:` or `Witness:`. An operation is a public
/// function that returns nothing, or an entry `name, "instruction"` of a macro that makes such
/// functions.
fn undocumented(source: &Source) -> Vec<Finding> {
    if !OPERATIONS.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in source.numbered().take(source.without_tests()) {
        let name = match public_function(&line.code) {
            // `issue` only chooses among the others.
            Some("issue") => continue,
            Some(name) if name.starts_with('$') || returns_value(source, number) => continue,
            Some(name) => name,
            None => match macro_entry(&line.code) {
                Some(name) => name,
                None => continue,
            },
        };
        for cited in ["Rule:", "Witness:"] {
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
    use super::*;

    const BOOK: &str = "\
### R7

A rule. *Tests:* `r7_one`,
`r7_two`.

### S3

A scenario. *Tests:* no test: nobody does it.

## Table

| <a id=\"m8\"></a>M8 | row | `\"M8-of-the-lint\"` |
";

    fn cited(path: &str, text: &str) -> Vec<String> {
        let findings = unresolved(&Source::new(path, text), &entries(BOOK));
        let name = |finding: &Finding| finding.message.split(' ').next().map(str::to_owned);
        findings.iter().filter_map(name).collect()
    }

    #[test]
    fn a_citation_without_an_entry_is_found_wherever_it_is() {
        let text =
            "// R7, S3, M8.\n// (R8) and M9, R_SPVBD.\nlet x = \"H9\";\nfn s4_r7_to_r9_hold() {}";
        assert_eq!(
            cited("a.rs", text),
            ["M9", "R8", "R_SPVBD", "H9", "R9", "S4"]
        );
        assert_eq!(cited("a.md", "| R7-R12 | row X2 |"), ["R12", "X2"]);
    }

    #[test]
    fn the_number_of_a_finding_has_no_entry() {
        assert_eq!(cited("a.rs", "/// F14: one by one.\nlet f = F1;"), ["F14"]);
        assert_eq!(cited("a.md", "as F2 says"), ["F2"]);
        assert!(ENTRIES.iter().all(|entry| !entry.name.starts_with('F')));
    }

    #[test]
    fn names_of_other_things_are_no_citations() {
        assert_eq!(
            cited(
                "a.rs",
                "// B2.10, Cortex-X4, X30, Gic::V3, R123\nlet gic = V5;"
            ),
            [""; 0]
        );
    }

    #[test]
    fn an_entry_names_tests_that_exist_or_a_reason() {
        let found = |book: &str, rust: &str| {
            let findings = unheld(&entries(book), &[Source::new("a.rs", rust)]);
            findings
                .into_iter()
                .map(|f| (f.line, f.message))
                .collect::<Vec<_>>()
        };
        let rust = "#[test]\nfn r7_one() {}\n\n/// Says what.\n#[test]\n#[ignore]\n\
            fn r7_two<T>() {}\n\"M8-of-the-lint\"";
        assert_eq!(found(BOOK, rust), []);
        let suite = rust.replace("#[test]\nfn r7_one() {}", "case!(HwOnly, r7_one),");
        assert_eq!(found(BOOK, &suite), []);
        let gone = rust.replace("#[test]\nfn r7_one", "fn r7_one");
        let missing = (1, "R7: there is no test r7_one".to_owned());
        assert_eq!(found(BOOK, &gone), [missing]);
        let row = rust.replace("M8-of", "M9-of");
        assert_eq!(found(BOOK, &row).len(), 1);
        let silent = (6, "S3 names no test and no reason".to_owned());
        assert_eq!(found(&BOOK.replace("no test:", "none:"), rust), [silent]);
        let twice = (12, "R7 has two entries".to_owned());
        assert!(found(&BOOK.replace("M8 |", "R7 |"), rust).contains(&twice));
    }

    #[test]
    fn the_book_has_all_numbers_of_the_contract_the_scenarios_and_the_hardware() {
        let has = |name: String| ENTRIES.iter().any(|entry| entry.name == name);
        for (letter, last) in [
            ('R', 43),
            ('S', 22),
            ('H', 24),
            ('M', 9),
            ('X', 5),
            ('U', 9),
        ] {
            for number in 1..=last {
                assert!(has(format!("{letter}{number}")), "{letter}{number}");
            }
        }
    }

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
            lines(check, "kernel/mmu/src/aarch64/barrier.rs", TEXT),
            [9, 26, 26]
        );
        assert_eq!(
            lines(check, "kernel/mmu/src/aarch64/tlbi.rs", "pub fn all() {}"),
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
