// SPDX-License-Identifier: MIT OR Apache-2.0

//! Mutants that host tests kill: what `cargo test` says about one.

use super::bench::Outcome;
use super::killer::Host;
use super::list::List;
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::process::Output;

/// Runs a host test, or all of the list's package, in the copy `workspace`.
///
/// # Errors
///
/// When cargo cannot be started.
pub fn run(workspace: &Workspace, list: &List, only: Option<&Host>) -> Result<Outcome> {
    let arguments = match only {
        Some(Host { binary, test }) => [
            &selector(binary)[..],
            &["--", "--exact", test].map(str::to_owned),
        ]
        .concat(),
        None => ["--lib", "--tests", "--no-fail-fast"]
            .map(str::to_owned)
            .to_vec(),
    };
    let output = cargo_test(workspace, list, &arguments)?;
    Ok(judge(&output, only.map(|host| host.test.as_str())))
}

/// Sees that `killers` pass as things are: one that fails anyhow would count as one that noticed.
///
/// # Errors
///
/// When one fails, and as [`run`].
pub fn check<'a>(
    workspace: &Workspace,
    list: &List,
    killers: impl Iterator<Item = &'a Host>,
) -> Result<()> {
    let binaries: BTreeSet<&str> = killers.map(|killer| killer.binary.as_str()).collect();
    if binaries.is_empty() {
        return Ok(());
    }
    let mut selected: Vec<String> = binaries.iter().flat_map(|it| selector(it)).collect();
    selected.push("--no-fail-fast".to_owned());
    eprintln!("testing the {} as it is", list.subject);
    let output = cargo_test(workspace, list, &selected)?;
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the {}'s tests fail without any mutant; mend them first:\n{shown}{errors}",
        list.subject
    );
    Ok(())
}

fn cargo_test(workspace: &Workspace, list: &List, arguments: &[String]) -> Result<Output> {
    process::capture(
        process::cargo(workspace)
            .args(["test", "--quiet", "--package", list.package])
            .args(arguments),
    )
}

/// The arguments of `cargo test` that select a test binary.
fn selector(binary: &str) -> Vec<String> {
    match binary {
        "--lib" => vec![binary.to_owned()],
        name => vec!["--test".to_owned(), name.to_owned()],
    }
}

/// Reads the end of `cargo test`. `only` is the test that ran, if it was one.
fn judge(output: &Output, only: Option<&str>) -> Outcome {
    if output.status.success() {
        return Outcome::Survived;
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !stdout.lines().any(|line| line.starts_with("running ")) {
        return Outcome::NotBuilt(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // A lone test that ended its process has failed, whatever was printed.
    if let Some(test) = only {
        return Outcome::Killed(vec![test.to_owned()]);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failed = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----"));
    // What a test prints is caught, except by one that panics again while it cleans up, which
    // ends the process and with it the list of failures.
    let aborted = stderr.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("thread '")?.split_once('\'')?;
        rest.contains("panicked at").then_some(name)
    });
    let by: BTreeSet<String> = failed.chain(aborted).map(str::to_owned).collect();
    Outcome::Killed(by.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn output(code: i32, stdout: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.as_bytes().to_vec(),
            stderr: b"error[E0425]".to_vec(),
        }
    }

    #[test]
    fn outcomes_are_told_apart() {
        let failed = "running 2 tests\n---- r15 stdout ----\nassertion failed\n";
        let by_r15 = Outcome::Killed(vec!["r15".to_owned()]);
        assert_eq!(judge(&output(101, failed), None), by_r15);
        assert_eq!(judge(&output(101, "running 1 test\n"), Some("r15")), by_r15);
        assert_eq!(
            judge(&output(0, "running 1 test\n"), None),
            Outcome::Survived
        );
        let aborted = Output {
            stderr: b"thread 'r15' (7) panicked at core:\npanic in a destructor".to_vec(),
            ..output(101, "running 2 tests\n")
        };
        assert_eq!(judge(&aborted, None), by_r15);
        let not_built = judge(&output(101, ""), Some("r15"));
        assert_eq!(not_built, Outcome::NotBuilt("error[E0425]".to_owned()));
    }
}
