// SPDX-License-Identifier: MIT OR Apache-2.0

//! The plugin (xtask/plugin) against programs whose counts are known by hand: one test each.

mod cases;
mod program;

use super::boots::Bench;
use super::summary::Row;
use crate::console::Console;
use crate::guest::{self, End, Ended, Guest, Limits};
use crate::measure::windows::Windows;
use crate::qemu::{Plugin, Qemu, option_of};
use crate::scratch;
use anyhow::{Context, Result};
use cases::{CASES, Case, Expected, Machine};
use program::Program;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Name of the row, and first part of the names of its tests.
pub const ROW: &str = "plugin";
/// For a program of a few instructions, on a busy host.
const LIMITS: Limits = Limits {
    silence: Duration::from_secs(60),
    total: Duration::from_secs(60),
};

/// Tells whether the filter selects any.
pub fn selected(bench: &Bench<'_>) -> bool {
    CASES.iter().any(|case| case.selected(bench))
}

/// Runs the programs one after the other; nothing comes back when the filter selects none.
///
/// # Errors
///
/// When QEMU cannot be started, or a file cannot be written.
pub fn run(bench: &Bench<'_>, plugin: &Plugin) -> Result<Option<Row>> {
    let mut row = Row::new(ROW);
    let start = Instant::now();
    for case in CASES.iter().filter(|case| case.selected(bench)) {
        if guest::interrupted() {
            break;
        }
        row.settle(&case.full_name(), case.problems(bench, plugin)?);
    }
    row.seconds = start.elapsed().as_secs_f64();
    Ok((row.passed + row.failed > 0).then_some(row))
}

impl Case {
    fn full_name(&self) -> String {
        format!("{ROW}.{}", self.name)
    }

    fn selected(&self, bench: &Bench<'_>) -> bool {
        bench.selects(&self.full_name())
    }

    /// Runs the program and says what is not as expected.
    fn problems(&self, bench: &Bench<'_>, plugin: &Plugin) -> Result<Vec<String>> {
        let scratch = scratch::folder(bench.workspace)?;
        let (image, out) = (scratch.path().join("program"), scratch.path().join("out"));
        let mut program = Program::new();
        (self.write)(&mut program);
        fs::write(&image, program.bytes())
            .with_context(|| format!("cannot write {}", image.display()))?;
        let command = self.command(&plugin.given_to(bench.qemu, &out), &image);
        let mut console = Console::default();
        let ended =
            Guest::start(command)?.supervise(Some(LIMITS), &mut console, |_| {}, |_| Vec::new())?;
        Ok(match self.expected {
            Expected::Lines(expected) => match ended.end {
                End::Exited(status) if status.success() => lines(&Windows::read(&out)?, expected),
                _ => vec![bad_end(&ended)],
            },
            Expected::Refusal(why) => match ended.end {
                End::Exited(status) if status.code() == Some(1) && ended.stderr.contains(why) => {
                    Vec::new()
                }
                _ => vec![format!("expected a refusal: {why}"), bad_end(&ended)],
            },
        })
    }

    fn command(&self, qemu: &Qemu, image: &Path) -> Command {
        let machine = match self.machine {
            Machine::El2 => "virt,virtualization=on",
            _ => "virt",
        };
        let cpus = match self.machine {
            Machine::TwoThreads | Machine::OneThread => "2",
            _ => "1",
        };
        let mut command = qemu.command();
        command.args([
            "-machine", machine, "-cpu", "max", "-smp", cpus, "-m", "128M",
        ]);
        if !matches!(self.machine, Machine::HostClock | Machine::TwoThreads) {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.args(["-nodefaults", "-display", "none"]);
        command.args(["-semihosting-config", "enable=on,target=native"]);
        // Not by -kernel: nothing is to be executed in front of it.
        let address = program::ADDRESS;
        let loader = format!("loader,addr={address:#x},cpu-num=0,force-raw=on,file=");
        command.arg("-device").arg(option_of(&loader, image));
        command
    }
}

/// What differs.
fn lines(counted: &Windows, expected: &[&str]) -> Vec<String> {
    let windows = counted.windows.iter().map(ToString::to_string);
    let counted: Vec<String> = windows.chain(counted.problems.iter().cloned()).collect();
    if counted == expected {
        return Vec::new();
    }
    let titled = |title: &str, lines: Vec<String>| {
        let lines = lines.into_iter().map(|line| format!("  {line}"));
        [title.to_owned()]
            .into_iter()
            .chain(lines)
            .collect::<Vec<_>>()
    };
    let expected = expected.iter().map(|line| (*line).to_owned()).collect();
    [titled("expected:", expected), titled("counted:", counted)].concat()
}

fn bad_end(ended: &Ended) -> String {
    let how = match &ended.end {
        End::Exited(status) => format!("QEMU ended ({status})"),
        End::Hung(why) => format!("the guest hangs: {why}"),
        End::Halted | End::Interrupted => "QEMU was ended".to_owned(),
    };
    format!("{how}\n{}", ended.stderr)
}
