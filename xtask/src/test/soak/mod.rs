// SPDX-License-Identifier: MIT OR Apache-2.0

//! `--soak`: random tests in rounds, each with a new seed, until the minutes are over.
//!
//! A round is either random [`programs`] of the page-table library on the machine model, or random
//! [`tasks`] in the kernel on an emulated machine; the kind that has had less time comes next.
//! Rounds differ in their seed and, in the kernel, in machine and backend; the seeds follow one
//! another from the first. The first failure ends the soak; with it goes the command line that
//! repeats it. To the summary the whole soak is one test.
//!
//! [`short`] is what every `cargo xtask test` runs of it in the kernel.

mod programs;
pub mod short;
pub mod tasks;

use super::boots::Bench;
use super::summary::{Failed, Row};
use crate::failure::{self, Failure};
use crate::workspace::Workspace;
use anyhow::Result;
use clap::{Args, value_parser};
use indicatif::ProgressBar;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Options of `test` that ask for a soak.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// When the usual tests have passed, run random programs of the page-table library on the
    /// machine model and random tasks in the kernel for so many minutes, half of them each, with
    /// new seeds all the time, up to the first failure; with --host only the programs; --filter
    /// does not apply to them
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    #[arg(conflicts_with_all = ["machine", "cpu", "smp", "memory", "gic", "el", "icount", "gdb"])]
    soak: Option<u32>,

    /// Begin the soak with this seed, which an earlier one printed [default: from the clock]
    #[arg(
        long,
        value_name = "N",
        requires = "soak",
        allow_negative_numbers = true
    )]
    seed: Option<u32>,
}

impl Options {
    /// What to do, if a soak was asked for.
    pub fn plan(self) -> Option<Plan> {
        // The low bits of a count of nanoseconds: another run hardly has them.
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH);
        let from_clock = || clock().map_or(1, |now| now.as_nanos() as u32);
        self.soak.map(|minutes| Plan {
            minutes,
            first: self.seed.unwrap_or_else(from_clock),
        })
    }
}

/// A soak that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    minutes: u32,
    /// The seed of the first round.
    first: u32,
}

impl Plan {
    /// How long it takes; the last round may end later.
    pub fn time(&self) -> Duration {
        Duration::from_secs(60 * u64::from(self.minutes))
    }

    /// Runs rounds until the time is over or one fails, those in the kernel on `bench` if there is
    /// one. `progress` counts seconds.
    ///
    /// # Errors
    ///
    /// When cargo or QEMU cannot be started, and after Ctrl-C. A round that fails is a failed row.
    pub fn run(
        &self,
        workspace: &Workspace,
        bench: Option<&Bench<'_>>,
        progress: &ProgressBar,
    ) -> Result<Row> {
        let Self { minutes, first } = self;
        progress.suspend(|| println!("soak: --soak {minutes} --seed {first}"));
        let started = Instant::now();
        let mut turns = Turns::default();
        let mut row = self.rounds(
            || started.elapsed(),
            |seed, so_far| {
                progress.set_position(started.elapsed().as_secs());
                progress.set_message(so_far.progress(seed));
                let began = Instant::now();
                let kernel = bench.filter(|_| turns.next_is_kernel());
                let round = match kernel {
                    Some(bench) => tasks::round(bench, turns.boots, seed)?,
                    None => programs::round(workspace, seed)?,
                };
                turns.add(kernel.is_some(), began.elapsed());
                Ok(round)
            },
        )?;
        row.seconds = started.elapsed().as_secs_f64();
        Ok(row)
    }

    /// The row of a soak that waits until the usual tests pass.
    pub fn not_started(&self) -> Row {
        let mut row = Row::new("soak");
        row.skipped = 1;
        row.status = "not started".to_owned();
        row
    }

    /// Calls `round` with one seed after the other. `elapsed` is the time since the start.
    fn rounds(
        &self,
        elapsed: impl Fn() -> Duration,
        mut round: impl FnMut(u32, &Tally) -> Result<Option<Round>>,
    ) -> Result<Row> {
        let mut tally = Tally::default();
        let mut seed = self.first;
        let failures = loop {
            let Some(done) = round(seed, &tally)? else {
                let report = format!("interrupted; until then {tally}, and no failure");
                return Err(Failure::new(failure::INTERRUPTED, report).into());
            };
            tally.programs += done.programs;
            tally.steps += done.steps;
            if !done.failures.is_empty() {
                break done.failures;
            }
            tally.rounds += 1;
            if elapsed() >= self.time() {
                break Vec::new();
            }
            seed = seed.wrapping_add(1);
        };
        let mut row = Row::new("");
        row.passed = usize::from(failures.is_empty());
        failures.into_iter().for_each(|failed| row.fail(failed));
        // However many tests noticed: one seed, one failure.
        row.failed = row.failed.min(1);
        tally.rounds += row.failed;
        row.name = format!("soak: {tally}");
        Ok(row)
    }
}

/// What a round has done, and what failed in it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    /// Programs on the machine model.
    programs: u64,
    /// Steps of tasks in the kernel.
    steps: u64,
    failures: Vec<Failed>,
}

impl Round {
    /// A round that went wrong as a whole.
    fn broken(name: &str, detail: Vec<String>, again: String) -> Self {
        let mut failed = Failed::new(name, detail);
        failed.again = again;
        Self {
            failures: vec![failed],
            ..Self::default()
        }
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    host: Duration,
    kernel: Duration,
    /// Boots so far.
    boots: usize,
}

impl Turns {
    fn next_is_kernel(&self) -> bool {
        self.kernel < self.host
    }

    fn add(&mut self, in_kernel: bool, time: Duration) {
        if in_kernel {
            self.kernel += time;
            self.boots += 1;
        } else {
            self.host += time;
        }
    }
}

/// What has run so far.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    rounds: usize,
    programs: u64,
    steps: u64,
}

impl Tally {
    /// What the progress bar says while a round runs.
    fn progress(&self, seed: u32) -> String {
        let round = self.rounds + 1;
        format!("soak round {round}, seed {seed}, so far {self}")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} random programs", self.programs)?;
        if self.steps > 0 {
            write!(f, " and {} steps of random tasks", self.steps)?;
        }
        let s = if self.rounds == 1 { "" } else { "s" };
        write!(f, " in {} round{s}", self.rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::Test;
    use clap::Parser;
    use std::cell::Cell;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        test: Test,
    }

    fn parsed(arguments: &str) -> Result<Options, String> {
        Cli::try_parse_from(["test"].into_iter().chain(arguments.split_whitespace()))
            .map(|cli| cli.test.soak)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn soak_is_asked_for_in_minutes_from_one_on() {
        let plan = |arguments| parsed(arguments).map(Options::plan);
        assert!(plan("").is_ok_and(|plan| plan.is_none()));
        let ten = plan("--soak 10 --seed 7").ok().flatten();
        let ten = ten.map(|plan| (plan.time().as_secs(), plan.first));
        assert_eq!(ten, Some((600, 7)));
        for minutes in ["0", "-1", "1.5", "ten", "9999999999"] {
            let error = parsed(&format!("--soak {minutes}")).expect_err(minutes);
            let told = format!("invalid value '{minutes}' for '--soak <MINUTES>'");
            assert!(error.contains(&told), "{error}");
        }
    }

    #[test]
    fn seed_is_a_number_and_needs_a_soak() {
        for seed in ["-1", "x", "4294967296"] {
            let error = parsed(&format!("--soak 1 --seed {seed}")).expect_err(seed);
            let told = format!("invalid value '{seed}' for '--seed <N>'");
            assert!(error.contains(&told), "{error}");
        }
        let alone = parsed("--seed 7").expect_err("a seed alone");
        assert!(alone.contains("--soak <MINUTES>"), "{alone}");
    }

    #[test]
    fn machines_have_no_random_programs() {
        for option in ["--cpu max", "--el 3", "--icount", "--gdb"] {
            let error = parsed(&format!("--soak 1 {option}")).expect_err(option);
            assert!(error.contains("cannot be used with"), "{error}");
        }
        assert!(parsed("--soak 1 --host --filter x --timeout 9 -- lazy=eager").is_ok());
    }

    /// A soak of a minute in which a round takes 25 seconds; `end` says how a round ends.
    fn soaked(first: u32, end: impl Fn(u32) -> Option<Round>) -> (Vec<u32>, Result<Row>) {
        let plan = Plan { minutes: 1, first };
        let now = Cell::new(Duration::ZERO);
        let mut seeds = Vec::new();
        let row = plan.rounds(
            || now.get(),
            |seed, _| {
                now.set(now.get() + Duration::from_secs(25));
                seeds.push(seed);
                Ok(end(seed))
            },
        );
        (seeds, row)
    }

    fn passed() -> Round {
        Round {
            programs: 100,
            ..Round::default()
        }
    }

    #[test]
    fn rounds_end_with_the_minutes() {
        let (seeds, row) = soaked(u32::MAX - 1, |_| Some(passed()));
        assert_eq!(seeds, [u32::MAX - 1, u32::MAX, 0]);
        let row = row.expect("no round was interrupted");
        assert_eq!((row.passed, row.failed), (1, 0));
        assert_eq!(row.name, "soak: 300 random programs in 3 rounds");
    }

    #[test]
    fn first_failure_ends_the_rounds_and_counts_once() {
        let failures = || ["a", "b"].map(|test| Failed::new(test, Vec::new())).into();
        let (seeds, row) = soaked(7, |seed| match seed {
            8 => Some(Round {
                programs: 0,
                steps: 50,
                failures: failures(),
            }),
            _ => Some(passed()),
        });
        assert_eq!(seeds, [7, 8]);
        let row = row.expect("no round was interrupted");
        assert_eq!((row.passed, row.failed), (0, 1));
        assert_eq!(row.failures.len(), 2);
        assert_eq!(
            row.name,
            "soak: 100 random programs and 50 steps of random tasks in 2 rounds"
        );
        assert_eq!(row.status, "failed");
    }

    #[test]
    fn interrupted_soak_says_how_far_it_came() {
        let (seeds, row) = soaked(7, |seed| (seed != 8).then(passed));
        assert_eq!(seeds, [7, 8]);
        let error = row.expect_err("it was interrupted");
        let failure: &Failure = error.downcast_ref().expect("it has a status");
        assert_eq!(failure.status, failure::INTERRUPTED);
        let said = error.to_string();
        assert!(said.contains("100 random programs in 1 round,"), "{said}");
    }

    #[test]
    fn host_and_kernel_get_the_same_time() {
        let mut turns = Turns::default();
        let mut order = String::new();
        for _ in 0..6 {
            let in_kernel = turns.next_is_kernel();
            order.push(if in_kernel { 'k' } else { 'h' });
            turns.add(
                in_kernel,
                Duration::from_secs(if in_kernel { 10 } else { 18 }),
            );
        }
        assert_eq!((order.as_str(), turns.boots), ("hkkhkk", 4));
    }
}
