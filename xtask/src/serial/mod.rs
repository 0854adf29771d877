// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask serial`: the log of a board, live, and its end as an exit status.
//!
//! The same code reads a guest's pseudo terminal in `cargo xtask test` (`xtask/tests/guests/serial`).

mod port;
mod session;

use crate::console::Console;
use crate::failure::Failure;
use crate::guest::Answering;
use crate::ktap::Report;
use crate::qemu::Verdict;
use crate::qemu::boot::again;
use crate::symbols::Symbols;
use crate::test::boots;
use crate::test::summary::Summary;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use clap::Args;
use port::Port;
use session::{Patience, Session};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Seconds of silence that count as a hang by default, once something was heard.
const SILENCE: Duration = Duration::from_secs(60);

/// Show what a board prints on its serial line, and end as its kernel does
///
/// Waits for the port and then for the board, so it may be started before either is plugged in.
/// 115200 8N1, nothing is sent. Ends with the kernel's status: 0 success, 1 failure, 2 panic, 3
/// unexpected exception; 124 for a hang. After self-tests the last line is `N passed, N failed`.
#[derive(Args, Clone, Debug, Default)]
pub struct Serial {
    /// Serial port [default: the only USB serial port, as soon as there is one]
    #[arg(long, value_name = "PORT")]
    pub port: Option<PathBuf>,

    /// Seconds that each wait may take: for the port, for the first byte, for any later byte
    /// [default: for ever up to the first byte, then 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<NonZeroU32>,

    /// The board's kernel with symbols, for backtraces [default: target/sdcard.elf of the last
    /// `cargo xtask image`, else target/kernel.elf]
    #[arg(long, value_name = "FILE")]
    pub elf: Option<PathBuf>,
}

/// What came of a session.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// What the self-tests reported, if any ran.
    pub report: Option<Report>,
}

impl Serial {
    /// Follows the board on the screen.
    pub fn execute(self) -> Result<()> {
        let outcome = self.follow(
            &Workspace::find(),
            |text| eprintln!("{text}"),
            || Ok(()),
            |line| println!("{line}"),
        )?;
        outcome.end()
    }

    /// Waits for the port and follows the board to its end. What a person should know goes to
    /// `notice`, the log to `sink`; `opened` is called once the port is read.
    ///
    /// # Errors
    ///
    /// When there is no port to be had, or `opened` fails.
    pub fn follow(
        &self,
        workspace: &Workspace,
        notice: impl Fn(&str),
        opened: impl FnOnce() -> Result<()>,
        sink: impl FnMut(&str),
    ) -> Result<Outcome> {
        let symbols = self.symbols(workspace, &notice)?;
        let given = self
            .timeout
            .map(|seconds| Duration::from_secs(seconds.get().into()));
        // From here on a port's settings may have to be put back.
        let _answering = Answering::begin();
        let path = port::wait(
            self.port.as_deref(),
            Path::new(port::DEVICES),
            given,
            &notice,
        )?;
        let mut port = Port::open(&path)?;
        notice(&format!(
            "{} is read at 115200 8N1. Switch the board on, or reset it; Ctrl-C ends.",
            path.display()
        ));
        opened()?;
        let patience = Patience {
            first: given,
            silence: given.unwrap_or(SILENCE),
        };
        let mut session = Session::new(Console::new(symbols));
        let end = session.follow(&mut port, patience, sink);
        let (verdict, report) = session.judge(&end, &path);
        Ok(Outcome { verdict, report })
    }

    /// The symbols of the board's kernel; without them a log is still worth reading.
    fn symbols(&self, workspace: &Workspace, notice: impl Fn(&str)) -> Result<Option<Symbols>> {
        if let Some(elf) = &self.elf {
            ensure!(
                elf.is_file(),
                "there is no {}; --elf takes the kernel.elf that belongs to the board's kernel8.img",
                elf.display()
            );
        }
        let built = [workspace.card_elf(), workspace.kernel_elf()];
        let mut choices = self.elf.iter().chain(&built);
        let Some(elf) = choices.find(|elf| elf.is_file()) else {
            notice("No kernel was built here: backtraces will have no names (--elf FILE).");
            return Ok(None);
        };
        Symbols::read(elf, workspace.root())
            .map(Some)
            .with_context(|| format!("{} cannot be used for backtraces", elf.display()))
    }
}

impl Outcome {
    /// Ends as the board did: prints the self-tests' summary, and returns what went wrong.
    fn end(self) -> Result<()> {
        let status = self.status();
        let Some(report) = self.report else {
            return match self.verdict {
                Verdict::Success => Ok(()),
                Verdict::Failed(failure) | Verdict::Broken(failure) => Err(failure.into()),
            };
        };
        let mut row = boots::judge("the board", report, self.verdict);
        for failed in row
            .failures
            .iter_mut()
            .filter(|failed| failed.again.is_empty() && failed.name != boots::WHOLE)
        {
            let alone = format!("mode=selftest filter={}", failed.name);
            failed.again = format!("the same under QEMU: {}", again("", &alone));
        }
        let mut summary = Summary::default();
        summary.add_silently(row);
        summary.print();
        if summary.is_success() {
            return Ok(());
        }
        // The summary has said it all, and its last line is to stay the last.
        Err(Failure::new(status.max(1), "").into())
    }

    /// The kernel's status, or the one that replaces it, such as that of a hang.
    pub fn status(&self) -> u8 {
        match &self.verdict {
            Verdict::Success => 0,
            Verdict::Failed(failure) | Verdict::Broken(failure) => failure.status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure;
    use crate::ktap::Parser;

    fn ended(log: &str, verdict: Verdict) -> Option<u8> {
        let mut parser = Parser::default();
        log.lines().for_each(|line| parser.line(line));
        let report = parser.has_started().then(|| parser.finish());
        let error = Outcome { verdict, report }.end().err()?;
        error.downcast_ref().map(|failure: &Failure| failure.status)
    }

    #[test]
    fn success_needs_the_sentinel_and_the_tests() {
        const PASSED: &str = "KTAP version 1\n1..1\nok 1 a\n";
        const FAILED: &str = "KTAP version 1\n1..1\nnot ok 1 a\n";
        const BROKEN_OFF: &str = "KTAP version 1\n1..2\nok 1 a\n";
        let failure = |status| Verdict::Failed(Failure::new(status, "why"));
        assert_eq!(ended("", Verdict::Success), None);
        assert_eq!(ended(PASSED, Verdict::Success), None);
        assert_eq!(ended(FAILED, Verdict::Success), Some(1));
        assert_eq!(ended(BROKEN_OFF, Verdict::Success), Some(1));
        assert_eq!(ended(FAILED, failure(1)), Some(1));
        assert_eq!(ended("", failure(1)), Some(1));
        for status in [2, 3, failure::HUNG] {
            let broken = || Verdict::Broken(Failure::new(status, "why"));
            assert_eq!(ended("", broken()), Some(status));
            assert_eq!(ended(BROKEN_OFF, broken()), Some(status));
        }
    }

    #[test]
    fn port_that_does_not_come_is_a_hang_and_a_missing_elf_an_error() {
        let folder = tempfile::tempdir().expect("there is room");
        let workspace = Workspace::at(folder.path().to_owned(), folder.path().to_owned());
        let serial = Serial {
            port: Some(folder.path().join("board")),
            timeout: NonZeroU32::new(1),
            elf: None,
        };
        let told = std::cell::RefCell::new(Vec::new());
        let follow = |serial: &Serial| {
            serial.follow(
                &workspace,
                |text| told.borrow_mut().push(text.to_owned()),
                || Ok(()),
                |_| (),
            )
        };
        let error = follow(&serial).expect_err("there is no port");
        let failure: &Failure = error.downcast_ref().expect("it has a status");
        assert_eq!(failure.status, failure::HUNG);
        let told = told.borrow().join("\n");
        assert!(told.contains("No kernel was built here"), "{told}");
        assert!(
            told.contains("Waiting for /") && told.contains(", 1 s at most"),
            "{told}"
        );
        let serial = Serial {
            elf: Some(folder.path().join("none.elf")),
            ..serial
        };
        let error = follow(&serial).expect_err("there is no such file");
        assert!(error.to_string().contains("kernel8.img"), "{error}");
    }
}
