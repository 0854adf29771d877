// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the guest said: lines out of bytes, backtraces completed, the report kept.
//!
//! The kernel announces its end by `lazymmu: exit N`, and a fault by a line that
//! begins with `panic:` or `exception:`; everything from there on is its report. The first
//! announcement counts. A serial line that is plugged in or changes its speed may have put bytes
//! before it that are no text; they do not hide it.

use crate::symbols::Symbols;
use std::collections::VecDeque;

/// Lines kept for the report of a hang.
const TAIL: usize = 20;
/// Lines kept of a panic or exception report.
const REPORT: usize = 120;

/// Collects and judges a guest's console.
#[derive(Debug, Default)]
pub struct Console {
    symbols: Option<Symbols>,
    partial: Vec<u8>,
    tail: VecDeque<String>,
    report: Vec<String>,
    announced: Option<u8>,
}

impl Console {
    /// A console whose backtraces are completed from `symbols`.
    pub fn new(symbols: Option<Symbols>) -> Self {
        Self {
            symbols,
            ..Self::default()
        }
    }

    /// Takes bytes from the guest and hands every finished line to `sink`.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.finish_line(&mut sink);
            }
        }
    }

    /// Hands over a last line that no newline ended.
    pub fn flush(&mut self, mut sink: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.finish_line(&mut sink);
        }
    }

    fn finish_line(&mut self, sink: &mut impl FnMut(&str)) {
        let bytes = std::mem::take(&mut self.partial);
        let raw = String::from_utf8_lossy(&bytes);
        let raw = raw.trim_end_matches(['\n', '\r']);
        let line = match &self.symbols {
            Some(symbols) => symbols.annotate(raw),
            None => raw.to_owned(),
        };
        if let Some(status) = announcement(&bytes) {
            self.announced.get_or_insert(status);
        } else {
            let belongs = !self.report.is_empty() || is_report(raw);
            if belongs && self.report.len() < REPORT {
                self.report.push(line.clone());
            }
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.clone());
        sink(&line);
    }

    /// The status that the kernel announced, if it came so far.
    pub fn announced(&self) -> Option<u8> {
        self.announced
    }

    /// The panic or exception report, empty if there was none.
    pub fn report(&self) -> &[String] {
        &self.report
    }

    /// The error that the kernel ends with (`error: ...`), unless that is a failed test.
    pub fn error(&self) -> Option<&str> {
        self.tail()
            .filter_map(|line| line.strip_prefix("error: "))
            .last()
    }

    /// The last lines, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// The symbols in use.
    pub fn symbols(&self) -> Option<&Symbols> {
        self.symbols.as_ref()
    }
}

/// Whether a byte is one that the kernel prints, or its console adds.
pub fn is_text(byte: u8) -> bool {
    byte.is_ascii_graphic() || b" \t\r\n\x1b".contains(&byte)
}

/// Whether a line of `text` announces the kernel's end.
pub fn announces_end(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n')
        .any(|line| announcement(line).is_some())
}

/// The status that a line announces.
fn announcement(line: &[u8]) -> Option<u8> {
    let text = line
        .iter()
        .position(|byte| *byte != b'\r' && is_text(*byte))?;
    let line = str::from_utf8(&line[text..]).ok()?;
    let status = line
        .trim_end_matches(['\n', '\r'])
        .strip_prefix("lazymmu: exit ")?;
    // `parse` would take a sign.
    let is_number = status.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| status.parse().ok()).flatten()
}

fn is_report(line: &str) -> bool {
    line.starts_with("panic: ") || line.starts_with("exception: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(chunks: &[&[u8]]) -> (Console, Vec<String>) {
        let mut console = Console::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            console.feed(chunk, |line| lines.push(line.to_owned()));
        }
        (console, lines)
    }

    #[test]
    fn lines_are_joined_across_reads() {
        let (mut console, mut lines) = fed(&[b"hel", b"lo\r\nwor", b"ld\n\nrest"]);
        assert_eq!(lines, ["hello", "world", ""]);
        console.flush(|line| lines.push(line.to_owned()));
        assert_eq!(lines.last().map(String::as_str), Some("rest"));
    }

    #[test]
    fn report_runs_from_its_first_line_to_the_announced_end() {
        let (console, _) =
            fed(&[b"boot\npanic: no memory\nbacktrace:\n  #0 0x1\nlazymmu: exit 2\n"]);
        assert_eq!(
            console.report(),
            ["panic: no memory", "backtrace:", "  #0 0x1"]
        );
        assert_eq!(console.announced(), Some(2));
    }

    #[test]
    fn the_last_error_is_what_the_kernel_ends_with() {
        let log = "[ 0.1] error: a task\nerror: one\nnot ok 1\n# error: a test\nerror: two\nlazymmu: exit 1\n";
        assert_eq!(fed(&[log.as_bytes()]).0.error(), Some("two"));
        assert_eq!(fed(&[b"not ok 1\nlazymmu: exit 1\n"]).0.error(), None);
    }

    #[test]
    fn first_announcement_counts() {
        let (console, _) = fed(&[b"lazymmu: exit 2\nlazymmu: exit 0\nlazymmu: exit x\n"]);
        assert_eq!(console.announced(), Some(2));
        let (console, _) = fed(&[b"lazymmu: exit x\nlazymmu: exit 1\n"]);
        assert_eq!(console.announced(), Some(1));
    }

    #[test]
    fn announcement_is_digits_at_the_beginning_of_a_line() {
        for line in [
            "lazymmu: exit +0",
            "lazymmu: exit -0",
            "lazymmu: exit x",
            "lazymmu: exit ",
            "lazymmu: exit 0x0",
            "lazymmu: exit 0 of 1",
            "lazymmu: exit  0",
            "lazymmu: exit 256",
            " lazymmu: exit 0",
            "\tlazymmu: exit 0",
            "xlazymmu: exit 0",
            "info: lazymmu: exit 0",
            "\u{1b}[0mlazymmu: exit 0",
        ] {
            let (console, _) = fed(&[line.as_bytes(), b"\r\n"]);
            assert_eq!(console.announced(), None, "{line}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_the_end() {
        for before in [b"\r" as &[u8], b"\0", b"\xff\xfe", b"\r\r\0\x80\r"] {
            let (console, _) = fed(&[b"boot\n", before, b"lazymmu: exit 3\r\n"]);
            assert_eq!(console.announced(), Some(3), "{before:?}");
        }
        let (console, _) = fed(&[b"\xff x lazymmu: exit 3\n"]);
        assert_eq!(console.announced(), None);
    }

    #[test]
    fn tail_is_bounded_and_ends_with_the_newest_line() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let (console, _) = fed(&[text.as_bytes()]);
        assert_eq!(console.tail().count(), TAIL);
        assert_eq!(console.tail().last(), Some("line 99"));
        assert_eq!(console.announced(), None);
    }
}
