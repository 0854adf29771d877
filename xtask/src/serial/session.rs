// SPDX-License-Identifier: MIT OR Apache-2.0

//! A board's log, from its first byte to the kernel's last line, and the verdict on it.
//!
//! A board has no exit status. The line `lazymmu: exit N` decides: the kernel prints it last at every
//! end, at the start of a line, and nowhere else (kernel/src/platform/exit.rs). Self-tests must agree
//! with it: a KTAP log with a failure or a gap is no success, even after `exit 0`.

use super::port::Port;
use crate::console::{self, Console};
use crate::failure::{self, Failure};
use crate::guest;
use crate::ktap::{Parser, Report};
use crate::qemu::Verdict;
use crate::qemu::verdict::{announced, quoted};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the kernel's first line has; a second one is a board that was reset.
const FIRST_LINE: &str = "info: lazymmu ";
/// What to do about a kernel that says how it ended.
const INSIDE: &str = "to look inside, boot the same under QEMU: cargo xtask run --gdb -- BOOTARGS";
/// What to do about a board that does not do what it should.
const SYMPTOMS: &str = "docs/raspberry-pi-4.md says what it can be, by symptom";

/// How long a board may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Before its first byte; nothing for ever.
    pub first: Option<Duration>,
    /// Between two bytes.
    pub silence: Duration,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel announced its end.
    Announced(u8),
    /// Not a byte came in so long a time.
    NeverHeard(Duration),
    /// It was silent for so long a time.
    Silent(Duration),
    /// The port cannot be read any more; the text says how the system put it.
    Gone(String),
    /// Ctrl-C.
    Interrupted,
}

/// A log that is being read.
#[derive(Debug)]
pub struct Session {
    console: Console,
    parser: Parser,
    bytes: usize,
    /// Those that are no text.
    odd: usize,
}

impl Session {
    /// A log of which nothing was read yet.
    pub fn new(console: Console) -> Self {
        Self {
            console,
            parser: Parser::default(),
            bytes: 0,
            odd: 0,
        }
    }

    /// Follows the board to its end; every line goes to `sink`.
    pub fn follow(
        &mut self,
        port: &mut Port,
        patience: Patience,
        mut sink: impl FnMut(&str),
    ) -> End {
        let mut chunk = [0; 4096];
        let mut heard = Instant::now();
        let end = loop {
            match port.read(&mut chunk) {
                Ok(0) => {}
                Ok(length) => {
                    heard = Instant::now();
                    self.feed(&chunk[..length], &mut sink);
                }
                Err(error) => break End::Gone(error.to_string()),
            }
            if let Some(status) = self.console.announced() {
                break End::Announced(status);
            }
            if guest::interrupted() {
                break End::Interrupted;
            }
            match (self.bytes, patience.first) {
                (0, Some(first)) if heard.elapsed() > first => break End::NeverHeard(first),
                (1.., _) if heard.elapsed() > patience.silence => {
                    break End::Silent(patience.silence);
                }
                _ => {}
            }
        };
        let parser = &mut self.parser;
        self.console.flush(|line| take(parser, line, &mut sink));
        end
    }

    fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(&str)) {
        self.odd += bytes
            .iter()
            .filter(|byte| !console::is_text(**byte))
            .count();
        self.bytes += bytes.len();
        let parser = &mut self.parser;
        self.console
            .feed(bytes, |line| take(parser, line, &mut sink));
    }

    /// The verdict, and what the self-tests reported if any ran.
    pub fn judge(self, end: &End, port: &Path) -> (Verdict, Option<Report>) {
        let port = port.display();
        let broken = |status, what: String, next: &str| {
            let what = quoted(what, &self.console);
            Verdict::Broken(Failure::new(status, what).with_next(next))
        };
        let longer = format!("{SYMPTOMS}\nto give it longer: --timeout SECONDS");
        let verdict = match end {
            End::Announced(status) => announced(*status, &self.console, INSIDE),
            End::NeverHeard(time) => {
                let what = format!("nothing came from {port} within {} s", time.as_secs());
                broken(failure::HUNG, what, &longer)
            }
            End::Silent(time) => {
                let mut what = format!(
                    "the board hangs: it printed nothing for {} s",
                    time.as_secs()
                );
                if self.odd > self.bytes / 4 {
                    what.push_str(", and most of what it printed before is no text: the line's speed is wrong, or its ground is missing");
                }
                broken(failure::HUNG, what, &longer)
            }
            End::Gone(how) => {
                let what = format!(
                    "{port} is gone ({how}) before the kernel announced its end: the adapter was unplugged or lost its power"
                );
                broken(1, what, "plug it in and start again, then reset the board")
            }
            End::Interrupted => {
                let what = "interrupted before the kernel announced its end";
                Verdict::Broken(Failure::new(failure::INTERRUPTED, what))
            }
        };
        let report = self.parser.has_started().then(|| self.parser.finish());
        (verdict, report)
    }
}

/// Takes a line; a completed backtrace is several.
fn take(parser: &mut Parser, line: &str, sink: &mut impl FnMut(&str)) {
    for line in line.lines() {
        if line.contains(FIRST_LINE) {
            *parser = Parser::default();
        }
        parser.line(line);
    }
    sink(line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ktap::Status;
    use nix::pty::openpty;
    use std::fs::File;
    use std::io::Write;
    use std::path::PathBuf;
    use std::thread;

    /// For boards that come to an end.
    const PATIENT: Patience = Patience {
        first: None,
        silence: Duration::from_secs(60),
    };
    /// For boards that print one text at most, whenever a busy host lets them.
    const QUICK: Patience = Patience {
        first: None,
        silence: Duration::from_millis(300),
    };
    const SUITE: &str = "[    0.1] info: lazymmu 0.1.0: entered at EL2\r\nKTAP version 1\r\n1..2\r\nok 1 a\r\nok 2 b\r\n";

    /// The other end of the line: a board that prints these texts, and stays.
    fn follow(texts: &[&[u8]], patience: Patience, stays: bool) -> (End, Session, Vec<String>) {
        let pty = openpty(None, None).expect("the system has pseudo terminals");
        let path: PathBuf = nix::unistd::ttyname(&pty.slave).expect("it has a name");
        let mut port = Port::open(&path).expect("it is a port");
        let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.to_vec()).collect();
        let board = thread::spawn(move || {
            let mut board = File::from(pty.master);
            for text in texts {
                board.write_all(&text).expect("the port is open");
                thread::sleep(Duration::from_millis(100));
            }
            // The slave goes too, so that only the session has the port.
            drop(pty.slave);
            stays.then_some(board)
        });
        let mut session = Session::new(Console::default());
        let mut lines = Vec::new();
        let end = session.follow(&mut port, patience, |line| lines.push(line.to_owned()));
        drop(board.join().expect("it does not panic"));
        (end, session, lines)
    }

    fn status(end: &End, session: Session) -> (u8, String, Option<Report>) {
        let (verdict, report) = session.judge(end, Path::new("/dev/ttyUSB0"));
        match verdict {
            Verdict::Success => (0, String::new(), report),
            Verdict::Failed(failure) | Verdict::Broken(failure) => {
                (failure.status, failure.to_string(), report)
            }
        }
    }

    #[test]
    fn sentinel_ends_the_session_with_its_status() {
        for (line, expected) in [("0", 0), ("1", 1), ("2", 2), ("3", 3)] {
            let last = format!("panic: odd\r\nlazymmu: exit {line}\r\nnothing after it counts");
            let (end, session, lines) =
                follow(&[b"[ 0.1] hel", b"lo\r\n", last.as_bytes()], PATIENT, true);
            assert_eq!(end, End::Announced(expected));
            assert_eq!(lines[0], "[ 0.1] hello");
            let (status, text, report) = status(&end, session);
            assert_eq!(status, expected);
            assert!(report.is_none());
            assert!(expected == 0 || text.contains("  | panic: odd"), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_taken_for_the_sentinel() {
        let like: [&[u8]; 5] = [
            b"# lazymmu: exit 0\r\n",
            b"[    0.1] info: lazymmu: exit 0\r\n",
            b"    lazymmu: exit 0\r\n",
            b"lazymmu: exit\r\nlazymmu: exit 0 or so\r\nlazymmu: exit 4x\r\n",
            b"lazymmu: exit 0",
        ];
        for text in like {
            let (end, ..) = follow(&[text], QUICK, true);
            assert!(matches!(end, End::Silent(_)), "{end:?}");
        }
    }

    #[test]
    fn self_tests_are_read_and_a_reset_board_begins_anew() {
        let half = &SUITE[..SUITE.len() - 8];
        let whole = format!("{half}\r\nfirmware\r\n{SUITE}lazymmu: exit 0\r\n");
        let (end, session, _) = follow(&[whole.as_bytes()], PATIENT, true);
        let (status, _, report) = status(&end, session);
        let report = report.expect("tests ran");
        assert_eq!((status, report.problems.len()), (0, 0), "{report:?}");
        assert_eq!(report.cases.len(), 2);
        assert!(
            report
                .cases
                .iter()
                .all(|case| case.status == Status::Passed)
        );
    }

    #[test]
    fn silence_is_a_hang_before_and_after_the_first_byte() {
        let first = Some(Duration::from_millis(300));
        let (end, session, _) = follow(&[], Patience { first, ..PATIENT }, true);
        assert_eq!(end, End::NeverHeard(Duration::from_millis(300)));
        let (number, text, _) = status(&end, session);
        assert_eq!(number, failure::HUNG);
        assert!(text.contains("nothing came from /dev/ttyUSB0"), "{text}");

        let (end, session, _) = follow(&[b"MESS:00:00:04: brfs\r\n"], QUICK, true);
        assert_eq!(end, End::Silent(Duration::from_millis(300)));
        let (number, text, _) = status(&end, session);
        assert_eq!(number, failure::HUNG);
        assert!(
            text.contains("  | MESS:00:00:04") && text.contains("docs/raspberry-pi-4.md"),
            "{text}"
        );
        assert!(!text.contains("no text"), "{text}");
    }

    #[test]
    fn wrong_speed_is_recognized() {
        let (end, session, _) = follow(&[b"\xff\x80x\xf0\0\xe0"], QUICK, true);
        let (_, text, _) = status(&end, session);
        assert!(text.contains("the line's speed is wrong"), "{text}");
    }

    #[test]
    fn unplugged_adapter_is_an_error_of_its_own() {
        let (end, session, _) = follow(&[b"[ 0.1] hello\r\n"], PATIENT, false);
        assert!(matches!(end, End::Gone(_)), "{end:?}");
        let (number, text, _) = status(&end, session);
        assert_eq!(number, 1);
        assert!(text.contains("/dev/ttyUSB0 is gone"), "{text}");
    }
}
