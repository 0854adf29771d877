// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask serial` against guests: what it makes of each end that a board can come to.
//!
//! A guest's UART is a pseudo terminal here, there is no semihosting, and at its end the kernel
//! halts, as on a board: its last line is all that tells how it ended. What reads the terminal is
//! the command itself, from the port's name to the verdict.

use super::boots::Bench;
use super::summary::{Failed, Row};
use crate::failure;
use crate::guest;
use crate::ktap::{Report, Status};
use crate::qemu::boot::Watch;
use crate::qemu::{Boot, Input, Machine, Terminal, Verdict};
use crate::serial::Serial;
use anyhow::Result;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Name of the row, and first part of the names of its tests.
const ROW: &str = "serial";

/// A boot, and what the command must make of it.
struct Ending {
    name: &'static str,
    bootargs: &'static str,
    status: u8,
    /// Whether self-tests ran and all of them passed.
    tests: bool,
    /// Must be in the log, completed by the symbols, or in the verdict.
    says: &'static [&'static str],
}

#[rustfmt::skip]
const ENDINGS: [Ending; 4] = [
    Ending { name: "passing_tests", bootargs: "mode=selftest filter=boot-arguments*", status: 0, tests: true,
        says: &["info: lazymmu ", "ok 1 boot-arguments", "lazymmu: exit 0"] },
    Ending { name: "panic", bootargs: "mode=panic", status: 2, tests: false,
        says: &["panic: provoked", "provoke::outer at kernel/src/selftest/provoke.rs:", "lazymmu: exit 2", "the kernel panicked"] },
    Ending { name: "exception", bootargs: "mode=exception", status: 3, tests: false,
        says: &["exception: data abort", "write_to_an_unmapped_page", "lazymmu: exit 3", "unexpected exception"] },
    Ending { name: "hang", bootargs: "mode=hang", status: failure::HUNG, tests: false,
        says: &["provoking: Hang", "the board hangs: it printed nothing for", "docs/raspberry-pi-4.md"] },
];

/// Boots them on `machine`, one after the other; nothing comes back when the filter selects none.
///
/// # Errors
///
/// When QEMU cannot be started at all, or a log cannot be written.
pub fn run(bench: &Bench<'_>, machine: &Machine) -> Result<Option<Row>> {
    let selected = |ending: &&Ending| bench.selects(&format!("{ROW}.{}", ending.name));
    let mut row = Row::new(ROW);
    let start = Instant::now();
    for ending in ENDINGS.iter().filter(selected) {
        if guest::interrupted() {
            break;
        }
        match ending.boot(bench, machine)? {
            None => row.passed += 1,
            Some(failed) => row.fail(failed),
        }
    }
    row.seconds = start.elapsed().as_secs_f64();
    if row.passed + row.failed == 0 {
        return Ok(None);
    }
    bench.progress.suspend(|| println!("{}", row.line()));
    Ok(Some(row))
}

impl Ending {
    /// Boots and reads; a failure comes back if the command says anything else.
    fn boot(&self, bench: &Bench<'_>, machine: &Machine) -> Result<Option<Failed>> {
        if self.status != failure::HUNG {
            return self.boot_within(60, bench, machine);
        }
        // So much silence is waited for, and a busy host may need more to come to the hang.
        let mut patience = 5;
        loop {
            match self.boot_within(patience, bench, machine)? {
                Some(failed)
                    if patience < 60
                        && failed.detail.iter().any(|it| it.ends_with(self.says[0])) =>
                {
                    patience *= 2;
                }
                ended => return Ok(ended),
            }
        }
    }

    /// `patience` are the seconds of silence that are too many.
    fn boot_within(
        &self,
        patience: u32,
        bench: &Bench<'_>,
        machine: &Machine,
    ) -> Result<Option<Failed>> {
        let name = format!("{ROW}.{}", self.name);
        let bootargs = format!("{} exit=halt", self.bootargs);
        let again = format!("cargo xtask test --filter {name}");
        let boot = Boot {
            machine,
            bootargs: &bootargs,
            artifacts: bench.artifacts,
            input: Input::Usual,
            // By the command, from its side of the line.
            watch: Watch::Timeout(Duration::from_secs(patience.into())),
            again: again.clone(),
        };
        let terminal = Terminal::start(&boot, bench.workspace, bench.qemu)?;
        let command = Serial {
            port: Some(terminal.port().to_owned()),
            timeout: NonZeroU32::new(patience),
            elf: Some(bench.artifacts.elf.clone()),
        };
        let mut lines = Vec::new();
        let outcome = command.follow(
            bench.workspace,
            |_| (),
            || terminal.resume(),
            |line| lines.extend(line.lines().map(str::to_owned)),
        )?;
        bench.keep(&name, &(lines.join("\n") + "\n"))?;
        let status = outcome.status();
        if let Verdict::Failed(failure) | Verdict::Broken(failure) = &outcome.verdict {
            lines.extend(failure.to_string().lines().map(str::to_owned));
        }
        let mut problems = Vec::new();
        if status != self.status {
            problems.push(format!("ended with {status}, expected {}", self.status));
        }
        if all_passed(outcome.report.as_ref()) != self.tests {
            problems.push(format!("the self-tests are {:?}", outcome.report));
        }
        for text in self.says {
            if !lines.iter().any(|line| line.contains(text)) {
                problems.push(format!("did not say: {text}"));
            }
        }
        if problems.is_empty() {
            return Ok(None);
        }
        let last = lines.len().saturating_sub(12);
        problems.extend(lines[last..].iter().map(|line| format!("| {line}")));
        let mut failed = Failed::new(&name, problems);
        failed.again = format!("again: {again}");
        Ok(Some(failed))
    }
}

/// Tells whether tests ran, the log of them is whole, and all passed.
fn all_passed(report: Option<&Report>) -> bool {
    report.is_some_and(|report| {
        report.problems.is_empty()
            && !report.cases.is_empty()
            && report
                .cases
                .iter()
                .all(|case| case.status != Status::Failed)
    })
}
