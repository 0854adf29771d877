// SPDX-License-Identifier: MIT OR Apache-2.0
//! Selects the tests that run, by a glob over test paths.
//!
//! A test's path is its suite's name, the names of the groups around it, and its own name, joined
//! by dots. A filter has the same form, with `*` for any number of characters of one name. A filter
//! that is shorter than a path selects everything below it: `tables` and `tables.*` select all
//! tests of the suite `tables`, and `*.map_*` selects those of any suite whose name starts with
//! `map_`.

use core::fmt;

/// The greatest number of parts of a test's path: suite, groups, test.
pub const MAX_DEPTH: usize = 4;

/// A checked filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<'a> {
    pattern: &'a str,
}

impl<'a> Filter<'a> {
    /// Selects every test.
    pub const ALL: Filter<'static> = Filter { pattern: "*" };

    /// Checks `pattern`.
    ///
    /// # Errors
    /// A part is empty, a character occurs in no name, or there are more parts than a path can
    /// have.
    pub fn parse(pattern: &'a str) -> Result<Self, FilterError> {
        for part in pattern.split('.') {
            if part.is_empty() {
                return Err(FilterError::EmptyPart);
            }
            let wrong = |found: &char| !(found.is_ascii() && is_glob_byte(*found as u8));
            if let Some(found) = part.chars().find(wrong) {
                return Err(FilterError::Character { found });
            }
        }
        if pattern.split('.').count() > MAX_DEPTH {
            return Err(FilterError::TooDeep);
        }
        Ok(Self { pattern })
    }

    /// The text of the filter.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.pattern
    }

    /// What the filter selects of a node with this name.
    #[must_use]
    pub fn enter(self, name: &str) -> Selection<'a> {
        let (first, rest) = match self.pattern.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (self.pattern, None),
        };
        if !matches(first, name) {
            return Selection::Nothing;
        }
        match rest {
            None => Selection::Everything,
            Some(pattern) => Selection::Below(Filter { pattern }),
        }
    }
}

/// How much of a suite, group or test a filter selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection<'a> {
    /// None of it.
    Nothing,
    /// All of it.
    Everything,
    /// Those of its children that this filter selects; nothing, if it is a test.
    Below(Filter<'a>),
}

impl<'a> Selection<'a> {
    /// The selection for the child called `name`.
    #[must_use]
    pub fn enter(self, name: &str) -> Selection<'a> {
        match self {
            Self::Below(filter) => filter.enter(name),
            whole => whole,
        }
    }
}

/// Whether `byte` may be part of a name.
pub const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
}

fn is_glob_byte(byte: u8) -> bool {
    byte == b'*' || is_name_byte(byte)
}

/// Whether the whole of `name` matches `pattern`, in which `*` matches any text. It needs no
/// recursion: on a mismatch only the last `*` must take more.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut pos) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while pos < name.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, pos));
            at += 1;
        } else if pattern.get(at) == Some(&name[pos]) {
            at += 1;
            pos += 1;
        } else if let Some((star_at, taken)) = star {
            star = Some((star_at, taken + 1));
            at = star_at + 1;
            pos = taken + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// Why a text is not a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// Two dots in a row, a dot at one end, or an empty text.
    EmptyPart,
    /// A character that occurs in no name.
    Character {
        /// The character.
        found: char,
    },
    /// More parts than a path has.
    TooDeep,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPart => f.write_str(
                "a part between dots is empty: write suite, suite.test or suite.group.test, with * \
                 for any characters",
            ),
            Self::Character { found } => write!(
                f,
                "'{}' occurs in no test name: use a-z, 0-9, _, - and * between dots",
                found.escape_default()
            ),
            Self::TooDeep => write!(
                f,
                "tests are nested at most {MAX_DEPTH} deep: write at most {MAX_DEPTH} parts"
            ),
        }
    }
}

impl core::error::Error for FilterError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selects(pattern: &str, path: &str) -> bool {
        let mut selection = Selection::Below(Filter::parse(pattern).unwrap());
        for name in path.split('.') {
            selection = selection.enter(name);
        }
        selection == Selection::Everything
    }

    #[test]
    fn selects_by_suite_and_by_test() {
        let cases = [
            ("*", "tables.map_one", true),
            ("tables", "tables.map_one", true),
            ("tables.*", "tables.map_one", true),
            ("tables", "tables2.map_one", false),
            ("tab", "tables.map_one", false),
            ("*.map_*", "lazy.map_one", true),
            ("*.map_*", "lazy.unmap_one", false),
            ("t*s.*_one", "tables.map_one", true),
            ("tables.map_one", "tables.map_one.eager", true),
            ("tables.map_one.e*", "tables.map_one.eager", true),
            ("tables.map_one.e*", "tables.map_one.defer", false),
            ("tables.map_one.*", "tables.map_one", false),
            ("*.*.*", "tables.map_one", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(selects(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn refuses_what_can_name_nothing() {
        for pattern in ["", ".", "a..b", "a.", ".a"] {
            assert_eq!(Filter::parse(pattern), Err(FilterError::EmptyPart));
        }
        assert_eq!(
            Filter::parse("tables.[ab]"),
            Err(FilterError::Character { found: '[' })
        );
        assert_eq!(
            Filter::parse("Tables"),
            Err(FilterError::Character { found: 'T' })
        );
        assert_eq!(Filter::parse("a.b.c.d.e"), Err(FilterError::TooDeep));
        assert!(Filter::parse("a.b.c.d").is_ok());
    }

    /// The definition of a match: `*` takes any number of characters.
    fn matches_by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => {
                (0..=name.len()).any(|taken| matches_by_definition(rest, &name[taken..]))
            }
            Some((byte, rest)) => {
                name.first() == Some(byte) && matches_by_definition(rest, &name[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(
                matches(&pattern, &name),
                matches_by_definition(pattern.as_bytes(), name.as_bytes())
            );
        }
    }
}
