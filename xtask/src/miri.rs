// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask miri`: the library's tests under Miri, Rust's interpreter that finds
//! undefined behavior.
//!
//! Miri exists for nightly toolchains only, so this is the one command that needs one;
//! what it builds goes below target/miri and is shared with nothing. The flags are
//! fixed here: `MIRIFLAGS` of the environment does not count. Random tests know
//! of Miri and do a two-hundredth of their work (`reduced` in `kernel/mmu/tests/fake`).

use crate::failure::Failure;
use crate::process;
use crate::test::host;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::Args;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

/// The package whose tests run.
const PACKAGE: &str = "mmu";
/// Beyond Miri's defaults: a pointer is never made from a number, and alignment must hold
/// by construction, not by luck of the allocator. The library passes with both.
const FLAGS: &str = "-Zmiri-strict-provenance -Zmiri-symbolic-alignment-check";
/// What a nightly toolchain needs beyond its default: Miri builds the standard library itself.
const COMPONENTS: [&str; 2] = ["miri", "rust-src"];

/// Run the tests of the page-table library under Miri, which finds undefined behavior
///
/// Needs a nightly toolchain; adds it, or its components miri and rust-src, by rustup if they are
/// missing. What Miri finds is printed as it is found. The last line is `N passed, N failed`; a
/// test binary that Miri stops counts as one failure.
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
        let output = self.follow(&workspace)?;
        let row = host::count(PACKAGE, PACKAGE, &output);
        println!("\n{} passed, {} failed", row.passed, row.failed);
        if row.failed == 0 && row.passed > 0 {
            Ok(())
        } else {
            Err(Failure::new(1, "").into())
        }
    }

    fn command(&self, workspace: &Workspace) -> Command {
        let mut command = process::cargo_of(&self.toolchain, workspace);
        command
            .args(["miri", "test", "--no-fail-fast", "--package", PACKAGE])
            .args(["--lib", "--tests"])
            .args(self.only.as_ref().map(|name| ["--", name]).iter().flatten())
            .env("MIRIFLAGS", FLAGS);
        command
    }

    /// Runs the tests, shows each line of their output when it comes, and returns all.
    fn follow(&self, workspace: &Workspace) -> Result<Output> {
        let mut child = self
            .command(workspace)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `rustup`; see https://rustup.rs")?;
        let mut stdout = Vec::new();
        if let Some(lines) = child.stdout.take() {
            for line in BufReader::new(lines).split(b'\n') {
                let mut line = line.context("cannot read what Miri prints")?;
                line.push(b'\n');
                // A reader that has left (`| head`) is no reason to stop.
                let _ = std::io::stdout().write_all(&line);
                stdout.extend(line);
            }
        }
        let status = child.wait().context("cannot wait for Miri")?;
        Ok(Output {
            status,
            stdout,
            // Standard error was shown: cargo's progress, and what Miri found.
            stderr: Vec::new(),
        })
    }
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
        let command = miri.command(&Workspace::find());
        let flags = command.get_envs().find(|(name, _)| *name == "MIRIFLAGS");
        assert_eq!(flags.and_then(|(_, value)| value), Some(FLAGS.as_ref()));
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments[..5], ["run", "nightly", "cargo", "miri", "test"]);
        assert_eq!(arguments.last(), Some(&"r18".as_ref()));
    }
}
