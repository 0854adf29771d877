// SPDX-License-Identifier: MIT OR Apache-2.0

//! Words that a file must not have: marks of unfinished work, British spellings, and `asm!` outside
//! of the three homes of assembly. A mark in a string is none; clippy finds `todo!` and
//! `unimplemented!`.

use super::Finding;
use crate::check::source::{Line, Source};
use regex_lite::Regex;

/// Marks of unfinished work, as whole words.
const MARKS: &str = r"\b(TODO|FIXME|XXX|HACK|for now)\b";

/// British spellings; brackets keep this line from finding itself. `optimistic` and `synchronism`
/// are right everywhere.
const BRITISH: &str = r"(?i)(behavi|col|fav|neighb)[o]ur|cent[r]e|art[e]fact|(initial|optim|organ|recogn|serial|summar|symbol|synchron)[i]s([^tm]|$)";

/// The homes of assembly, which neither rustc nor clippy has a lint for.
const ASSEMBLY: [&str; 3] = ["boot/", "kernel/src/arch/", "kernel/mmu/src/aarch64/"];

/// Finds marks of unfinished work.
pub fn unfinished(source: &Source) -> Vec<Finding> {
    let text = |line: &Line| match source.is_rust() {
        true => format!("{} {}", line.code, line.comment),
        false => line.text.clone(),
    };
    let what = "marks unfinished work; finish it, or open an issue";
    find(source, MARKS, text, what)
}

/// Finds British spellings.
pub fn spelling(source: &Source) -> Vec<Finding> {
    let what = "is no American English";
    find(source, BRITISH, |line| line.text.clone(), what)
}

/// Finds assembly that is not at home. (An assembly file is compiled by a `global_asm!` only.)
pub fn assembly(source: &Source) -> Vec<Finding> {
    let is_home = |home: &&str| source.path.starts_with(*home);
    if !source.is_rust() || ASSEMBLY.iter().any(is_home) {
        return Vec::new();
    }
    let what = format!("belongs to {}", ASSEMBLY.join(" or "));
    find(source, "asm!", |line| line.code.clone(), &what)
}

/// Finds `pattern` in what `text` takes of each line; `what` says what is wrong with it.
fn find(
    source: &Source,
    pattern: &str,
    text: impl Fn(&Line) -> String,
    what: &str,
) -> Vec<Finding> {
    let pattern = Regex::new(pattern).expect("it is a constant");
    let mut findings = Vec::new();
    for (number, line) in source.numbered() {
        if let Some(found) = pattern.find(&text(line)) {
            let message = format!("`{}` {what}", found.as_str());
            findings.push(Finding::error(number, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn marks_are_whole_words_outside_of_strings() {
        let mark = ["TO", "DO"].concat();
        let text =
            format!("// {mark}: x\nlet a = \"{mark}\";\nlet {mark}_LIST = 1;\n// not {mark}\n");
        assert_eq!(lines(unfinished, "a.rs", &text), [1, 4]);
        assert_eq!(lines(unfinished, "a.toml", &format!("# {mark}\n")), [1]);
    }

    #[test]
    fn assembly_has_three_homes() {
        let text = "// asm! in a comment\nlet s = \"asm!\";\nunsafe { core::arch::asm!(\"nop\") }\nglobal_asm!(\"\");\n";
        let found = |path: &str| lines(assembly, path, text);
        assert_eq!(found("kernel/src/mm/frames.rs"), [3, 4]);
        for home in ASSEMBLY {
            assert_eq!(found(&format!("{home}cache.rs")), [0; 0]);
        }
    }

    #[test]
    fn british_spellings_are_found_with_any_ending() {
        for word in [
            ["Behavi", "ours"],
            ["neighb", "ouring"],
            ["cent", "re"],
            ["arte", "facts"],
            ["INITIAL", "ISED"],
            ["optim", "isation"],
            ["synchron", "is"],
        ] {
            let text = format!("// so\n// A{}\n", word.concat());
            assert_eq!(lines(spelling, "a.rs", &text), [2], "{word:?}");
        }
    }

    #[test]
    fn words_that_only_look_british_stay() {
        let text = "// optimistic synchronism\n// behavior, center, initialize\n";
        assert_eq!(lines(spelling, "a.rs", text), [0; 0]);
    }
}
