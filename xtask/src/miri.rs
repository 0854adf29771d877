// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask miri`: the library's tests under Miri, Rust's interpreter that finds
//! undefined behavior.
//!
//! Miri exists for nightly toolchains only, so this is the one command that needs one;
//! what it builds goes below target/miri and is shared with nothing. The flags are
//! fixed here: `MIRIFLAGS` of the environment does not count. Random tests know
//! of Miri and do a two-hundredth of their work (`reduced` in `kernel/testkit/src/fake`).
//!
//! Miri uses one CPU, so as many modules of tests run side by side as there are CPUs, each by a cargo of
//! its own. One cargo builds the test binaries before: cargos that build wait for each other.

use crate::failure::Failure;
use crate::process;
use crate::test::host;
use crate::workspace::Workspace;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The package whose tests run.
const PACKAGE: &str = "lazymmu";
/// Its test binaries, as cargo's arguments: the unit tests, and `kernel/mmu/tests`.
const BINARIES: [&str; 3] = ["--lib", "--test=library", "--test=model"];
/// Beyond Miri's defaults: a pointer is never made from a number, and alignment must hold
/// by construction, not by luck of the allocator. The library passes with both.
const FLAGS: &str = "-Zmiri-strict-provenance -Zmiri-symbolic-alignment-check";
/// What a nightly toolchain needs beyond its default: Miri builds the standard library itself.
const COMPONENTS: [&str; 2] = ["miri", "rust-src"];

/// Run the tests of the page-table library under Miri, which finds undefined behavior
///
/// Needs a nightly toolchain; adds it, or its components miri and rust-src, by rustup if they are
/// missing. Modules of tests run side by side, one per CPU; what one printed is shown when it has ended.
/// The last line is `N passed, N failed`; a module that Miri stops counts as one failure.
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
        process::run(&mut self.command(&workspace, &[&BINARIES[..], &["--no-run"]].concat()))?;
        let mut modules = Vec::new();
        for binary in BINARIES {
            let list = [binary, "--", "--list", "--format=terse"];
            let listed = process::capture(&mut self.command(&workspace, &list))?;
            let names = String::from_utf8_lossy(&listed.stdout);
            modules.extend(modules_of(binary, &names, self.only.as_deref()));
        }
        let (passed, failed) = self.run_all(&workspace, modules)?;
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
            .env("MIRIFLAGS", FLAGS);
        command
    }

    /// Runs the modules, one per CPU at a time, and returns how many tests passed and failed.
    fn run_all(&self, workspace: &Workspace, modules: Vec<Module>) -> Result<(usize, usize)> {
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let left = Mutex::new(modules.into_iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let (mut passed, mut failed) = (0, 0);
            while let Some((binary, tests)) = next() {
                let mut arguments = vec![binary, "--", "--exact"];
                arguments.extend(tests.iter().map(String::as_str));
                let output = process::capture(&mut self.command(workspace, &arguments))
                    .context("rustup is needed; see https://rustup.rs")?;
                show(&output);
                let row = host::count(PACKAGE, &output);
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

/// A test binary, and the tests of one of its modules.
type Module = (&'static str, Vec<String>);

/// The modules of `binary` and their tests whose name contains `only`, from what the binary `listed`.
fn modules_of(binary: &'static str, listed: &str, only: Option<&str>) -> Vec<Module> {
    let mut modules = BTreeMap::<&str, Vec<String>>::new();
    for name in listed.lines().filter_map(|it| it.strip_suffix(": test")) {
        if only.is_none_or(|only| name.contains(only)) {
            let module = name.split("::").next().unwrap_or_default();
            modules.entry(module).or_default().push(name.to_owned());
        }
    }
    modules.into_values().map(|tests| (binary, tests)).collect()
}

/// Shows what a module printed, in one piece: cargo's words, what Miri found, and the results.
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
            only: None,
        };
        let command = miri.command(&Workspace::find(), &["--lib"]);
        let flags = command.get_envs().find(|(name, _)| *name == "MIRIFLAGS");
        assert_eq!(flags.and_then(|(_, value)| value), Some(FLAGS.as_ref()));
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments[..5], ["run", "nightly", "cargo", "miri", "test"]);
        assert_eq!(arguments.last(), Some(&"--lib".as_ref()));
    }

    #[test]
    fn modules_are_those_of_the_selected_tests() {
        let listed =
            "edges::one: test\nholes::one: test\nholes::two: test\n\n3 tests, 0 benchmarks\n";
        let of = |only| modules_of("--lib", listed, only);
        let tests = |names: &[&str]| ("--lib", names.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(
            of(None),
            [tests(&["edges::one"]), tests(&["holes::one", "holes::two"])]
        );
        assert_eq!(of(Some("two")), [tests(&["holes::two"])]);
        assert_eq!(of(Some("three")), []);
    }

    /// Cargo refuses a `BINARIES` that is not there, but nothing else tells of one that is missing here.
    #[test]
    fn every_folder_of_tests_is_a_binary() {
        let tests = Workspace::find().root().join("kernel/mmu/tests");
        for entry in tests.read_dir().unwrap() {
            let name = entry.unwrap().file_name();
            let binary = format!("--test={}", name.display());
            assert!(BINARIES.contains(&binary.as_str()), "{binary}");
        }
    }
}
