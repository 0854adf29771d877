// SPDX-License-Identifier: MIT OR Apache-2.0

//! The house rules that a program can check, by their names.

mod asm;
mod citations;
mod length;
mod safety;
mod spdx;
mod words;

use super::source::Source;

/// A rule.
#[derive(Debug)]
pub struct Lint {
    /// Its name.
    pub name: &'static str,
    /// Finds what breaks it in one file.
    pub check: fn(&Source) -> Vec<Finding>,
}

/// A place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Line, counted from 1.
    pub line: usize,
    /// What to do.
    pub message: String,
    /// Whether it fails the check.
    pub severity: Severity,
}

/// Whether a finding fails the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does not.
    Warning,
    /// It does.
    Error,
}

impl Finding {
    fn error(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
            severity: Severity::Error,
        }
    }
}

/// All rules.
pub const LINTS: [Lint; 7] = [
    Lint {
        name: "spdx",
        check: spdx::check,
    },
    Lint {
        name: "asm-has-three-homes",
        check: asm::check,
    },
    Lint {
        name: "safety-claims",
        check: safety::check,
    },
    Lint {
        name: "cite-sources",
        check: citations::check,
    },
    Lint {
        name: "one-room-one-subject",
        check: length::check,
    },
    Lint {
        name: "unfinished",
        check: words::unfinished,
    },
    Lint {
        name: "american-english",
        check: words::spelling,
    },
];

#[cfg(test)]
fn lines(check: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    check(&Source::new(path, text))
        .iter()
        .map(|finding| finding.line)
        .collect()
}
