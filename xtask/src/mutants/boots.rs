// SPDX-License-Identifier: MIT OR Apache-2.0

//! Mutants that a boot kills: the kernel is built with the mutant, and one self-test of it is run.
//!
//! The self-test must fail. Where the entry says so it may also end the kernel by a panic or an exception, or never
//! end: that is what most mistakes of a scheduler look like.

use super::bench::Outcome;
use super::killer::{Boot, Ending};
use crate::build::{self, Artifacts};
use crate::failure::HUNG;
use crate::guest;
use crate::ktap::{Parser, Report, Status};
use crate::process;
use crate::qemu::boot::Watch;
use crate::qemu::boot::again;
use crate::qemu::{self, Input, Qemu, Verdict};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// What all boots share.
#[derive(Debug)]
pub struct Boots {
    qemu: Qemu,
    /// What does not pass without a mutant, and why.
    unfit: Vec<(Boot, String)>,
}

/// A boot's log and end.
#[derive(Debug)]
struct Ran {
    report: Report,
    verdict: Verdict,
}

impl Boots {
    /// Builds the kernel in the copy `workspace` as it is, and sees which of `killers` pass. One that fails, is
    /// skipped or is not there would count as one that noticed, or as one that never does: its mutants fail.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started, or the kernel cannot be built.
    pub fn set_up<'a>(
        qemu: Qemu,
        workspace: &Workspace,
        logs: &Path,
        killers: impl Iterator<Item = &'a Boot>,
    ) -> Result<Self> {
        let mut boots = Self {
            qemu,
            unfit: Vec::new(),
        };
        eprintln!("building the kernel as it is");
        let artifacts = build::build(workspace)?;
        let mut seen: Vec<&Boot> = Vec::new();
        for killer in killers {
            if seen.iter().any(|other| other.is_same(killer)) {
                continue;
            }
            seen.push(killer);
            let log = logs.join(format!("{}.log", killer.test));
            let ran = boots.boot(workspace, &artifacts, killer, true, &log)?;
            guest::stop_if_interrupted("interrupted")?;
            let problem = problem(&ran);
            let result = if problem.is_none() {
                "passes"
            } else {
                "DOES NOT PASS"
            };
            eprintln!("without a mutant: {killer}: {result}");
            if let Some(problem) = problem {
                boots.unfit.push((killer.clone(), problem));
            }
        }
        Ok(boots)
    }

    /// Builds the copy `workspace`, a mutant in it, and runs `killer` alone, or all self-tests on its machine.
    ///
    /// # Errors
    ///
    /// When cargo or QEMU cannot be started, or the log cannot be written.
    pub fn run(
        &self,
        workspace: &Workspace,
        killer: &Boot,
        alone: bool,
        log: &Path,
    ) -> Result<Outcome> {
        if let Some((_, problem)) = self.unfit.iter().find(|(unfit, _)| unfit.is_same(killer)) {
            return Ok(Outcome::FailsAnyhow(problem.clone()));
        }
        let output = process::capture(build::cargo_build(workspace).arg("--quiet"))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            return Ok(Outcome::NotBuilt(errors));
        }
        let artifacts = match build::collect(workspace) {
            Ok(artifacts) => artifacts,
            Err(error) => return Ok(Outcome::NotBuilt(format!("{error:#}"))),
        };
        let ran = self.boot(workspace, &artifacts, killer, alone, log)?;
        Ok(judge(ran))
    }

    fn boot(
        &self,
        workspace: &Workspace,
        artifacts: &Artifacts,
        killer: &Boot,
        alone: bool,
        log: &Path,
    ) -> Result<Ran> {
        let bootargs = killer.arguments(alone);
        // All self-tests take minutes where one takes seconds.
        let patience = if alone { 1 } else { 5 };
        let boot = qemu::Boot {
            machine: &killer.machine,
            bootargs: &bootargs,
            artifacts,
            input: Input::Usual,
            watch: Watch::Timeout(killer.timeout * patience),
            again: again(&killer.machine.options(), &bootargs),
        };
        let mut parser = Parser::default();
        let mut console = String::new();
        let outcome = boot.run(workspace, &self.qemu, |line| {
            // A completed backtrace is several lines.
            line.lines().for_each(|line| parser.line(line));
            let _ = writeln!(console, "{line}");
        })?;
        fs::write(log, console).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Ran {
            report: parser.finish(),
            verdict: outcome.verdict,
        })
    }
}

/// Why a boot without a mutant is no proof that the test passes.
fn problem(ran: &Ran) -> Option<String> {
    match &ran.verdict {
        Verdict::Failed(failure) | Verdict::Broken(failure) => return Some(failure.report.clone()),
        Verdict::Success => {}
    }
    let cases = &ran.report.cases;
    match cases.iter().find(|case| case.status == Status::Skipped) {
        Some(skipped) => Some(format!("it is skipped, {}", skipped.reason)),
        None if cases.is_empty() => Some("no test ran".to_owned()),
        None => ran.report.problems.first().cloned(),
    }
}

/// The tests that failed, and how the kernel ended if it did not come to its end.
fn judge(ran: Ran) -> Outcome {
    let failed = |case: crate::ktap::Case| (case.status == Status::Failed).then_some(case.name);
    let mut by: Vec<String> = ran.report.cases.into_iter().filter_map(failed).collect();
    match ran.verdict {
        Verdict::Success if by.is_empty() && ran.report.problems.is_empty() => {
            return Outcome::Survived;
        }
        Verdict::Success => by.extend(ran.report.problems),
        Verdict::Failed(failure) if by.is_empty() => {
            by.push(failure.report.lines().next().unwrap_or_default().to_owned());
        }
        Verdict::Failed(_) => {}
        Verdict::Broken(failure) => by.push(match failure.status {
            2 => Ending::Panic.word().to_owned(),
            3 => Ending::Exception.word().to_owned(),
            HUNG => Ending::Hang.word().to_owned(),
            _ => failure.report.lines().next().unwrap_or_default().to_owned(),
        }),
    }
    Outcome::Killed(by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    const PASSED: &str = "KTAP version 1\n1..1\nok 1 a\n";

    fn ran(log: &str, status: u8) -> Ran {
        let mut parser = Parser::default();
        log.lines().for_each(|line| parser.line(line));
        let failure = Failure::new(status, "what happened\nand where");
        Ran {
            report: parser.finish(),
            verdict: match status {
                0 => Verdict::Success,
                1 => Verdict::Failed(failure),
                _ => Verdict::Broken(failure),
            },
        }
    }

    fn killed(log: &str, status: u8) -> Vec<String> {
        match judge(ran(log, status)) {
            Outcome::Killed(by) => by,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_failed_test_is_told_from_an_early_end() {
        assert_eq!(judge(ran(PASSED, 0)), Outcome::Survived);
        assert_eq!(killed(&PASSED.replace("ok", "not ok"), 1), ["a"]);
        let begun = "KTAP version 1\n1..2\nnot ok 1 a\n";
        assert_eq!(killed(begun, 2), ["a", "panic"]);
        assert_eq!(killed("KTAP version 1\n1..1\n", 3), ["exception"]);
        assert_eq!(killed("", HUNG), ["hang"]);
        // Neither is what an entry can ask for.
        assert_eq!(killed("", 1), ["what happened"]);
        assert_eq!(killed("", 77), ["what happened"]);
        assert_eq!(killed("KTAP version 1\n1..1\n", 0).len(), 1);
    }

    #[test]
    fn only_a_test_that_ran_and_passed_can_kill() {
        assert_eq!(problem(&ran(PASSED, 0)), None);
        let skipped = PASSED.replace("a\n", "a # SKIP one CPU only\n");
        assert_eq!(
            problem(&ran(&skipped, 0)).as_deref(),
            Some("it is skipped, one CPU only")
        );
        assert_eq!(
            problem(&ran("KTAP version 1\n1..0\n", 0)).as_deref(),
            Some("no test ran")
        );
        assert!(problem(&ran(PASSED, 2)).is_some());
        assert!(problem(&ran("KTAP version 1\n1..2\nok 1 a\n", 0)).is_some());
    }
}
