// SPDX-License-Identifier: MIT OR Apache-2.0

//! one-room-one-subject: a file can be read in one sitting. The rule counts lines of code; comments,
//! blank lines and unit tests are free.

use super::Finding;
use crate::check::source::{Line, Source};

const LONG: usize = 400;
const TOO_LONG: usize = 600;

/// Finds long files.
pub fn check(source: &Source) -> Vec<Finding> {
    let is_tests = source.path.ends_with("tests.rs") || source.path.contains("/tests/");
    if !source.is_rust() || is_tests {
        return Vec::new();
    }
    let code = &source.lines[..source.without_tests()];
    let is_code = |line: &&Line| !line.code.trim().is_empty();
    let length = code.iter().filter(is_code).count();
    let long = (length > LONG).then(|| Finding {
        line: source.lines.len(),
        message: format!(
            "{length} lines of code of at most {TOO_LONG}; split it by subject before {LONG}"
        ),
        is_error: length > TOO_LONG,
    });
    Vec::from_iter(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether what is found is an error.
    fn found(path: &str, text: &str) -> Option<bool> {
        let findings = check(&Source::new(path, text));
        findings.first().map(|finding| finding.is_error)
    }

    #[test]
    fn lines_of_code_are_counted() {
        assert_eq!(found("a.rs", &"x;\n".repeat(400)), None);
        assert_eq!(found("a.rs", &"x;\n".repeat(401)), Some(false));
        assert_eq!(found("a.rs", &"x;\n".repeat(601)), Some(true));
    }

    #[test]
    fn comments_and_tests_are_free() {
        assert_eq!(found("a.rs", &"// x\n\n".repeat(700)), None);
        let tests = format!("x;\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x;\n".repeat(700));
        assert_eq!(found("a.rs", &tests), None);
        assert_eq!(found("src/a/tests.rs", &"x;\n".repeat(700)), None);
    }
}
