// SPDX-License-Identifier: MIT OR Apache-2.0

//! The in-kernel suite: boots, a few at a time, and what their logs say.

use super::matrix::Planned;
use super::summary::{Failed, Row};
use crate::build::Artifacts;
use crate::failure::{self, Failure};
use crate::glob;
use crate::ktap::{Parser, Report, Status};
use crate::parallel;
use crate::qemu::Input;
use crate::qemu::boot::Watch;
use crate::qemu::{Boot, MachineOptions, Qemu, Verdict};
use crate::run::again;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use std::fmt::Write;
use std::fs;

/// Seconds that one boot may take by default.
const TIMEOUT: u32 = 120;

/// What the kernel says when no test matches its `filter=` (kernel/src/selftest/runner.rs).
const NO_MATCH: &str = "no self-test matches filter=";

/// Name of the failure of a boot that went wrong as a whole.
pub const WHOLE: &str = "the boot itself";

/// What all boots of a test run share.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The checkout.
    pub workspace: &'a Workspace,
    /// The emulator.
    pub qemu: &'a Qemu,
    /// The kernel.
    pub artifacts: &'a Artifacts,
    /// Timeout, debugger and boot arguments for every boot.
    pub options: &'a MachineOptions,
    /// Pattern of the tests to run.
    pub filter: Option<&'a str>,
    /// Shows how far it is.
    pub progress: &'a ProgressBar,
}

impl Bench<'_> {
    /// Whether the filter, if there is one, selects a test of this name.
    pub fn selects(&self, name: &str) -> bool {
        self.filter.is_none_or(|filter| glob::matches(filter, name))
    }

    /// Boots everything, `jobs` at a time; rows come back in the order of the boots.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started at all. Everything else is a failed row.
    pub fn run(&self, boots: &[Planned], jobs: usize) -> Result<Vec<Row>> {
        let rows = parallel::each(boots, jobs, |planned| {
            let row = self.boot(planned)?;
            self.progress.inc(1);
            if let Some(row) = &row {
                self.progress.suspend(|| println!("{}", row.line()));
            }
            Ok(row)
        })?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Boots once; nothing comes back when the filter matches no test of the kernel.
    fn boot(&self, planned: &Planned) -> Result<Option<Row>> {
        let name = planned.name();
        let given = &self.options.bootargs;
        let mut arguments = vec!["mode=selftest".to_owned()];
        arguments.extend(self.filter.map(|filter| format!("filter={filter}")));
        arguments.extend(not_replaced(planned.bootargs, given).map(str::to_owned));
        arguments.extend_from_slice(given);
        let bootargs = arguments.join(" ");
        let options = planned.machine.options();
        let boot = Boot {
            machine: &planned.machine,
            bootargs: &bootargs,
            artifacts: self.artifacts,
            input: Input::Usual,
            watch: if self.options.gdb {
                Watch::Debugger
            } else {
                Watch::Timeout(self.options.timeout(TIMEOUT))
            },
            again: again(&options, &bootargs),
        };
        let mut parser = Parser::default();
        let mut log = String::new();
        let mut no_match = false;
        let outcome = boot.run(self.workspace, self.qemu, |line| {
            // A completed backtrace is several lines.
            line.lines().for_each(|line| parser.line(line));
            self.progress
                .set_message(format!("{name}: {} tests", parser.reported()));
            no_match |= line.contains(NO_MATCH);
            let _ = writeln!(log, "{line}");
        })?;
        self.keep(&name, &log)?;
        if self.filter.is_some() && no_match && matches!(outcome.verdict, Verdict::Failed(_)) {
            // It may be meant for host tests; whether any test ran is asked in the end.
            return Ok(None);
        }
        let mut row = judge(&name, parser.finish(), outcome.verdict);
        for failed in row
            .failures
            .iter_mut()
            .filter(|failed| failed.name != WHOLE)
        {
            let others = arguments
                .iter()
                .skip(1)
                .filter(|argument| key(argument) != "filter");
            let alone = [arguments[0].clone(), format!("filter={}", failed.name)];
            let alone: Vec<String> = alone.into_iter().chain(others.cloned()).collect();
            failed.again = format!("again: {}", again(&options, &alone.join(" ")));
        }
        row.seconds = outcome.duration.as_secs_f64();
        Ok(Some(row))
    }

    /// Keeps a console log in target/test-logs.
    pub fn keep(&self, name: &str, log: &str) -> Result<()> {
        let directory = self.workspace.target().join("test-logs");
        let path = directory.join(format!("{}.log", name.replace([' ', '='], "-")));
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&path, log))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The boot arguments of `planned` that are not given: the kernel takes none twice, and what is given
/// replaces what was planned.
pub fn not_replaced<'a>(planned: &'a str, given: &'a [String]) -> impl Iterator<Item = &'a str> {
    planned
        .split_whitespace()
        .filter(|one| !given.iter().any(|given| key(given) == key(one)))
}

/// The key of a boot argument `key=value`.
fn key(argument: &str) -> &str {
    argument.split('=').next().unwrap_or_default()
}

/// Turns a log and a verdict into a row.
pub fn judge(name: &str, report: Report, verdict: Verdict) -> Row {
    let mut row = Row::new(name);
    for case in report.cases {
        match case.status {
            Status::Passed => row.passed += 1,
            Status::Skipped => row.skipped += 1,
            Status::Failed => {
                let reason = if case.reason.is_empty() {
                    None
                } else {
                    Some(case.reason)
                };
                let detail = reason.into_iter().chain(case.diagnostics).collect();
                row.fail(Failed::new(&case.name, detail));
            }
        }
    }
    // One more failure for a boot that went wrong as a whole.
    let whole = |problems: Vec<String>, failure: Option<Failure>| {
        let mut failed = Failed::new(WHOLE, problems);
        if let Some(failure) = failure {
            failed
                .detail
                .extend(failure.report.lines().map(str::to_owned));
            failed.again = failure.next;
        }
        failed
    };
    let ran = row.passed + row.failed + row.skipped;
    match verdict {
        Verdict::Broken(failure) => {
            row.status = match failure.status {
                2 => "panic",
                3 => "exception",
                failure::HUNG => "hang",
                failure::INTERRUPTED => "interrupted",
                _ => "broken",
            }
            .to_owned();
            row.fail(whole(report.problems, Some(failure)));
        }
        Verdict::Failed(failure) if row.failed == 0 => {
            row.fail(whole(report.problems, Some(failure)));
        }
        _ if !report.problems.is_empty() => row.fail(whole(report.problems, None)),
        Verdict::Success if row.failed > 0 => {
            row.fail(whole(
                vec!["tests failed, but the kernel ended with status 0".to_owned()],
                None,
            ));
        }
        Verdict::Success if ran == 0 => {
            row.fail(whole(vec!["the kernel ran no test".to_owned()], None));
        }
        Verdict::Success | Verdict::Failed(_) => {}
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "KTAP version 1\n1..2\nok 1 a\nok 2 b\n";

    fn judged(log: &str, verdict: Verdict) -> (usize, usize, String) {
        let mut parser = Parser::default();
        log.lines().for_each(|line| parser.line(line));
        let row = judge("m", parser.finish(), verdict);
        (row.passed, row.failed, row.status)
    }

    fn ended(status: u8) -> Failure {
        Failure::new(status, "what happened")
    }

    #[test]
    fn what_is_given_replaces_what_was_planned() {
        let given = ["lazy=eager", "log=debug"].map(str::to_owned);
        let kept: Vec<&str> = not_replaced("cpus=2 lazy=multicall", &given).collect();
        assert_eq!(kept, ["cpus=2"]);
    }

    #[test]
    fn complete_log_and_good_end_pass() {
        assert_eq!(judged(LOG, Verdict::Success), (2, 0, "ok".to_owned()));
    }

    #[test]
    fn log_verdict_and_completeness_must_agree() {
        let failing = LOG.replace("ok 2", "not ok 2");
        assert_eq!(
            judged(&failing, Verdict::Failed(ended(1))),
            (1, 1, "failed".to_owned())
        );
        assert_eq!(
            judged(&failing, Verdict::Success),
            (1, 2, "failed".to_owned())
        );
        assert_eq!(
            judged(LOG, Verdict::Failed(ended(1))),
            (2, 1, "failed".to_owned())
        );
        assert_eq!(
            judged("KTAP version 1\n1..2\nok 1 a\n", Verdict::Success),
            (1, 1, "failed".to_owned())
        );
        assert_eq!(
            judged("KTAP version 1\n1..0\n", Verdict::Success),
            (0, 1, "failed".to_owned())
        );
        assert_eq!(judged("", Verdict::Success), (0, 1, "failed".to_owned()));
    }

    #[test]
    fn broken_boot_is_one_more_failure_and_keeps_what_passed() {
        assert_eq!(
            judged("KTAP version 1\n1..2\nok 1 a\n", Verdict::Broken(ended(2))),
            (1, 1, "panic".to_owned())
        );
        assert_eq!(
            judged("", Verdict::Broken(ended(failure::HUNG))),
            (0, 1, "hang".to_owned())
        );
    }
}
