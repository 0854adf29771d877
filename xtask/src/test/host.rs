// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests on the host: what `cargo test` ran, counted from what it prints.

use super::summary::{Failed, Row};
use crate::glob;
use crate::process;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::{Command, Output};
use std::time::Instant;

/// The tests of one crate, or some of them.
#[derive(Debug)]
pub struct Set {
    /// Name in the summary.
    pub name: &'static str,
    /// The crate.
    package: &'static str,
    /// Which of its tests run on the host, and how they are built.
    targets: &'static [&'static str],
    /// Which of these, as arguments of the test binary.
    tests: &'static [&'static str],
    /// Random programs of the `lazymmu` crate's property tests
    /// (kernel/mmu/tests/model/properties.rs).
    programs: u32,
    /// Whether they boot, so that only so many run at a time as boots do.
    boots: bool,
}

/// Random programs that each crate's own tests run.
const FEW_PROGRAMS: u32 = 500;
/// Random programs that count as evidence.
const MANY_PROGRAMS: u32 = 100_000;

/// All crates with host tests.
pub const SETS: [Set; 7] = [
    // Library, integration and documentation tests.
    set("lazymmu", "lazymmu", &[]),
    // The library under random programs on the machine model.
    Set {
        tests: &["properties::"],
        programs: MANY_PROGRAMS,
        ..set("lazymmu, random programs", "lazymmu", &["--test=model"])
    },
    // What the library's tests are made of, and its checks for the traits of other kernels.
    set("testkit", "lazymmu-testkit", &[]),
    // The example that the library's documentation begins with.
    set("first-mapping", "first-mapping", &[]),
    // The binary is for the target only.
    set("kernel", "kernel", &["--lib", "--tests"]),
    set("xtask", "xtask", &["--tests"]),
    // What of the plugin needs no QEMU.
    set("plugin", "plugin", &["--tests"]),
];

/// xtask's own commands with guests: `run`, the card of `image`, and `serial`.
pub const GUESTS: Set = Set {
    tests: &["--skip", "plugin::"],
    boots: true,
    ..set("card, serial, tool", "xtask", &["--test=guests"])
};

/// The plugin with programs of a few instructions, for a QEMU that loads it.
pub const PLUGIN: Set = Set {
    name: "plugin",
    tests: &["plugin::"],
    ..GUESTS
};

const fn set(name: &'static str, package: &'static str, targets: &'static [&'static str]) -> Set {
    Set {
        name,
        package,
        targets,
        tests: &[],
        programs: FEW_PROGRAMS,
        boots: false,
    }
}

/// The tests of a set that a filter selects.
#[derive(Debug)]
pub struct Selected<'a> {
    workspace: &'a Workspace,
    set: &'static Set,
    /// Of the test binary.
    arguments: Vec<String>,
}

impl<'a> Selected<'a> {
    /// Those that match `filter`, or all without one; nothing if none does.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started.
    pub fn of(
        workspace: &'a Workspace,
        set: &'static Set,
        filter: Option<&str>,
    ) -> Result<Option<Self>> {
        let mut arguments: Vec<String> = set.tests.iter().map(|it| (*it).to_owned()).collect();
        if let Some(filter) = filter {
            let mut command = cargo_test(workspace, set);
            command.args(["--", "--list", "--format=terse"]);
            let listed = process::capture(command.args(set.tests))?;
            let names = String::from_utf8_lossy(&listed.stdout);
            let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
            let selected = names.filter(|name| selects(filter, set.package, name));
            // What does not build says so when it is run.
            if listed.status.success() {
                arguments = ["--exact"]
                    .into_iter()
                    .chain(selected)
                    .map(str::to_owned)
                    .collect();
                if arguments.len() == 1 {
                    return Ok(None);
                }
            }
        }
        Ok(Some(Self {
            workspace,
            set,
            arguments,
        }))
    }

    /// Runs them, `jobs` at a time if they boot.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started.
    pub fn run(&self, jobs: usize) -> Result<Row> {
        let started = Instant::now();
        let Set { name, package, .. } = self.set;
        let mut command = cargo_test(self.workspace, self.set);
        command.arg("--").args(&self.arguments);
        if self.set.boots {
            command.arg(format!("--test-threads={jobs}"));
        }
        let mut row = count(name, &process::capture(&mut command)?);
        row.seconds = started.elapsed().as_secs_f64();
        let mut host = "";
        if !self.set.boots {
            row.name = format!("host: {name}");
            host = " --host";
        }
        for failed in row.failures.iter_mut().filter(|it| it.name != WHOLE) {
            let filter = format!("{package}.{}", failed.name.replace("::", "."));
            failed.again = format!("again: cargo xtask test{host} --filter '{filter}'");
        }
        Ok(row)
    }
}

fn cargo_test(workspace: &Workspace, set: &Set) -> Command {
    let mut command = process::cargo(workspace);
    command
        .args(["test", "--no-fail-fast", "--package", set.package])
        .args(set.targets)
        .env("LAZYMMU_PROGRAMS", set.programs.to_string());
    command
}

/// Matches `crate.module.test` from any of its dots on.
fn selects(filter: &str, package: &str, name: &str) -> bool {
    let name = format!("{package}.{}", name.replace("::", "."));
    let starts = name.match_indices('.').map(|(at, _)| at + 1);
    [0].into_iter()
        .chain(starts)
        .any(|start| glob::matches(filter, &name[start..]))
}

/// Name of the failure of tests that could not be run.
const WHOLE: &str = "the tests themselves";

/// Counts results in the output of `cargo test`; `name` is the row's name in the summary.
pub fn count(name: &str, output: &Output) -> Row {
    let mut row = Row::new(name);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut details: Vec<Failed> = Vec::new();
    let mut in_detail = false;
    for line in stdout.lines() {
        if let Some(counts) = line.strip_prefix("test result: ") {
            row.passed += number_before(counts, " passed");
            row.skipped += number_before(counts, " ignored");
            in_detail = false;
        } else if let Some(name) = between(line, "---- ", " ----") {
            let name = name.strip_suffix(" stdout").unwrap_or(name);
            details.push(Failed::new(name, Vec::new()));
            in_detail = true;
        } else if line == "failures:" {
            in_detail = false;
        } else if let (true, Some(failed)) = (in_detail, details.last_mut()) {
            failed.detail.push(line.to_owned());
        }
    }
    // Each failed test has a result line, also one that printed nothing.
    for name in stdout
        .lines()
        .filter_map(|line| between(line, "test ", " ... FAILED"))
    {
        let known = details.iter().position(|failed| failed.name == name);
        row.fail(match known {
            Some(at) => details.swap_remove(at),
            None => Failed::new(name, Vec::new()),
        });
    }
    if !output.status.success() && row.failed == 0 {
        row.status = "broken".to_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines = stderr.lines().skip_while(|line| !line.starts_with("error"));
        row.fail(Failed::new(WHOLE, lines.map(str::to_owned).collect()));
    }
    row
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix(end)
}

/// The number before `word` in `ok. 5 passed; 0 failed; 1 ignored`.
fn number_before(text: &str, word: &str) -> usize {
    let before = text.split(word).next().unwrap_or_default();
    let number = before.rsplit(' ').next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const OUTPUT: &str = "
running 3 tests
test a::one ... ok
test a::two ... FAILED
test a::three ... ignored

failures:

---- a::two stdout ----
assertion failed

failures:
    a::two

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out

running 2 tests
test src/lib.rs - map (line 4) ... ok
test src/lib.rs - unmap (line 9) ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out
";

    fn counted(stdout: &str, code: i32) -> Row {
        let output = Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.as_bytes().to_vec(),
            stderr: b"error[E0425]: cannot find value".to_vec(),
        };
        count("a", &output)
    }

    #[test]
    fn results_of_all_test_binaries_are_added() {
        let row = counted(OUTPUT, 101);
        assert_eq!((row.passed, row.failed, row.skipped), (3, 1, 1));
        assert_eq!(row.failures[0].name, "a::two");
        assert_eq!(row.failures[0].detail, ["assertion failed", ""]);
        assert_eq!(row.status, "failed");
    }

    #[test]
    fn tests_that_do_not_build_are_a_failure() {
        let row = counted("", 101);
        assert_eq!((row.passed, row.failed), (0, 1));
        assert_eq!(row.status, "broken");
        assert!(row.failures[0].detail[0].contains("E0425"));
    }

    #[test]
    fn filter_may_leave_out_the_first_parts_of_a_name() {
        assert!(selects("lazymmu.lazy.*", "lazymmu", "lazy::tests::nesting"));
        assert!(selects("lazy.*", "lazymmu", "lazy::tests::nesting"));
        assert!(selects("nesting", "lazymmu", "lazy::tests::nesting"));
        assert!(!selects("nest", "lazymmu", "lazy::tests::nesting"));
        assert!(!selects("lazy", "lazymmu", "lazy::tests::nesting"));
    }
}
