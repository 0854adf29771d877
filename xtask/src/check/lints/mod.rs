// SPDX-License-Identifier: MIT OR Apache-2.0

//! The house rules that neither rustc nor clippy has, by their names.

mod citations;
mod length;
mod spdx;
mod words;

use super::source::Source;

/// A rule.
#[derive(Debug)]
pub struct Lint {
    /// Its name.
    pub name: &'static str,
    /// Finds what breaks it in one file.
    check: fn(&Source) -> Vec<Finding>,
}

/// A place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// Line, counted from 1.
    line: usize,
    /// What to do.
    message: String,
    /// Whether it fails the check; if not, it is a warning.
    is_error: bool,
}

impl Finding {
    fn error(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
            is_error: true,
        }
    }
}

/// All rules.
#[rustfmt::skip]
pub const LINTS: [Lint; 6] = [
    Lint { name: "spdx", check: spdx::check },
    Lint { name: "asm-has-three-homes", check: words::assembly },
    Lint { name: "cite-sources", check: citations::check },
    Lint { name: "one-room-one-subject", check: length::check },
    Lint { name: "unfinished", check: words::unfinished },
    Lint { name: "american-english", check: words::spelling },
];

impl Lint {
    /// Applies the rule to all files, prints what breaks it, and tells whether nothing does.
    pub fn run(&self, sources: &[Source]) -> bool {
        let mut is_clean = true;
        for source in sources {
            for finding in (self.check)(source) {
                is_clean &= !finding.is_error;
                let severity = if finding.is_error { "" } else { "warning: " };
                let Finding { line, message, .. } = finding;
                println!("{}:{line}: {}: {severity}{message}", source.path, self.name);
            }
        }
        is_clean
    }
}

#[cfg(test)]
fn lines(check: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    let findings = check(&Source::new(path, text));
    findings.iter().map(|finding| finding.line).collect()
}
