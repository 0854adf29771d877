// SPDX-License-Identifier: MIT OR Apache-2.0

//! The in-kernel suite: boots, a few at a time, and what their logs say.

use super::matrix::Planned;
use super::summary::{Failed, Row};
use crate::build::Artifacts;
use crate::failure;
use crate::ktap::{Parser, Report, Status};
use crate::qemu::boot::Watch;
use crate::qemu::boot::again;
use crate::qemu::{Boot, MachineOptions, Outcome, Qemu, Verdict};
use crate::workspace::Workspace;
use crate::{glob, parallel};
use anyhow::Result;
use indicatif::ProgressBar;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Seconds that one boot may take by default.
pub const TIMEOUT: u32 = 120;

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
    /// Boots at a time.
    pub jobs: usize,
    /// Shows how far it is.
    pub progress: &'a ProgressBar,
}

/// A boot and what it printed, in [`Bench::boot`].
#[derive(Debug)]
pub struct Booted {
    /// How it went.
    pub outcome: Outcome,
    /// All lines.
    pub log: String,
    /// What the self-tests reported.
    pub report: Report,
}

impl Bench<'_> {
    /// Whether the filter, if there is one, selects a test of this name.
    pub fn selects(&self, name: &str) -> bool {
        self.filter.is_none_or(|filter| glob::matches(filter, name))
    }

    /// Boots by `qemu`, which is the bench's own or that with a plugin, and keeps the log as
    /// `name`. `reported` gets the number of self-tests that have reported.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started at all, or the log cannot be written.
    pub fn boot(
        &self,
        name: &str,
        boot: &Boot<'_>,
        qemu: &Qemu,
        reported: impl Fn(usize),
    ) -> Result<Booted> {
        let mut parser = Parser::default();
        let mut log = String::new();
        let outcome = boot.run(self.workspace, qemu, |lines| {
            // A completed backtrace is several lines.
            lines.lines().for_each(|line| parser.line(line));
            reported(parser.reported());
            log.extend([lines, "\n"]);
        })?;
        self.keep(name, &log)?;
        Ok(Booted {
            outcome,
            log,
            report: parser.finish(),
        })
    }

    /// A row of tests, one for each of `cases` that the filter selects, a few at a time; no row if
    /// it selects none. `test` gets the full name, `row.name`, and says what is wrong, or nothing
    /// if the test cannot run here.
    ///
    /// # Errors
    ///
    /// An error of `test`.
    pub fn row<T: Sync>(
        &self,
        row: &str,
        cases: &[T],
        name: impl Fn(&T) -> String,
        test: impl Fn(&str, &T) -> Result<Option<Vec<String>>> + Sync,
    ) -> Result<Option<Row>> {
        let start = Instant::now();
        let named = cases
            .iter()
            .map(|case| (format!("{row}.{}", name(case)), case));
        let selected: Vec<_> = named.filter(|(name, _)| self.selects(name)).collect();
        if selected.is_empty() {
            return Ok(None);
        }
        let tested = parallel::each(&selected, self.jobs, |(name, case)| {
            self.progress.set_message(name.clone());
            test(name, case)
        })?;
        let mut row = Row::new(row);
        for ((name, _), problems) in selected.iter().zip(tested) {
            match problems {
                Some(problems) => row.settle(name, problems),
                None => row.skipped += 1,
            }
        }
        row.seconds = start.elapsed().as_secs_f64();
        Ok(Some(row))
    }

    /// Runs the suites on all of `boots`, a few at a time; rows come back in the order of the
    /// boots.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started at all. Everything else is a failed row.
    pub fn run(&self, boots: &[Planned]) -> Result<Vec<Row>> {
        // All boots have the same tests: if the filter matches none in one, it matches none.
        let is_for_others = AtomicBool::new(false);
        let rows = parallel::each(boots, self.jobs, |planned| {
            if is_for_others.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let row = self.suites(planned)?;
            match &row {
                Some(row) => self.show(row),
                None => is_for_others.store(true, Ordering::Relaxed),
            }
            self.progress.inc(1);
            Ok(row)
        })?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Boots once; nothing comes back when the filter matches no test of the kernel.
    fn suites(&self, planned: &Planned) -> Result<Option<Row>> {
        let name = planned.name();
        let filter = self.filter.map(|filter| format!("filter={filter}"));
        let given: Vec<String> = filter
            .into_iter()
            .chain(self.options.bootargs.iter().cloned())
            .collect();
        let planned_arguments = not_replaced(planned.bootargs, &given).map(str::to_owned);
        let arguments: Vec<String> = planned_arguments.chain(given.iter().cloned()).collect();
        let bootargs = format!("mode=selftest {}", arguments.join(" "));
        let bootargs = bootargs.trim_end();
        let timeout = self.options.timeout(TIMEOUT);
        let mut boot = Boot::new(&planned.machine, bootargs, self.artifacts, timeout);
        if self.options.gdb {
            boot.watch = Watch::Debugger;
        }
        let booted = self.boot(&name, &boot, self.qemu, |reported| {
            let message = format!("{name}: {reported} tests");
            self.progress.set_message(message);
        })?;
        let verdict = booted.outcome.verdict;
        if self.filter.is_some()
            && matches!(verdict, Verdict::Failed(_))
            && booted.log.contains(NO_MATCH)
        {
            // It may be meant for host tests; whether any test ran is asked in the end.
            return Ok(None);
        }
        let mut row = judge(&name, booted.report, verdict);
        for failed in row.failures.iter_mut().filter(|it| it.name != WHOLE) {
            let alone = format!("mode=selftest filter={}", failed.name);
            let others = arguments.iter().filter(|it| key(it) != "filter");
            let alone = others.fold(alone, |all, one| format!("{all} {one}"));
            let options = planned.machine.options();
            failed.again = format!("again: {}", again(&options, &alone));
        }
        row.seconds = booted.outcome.duration.as_secs_f64();
        Ok(Some(row))
    }

    /// Prints the line of a row, above the progress bar.
    pub fn show(&self, row: &Row) {
        self.progress.suspend(|| println!("{}", row.line()));
    }

    /// Keeps a console log in target/test-logs.
    pub fn keep(&self, name: &str, log: &str) -> Result<()> {
        self.workspace.keep_log(name, log)
    }
}

/// The boot arguments of `planned` that are not given: the kernel takes none twice, and what is
/// given replaces what was planned.
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
            Status::Failed => row.fail(Failed::new(&case.name, case.diagnostics)),
        }
    }
    // One more failure for a boot that went wrong as a whole.
    let mut whole = Failed::new(WHOLE, report.problems);
    let ran = row.passed + row.failed + row.skipped;
    match verdict {
        Verdict::Success if row.failed > 0 => whole
            .detail
            .push("tests failed, but the kernel ended with status 0".to_owned()),
        Verdict::Success if ran == 0 => whole.detail.push("the kernel ran no test".to_owned()),
        Verdict::Success => {}
        Verdict::Failed(_) if row.failed > 0 => {}
        Verdict::Failed(failure) => whole.explain(failure),
        Verdict::Broken(failure) => {
            row.status = match failure.status {
                2 => "panic",
                3 => "exception",
                failure::HUNG => "hang",
                failure::INTERRUPTED => "interrupted",
                _ => "broken",
            }
            .to_owned();
            whole.explain(failure);
        }
    }
    if !whole.detail.is_empty() {
        row.fail(whole);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

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
