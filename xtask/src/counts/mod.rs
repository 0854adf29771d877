// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask counts`: instructions and barriers per page of the library's hot paths, as
//! compiled into this kernel, beside their targets and Linux's figures; and those of the scheduler's.
//!
//! The kernel measures itself (kernel/src/bench). The figures repeat exactly, because QEMU's clock
//! counts instructions and rust-toolchain.toml names the compiler, so a report of them can be
//! committed and compared: docs/instruction-counts.md. `cargo xtask test` fails when they get worse.

mod compare;
mod events;
mod lines;
mod operations;
mod report;

pub use compare::{problems, worse_event, worse_windows};
pub use events::{EVENTS, Event, WAKES};
pub use lines::{Cost, Counter, EventCost, Measured, PerPage};
pub use operations::{OPERATIONS, Operation, Standing};
pub use report::{few, instructions};

use crate::build::{self, Artifacts};
use crate::failure::Failure;
use crate::qemu::boot::Watch;
use crate::qemu::machine::Clock;
use crate::qemu::{Boot, Input, Machine, Qemu, Verdict};
use crate::run::again;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

/// The committed report, from the workspace's root.
const REPORT: &str = "docs/instruction-counts.md";
/// What writes it.
const WRITE: &str = "`cargo xtask counts --write` writes it";
/// Seconds that the boot may take.
const TIMEOUT: u64 = 120;

/// Count the instructions, DSB, ISB and TLBI of the library's hot paths and the scheduler's
///
/// Boots the kernel on QEMU's virt with the CPU max, where the generic timer can be made to tick
/// once per instruction, and prints the marginal cost of a page between 512 and 4096 pages, then
/// what a switch, a yield and a tick cost.
#[derive(Args, Debug)]
pub struct Counts {
    /// Fail if anything is worse than in docs/instruction-counts.md, as `cargo xtask test` does
    #[arg(long, conflicts_with_all = ["write", "bootargs"])]
    check: bool,

    /// Write docs/instruction-counts.md
    #[arg(long, conflicts_with = "bootargs")]
    write: bool,

    /// Boot arguments for the kernel, key=value, e.g. -- lazy=eager [default: policy=classic]
    #[arg(last = true, value_name = "BOOTARGS")]
    bootargs: Vec<String>,
}

impl Counts {
    /// Measures, prints, and compares or writes.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let qemu = Qemu::provide()?;
        let artifacts = build::build(&workspace)?;
        let measured = measure(&workspace, &qemu, &artifacts, &self.bootargs, |_| {})?;
        println!("{}", report::shown(&measured)?);
        if self.write {
            let path = path(&workspace);
            fs::write(&path, report::markdown(&measured)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if self.check {
            let committed = committed(&workspace)?;
            let problems = problems(&committed, &measured);
            for problem in &problems {
                println!("{}: {}", problem.subject, problem.what);
            }
            if !problems.is_empty() {
                let next = format!("if that is meant to be so: {WRITE} again");
                bail!(Failure::new(1, format!("worse than {REPORT}")).with_next(next));
            }
            if committed == measured {
                println!("the same as in {REPORT}");
            } else {
                println!("not worse than {REPORT}, and not the same: {WRITE} again");
            }
        }
        Ok(())
    }
}

/// Boots the kernel and reads what it measures; every console line goes to `log` as well.
///
/// # Errors
///
/// When QEMU cannot be started, the kernel does not end well, or says what is no count.
pub fn measure(
    workspace: &Workspace,
    qemu: &Qemu,
    artifacts: &Artifacts,
    given: &[String],
    mut log: impl FnMut(&str),
) -> Result<Measured> {
    let machine = Machine {
        cpu: "max".to_owned(),
        smp: NonZeroU32::MIN,
        clock: Clock::Instructions,
        ..Machine::default()
    };
    let mut arguments = vec!["mode=counts"];
    if !given.iter().any(|argument| argument.starts_with("policy=")) {
        arguments.push("policy=classic");
    }
    arguments.extend(given.iter().map(String::as_str));
    let bootargs = arguments.join(" ");
    let boot = Boot {
        machine: &machine,
        bootargs: &bootargs,
        artifacts,
        input: Input::Usual,
        watch: Watch::Timeout(Duration::from_secs(TIMEOUT)),
        again: again(&machine.options(), &bootargs),
    };
    let mut text = String::new();
    let outcome = boot.run(workspace, qemu, |line| {
        log(line);
        text.push_str(line);
        text.push('\n');
    })?;
    match outcome.verdict {
        Verdict::Success => Measured::parse(&text).context("the kernel's counts cannot be read"),
        Verdict::Failed(failure) | Verdict::Broken(failure) => Err(failure.into()),
    }
}

/// The names of all that is measured, in the order of the report.
pub fn names() -> impl Iterator<Item = &'static str> {
    let operations = OPERATIONS.iter().map(|operation| operation.name);
    operations.chain(EVENTS.iter().map(|event| event.name))
}

/// What the committed report says.
///
/// # Errors
///
/// When there is none, or it is damaged.
pub fn committed(workspace: &Workspace) -> Result<Measured> {
    let text = fs::read_to_string(path(workspace))
        .with_context(|| format!("cannot read {REPORT} ({WRITE})"))?;
    Measured::parse(&text).with_context(|| format!("{REPORT} is damaged ({WRITE} again)"))
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.root().join(REPORT)
}
