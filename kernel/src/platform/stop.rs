// SPDX-License-Identifier: MIT OR Apache-2.0

//! The end of one CPU is the end of all: the others stop, so that reports do not interleave and
//! nobody goes on with what is broken.
//!
//! The first CPU that ends sends the others an interrupt whose handler halts, and waits for them, for
//! [`PATIENCE`] at most: one that has its interrupts masked, in a loop perhaps, does not hear it. A
//! CPU that comes to its own end meanwhile halts without a report. No lock is taken and nothing is
//! allocated: this runs in panics and exception reports.

use crate::{
    arch::{
        interrupts as irq_mask,
        percpu::{self, PerCpu},
        relax::cpu_relax,
        timer,
    },
    platform::interrupts::{self, IntId, InterruptError},
};
use core::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// The interrupt. The non-secure side has 0 to 7 by convention.
const STOP: IntId = IntId::sgi(7);

/// How long the others may take.
const PATIENCE: Duration = Duration::from_millis(200);
/// The same in looks at their state, in case that the counter stands still.
const LOOKS: u32 = 100_000_000;

/// 1 + the number of the CPU that ends the kernel; 0 as long as nobody does.
static ENDING: AtomicU32 = AtomicU32::new(0);

/// Gets the interrupt ready, on the boot CPU.
///
/// # Errors
///
/// Those of [`interrupts::register`] and [`interrupts::enable`].
pub(crate) fn init() -> Result<(), InterruptError> {
    interrupts::register(STOP, |_| stop_here())?;
    enable()
}

/// Lets the interrupt through on the calling CPU.
///
/// # Errors
///
/// Those of [`interrupts::enable`].
pub(crate) fn enable() -> Result<(), InterruptError> {
    interrupts::enable(STOP)
}

fn stop_here() -> ! {
    if let Some(cpu) = percpu::try_current() {
        cpu.set_stopped();
    }
    irq_mask::halt()
}

/// Stops all other CPUs, as well as that is possible: the kernel ends, on the calling one.
///
/// A second call by the same CPU does nothing; by another one it does not return.
pub fn stop_others() {
    // Before there is a block there is one CPU.
    let Some(here) = percpu::try_current() else {
        return;
    };
    let me = here.index() + 1;
    match ENDING.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(first) if first == me => return,
        Err(_) => stop_here(),
    }
    // Without a controller nobody was started either.
    if interrupts::send_to_others(STOP).is_err() {
        return;
    }
    let patience = timer::frequency() * PATIENCE.as_millis() as u64 / 1000;
    let until = timer::ticks().saturating_add(patience);
    for _ in 0..LOOKS {
        if running().next().is_none() || timer::ticks() > until {
            return;
        }
        cpu_relax();
    }
}

/// The other CPUs that have not stopped.
fn running() -> impl Iterator<Item = &'static PerCpu> {
    let here = percpu::try_current().map(PerCpu::index);
    percpu::online().filter(move |cpu| Some(cpu.index()) != here && !cpu.is_stopped())
}

/// Writes a line for each CPU that [`stop_others`] did not stop.
///
/// # Errors
///
/// Those of `out`.
pub fn write_running(out: &mut dyn fmt::Write) -> fmt::Result {
    for cpu in running() {
        writeln!(
            out,
            "  CPU {} did not stop: it runs with interrupts masked",
            cpu.index()
        )?;
    }
    Ok(())
}
