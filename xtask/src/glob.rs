// SPDX-License-Identifier: MIT OR Apache-2.0

//! Test name patterns: `*` stands for any run of characters, nothing else is special.
//!
//! The kernel matches its `filter=` boot argument the same way; here the pattern
//! selects host tests.

/// Tells whether the whole of `text` matches `pattern`.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(head) else {
        return false;
    };
    // Each further piece at its earliest place, the last one at the end: taking
    // the earliest leaves the most for what follows.
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    let mut text = text;
    for piece in pieces {
        let Some(at) = text.find(piece) else {
            return false;
        };
        text = &text[at + piece.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn star_is_any_run_of_characters() {
        assert!(matches("lazy.*", "lazy.nesting"));
        assert!(matches("*", ""));
        assert!(matches("*.nest*ing", "lazy.nesting"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(matches("lazy.nesting", "lazy.nesting"));
    }

    #[test]
    fn pattern_covers_the_whole_name() {
        assert!(!matches("lazy", "lazy.nesting"));
        assert!(!matches("nesting", "lazy.nesting"));
        assert!(!matches("a*b*c", "a-c-b"));
        assert!(!matches("ab*ba", "aba"));
    }
}
