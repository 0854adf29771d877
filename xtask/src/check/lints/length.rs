// SPDX-License-Identifier: MIT OR Apache-2.0

//! one-room-one-subject: a file can be read in a sitting. What counts is lines of
//! code; comments, blank lines and unit tests are free.

use super::{Finding, Severity};
use crate::check::source::Source;

const LONG: usize = 400;
const TOO_LONG: usize = 600;

/// Finds long files.
pub fn check(source: &Source) -> Vec<Finding> {
    let is_tests = source.path.ends_with("tests.rs") || source.path.contains("/tests/");
    if !source.is_rust() || is_tests {
        return Vec::new();
    }
    let code = &source.lines[..source.without_tests()];
    let length = code
        .iter()
        .filter(|line| !line.code.trim().is_empty())
        .count();
    if length <= LONG {
        return Vec::new();
    }
    let severity = if length <= TOO_LONG {
        Severity::Warning
    } else {
        Severity::Error
    };
    let message = format!(
        "{length} lines of code, {LONG} are a sitting and {TOO_LONG} the limit; split it by subject"
    );
    vec![Finding {
        line: source.lines.len(),
        message,
        severity,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severity(path: &str, text: &str) -> Option<Severity> {
        check(&Source::new(path, text))
            .first()
            .map(|finding| finding.severity)
    }

    #[test]
    fn lines_of_code_are_counted() {
        assert_eq!(severity("a.rs", &"x;\n".repeat(400)), None);
        assert_eq!(
            severity("a.rs", &"x;\n".repeat(401)),
            Some(Severity::Warning)
        );
        assert_eq!(severity("a.rs", &"x;\n".repeat(601)), Some(Severity::Error));
    }

    #[test]
    fn comments_and_tests_are_free() {
        assert_eq!(severity("a.rs", &"// x\n\n".repeat(700)), None);
        let tests = format!("x;\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x;\n".repeat(700));
        assert_eq!(severity("a.rs", &tests), None);
        assert_eq!(severity("src/a/tests.rs", &"x;\n".repeat(700)), None);
    }
}
