// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask gdb`: a debugger with the kernel's symbols, on a waiting guest.

use crate::process;
use crate::qemu::in_path;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;
use std::process::Command;

/// Attach gdb, with symbols, to a guest started by `run --gdb` or `test --gdb`
#[derive(Args, Debug)]
pub struct Gdb {
    /// Arguments for gdb itself, e.g. -- -batch -ex 'info registers pc'
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

impl Gdb {
    /// Attaches, and ends when the debugger does.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let socket = workspace.gdb_socket()?;
        ensure!(
            workspace.root().join(&socket).exists(),
            "no guest waits for a debugger; type in another terminal: cargo xtask run --gdb"
        );
        let gdb = find().context(
            "no gdb for aarch64; install gdb-multiarch (Debian, Ubuntu) or gdb (Fedora, macOS with brew)",
        )?;
        // It has the terminal, so it stays in its process group.
        let status = Command::new(&gdb)
            .current_dir(workspace.root())
            .arg("--quiet")
            .arg(workspace.kernel_elf())
            .args(["--command", "scripts/gdb.gdbinit"])
            .arg("--eval-command")
            .arg(format!("target remote {}", socket.display()))
            .args(&self.arguments)
            .status()
            .with_context(|| format!("cannot start {}", gdb.display()))?;
        ensure!(status.success(), "{} failed ({status})", gdb.display());
        Ok(())
    }
}

/// The names of gdb on different systems.
#[rustfmt::skip]
const NAMES: [&str; 5] =
    ["gdb-multiarch", "aarch64-none-elf-gdb", "aarch64-linux-gnu-gdb", "aarch64-elf-gdb", "gdb"];

/// Makes a gdb show the architecture that it has taken.
#[rustfmt::skip]
const PROBE: [&str; 6] =
    ["-nx", "-batch", "-ex", "set architecture aarch64", "-ex", "show architecture"];

/// The first gdb that knows the architecture.
fn find() -> Option<PathBuf> {
    NAMES
        .iter()
        .filter_map(in_path)
        .find(|gdb| process::output(gdb, &PROBE).is_ok_and(|answer| answer.contains("\"aarch64\"")))
}
