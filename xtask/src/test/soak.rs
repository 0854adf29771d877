// SPDX-License-Identifier: MIT OR Apache-2.0

//! `--soak`: random tests in rounds, each with a new seed, until the minutes are over.
//!
//! A round is one `cargo test` of the page-table library's random programs
//! (kernel/mmu/tests/model_properties.rs), built with optimization: so it tests the checkout as it
//! is when the round begins. Rounds differ in their seed alone, and the seeds follow one another
//! from the first. The first failure ends the soak; with it goes the command line that repeats
//! it. To the summary the whole soak is one test.

use super::host;
use super::summary::{Failed, Row};
use crate::console::Console;
use crate::failure::{self, Failure};
use crate::guest::{End, Guest, Limits};
use crate::process;
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;
use std::fmt;
use std::iter;
use std::num::NonZeroU32;
use std::process::{Command, Output};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Options of `test` that ask for a soak.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// When the usual tests have passed, run random programs of the page-table library on the
    /// machine model for so many minutes, with new seeds all the time, up to the first failure;
    /// --filter does not apply to them
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["machine", "cpu", "smp", "memory", "gic", "el", "gdb"])]
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

    /// Runs rounds until the time is over or one fails. `progress` counts seconds.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started, and after Ctrl-C. A round that fails is a failed row.
    pub fn run(&self, workspace: &Workspace, progress: &ProgressBar) -> Result<Row> {
        let minutes = self.time.as_secs() / 60;
        progress.suspend(|| println!("soak: --soak {minutes} --seed {}", self.first));
        let started = Instant::now();
        let elapsed = || started.elapsed();
        let mut row = self.rounds(elapsed, |seed, so_far| {
            progress.set_position(started.elapsed().as_secs());
            progress.set_message(so_far.progress(seed));
            random_programs(workspace, seed)
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
                Round::Passed { programs } => tally.add(programs),
                Round::Failed {
                    programs,
                    failures: found,
                } => {
                    tally.add(programs);
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
    /// Every program kept the contract.
    Passed { programs: u64 },
    /// Something failed, after so many programs of other tests.
    Failed {
        programs: u64,
        failures: Vec<Failed>,
    },
    /// Ctrl-C.
    Interrupted,
}

/// What has run so far.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    rounds: u64,
    programs: u64,
}

impl Tally {
    fn add(&mut self, programs: u64) {
        self.rounds += 1;
        self.programs += programs;
    }

    /// What the progress bar says while a round runs.
    fn progress(&self, seed: Seed) -> String {
        let Self { rounds, programs } = self;
        format!(
            "soak round {}, seed {seed}, {programs} random programs so far",
            rounds + 1
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, programs } = self;
        let s = if *rounds == 1 { "" } else { "s" };
        write!(f, "{programs} random programs in {rounds} round{s}")
    }
}

/// The tests of a round.
const TESTS: [&str; 2] = [
    "random_programs_keep_the_contract_on_classic_cpus",
    "random_programs_keep_the_contract_with_ets2",
];
/// Their package.
const PACKAGE: &str = "mmu";
/// What cargo is told before their names. A test that passes shows how many programs it ran.
const ARGUMENTS: [&str; 9] = [
    "test",
    "--release",
    "--package",
    PACKAGE,
    "--test",
    "model_properties",
    "--",
    "--exact",
    "--show-output",
];
/// Random programs of a round: 10 to 20 seconds on two CPUs; the start of cargo is lost in them.
const PROGRAMS: u32 = 120_000;
/// A program that never ends must not keep the soak from ending. Leaves time for a build.
const LIMITS: Limits = Limits {
    silence: Duration::from_secs(900),
    total: Duration::from_secs(900),
};

/// What the tests are told through the environment.
fn environment(seed: Seed) -> [(&'static str, String); 2] {
    [
        ("LAZYMMU_SEED", seed.to_string()),
        ("LAZYMMU_PROGRAMS", PROGRAMS.to_string()),
    ]
}

/// One round of random programs.
fn random_programs(workspace: &Workspace, seed: Seed) -> Result<Round> {
    let mut stdout = String::new();
    // Supervised like a guest: Ctrl-C must not come back as a test that was killed.
    let ended = Guest::start(command(workspace, seed))?.supervise(
        Some(LIMITS),
        &mut Console::default(),
        |line| stdout.extend([line, "\n"]),
        |_| Vec::new(),
    )?;
    Ok(match ended.end {
        End::Interrupted => Round::Interrupted,
        End::Exited(status) => judge(
            seed,
            &Output {
                status,
                stdout: stdout.into_bytes(),
                stderr: ended.stderr.into_bytes(),
            },
        ),
        End::Hung(why) => broken(seed, why),
        End::Halted => broken(seed, "it ended like a kernel".to_owned()),
    })
}

fn command(workspace: &Workspace, seed: Seed) -> Command {
    let mut command = process::cargo(workspace);
    command.args(ARGUMENTS).args(TESTS).envs(environment(seed));
    // Of a failure the last lines are shown: they are to be the program.
    command.env("RUST_BACKTRACE", "0");
    command
}

/// The command line that runs `tests` again with the same programs.
fn again(seed: Seed, tests: &[&str]) -> String {
    let environment = environment(seed).map(|(name, value)| format!("{name}={value}"));
    format!(
        "again: {} cargo {} {}",
        environment.join(" "),
        ARGUMENTS.join(" "),
        tests.join(" ")
    )
}

/// Reads what a round printed.
fn judge(seed: Seed, output: &Output) -> Round {
    let counted = host::count(PACKAGE, PACKAGE, output);
    let programs = programs(&String::from_utf8_lossy(&output.stdout));
    if counted.failed > 0 {
        let mut failures = counted.failures;
        for failed in &mut failures {
            failed.again = match TESTS.iter().find(|test| **test == failed.name) {
                Some(test) => again(seed, &[test]),
                None => again(seed, &TESTS),
            };
        }
        return Round::Failed { programs, failures };
    }
    // Without this, a test that got another name would pass by never running.
    if counted.passed < TESTS.len() || programs == 0 {
        let why = format!(
            "{} of {} tests ran, {programs} programs; kernel/mmu/tests/model_properties.rs and \
             xtask/src/test/soak.rs must agree on names and on what is printed",
            counted.passed,
            TESTS.len()
        );
        return broken(seed, why);
    }
    Round::Passed { programs }
}

/// A round that went wrong as a whole.
fn broken(seed: Seed, why: String) -> Round {
    let mut failed = Failed::new("the soak itself", vec![why]);
    failed.again = again(seed, &TESTS);
    Round::Failed {
        programs: 0,
        failures: vec![failed],
    }
}

/// Adds up the lines `40000 programs, 2930 per second`.
fn programs(stdout: &str) -> u64 {
    stdout
        .lines()
        .filter_map(|line| line.split_once(" programs, ")?.0.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::Test;
    use clap::Parser;
    use std::cell::Cell;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

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
        for option in ["--cpu max", "--el 3", "--gdb"] {
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
        let (seeds, row) = soaked(|_| Round::Passed { programs: 100 });
        assert_eq!(seeds, [7, 8, 9]);
        let row = row.expect("no round was interrupted");
        assert_eq!((row.passed, row.failed), (1, 0));
        assert_eq!(row.name, "soak: 300 random programs in 3 rounds");
    }

    #[test]
    fn first_failure_ends_the_rounds_and_counts_once() {
        let (seeds, row) = soaked(|seed| match seed {
            Seed(8) => Round::Failed {
                programs: 50,
                failures: TESTS.map(|test| Failed::new(test, Vec::new())).into(),
            },
            _ => Round::Passed { programs: 100 },
        });
        assert_eq!(seeds, [7, 8]);
        let row = row.expect("no round was interrupted");
        assert_eq!((row.passed, row.failed), (0, 1));
        assert_eq!(row.failures.len(), 2);
        assert_eq!(row.name, "soak: 150 random programs in 2 rounds");
        assert_eq!(row.status, "failed");
    }

    #[test]
    fn interrupted_soak_says_how_far_it_came() {
        let (seeds, row) = soaked(|seed| match seed {
            Seed(8) => Round::Interrupted,
            _ => Round::Passed { programs: 100 },
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

    fn judged(stdout: &str, code: i32) -> Round {
        let output = Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.as_bytes().to_vec(),
            stderr: b"error: test failed (signal: 6, SIGABRT)".to_vec(),
        };
        judge(Seed(7), &output)
    }

    const PASSED: &str = "
successes:

---- random_programs_keep_the_contract_on_classic_cpus stdout ----
40000 programs, 2930 per second

---- random_programs_keep_the_contract_with_ets2 stdout ----
40016 programs, 2744 per second

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out
";

    #[test]
    fn programs_of_both_tests_are_counted() {
        assert_eq!(judged(PASSED, 0), Round::Passed { programs: 80_016 });
    }

    #[test]
    fn tests_that_did_not_run_are_a_failure() {
        for stdout in [
            PASSED.replace("2 passed", "1 passed"),
            PASSED.replace(" programs, ", " runs, "),
        ] {
            assert!(matches!(judged(&stdout, 0), Round::Failed { .. }));
        }
    }

    #[test]
    fn failure_keeps_its_program_and_the_command_that_repeats_it() {
        let stdout = "
test random_programs_keep_the_contract_with_ets2 ... FAILED

---- random_programs_keep_the_contract_on_classic_cpus stdout ----
40000 programs, 2930 per second

failures:

---- random_programs_keep_the_contract_with_ets2 stdout ----
a stale translation
   0: CPU 0: Flush

failures:
    random_programs_keep_the_contract_with_ets2

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out
";
        let Round::Failed { programs, failures } = judged(stdout, 101) else {
            panic!("a test failed");
        };
        assert_eq!((programs, failures.len()), (40_000, 1));
        assert_eq!(failures[0].detail[1], "   0: CPU 0: Flush");
        assert_eq!(
            failures[0].again,
            "again: LAZYMMU_SEED=7 LAZYMMU_PROGRAMS=120000 cargo test --release --package mmu \
             --test model_properties -- --exact --show-output \
             random_programs_keep_the_contract_with_ets2"
        );
    }

    #[test]
    fn tests_that_died_are_repeated_together() {
        let Round::Failed { failures, .. } = judged("running 2 tests\n", 101) else {
            panic!("no test passed");
        };
        assert!(failures[0].detail[0].contains("SIGABRT"));
        assert!(failures[0].again.ends_with(&TESTS.join(" ")));
    }

    #[test]
    fn what_is_repeated_is_what_ran() {
        let command = command(&Workspace::find(), Seed(7));
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_string_lossy())
            .collect();
        let line = again(Seed(7), &TESTS);
        assert!(line.ends_with(&format!("cargo {}", arguments.join(" "))));
        for (name, value) in environment(Seed(7)) {
            let told = command.get_envs().find(|(told, _)| *told == name);
            assert_eq!(told.and_then(|(_, told)| told), Some(value.as_ref()));
            assert!(line.contains(&format!("{name}={value} ")));
        }
    }
}
