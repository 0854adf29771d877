// SPDX-License-Identifier: MIT OR Apache-2.0

//! Builds, boots, tests and checks lazymmu: `cargo xtask <command>`.
//!
//! One module per command; the doc comments of its fields are its `--help`.
//! Status: 0 success; 1, 2, 3 as the kernel ended (failure, panic, exception);
//! 124 a hang; 130 Ctrl-C; 141 when the reader of the output has gone; 1 for everything that went
//! wrong without the kernel.

#[macro_use]
mod output;

mod bench;
mod build;
mod check;
mod console;
mod failure;
mod gdb;
mod glob;
mod guard;
mod guest;
mod image;
mod ktap;
mod measure;
mod miri;
mod mutants;
mod parallel;
mod process;
mod qemu;
mod run;
mod scratch;
mod serial;
mod symbols;
mod test;
mod workspace;

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

fn main() -> ExitCode {
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
