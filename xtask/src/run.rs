// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask run`: from a fresh checkout to the demonstration on the screen.

use crate::build;
use crate::qemu::Input;
use crate::qemu::boot::Watch;
use crate::qemu::{Boot, MachineOptions, Qemu, Verdict};
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Args;
use std::io::{self, Write};

/// Seconds that a run may take by default.
const TIMEOUT: u32 = 60;

/// Build the kernel, boot it in QEMU and show its demonstration
///
/// Adds the Rust target and installs QEMU first where they are missing. Ends with the kernel's
/// status: 0 success, 1 failure, 2 panic, 3 unexpected exception; 124 for a hang.
#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    options: MachineOptions,
}

impl Run {
    /// Builds, boots and follows the guest to its end.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let machine = self.options.machine()?;
        let qemu = Qemu::provide()?;
        qemu.require(machine.board)?;
        let artifacts = build::build(&workspace)?;
        let bootargs = self.options.bootargs.join(" ");
        let boot = Boot {
            machine: &machine,
            bootargs: &bootargs,
            artifacts: &artifacts,
            input: Input::Usual,
            watch: if self.options.gdb {
                Watch::Debugger
            } else {
                Watch::Timeout(self.options.timeout(TIMEOUT))
            },
            again: again(&machine.options(), &bootargs),
        };
        let mut stdout = io::stdout().lock();
        let outcome = boot.run(&workspace, &qemu, |line| {
            // A reader that has left (`| head`) is no reason to stop the guest.
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        })?;
        match outcome.verdict {
            Verdict::Success => Ok(()),
            Verdict::Failed(failure) | Verdict::Broken(failure) => Err(failure.into()),
        }
    }
}

/// The command line that boots the same again.
pub fn again(options: &str, bootargs: &str) -> String {
    let separator = if bootargs.is_empty() { "" } else { " -- " };
    format!("cargo xtask run{options}{separator}{bootargs}")
}
