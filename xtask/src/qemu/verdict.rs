// SPDX-License-Identifier: MIT OR Apache-2.0

//! The verdict on a boot, and the report on one that went wrong.
//!
//! It rests on two witnesses: QEMU's exit status, which the kernel sets through
//! semihosting, and the line `lazymmu: exit N`, which the kernel prints before
//! every end. Success needs both to say so. Where the kernel ends without
//! semihosting (PSCI, or a halted CPU), QEMU's status is 0 or there is none, and
//! the line decides.

use crate::console::Console;
use crate::failure::{self, Failure};
use crate::guest::{End, Ended};
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;

/// The verdict on a boot.
#[derive(Debug)]
pub enum Verdict {
    /// The kernel ended with status 0.
    Success,
    /// The kernel ended with status 1, after what it had to do.
    Failed(Failure),
    /// Panic, exception, hang, QEMU error, Ctrl-C.
    Broken(Failure),
}

impl Verdict {
    /// Why it is no success.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Success => None,
            Self::Failed(failure) | Self::Broken(failure) => Some(failure),
        }
    }
}

/// What the two witnesses say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding<'a> {
    /// The kernel ended with this status.
    Status(u8),
    /// QEMU ended well, the kernel said nothing.
    Vanished,
    /// QEMU itself failed.
    QemuFailed,
    Hung(&'a str),
    Interrupted,
}

fn find(end: &End, announced: Option<u8>) -> Finding<'_> {
    let code = match end {
        End::Interrupted => return Finding::Interrupted,
        End::Hung(why) => return Finding::Hung(why),
        End::Exited(status) => status.code(),
        End::Halted => Some(0),
    };
    match (code, announced) {
        (Some(0), Some(status)) => Finding::Status(status),
        (Some(code), Some(_)) => Finding::Status(u8::try_from(code).unwrap_or(1)),
        (Some(0), None) => Finding::Vanished,
        (Some(_) | None, _) => Finding::QemuFailed,
    }
}

/// Judges how a guest ended.
///
/// `again` is the xtask command that boots the same, `command` that of QEMU.
pub fn judge(ended: &Ended, console: &Console, again: &str, command: &str) -> Verdict {
    let (status, what, next) = match find(&ended.end, console.announced()) {
        Finding::Status(status) => return announced(status, console, &look_inside(again)),
        Finding::Vanished => {
            let what = "QEMU ended, but the kernel did not announce its end (`lazymmu: exit N`): \
                        it was switched off or reset in between";
            // Where the log is, if the kernel found no UART.
            let what = with_lines(what.to_owned(), ended.stderr.lines());
            (1, what, look_inside(again))
        }
        Finding::QemuFailed => (
            1,
            qemu_failed(ended),
            format!("QEMU was started by: {command}"),
        ),
        Finding::Hung(why) => {
            let next = format!(
                "{}\nto give it longer: --timeout SECONDS",
                look_inside(again)
            );
            (failure::HUNG, hung(why, ended), next)
        }
        Finding::Interrupted => {
            let what = "interrupted; QEMU was ended";
            return Verdict::Broken(Failure::new(failure::INTERRUPTED, what));
        }
    };
    Verdict::Broken(Failure::new(status, quoted(what, console)).with_next(next))
}

/// The verdict on a kernel that ended with `status`; `next` is what to do if that is no success.
pub fn announced(status: u8, console: &Console, next: &str) -> Verdict {
    let what = match status {
        0 => return Verdict::Success,
        1 => match console.error() {
            Some(error) => format!("{error} (the kernel's error; it ended with status 1)"),
            None => "the kernel ended with status 1: a test failed".to_owned(),
        },
        2 => "the kernel panicked".to_owned(),
        3 => "the kernel met an unexpected exception".to_owned(),
        _ => format!("the kernel ended with status {status}, which means nothing to xtask"),
    };
    let failure = Failure::new(status, quoted(what, console)).with_next(next);
    match status {
        1 => Verdict::Failed(failure),
        _ => Verdict::Broken(failure),
    }
}

fn hung(why: &str, ended: &Ended) -> String {
    let stuck_at = ended.stuck_at.iter().map(String::as_str);
    with_lines(
        format!("the guest hangs: {why}"),
        stuck_at.chain(ended.stderr.lines()),
    )
}

fn with_lines<'a>(mut what: String, lines: impl Iterator<Item = &'a str>) -> String {
    for line in lines {
        let _ = write!(what, "\n  {line}");
    }
    what
}

fn qemu_failed(ended: &Ended) -> String {
    let how = match &ended.end {
        End::Exited(status) => match status.signal() {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("failed ({status})"),
        },
        End::Halted | End::Hung(_) | End::Interrupted => "stopped".to_owned(),
    };
    let what = format!("QEMU {how} before the kernel announced its end");
    with_lines(what, ended.stderr.lines())
}

/// Adds the kernel's report, or else its last lines.
pub fn quoted(mut what: String, console: &Console) -> String {
    let report = console.report();
    let (title, lines): (_, Vec<&str>) = if report.is_empty() {
        ("the last lines on its console:", console.tail().collect())
    } else {
        (
            "the kernel's report:",
            report.iter().map(String::as_str).collect(),
        )
    };
    if lines.is_empty() {
        what.push_str("\nnothing was printed on its console");
        return what;
    }
    let _ = write!(what, "\n{title}");
    for line in lines.iter().flat_map(|line| line.lines()) {
        let _ = write!(what, "\n  | {line}");
    }
    what
}

/// The same boot under a debugger.
fn look_inside(again: &str) -> String {
    match again.split_once(" -- ") {
        Some((options, bootargs)) => format!("to look inside: {options} --gdb -- {bootargs}"),
        None => format!("to look inside: {again} --gdb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;
    use std::time::Duration;

    fn exited(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn both_witnesses_are_heard() {
        assert_eq!(find(&exited(0), Some(0)), Finding::Status(0));
        assert_eq!(find(&exited(2), Some(2)), Finding::Status(2));
        // The kernel contradicts itself: the worse of both counts.
        assert_eq!(find(&exited(1), Some(0)), Finding::Status(1));
        assert_eq!(find(&exited(0), Some(3)), Finding::Status(3));
    }

    #[test]
    fn line_decides_without_semihosting() {
        assert_eq!(find(&End::Halted, Some(0)), Finding::Status(0));
        assert_eq!(find(&End::Halted, Some(2)), Finding::Status(2));
    }

    #[test]
    fn silence_is_no_success() {
        assert_eq!(find(&exited(0), None), Finding::Vanished);
        assert_eq!(find(&exited(1), None), Finding::QemuFailed);
        let killed = End::Exited(ExitStatus::from_raw(9));
        assert_eq!(find(&killed, None), Finding::QemuFailed);
        assert_eq!(find(&killed, Some(0)), Finding::QemuFailed);
    }

    #[test]
    fn report_says_what_happened_and_what_to_do() {
        let mut console = Console::default();
        console.feed(
            b"boot\npanic: no memory\n  at a.rs:1\nlazymmu: exit 2\n",
            |_| {},
        );
        let ended = Ended {
            end: exited(2),
            duration: Duration::ZERO,
            stderr: String::new(),
            stuck_at: Vec::new(),
        };
        let Verdict::Broken(failure) = judge(&ended, &console, "cargo xtask run --el 2 -- a=b", "")
        else {
            panic!("a panic is no success");
        };
        assert_eq!(failure.status, 2);
        assert_eq!(
            failure.to_string(),
            "the kernel panicked\nthe kernel's report:\n  | panic: no memory\n  |   at a.rs:1\n\
             to look inside: cargo xtask run --el 2 --gdb -- a=b"
        );
    }

    #[test]
    fn the_error_of_the_kernel_is_the_headline() {
        let said = |log: &[u8]| {
            let mut console = Console::default();
            console.feed(log, |_| {});
            match announced(1, &console, "next") {
                Verdict::Failed(failure) => failure.report,
                other => panic!("{other:?}"),
            }
        };
        let report = said(b"boot\nerror: no device tree\nlazymmu: exit 1\n");
        assert!(
            report.starts_with("no device tree (the kernel's error"),
            "{report}"
        );
        let report = said(b"not ok 1\nlazymmu: exit 1\n");
        assert!(
            report.starts_with("the kernel ended with status 1: a test failed"),
            "{report}"
        );
    }

    #[test]
    fn hang_and_qemu_error_carry_what_is_known() {
        let mut ended = Ended {
            end: End::Hung("it printed nothing for 5 s".to_owned()),
            duration: Duration::ZERO,
            stderr: "qemu: odd".to_owned(),
            stuck_at: vec!["CPU 0 is at 0x0".to_owned()],
        };
        let text = |ended: &Ended| match judge(ended, &Console::default(), "again", "qemu -x") {
            Verdict::Broken(failure) => (failure.status, failure.to_string()),
            other => panic!("{other:?}"),
        };
        let (status, report) = text(&ended);
        assert_eq!(status, failure::HUNG);
        assert!(
            report.contains("nothing for 5 s\n  CPU 0 is at 0x0\n  qemu: odd\n"),
            "{report}"
        );
        ended.end = exited(1);
        let (status, report) = text(&ended);
        assert_eq!(status, 1);
        assert!(
            report.contains("  qemu: odd\n") && report.ends_with("started by: qemu -x"),
            "{report}"
        );
        ended.end = exited(0);
        let (status, report) = text(&ended);
        assert_eq!(status, 1);
        assert!(report.contains("in between\n  qemu: odd\n"), "{report}");
    }
}
