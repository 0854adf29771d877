// SPDX-License-Identifier: MIT OR Apache-2.0

//! Builds, boots, tests and checks lazymmu: `cargo xtask <command>`.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
