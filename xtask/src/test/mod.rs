// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask test`: host tests, then the in-kernel suite on a matrix of machines, and with
//! `--soak` random tests for as long as one likes.

mod agreement;
pub mod boots;
mod counts;
mod endings;
pub mod host;
mod matrix;
mod outside;
pub mod soak;
pub mod summary;

use crate::build::{self, Artifacts};
use crate::failure::Failure;
use crate::guest;
use crate::qemu::machine::Board;
use crate::qemu::{MachineOptions, Qemu};
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use matrix::Planned;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;
use summary::{Failed, Row, Summary, lines};

/// What is said after Ctrl-C.
const ENDED: &str = "interrupted; every QEMU was ended";

/// Run the host tests, then the in-kernel suite on a matrix of machines and a short soak
///
/// Options that describe a machine select the boots that match, on virt unless --machine says
/// otherwise, and leave out the host tests; if no boot of the matrix matches, exactly that machine
/// is booted. The console of every boot is kept in target/test-logs. The last line is `N passed, N
/// failed`.
#[derive(Args, Debug)]
pub struct Test {
    /// Run only tests whose name matches, with * for any characters: suite.test in the kernel,
    /// crate.module.test on the host, where the first parts may be left out
    #[arg(long, value_name = "GLOB")]
    filter: Option<String>,

    /// Run only the host tests
    #[arg(long, conflicts_with_all = ["machine", "cpu", "smp", "memory", "gic", "el", "dtb", "icount", "gdb"])]
    host: bool,

    /// Boots at a time [default: number of host CPUs, at most 4]
    #[arg(long, value_name = "COUNT")]
    jobs: Option<NonZeroUsize>,

    #[command(flatten)]
    soak: soak::Options,

    #[command(flatten)]
    options: MachineOptions,
}

impl Test {
    /// Runs what was asked for and ends in the summary.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let boots = matrix::select(&self.options)?;
        let mut summary = Summary::default();
        // What is missing is said, or added, before minutes of host tests.
        let qemu = match self.host {
            true => None,
            false => Some(self.provide(&workspace, &boots)?),
        };
        if !self.options.any_machine() && !self.options.gdb {
            self.on_the_host(&workspace, &mut summary)?;
        }
        if let Some(qemu) = &qemu {
            self.in_the_kernel(&workspace, qemu, &boots, &mut summary)?;
        }
        if let Some(plan) = self.soak.plan() {
            self.soak_what_passed(&plan, &workspace, qemu.as_ref(), &mut summary)?;
        }
        summary.print();
        if summary.is_success() {
            Ok(())
        } else {
            // The summary has said it all, and its last line is to stay the last.
            Err(Failure::new(1, "").into())
        }
    }

    /// Finds or installs what the boots need.
    fn provide(&self, workspace: &Workspace, boots: &[Planned]) -> Result<Qemu> {
        build::provide_target(workspace)?;
        let qemu = Qemu::provide()
            .context("no machine can be booted (cargo xtask test --host needs none)")?;
        if let (true, [first, ..]) = (self.options.any_machine(), boots) {
            qemu.require(&first.machine)?;
        }
        Ok(qemu)
    }

    fn on_the_host(&self, workspace: &Workspace, summary: &mut Summary) -> Result<()> {
        let progress = progress(host::SETS.len());
        for set in &host::SETS {
            progress.set_message(format!("host tests of {}", set.name));
            if let Some(tests) = host::Selected::of(workspace, set, self.filter.as_deref())? {
                summary.add(tests.run(self.jobs())?, &progress);
            }
            progress.inc(1);
            guest::stop_if_interrupted(ENDED)?;
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn in_the_kernel(
        &self,
        workspace: &Workspace,
        qemu: &Qemu,
        boots: &[Planned],
        summary: &mut Summary,
    ) -> Result<()> {
        ensure!(
            boots.len() == 1 || !self.options.gdb,
            "--gdb needs exactly one boot, {} are selected; narrow them by --cpu, --gic, --el, --memory",
            boots.len()
        );
        let booted = self.boot_all(workspace, qemu, boots, summary);
        guest::stop_if_interrupted(ENDED)?;
        if let Err(error) = booted {
            // What was found before is still worth a summary.
            let mut row = Row::new("the kernel");
            row.fail(Failed::new("not all machines were booted", lines(&error)));
            summary.add_silently(row);
        }
        Ok(())
    }

    fn boot_all(
        &self,
        workspace: &Workspace,
        qemu: &Qemu,
        boots: &[Planned],
        summary: &mut Summary,
    ) -> Result<()> {
        // An old QEMU has no Raspberry Pi 4, which is no reason to test nothing.
        let no_pi = qemu.lacks(Board::Raspi4b)?;
        let (left_out, boots): (Vec<_>, Vec<_>) = boots
            .iter()
            .cloned()
            .partition(|planned| no_pi.is_some() && planned.machine.board == Board::Raspi4b);
        let artifacts = build::build(workspace)?;
        let progress = progress(boots.len());
        let bench = self.bench(workspace, qemu, &artifacts, &progress);
        for row in bench.run(&boots)? {
            summary.add_silently(row);
        }
        for planned in &left_out {
            let why = no_pi.as_deref().unwrap_or_default();
            summary.add_silently(Row::left_out(&planned.name(), why));
        }
        if !self.options.any_machine() && !self.options.gdb && self.options.bootargs.is_empty() {
            let rest: [&dyn Fn() -> Result<Vec<Row>>; 5] = [
                &|| endings::run(&bench, no_pi.as_deref()),
                &|| {
                    let guests = host::Selected::of(workspace, &host::GUESTS, bench.filter)?;
                    let guests = guests.map(|tests| tests.run(bench.jobs));
                    Ok(guests.transpose()?.into_iter().collect())
                },
                &|| Ok(counts::run(&bench)?.into_iter().collect()),
                &|| outside::run(&bench),
                &|| soak::short::run(&bench),
            ];
            for tests in rest {
                if guest::interrupted() {
                    break;
                }
                for row in tests()? {
                    summary.add(row, &progress);
                }
            }
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn bench<'a>(
        &'a self,
        workspace: &'a Workspace,
        qemu: &'a Qemu,
        artifacts: &'a Artifacts,
        progress: &'a ProgressBar,
    ) -> boots::Bench<'a> {
        boots::Bench {
            workspace,
            qemu,
            artifacts,
            options: &self.options,
            filter: self.filter.as_deref(),
            jobs: self.jobs(),
            progress,
        }
    }

    /// The soak, or a row that says why not: with a failure at hand, hours of random tests show
    /// nothing new.
    fn soak_what_passed(
        &self,
        plan: &soak::Plan,
        workspace: &Workspace,
        qemu: Option<&Qemu>,
        summary: &mut Summary,
    ) -> Result<()> {
        let progress = progress(plan.time().as_secs() as usize);
        let row = match qemu {
            _ if !summary.is_success() => plan.not_started(),
            None => plan.run(workspace, None, &progress)?,
            Some(qemu) => {
                let artifacts = build::build(workspace)?;
                let bench = self.bench(workspace, qemu, &artifacts, &progress);
                plan.run(workspace, Some(&bench), &progress)?
            }
        };
        summary.add(row, &progress);
        progress.finish_and_clear();
        Ok(())
    }

    fn jobs(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.jobs.map_or(cores.min(4), NonZeroUsize::get)
    }
}

/// A progress bar on standard error; not drawn where that is no terminal.
fn progress(length: usize) -> ProgressBar {
    let progress = ProgressBar::new(length as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {elapsed} {msg}")
    {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}
