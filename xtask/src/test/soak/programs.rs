// SPDX-License-Identifier: MIT OR Apache-2.0

//! Random programs of the page-table library on the machine model: one `cargo test`
//! (kernel/mmu/tests/model/properties.rs), built with optimization. So it tests the checkout as it
//! is when the round begins.

use super::Round;
use crate::console::Console;
use crate::guest::{End, Guest, Limits};
use crate::process;
use crate::test::host;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::{Command, Output};
use std::time::Duration;

/// The tests of a round.
const TESTS: [&str; 2] = [
    "properties::random_programs_keep_the_contract_on_classic_cpus",
    "properties::random_programs_keep_the_contract_with_ets2",
];
/// What cargo is told before their names. A test that passes shows how many programs it ran.
const ARGUMENTS: &str = "test --release --package lazymmu --test model -- --exact --show-output";
/// Random programs of a round: 10 to 20 seconds on two CPUs; the start of cargo is lost in them.
const PROGRAMS: u32 = 120_000;
/// A program that never ends must not keep the soak from ending. Leaves time for a build.
const LIMITS: Limits = Limits {
    silence: Duration::from_secs(900),
    total: Duration::from_secs(900),
};

/// One round of random programs; nothing comes back after Ctrl-C.
pub fn round(workspace: &Workspace, seed: u32) -> Result<Option<Round>> {
    let mut stdout = String::new();
    // Supervised like a guest: Ctrl-C must not come back as a test that was killed.
    let ended = Guest::start(command(workspace, seed))?.supervise(
        Some(LIMITS),
        &mut Console::default(),
        |line| stdout.extend([line, "\n"]),
        |_| Vec::new(),
    )?;
    Ok(Some(match ended.end {
        End::Interrupted => return Ok(None),
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
    }))
}

fn command(workspace: &Workspace, seed: u32) -> Command {
    let mut command = process::cargo(workspace);
    command
        .args(ARGUMENTS.split(' '))
        .args(TESTS)
        .env("LAZYMMU_SEED", seed.to_string())
        .env("LAZYMMU_PROGRAMS", PROGRAMS.to_string())
        // Of a failure the last lines are shown: they are to be the program.
        .env("RUST_BACKTRACE", "0");
    command
}

/// The command line that runs `tests` again with the same programs.
fn again(seed: u32, tests: &[&str]) -> String {
    let environment = format!("LAZYMMU_SEED={seed} LAZYMMU_PROGRAMS={PROGRAMS}");
    format!("again: {environment} cargo {ARGUMENTS} {}", tests.join(" "))
}

/// Reads what a round printed.
fn judge(seed: u32, output: &Output) -> Round {
    let counted = host::count("soak", output);
    let programs = programs(&String::from_utf8_lossy(&output.stdout));
    // Without this, a test that got another name would pass by never running.
    if counted.failed == 0 && (counted.passed < TESTS.len() || programs == 0) {
        let why = format!(
            "{} of {} tests ran, {programs} programs; kernel/mmu/tests/model/properties.rs and \
             xtask/src/test/soak/programs.rs must agree on names and on what is printed",
            counted.passed,
            TESTS.len()
        );
        return broken(seed, why);
    }
    let mut failures = counted.failures;
    for failed in &mut failures {
        failed.again = match TESTS.iter().find(|test| **test == failed.name) {
            Some(test) => again(seed, &[test]),
            None => again(seed, &TESTS),
        };
    }
    Round {
        programs,
        failures,
        ..Round::default()
    }
}

fn broken(seed: u32, why: String) -> Round {
    Round::broken("the soak itself", vec![why], again(seed, &TESTS))
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
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn judged(stdout: &str, code: i32) -> Round {
        let output = Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.as_bytes().to_vec(),
            stderr: b"error: test failed (signal: 6, SIGABRT)".to_vec(),
        };
        judge(7, &output)
    }

    const PASSED: &str = "
successes:

---- properties::random_programs_keep_the_contract_on_classic_cpus stdout ----
40000 programs, 2930 per second

---- properties::random_programs_keep_the_contract_with_ets2 stdout ----
40016 programs, 2744 per second

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out
";

    #[test]
    fn programs_of_both_tests_are_counted() {
        let round = judged(PASSED, 0);
        assert_eq!((round.programs, round.failures), (80_016, Vec::new()));
    }

    #[test]
    fn tests_that_did_not_run_are_a_failure() {
        for stdout in [
            PASSED.replace("2 passed", "1 passed"),
            PASSED.replace(" programs, ", " runs, "),
        ] {
            assert_eq!(judged(&stdout, 0).failures.len(), 1);
        }
    }

    #[test]
    fn failure_keeps_its_program_and_the_command_that_repeats_it() {
        let stdout = "
test properties::random_programs_keep_the_contract_with_ets2 ... FAILED

---- properties::random_programs_keep_the_contract_on_classic_cpus stdout ----
40000 programs, 2930 per second

failures:

---- properties::random_programs_keep_the_contract_with_ets2 stdout ----
a stale translation
   0: CPU 0: Flush

failures:
    properties::random_programs_keep_the_contract_with_ets2

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out
";
        let Round {
            programs, failures, ..
        } = judged(stdout, 101);
        assert_eq!((programs, failures.len()), (40_000, 1));
        assert_eq!(failures[0].detail[1], "   0: CPU 0: Flush");
        assert_eq!(
            failures[0].again,
            "again: LAZYMMU_SEED=7 LAZYMMU_PROGRAMS=120000 cargo test --release --package lazymmu \
             --test model -- --exact --show-output \
             properties::random_programs_keep_the_contract_with_ets2"
        );
    }

    #[test]
    fn tests_that_died_are_repeated_together() {
        let failures = judged("running 2 tests\n", 101).failures;
        assert!(failures[0].detail[0].contains("SIGABRT"));
        assert!(failures[0].again.ends_with(&TESTS.join(" ")));
    }

    #[test]
    fn what_is_repeated_is_what_ran() {
        let command = command(&Workspace::find(), 7);
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_string_lossy())
            .collect();
        let line = again(7, &TESTS);
        assert!(line.ends_with(&format!("cargo {}", arguments.join(" "))));
        let told = command.get_envs().filter_map(|(name, value)| {
            let name = name.to_str().filter(|name| name.starts_with("LAZYMMU_"))?;
            Some(format!("{name}={} ", value?.to_str()?))
        });
        let told: Vec<String> = told.collect();
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|told| line.contains(told)), "{told:?}");
    }
}
