// SPDX-License-Identifier: MIT OR Apache-2.0

//! One boot of the kernel, from a machine to a verdict.

use super::command::{self, Input, Sockets};
use super::inspect;
use super::machine::{Board, ExceptionLevel, Machine};
use super::program::Qemu;
use super::raspi4b_tree;
use super::verdict::{self, Verdict};
use crate::build::Artifacts;
use crate::console::Console;
use crate::guest::{End, Guest, Limits};
use crate::process::quoted;
use crate::symbols::Symbols;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How the plugin (xtask/plugin) says that its file is not complete.
const LOST: &str = "plugin: cannot write ";

/// What is booted, and how.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Boot arguments, without those that every boot gets.
    pub bootargs: &'a str,
    /// The kernel.
    pub artifacts: &'a Artifacts,
    /// What QEMU is given in place of the usual.
    pub input: Input,
    /// How the guest is watched.
    pub watch: Watch,
    /// The command that boots this again, for reports.
    pub again: String,
}

/// How a guest is watched.
#[derive(Clone, Copy, Debug)]
pub enum Watch {
    /// It may take so long; half of that in silence is a hang too.
    Timeout(Duration),
    /// A debugger decides.
    Debugger,
}

/// How a boot went.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// How long it ran.
    pub duration: Duration,
}

impl<'a> Boot<'a> {
    /// A boot with the usual input that may take so long.
    pub fn new(
        machine: &'a Machine,
        bootargs: &'a str,
        artifacts: &'a Artifacts,
        timeout: Duration,
    ) -> Self {
        Self {
            machine,
            bootargs,
            artifacts,
            input: Input::Usual,
            watch: Watch::Timeout(timeout),
            again: again(&machine.options(), bootargs),
        }
    }

    /// Boots and hands every console line to `sink`.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started at all, or what its plugin counts cannot be written.
    pub fn run(
        &self,
        workspace: &Workspace,
        qemu: &Qemu,
        mut sink: impl FnMut(&str),
    ) -> Result<Outcome> {
        let debugger = workspace.gdb_socket()?;
        let mut sockets = Sockets::default();
        let limits = match self.watch {
            Watch::Timeout(total) => Some(Limits {
                silence: total / 2,
                total,
            }),
            Watch::Debugger => {
                // A socket of an earlier run would be in the way.
                let _ = fs::remove_file(workspace.root().join(&debugger));
                sockets.debugger = Some(&debugger);
                eprintln!(
                    "The guest waits for a debugger. Type in a second terminal: cargo xtask gdb"
                );
                None
            }
        };
        let bootargs = with_defaults(self.bootargs);
        let (command, control) = self.command(workspace, qemu, &bootargs, &sockets)?;
        let shown = typed(&command);
        let symbols = Symbols::read(&self.artifacts.elf, workspace.root())
            .context("the kernel's debug information cannot be read")?;
        let mut console = Console::new(Some(symbols));
        let ended = Guest::start(command)?.supervise(limits, &mut console, &mut sink, |console| {
            inspect::where_is(&control, console.symbols())
        });
        if let Some(socket) = sockets.debugger {
            // A killed QEMU leaves it behind, and `cargo xtask gdb` would find it.
            let _ = fs::remove_file(workspace.root().join(socket));
        }
        let ended = ended?;
        let lost = ended.stderr.lines().find(|line| line.starts_with(LOST));
        if let (Some(line), End::Exited(_)) = (lost, &ended.end) {
            bail!("{line}");
        }
        Ok(Outcome {
            duration: ended.duration,
            verdict: verdict::judge(&ended, &console, &self.again, &shown),
        })
    }

    /// The QEMU that boots this with `bootargs`, and our end of its control socket.
    ///
    /// # Errors
    ///
    /// When the device tree cannot be written, or the system has no more files.
    pub fn command(
        &self,
        workspace: &Workspace,
        qemu: &Qemu,
        bootargs: &str,
        sockets: &Sockets<'_>,
    ) -> Result<(Command, UnixStream)> {
        let tree = self.usual_tree(workspace)?;
        let input = tree.map_or_else(|| self.input.clone(), Input::Tree);
        let arguments = command::boot(self.machine, bootargs, self.artifacts, &input, sockets);
        let mut command = qemu.command();
        command.current_dir(workspace.root()).args(arguments);
        let control = inspect::control(&mut command)?;
        Ok((command, control))
    }

    /// The device tree that belongs to the machine's usual input, where QEMU makes none.
    fn usual_tree(&self, workspace: &Workspace) -> Result<Option<PathBuf>> {
        let machine = self.machine;
        match (machine.board, machine.el, &self.input) {
            (Board::Raspi4b, ExceptionLevel::El2, Input::Usual) => match &machine.dtb {
                Some(path) => Ok(Some(path.clone())),
                None => raspi4b_tree::write(workspace.target()).map(Some),
            },
            _ => Ok(None),
        }
    }
}

/// Shows a command as it would be typed.
fn typed(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    words.join(" ")
}

/// Completes boot arguments by those that every boot gets unless it names others.
pub fn with_defaults(bootargs: &str) -> String {
    if bootargs
        .split_whitespace()
        .any(|argument| argument.starts_with("exit="))
    {
        return bootargs.to_owned();
    }
    format!("{bootargs} exit=semihosting")
        .trim_start()
        .to_owned()
}

/// The command line that boots the same again.
pub fn again(options: &str, bootargs: &str) -> String {
    let words: Vec<String> = bootargs.split_whitespace().map(quoted).collect();
    let separator = if words.is_empty() { "" } else { " -- " };
    format!("cargo xtask run{options}{separator}{}", words.join(" "))
}
