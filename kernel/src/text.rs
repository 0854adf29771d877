// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text of bounded length, without a heap.
//!
//! Errors and failed expectations are formatted where nothing can be allocated: before there is a
//! heap, or in the test of the heap itself. [`Text`] keeps as much of what is written to it as
//! fits, and it remembers that something was cut. A long value therefore shortens a message instead
//! of losing it.

use core::fmt;

use arrayvec::ArrayString;

/// The end of a [`Text`] that was cut.
const CUT_MARK: &str = "...";

/// Up to `N` bytes of UTF-8; writing never fails.
///
/// `Display` and `Debug` both show the text itself, followed by `...` when something did not fit.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Text<const N: usize> {
    kept: ArrayString<N>,
    cut: Cut,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Cut {
    #[default]
    Whole,
    Short,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The beginning of `text`, as far as it fits.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut result = Self::new();
        result.append(text);
        result
    }

    /// The beginning of `text` up to its first control character, as far as it fits. Text from
    /// outside of the kernel can then be part of a log line without starting another line.
    #[must_use]
    pub fn from_line(text: &str) -> Self {
        let line = text.split(char::is_control).next().unwrap_or_default();
        let mut result = Self::from_text(line);
        if line.len() < text.len() {
            result.cut = Cut::Short;
        }
        result
    }

    /// The formatted `arguments`, as far as they fit.
    #[must_use]
    pub fn from_arguments(arguments: fmt::Arguments<'_>) -> Self {
        let mut result = Self::new();
        // `write_str` below never fails. A value's own `Display` may fail; then the text that it
        // wrote before is kept.
        let _ = fmt::write(&mut result, arguments);
        result
    }

    /// The bytes that fit, without the mark for a cut.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.kept.as_str()
    }

    /// True if something was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut == Cut::Short
    }

    /// Appends as much of `text` as fits, in whole characters.
    pub fn append(&mut self, text: &str) {
        // After a cut nothing is appended: a short piece after the gap would read as if it
        // followed directly.
        if self.is_cut() {
            return;
        }
        let fits = beginning(text, self.kept.remaining_capacity());
        if self.kept.try_push_str(fits).is_err() || fits.len() < text.len() {
            self.cut = Cut::Short;
        }
    }
}

/// As much of `text` as has at most `room` bytes, in whole characters.
fn beginning(text: &str, room: usize) -> &str {
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The default implementation of `write_char`, shared by all writers because the image has little
/// room.
///
/// # Errors
/// Errors of `out`.
pub fn write_char(out: &mut dyn fmt::Write, c: char) -> fmt::Result {
    out.write_str(c.encode_utf8(&mut [0; 4]))
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.append(text);
        Ok(())
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        write_char(self, c)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.kept)?;
        match self.cut {
            Cut::Whole => Ok(()),
            Cut::Short => formatter.write_str(CUT_MARK),
        }
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// How a newline in an escaped text is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newline {
    /// It is kept.
    Stays,
    /// It is escaped as all control characters are.
    Escaped,
}

/// Passes `text` to `put` in pieces: printable ASCII unchanged, all else as `\u{1b}`. Text from
/// outside of the kernel may hold control characters, which a terminal would interpret.
pub fn escape(mut text: &str, newline: Newline, put: &mut dyn FnMut(&str)) {
    let is_plain = |byte: &u8| match byte {
        b'\n' => newline == Newline::Stays,
        _ => matches!(byte, b' '..=b'~'),
    };
    loop {
        let plain = text.bytes().take_while(is_plain).count();
        // Only ASCII was skipped, so this is a character boundary.
        let (before, rest) = text.split_at(plain);
        put(before);
        let mut rest = rest.chars();
        let Some(odd) = rest.next() else { return };
        text = rest.as_str();
        // The same size as other texts, because each size costs room in the image.
        let escaped = Text::<64>::from_arguments(format_args!("\\u{{{:x}}}", u32::from(odd)));
        put(escaped.as_str());
    }
}

/// A value that is shown on one line: everything in it that is not printable ASCII is
/// [escaped](escape).
#[derive(Clone, Copy, Debug)]
pub struct Line<T>(pub T);

/// The writer of a [`Line`].
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut result = Ok(());
        escape(text, Newline::Escaped, &mut |piece| {
            result = result.and_then(|()| self.0.write_str(piece));
        });
        result
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        write_char(self, c)
    }
}

impl<T: fmt::Display> fmt::Display for Line<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::write(&mut OneLine(formatter), format_args!("{}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use core::fmt::Write as _;

    use super::{Line, Newline, Text, escape};

    fn escaped(text: &str) -> String {
        let mut result = String::new();
        escape(text, Newline::Stays, &mut |piece| result.push_str(piece));
        result
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(escaped(""), "");
        assert_eq!(escaped("a ~\n\nb"), "a ~\n\nb");
        assert_eq!(escaped("\u{1b}[31mred\u{1b}"), "\\u{1b}[31mred\\u{1b}");
        assert_eq!(escaped("\r\t\0\u{7f}"), "\\u{d}\\u{9}\\u{0}\\u{7f}");
        // A one-character control sequence, a character that changes the direction of writing, and
        // a letter.
        assert_eq!(
            escaped("\u{9b}2J\u{202e}x\u{e9}"),
            "\\u{9b}2J\\u{202e}x\\u{e9}"
        );
    }

    #[test]
    fn every_character_that_is_not_printable_ascii_is_escaped() {
        for odd in ('\0'..=char::MAX).filter(|c| !(' '..='~').contains(c) && *c != '\n') {
            let shown = escaped(&format!("a{odd}b"));
            assert_eq!(shown, format!("a\\u{{{:x}}}b", u32::from(odd)));
        }
    }

    #[test]
    fn a_value_on_one_line_begins_no_other() {
        let value = format_args!("a\nlazymmu: exit {}\n", 0);
        assert_eq!(Line(value).to_string(), "a\\u{a}lazymmu: exit 0\\u{a}");
    }

    #[test]
    fn keeps_what_fits_exactly() {
        let text = Text::<5>::from_text("abcde");
        assert_eq!(text.to_string(), "abcde");
        assert!(!text.is_cut());
    }

    #[test]
    fn says_that_something_was_cut() {
        let text = Text::<4>::from_text("abcde");
        assert_eq!(text.to_string(), "abcd...");
    }

    #[test]
    fn a_line_ends_at_the_first_control_character() {
        assert_eq!(Text::<9>::from_line("a b \u{e9}").to_string(), "a b \u{e9}");
        for text in ["ab\ncd", "ab\r\n", "ab\u{1b}[2J", "ab\u{85}cd", "ab\0"] {
            assert_eq!(Text::<9>::from_line(text).to_string(), "ab...");
        }
        assert_eq!(Text::<1>::from_line("ab\ncd").to_string(), "a...");
        assert_eq!(Text::<9>::from_line("").to_string(), "");
    }

    #[test]
    fn cuts_between_characters() {
        let text = Text::<4>::from_text("abcé");
        assert_eq!(text.to_string(), "abc...");
    }

    #[test]
    fn takes_nothing_behind_a_cut() {
        let mut text = Text::<4>::new();
        // The three bytes of the sign leave one byte free.
        text.append("abc\u{20ac}");
        write!(text, "{}", 4).unwrap();
        assert_eq!(text.to_string(), "abc...");
    }
}
