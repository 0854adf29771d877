// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask run`: from a fresh checkout to the demonstration on the screen.

use crate::bench::headline;
use crate::build;
use crate::process::quoted;
use crate::qemu::boot::{Watch, again};
use crate::qemu::{Boot, MachineOptions, Plugin, Qemu, Verdict};
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Args;
use std::path::{self, Path, PathBuf};

/// Seconds that a run may take by default.
const TIMEOUT: u32 = 60;

/// Build the kernel, boot it in QEMU and show its demonstration
///
/// Adds the Rust target and installs QEMU first where they are missing. Ends with the kernel's
/// status: 0 success, 1 failure, 2 panic, 3 unexpected exception; 124 for a hang, 141 when the reader of
/// what it prints has gone.
#[derive(Args, Debug)]
pub struct Run {
    /// Count from outside what the guest executes in its windows (kernel/src/arch/window.rs): a QEMU
    /// plugin writes one line of JSON for each to this file. With --icount only for one CPU
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,

    #[command(flatten)]
    options: MachineOptions,
}

impl Run {
    /// Builds, boots and follows the guest to its end.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let machine = self.options.machine()?;
        let mut qemu = Qemu::provide()?;
        qemu.require(&machine)?;
        if self.options.gdb {
            workspace.gdb_socket()?;
        }
        let artifacts = build::build(&workspace)?;
        let mut options = machine.options();
        if let Some(out) = &self.plugin {
            qemu = counting(&workspace, &qemu, out)?;
            options += &format!(" --plugin {}", quoted(&out.to_string_lossy()));
        }
        let bootargs = self.options.bootargs.join(" ");
        let timeout = self.options.timeout(TIMEOUT);
        let mut boot = Boot::new(&machine, &bootargs, &artifacts, timeout);
        boot.again = again(&options, &bootargs);
        if self.options.gdb {
            boot.watch = Watch::Debugger;
        }
        let outcome = boot.run(&workspace, &qemu, |line| println!("{line}"))?;
        match outcome.verdict {
            Verdict::Success => {
                if !bootargs.split(' ').any(|word| word.starts_with("mode=")) {
                    println!("\n{}", headline::shown(&workspace)?);
                }
                Ok(())
            }
            Verdict::Failed(failure) | Verdict::Broken(failure) => Err(failure.into()),
        }
    }
}

/// `qemu` with the plugin, which writes to `out`.
fn counting(workspace: &Workspace, qemu: &Qemu, out: &Path) -> Result<Qemu> {
    let plugin = Plugin::provide(workspace, qemu)?;
    // QEMU is started elsewhere.
    Ok(plugin.given_to(qemu, &path::absolute(out)?))
}
