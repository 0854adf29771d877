// SPDX-License-Identifier: MIT OR Apache-2.0

//! `--soak`: random tests in rounds, each with a new seed, until the minutes are over.
//!
//! A round is either random [`programs`] of the page-table library on the machine model, or random
//! [`tasks`] in the kernel on an emulated machine; the kind that has had less time comes next. Rounds
//! differ in their seed and, in the kernel, in machine and backend; the seeds follow one another from the
//! first. The first failure ends the soak; with it goes the command line that repeats it. To the summary
//! the whole soak is one test.
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
use clap::Args;
use indicatif::ProgressBar;
use std::fmt;
use std::iter;
use std::num::NonZeroU32;
use std::ops::AddAssign;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Options of `test` that ask for a soak.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// When the usual tests have passed, run random programs of the page-table library on the
    /// machine model and random tasks in the kernel for so many minutes, half of them each, with new
    /// seeds all the time, up to the first failure; with --host only the programs; --filter does
    /// not apply to them
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["machine", "cpu", "smp", "memory", "gic", "el", "icount", "gdb"])]
    soak: Option<Minutes>,

    /// Begin the soak with this seed, which an earlier one printed [default: from the clock]
    #[arg(
        long,
        value_name = "N",
        requires = "soak",
        allow_negative_numbers = true
    )]
    seed: Option<Seed>,
}

impl Options {
    /// What to do, if a soak was asked for.
    pub fn plan(self) -> Option<Plan> {
        self.soak.map(|minutes| Plan {
            time: minutes.duration(),
            first: self.seed.unwrap_or_else(Seed::from_clock),
        })
    }
}

/// A length of time in whole minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Minutes(NonZeroU32);

impl Minutes {
    fn duration(self) -> Duration {
        Duration::from_secs(60 * u64::from(self.0.get()))
    }
}

impl FromStr for Minutes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| "give a whole number of minutes, from 1 on".to_owned())
    }
}

/// Where the random numbers of a round begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seed(u32);

impl Seed {
    /// A seed that another run hardly has: the low bits of a count of nanoseconds.
    fn from_clock() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(now.map_or(1, |now| now.as_nanos() as u32))
    }

    /// This seed and those of the rounds after it.
    fn sequence(self) -> impl Iterator<Item = Self> {
        iter::successors(Some(self), |seed| Some(Self(seed.0.wrapping_add(1))))
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("give a number from 0 to {}", u32::MAX))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A soak that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    time: Duration,
    first: Seed,
}

impl Plan {
    /// How long it takes, in seconds; the last round may end later.
    pub fn seconds(&self) -> usize {
        self.time.as_secs() as usize
    }

    /// Runs rounds until the time is over or one fails, those in the kernel on `bench` if there is one.
    /// `progress` counts seconds.
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
        let minutes = self.time.as_secs() / 60;
        progress.suspend(|| println!("soak: --soak {minutes} --seed {}", self.first));
        let started = Instant::now();
        let elapsed = || started.elapsed();
        let mut turns = Turns::default();
        let mut row = self.rounds(elapsed, |seed, so_far| {
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
        })?;
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
        mut round: impl FnMut(Seed, &Tally) -> Result<Round>,
    ) -> Result<Row> {
        let mut tally = Tally::default();
        let mut failures = Vec::new();
        for seed in self.first.sequence() {
            match round(seed, &tally)? {
                Round::Passed(work) => tally.add(work),
                Round::Failed {
                    work,
                    failures: found,
                } => {
                    tally.add(work);
                    failures = found;
                    break;
                }
                Round::Interrupted => {
                    let report = format!("interrupted; until then {tally}, and no failure");
                    return Err(Failure::new(failure::INTERRUPTED, report).into());
                }
            }
            if elapsed() >= self.time {
                break;
            }
        }
        let mut row = Row::new(&format!("soak: {tally}"));
        if failures.is_empty() {
            row.passed = 1;
        } else {
            failures.into_iter().for_each(|failed| row.fail(failed));
            // However many tests noticed: one seed, one failure.
            row.failed = 1;
        }
        Ok(row)
    }
}

/// How a round ended.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// The contract was kept.
    Passed(Work),
    /// Something failed, and so much had been done.
    Failed { work: Work, failures: Vec<Failed> },
    /// Ctrl-C.
    Interrupted,
}

/// What rounds have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Work {
    /// Programs on the machine model.
    programs: u64,
    /// Steps of tasks in the kernel.
    steps: u64,
}

impl Work {
    const fn programs(programs: u64) -> Self {
        Self { programs, steps: 0 }
    }

    const fn steps(steps: u64) -> Self {
        Self { programs: 0, steps }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.programs += other.programs;
        self.steps += other.steps;
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} random programs", self.programs)?;
        if self.steps > 0 {
            write!(f, " and {} steps of random tasks", self.steps)?;
        }
        Ok(())
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
    rounds: u64,
    work: Work,
}

impl Tally {
    fn add(&mut self, work: Work) {
        self.rounds += 1;
        self.work += work;
    }

    /// What the progress bar says while a round runs.
    fn progress(&self, seed: Seed) -> String {
        let Self { rounds, work } = self;
        format!("soak round {}, seed {seed}, {work} so far", rounds + 1)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, work } = self;
        let s = if *rounds == 1 { "" } else { "s" };
        write!(f, "{work} in {rounds} round{s}")
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
        Cli::try_parse_from(iter::once("test").chain(arguments.split_whitespace()))
            .map(|cli| cli.test.soak)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn soak_is_asked_for_in_minutes_from_one_on() {
        let plan = |arguments| parsed(arguments).map(Options::plan);
        assert!(plan("").is_ok_and(|plan| plan.is_none()));
        let ten = plan("--soak 10 --seed 7").ok().flatten();
        let ten = ten.map(|plan| (plan.seconds(), plan.first));
        assert_eq!(ten, Some((600, Seed(7))));
        for minutes in ["0", "-1", "1.5", "ten", "9999999999"] {
            let error = parsed(&format!("--soak {minutes}")).expect_err(minutes);
            assert!(error.contains("whole number of minutes"), "{error}");
        }
    }

    #[test]
    fn seed_is_a_number_and_needs_a_soak() {
        for seed in ["-1", "x", "4294967296"] {
            let error = parsed(&format!("--soak 1 --seed {seed}")).expect_err(seed);
            assert!(error.contains("from 0 to 4294967295"), "{error}");
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

    #[test]
    fn seeds_follow_one_another_from_the_first() {
        let seeds: Vec<u32> = Seed(u32::MAX - 1)
            .sequence()
            .take(4)
            .map(|seed| seed.0)
            .collect();
        assert_eq!(seeds, [u32::MAX - 1, u32::MAX, 0, 1]);
    }

    #[test]
    fn first_seeds_of_two_runs_differ() {
        let first = Seed::from_clock();
        std::thread::sleep(Duration::from_millis(2));
        assert_ne!(first, Seed::from_clock());
    }

    /// A soak of a minute in which a round takes 25 seconds; `end` says how a round ends.
    fn soaked(end: impl Fn(Seed) -> Round) -> (Vec<u32>, Result<Row>) {
        let plan = Plan {
            time: Duration::from_secs(60),
            first: Seed(7),
        };
        let now = Cell::new(Duration::ZERO);
        let mut seeds = Vec::new();
        let row = plan.rounds(
            || now.get(),
            |seed, _| {
                now.set(now.get() + Duration::from_secs(25));
                seeds.push(seed.0);
                Ok(end(seed))
            },
        );
        (seeds, row)
    }

    #[test]
    fn rounds_end_with_the_minutes() {
        let (seeds, row) = soaked(|_| Round::Passed(Work::programs(100)));
        assert_eq!(seeds, [7, 8, 9]);
        let row = row.expect("no round was interrupted");
        assert_eq!((row.passed, row.failed), (1, 0));
        assert_eq!(row.name, "soak: 300 random programs in 3 rounds");
    }

    #[test]
    fn first_failure_ends_the_rounds_and_counts_once() {
        let (seeds, row) = soaked(|seed| match seed {
            Seed(8) => Round::Failed {
                work: Work::steps(50),
                failures: ["a", "b"].map(|test| Failed::new(test, Vec::new())).into(),
            },
            _ => Round::Passed(Work::programs(100)),
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
        let (seeds, row) = soaked(|seed| match seed {
            Seed(8) => Round::Interrupted,
            _ => Round::Passed(Work::programs(100)),
        });
        assert_eq!(seeds, [7, 8]);
        let error = row.expect_err("it was interrupted");
        let failure = error.downcast_ref::<Failure>();
        assert_eq!(
            failure.map(|failure| failure.status),
            Some(failure::INTERRUPTED)
        );
        assert!(
            error
                .to_string()
                .contains("100 random programs in 1 round,")
        );
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
