// SPDX-License-Identifier: MIT OR Apache-2.0

//! The mutants of cargo-mutants, shard by shard. `.cargo/mutants.toml` says where it looks, which
//! tests it runs and which mutants no test can notice.
//!
//! A shard takes minutes to an hour. Its results are kept, and it is not run again as long as
//! cargo-mutants makes the same mutants in it and none of them has survived.

use crate::guest;
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// How many shards there are.
const SHARDS: usize = 16;
/// Where it looks for mutants; each is tested by the tests of its package.
const PACKAGES: [&str; 2] = ["--package=lazymmu", "--package=kernel"];
/// Random programs of a test run, so that it takes seconds.
const PROGRAMS: (&str, &str) = ("LAZYMMU_PROGRAMS", "100");
/// What cargo-mutants ends with when its tests ran: all caught, some missed, some timed out.
const STATUSES: [i32; 3] = [0, 2, 3];

/// Runs the shards that are not complete, and returns how many shards passed and failed.
///
/// # Errors
///
/// When cargo-mutants is missing or does not come to its end.
pub fn run(workspace: &Workspace) -> Result<(usize, usize)> {
    let home = workspace.target().join("mutants");
    // What the shards build is shared among them, and with nothing else.
    let workspace = &Workspace::at(
        workspace.root().to_path_buf(),
        home.join("generated-target"),
    );
    let version = process::capture(process::cargo(workspace).args(["mutants", "--version"]))?;
    ensure!(
        version.status.success(),
        "cargo-mutants is missing; `cargo install cargo-mutants --locked` installs it"
    );
    let home = home.join("generated");
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let (mut passed, mut failed) = (0, 0);
    for shard in 0..SHARDS {
        let survivors = run_shard(workspace, &home, shard)?;
        println!("shard {shard} of {SHARDS}: {} survived", survivors.len());
        survivors.iter().for_each(|it| println!("    {it}"));
        passed += usize::from(survivors.is_empty());
        failed += usize::from(!survivors.is_empty());
    }
    Ok((passed, failed))
}

/// Runs one shard, unless it is complete, and returns the mutants that survived.
fn run_shard(workspace: &Workspace, home: &Path, shard: usize) -> Result<Vec<String>> {
    let shown = format!("--shard={shard}/{SHARDS}");
    let listed = process::capture(command(workspace).args(["--list", &shown]))?;
    let mutants = String::from_utf8_lossy(&listed.stdout).into_owned();
    let list = home.join(format!("shard-{shard}.txt"));
    if fs::read_to_string(&list).is_ok_and(|complete| complete == mutants) {
        return Ok(Vec::new());
    }
    let results = home.join(format!("shard-{shard}"));
    let mut tests = command(workspace);
    tests.args([&shown, "--output"]).arg(&results);
    let ended = process::finish(&mut tests, Stdio::inherit(), Stdio::inherit())?;
    guest::stop_if_interrupted("interrupted")?;
    if !ended.status.code().is_some_and(|it| STATUSES.contains(&it)) {
        bail!("cargo-mutants ended with {}", ended.status);
    }
    // A mutant that runs for too long is noticed, too: its test does not end.
    let missed = results.join("mutants.out/missed.txt");
    let missed =
        fs::read_to_string(&missed).with_context(|| format!("cannot read {}", missed.display()))?;
    let survivors: Vec<String> = missed.lines().map(str::to_owned).collect();
    if survivors.is_empty() {
        fs::write(&list, &mutants).with_context(|| format!("cannot write {}", list.display()))?;
    }
    Ok(survivors)
}

fn command(workspace: &Workspace) -> Command {
    let mut command = process::cargo(workspace);
    command.arg("mutants").args(PACKAGES);
    command.env(PROGRAMS.0, PROGRAMS.1);
    command
}
