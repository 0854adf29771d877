// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask miri`: the library's tests under Miri, Rust's interpreter that finds
//! undefined behavior.
//!
//! Miri exists for nightly toolchains only, so this is the one command that needs one;
//! what it builds goes below target/miri and is shared with nothing. The flags are
//! fixed here: `MIRIFLAGS` of the environment does not count. Random tests know
//! of Miri and do a two-hundredth of their work (`reduced` in `kernel/testkit/src/fake`).
//!
//! Miri uses one CPU, so as many test binaries run side by side as there are CPUs, each a cargo of its
//! own. They are built by one before: cargos that build wait for each other.

use crate::failure::Failure;
use crate::process;
use crate::test::host;
use crate::workspace::Workspace;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The package whose tests run.
const PACKAGE: &str = "lazymmu";
/// Where its integration tests are, from the workspace's root: a file is a test binary.
const TESTS: &str = "kernel/mmu/tests";
/// Beyond Miri's defaults: a pointer is never made from a number, and alignment must hold
/// by construction, not by luck of the allocator. The library passes with both.
const FLAGS: &str = "-Zmiri-strict-provenance -Zmiri-symbolic-alignment-check";
/// What a nightly toolchain needs beyond its default: Miri builds the standard library itself.
const COMPONENTS: [&str; 2] = ["miri", "rust-src"];

/// Run the tests of the page-table library under Miri, which finds undefined behavior
///
/// Needs a nightly toolchain; adds it, or its components miri and rust-src, by rustup if they are
/// missing. Test binaries run side by side, one per CPU; what one printed is shown when it has ended.
/// The last line is `N passed, N failed`; a test binary that Miri stops counts as one failure.
#[derive(Args, Debug)]
pub struct Miri {
    /// The toolchain, as rustup names it
    #[arg(long, value_name = "NAME", default_value = "nightly")]
    toolchain: String,

    /// Only the tests whose name contains this
    #[arg(value_name = "NAME")]
    only: Option<String>,
}

impl Miri {
    /// Provides Miri and runs the tests.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        provide(&self.toolchain)?;
        let binaries = binaries(&workspace.root().join(TESTS))?;
        process::run(&mut self.command(&workspace, &["--no-run", "--lib", "--tests"]))?;
        let (passed, failed) = self.run_all(&workspace, binaries)?;
        println!("\n{passed} passed, {failed} failed");
        if failed == 0 && passed > 0 {
            Ok(())
        } else {
            Err(Failure::new(1, "").into())
        }
    }

    /// `cargo miri test` with `arguments` of cargo's.
    fn command(&self, workspace: &Workspace, arguments: &[&str]) -> Command {
        let mut command = process::cargo_of(&self.toolchain, workspace);
        command
            .args(["miri", "test", "--no-fail-fast", "--package", PACKAGE])
            .args(arguments)
            .args(self.only.as_ref().map(|name| ["--", name]).iter().flatten())
            .env("MIRIFLAGS", FLAGS);
        command
    }

    /// Runs the binaries, one per CPU at a time, and returns how many tests passed and failed.
    fn run_all(&self, workspace: &Workspace, binaries: Vec<Binary>) -> Result<(usize, usize)> {
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let left = Mutex::new(binaries.into_iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let (mut passed, mut failed) = (0, 0);
            while let Some(binary) = next() {
                let arguments: Vec<&str> = binary.iter().map(String::as_str).collect();
                let output = process::capture(&mut self.command(workspace, &arguments))
                    .context("rustup is needed; see https://rustup.rs")?;
                show(&output);
                let row = host::count(PACKAGE, PACKAGE, &output);
                passed += row.passed;
                failed += row.failed;
            }
            anyhow::Ok((passed, failed))
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..cpus).map(|_| scope.spawn(work)).collect();
            let mut sum = (0, 0);
            for worker in workers {
                let result = worker.join();
                let (passed, failed) = result.map_err(|_| anyhow!("a worker panicked"))??;
                sum = (sum.0 + passed, sum.1 + failed);
            }
            Ok(sum)
        })
    }
}

/// What chooses a test binary, as cargo's arguments.
type Binary = Vec<String>;

/// The library's unit tests, and each file of `tests`.
fn binaries(tests: &Path) -> Result<Vec<Binary>> {
    let cannot = || format!("cannot read {}", tests.display());
    let mut binaries = vec![vec!["--lib".to_owned()]];
    for entry in fs::read_dir(tests).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
        {
            binaries.push(vec!["--test".to_owned(), name.to_owned()]);
        }
    }
    binaries.sort();
    Ok(binaries)
}

/// Shows what a binary printed, in one piece: cargo's words, what Miri found, and the results.
fn show(output: &Output) {
    eprintln!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

/// Adds the toolchain or its components if they are missing, and says so.
fn provide(toolchain: &str) -> Result<()> {
    let installed = process::output(
        "rustup",
        &["component", "list", "--installed", "--toolchain", toolchain],
    );
    let Some(arguments) = missing(toolchain, installed.ok().as_deref()) else {
        return Ok(());
    };
    let shown = format!("rustup {}", arguments.join(" "));
    eprintln!("Miri is missing for the toolchain {toolchain}; adding it by `{shown}`.");
    process::run(Command::new("rustup").args(&arguments))
        .with_context(|| format!("type `{shown}` and start again"))
}

/// The arguments of rustup that bring what is not there. `installed` is its list of
/// components, `None` without the toolchain.
fn missing<'a>(toolchain: &'a str, installed: Option<&str>) -> Option<Vec<&'a str>> {
    let Some(installed) = installed else {
        let minimal = ["toolchain", "install", toolchain, "--profile", "minimal"];
        let components = COMPONENTS.iter().flat_map(|name| ["--component", name]);
        return Some(minimal.into_iter().chain(components).collect());
    };
    // Components of one host carry its name: `miri-x86_64-unknown-linux-gnu`.
    let is_there = |name: &str| {
        let is_it = |line: &str| line == name || line.starts_with(&format!("{name}-"));
        installed.lines().any(is_it)
    };
    if COMPONENTS.iter().all(|name| is_there(name)) {
        return None;
    }
    let add = ["component", "add", "--toolchain", toolchain];
    Some(add.into_iter().chain(COMPONENTS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        let complete = "cargo-x86_64-unknown-linux-gnu\nmiri-x86_64-unknown-linux-gnu\nrust-src\n";
        assert_eq!(missing("nightly", Some(complete)), None);
        for partial in ["rust-src\n", "miri-x86_64-unknown-linux-gnu\n", ""] {
            let add = missing("nightly", Some(partial))
                .unwrap_or_default()
                .join(" ");
            assert_eq!(add, "component add --toolchain nightly miri rust-src");
        }
        let install = missing("nightly-2026-05-20", None)
            .unwrap_or_default()
            .join(" ");
        assert_eq!(
            install,
            "toolchain install nightly-2026-05-20 --profile minimal --component miri --component rust-src"
        );
    }

    #[test]
    fn flags_of_the_environment_do_not_count() {
        let miri = Miri {
            toolchain: "nightly".to_owned(),
            only: Some("r18".to_owned()),
        };
        let command = miri.command(&Workspace::find(), &["--lib"]);
        let flags = command.get_envs().find(|(name, _)| *name == "MIRIFLAGS");
        assert_eq!(flags.and_then(|(_, value)| value), Some(FLAGS.as_ref()));
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments[..5], ["run", "nightly", "cargo", "miri", "test"]);
        assert_eq!(arguments[arguments.len() - 3..], ["--lib", "--", "r18"]);
    }

    #[test]
    fn every_file_of_tests_is_a_binary() {
        let tests = Workspace::find().root().join(TESTS);
        let found = binaries(&tests).unwrap_or_default();
        assert_eq!(found[0], ["--lib"]);
        assert!(found.contains(&vec!["--test".to_owned(), "barriers".to_owned()]));
    }
}
