// SPDX-License-Identifier: MIT OR Apache-2.0

//! The commands of `cargo xtask` and what they are made of.
//!
//! There is one module per command; the doc comments of its fields are its `--help`. The modules
//! that are public are those that the tests with guests (`xtask/tests/guests`) are written with.

#[macro_use]
mod output;

mod bench;
pub mod build;
mod check;
pub mod console;
pub mod failure;
mod gdb;
mod guard;
pub mod guest;
pub mod image;
mod measure;
mod miri;
mod mutants;
mod parallel;
pub mod process;
pub mod qemu;
mod run;
pub mod scratch;
pub mod serial;
mod symbols;
mod test;
pub mod workspace;

pub use measure::windows;

// The kernel's own: what selects a self-test selects any test, and what it writes is read here.
use kernel::filter as glob;
use kernel::selftest::ktap_reader as ktap;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::env;
use std::process::ExitCode;

/// Builds, boots, tests and checks lazymmu.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Build),
    Run(run::Run),
    Test(test::Test),
    Check(check::Check),
    Miri(miri::Miri),
    Mutants(mutants::Mutants),
    Bench(bench::Bench),
    Gdb(gdb::Gdb),
    Image(image::Image),
    Serial(serial::Serial),
}

/// Runs the command that the command line asks for. Status: 0 success; 1, 2, 3 as the kernel ended
/// (failure, panic, exception); 124 a hang; 130 Ctrl-C; 141 when the reader of the output has gone;
/// 1 for everything that went wrong without the kernel.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(bench::without_alias(env::args_os())) {
        Ok(cli) => cli,
        Err(usage) => return failure::show_usage(&usage),
    };
    guest::answer_signals();
    let result = dispatch(cli.command);
    match (output::lost(), result) {
        (Some(status), _) => ExitCode::from(status),
        (None, Ok(())) => ExitCode::SUCCESS,
        (None, Err(error)) => failure::show(&error),
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Build(command) => command.execute(),
        Command::Run(command) => command.execute(),
        Command::Test(command) => command.execute(),
        Command::Check(command) => command.execute(),
        Command::Miri(command) => command.execute(),
        Command::Mutants(command) => command.execute(),
        Command::Bench(command) => command.execute(),
        Command::Gdb(command) => command.execute(),
        Command::Image(command) => command.execute(),
        Command::Serial(command) => command.execute(),
    }
}
