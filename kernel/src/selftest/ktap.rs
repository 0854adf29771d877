// SPDX-License-Identifier: MIT OR Apache-2.0
//! KTAP: the text format of test results that Linux's `kunit.py parse` reads.
//!
//! The format of the log that is written here (from Linux's Documentation/dev-tools/ktap.rst,
//! version 1, and from what its parser accepts):
//!
//! ```text
//! log    = "KTAP version 1" plan { suite } totals
//! plan   = "1.." count
//! suite  = [indented by 4 spaces more than its result line]
//!            "KTAP version 1" "# Subtest: " name plan { test | suite }
//!          "# " name ": pass:" n " fail:" n " skip:" n " total:" n
//!          result
//! test   = "# " name ".tag: " witness { "# " diagnostic } result
//! result = ( "ok" | "not ok" ) " " number " " name [ " # SKIP " reason ]
//! totals = "# Totals: pass:" n " fail:" n " skip:" n " total:" n
//! ```
//!
//! What the parser requires beyond the grammar, and which module ensures it:
//!
//! * a plan of 0 is an error, so suites without a selected test do not appear
//!   ([`runner`](super::runner));
//! * results are numbered from 1 within their parent, as many as the plan says;
//! * a suite's result carries the name of its `# Subtest` line, and no child of
//!   it may have that name ([`registry`](super::registry));
//! * no name contains `#` (`registry`);
//! * the parser ignores indentation, so it takes a line of free text that starts like a result, a
//!   plan or a version line for one. Lines written here start with `#` instead, and a kernel log
//!   line starts with its time in brackets.
//!
//! `pass`, `fail` and `skip` count tests, not groups.

use core::fmt::{self, Write};

use crate::text;

const INDENT: usize = 4;

/// The numbers of tests by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All expectations held.
    pub pass: usize,
    /// An expectation did not hold, or the test left something behind.
    pub fail: usize,
    /// The test did not run, for a reason.
    pub skip: usize,
}

impl Tally {
    /// All tests.
    #[must_use]
    pub const fn total(self) -> usize {
        self.pass + self.fail + self.skip
    }

    /// Adds the tests of `other`.
    pub const fn add(&mut self, other: Self) {
        self.pass += other.pass;
        self.fail += other.fail;
        self.skip += other.skip;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pass, fail, skip } = self;
        let total = self.total();
        write!(f, "pass:{pass} fail:{fail} skip:{skip} total:{total}")
    }
}

/// How a test or a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// `ok`.
    Pass,
    /// `not ok`.
    Fail,
    /// `ok`, with the reason why it did not run.
    Skip(&'a str),
}

/// Writes KTAP lines. `depth` is 0 for the results of suites.
pub struct Ktap<'a> {
    out: &'a mut dyn Write,
}

impl fmt::Debug for Ktap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ktap").finish_non_exhaustive()
    }
}

impl<'a> Ktap<'a> {
    /// Creates a writer of lines to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// Writes the head of the whole log, with the number of suites.
    ///
    /// # Errors
    /// `out` failed. This is the same for all methods.
    pub fn begin_log(&mut self, suites: usize) -> fmt::Result {
        writeln!(self.out, "KTAP version 1\n1..{suites}")
    }

    /// Writes the head of a suite or group whose `tests` have results at `depth`.
    ///
    /// # Errors
    /// See [`begin_log`](Self::begin_log).
    pub fn begin_group(&mut self, depth: usize, name: &str, tests: usize) -> fmt::Result {
        let indent = depth * INDENT;
        writeln!(self.out, "{:indent$}KTAP version 1", "")?;
        writeln!(self.out, "{:indent$}# Subtest: {name}", "")?;
        writeln!(self.out, "{:indent$}1..{tests}", "")
    }

    /// Writes a diagnostic of one or more lines. The first begins with `subject`.
    ///
    /// # Errors
    /// See [`begin_log`](Self::begin_log).
    pub fn diagnostic(
        &mut self,
        depth: usize,
        subject: fmt::Arguments<'_>,
        text: fmt::Arguments<'_>,
    ) -> fmt::Result {
        let indent = depth * INDENT;
        write!(self.out, "{:indent$}# {subject}: ", "")?;
        let mut lines = DiagnosticLines {
            out: &mut *self.out,
            indent,
            position: Position::Inside,
        };
        lines.write_fmt(text)?;
        match lines.position {
            Position::Inside => writeln!(self.out),
            Position::Start => Ok(()),
        }
    }

    /// Writes the numbers of tests of a suite or group.
    ///
    /// # Errors
    /// See [`begin_log`](Self::begin_log).
    pub fn tally(&mut self, depth: usize, name: &str, tally: Tally) -> fmt::Result {
        self.diagnostic(depth, format_args!("{name}"), format_args!("{tally}"))
    }

    /// Writes a result line.
    ///
    /// # Errors
    /// See [`begin_log`](Self::begin_log).
    pub fn result(
        &mut self,
        depth: usize,
        number: usize,
        name: &str,
        verdict: Verdict<'_>,
    ) -> fmt::Result {
        let indent = depth * INDENT;
        let word = match verdict {
            Verdict::Fail => "not ok",
            Verdict::Pass | Verdict::Skip(_) => "ok",
        };
        write!(self.out, "{:indent$}{word} {number} {name}", "")?;
        if let Verdict::Skip(reason) = verdict {
            self.out.write_str(" # SKIP ")?;
            for character in reason.chars() {
                self.out.write_char(printable(character).unwrap_or(' '))?;
            }
        }
        writeln!(self.out)
    }

    /// Writes the last line of the log.
    ///
    /// # Errors
    /// See [`begin_log`](Self::begin_log).
    pub fn end_log(&mut self, tally: Tally) -> fmt::Result {
        self.tally(0, "Totals", tally)
    }
}

/// Starts every line after the first with `#`, so that a parser takes each for a diagnostic.
struct DiagnosticLines<'a> {
    out: &'a mut dyn Write,
    indent: usize,
    position: Position,
}

#[derive(Clone, Copy)]
enum Position {
    Start,
    Inside,
}

impl Write for DiagnosticLines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let indent = self.indent;
        for character in text.chars() {
            if character == '\n' {
                if let Position::Inside = self.position {
                    writeln!(self.out)?;
                }
                self.position = Position::Start;
                continue;
            }
            if let Position::Start = self.position {
                write!(self.out, "{:indent$}#   ", "")?;
                self.position = Position::Inside;
            }
            self.out.write_char(printable(character).unwrap_or('?'))?;
        }
        Ok(())
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        text::write_char(self, c)
    }
}

/// Filters out control characters, which would move the cursor or split a line for a parser.
fn printable(character: char) -> Option<char> {
    (!character.is_control()).then_some(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Ktap<'_>) -> fmt::Result) -> String {
        let mut out = String::new();
        write(&mut Ktap::new(&mut out)).unwrap();
        out
    }

    #[test]
    fn lines_are_as_kunit_writes_them() {
        let tally = Tally {
            pass: 1,
            fail: 2,
            skip: 3,
        };
        let cases = [
            (written(|k| k.begin_log(2)), "KTAP version 1\n1..2\n"),
            (
                written(|k| k.begin_group(1, "tables", 3)),
                "    KTAP version 1\n    # Subtest: tables\n    1..3\n",
            ),
            (
                written(|k| k.result(1, 2, "map", Verdict::Pass)),
                "    ok 2 map\n",
            ),
            (
                written(|k| k.result(0, 10, "tables", Verdict::Fail)),
                "not ok 10 tables\n",
            ),
            (
                written(|k| k.result(2, 1, "ets2", Verdict::Skip("no\nETS2 # here"))),
                "        ok 1 ets2 # SKIP no ETS2 # here\n",
            ),
            (
                written(|k| k.tally(0, "tables", tally)),
                "# tables: pass:1 fail:2 skip:3 total:6\n",
            ),
            (
                written(|k| k.end_log(tally)),
                "# Totals: pass:1 fail:2 skip:3 total:6\n",
            ),
        ];
        for (actual, expected) in cases {
            assert_eq!(actual, expected);
        }
    }

    #[test]
    fn no_line_of_a_diagnostic_escapes() {
        let text = "first\nok 1 forged\r\n\n1..4\x1b[2J\n";
        let lines = written(|k| k.diagnostic(1, format_args!("map"), format_args!("{text}")));
        assert_eq!(
            lines,
            "    # map: first\n    #   ok 1 forged?\n    #   1..4?[2J\n"
        );
    }
}
