// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stops the other CPUs when one CPU ends the kernel. Reports then do not interleave, and no CPU
//! continues to run on broken data.
//!
//! The protocol:
//!
//! 1. The first CPU that ends the kernel enters its number in `ENDING`.
//! 2. It sends the others an interrupt whose handler halts.
//! 3. It waits for them, for [`PATIENCE`] at most: a CPU that has its interrupts masked does not
//!    take the interrupt.
//!
//! A CPU that wants to end the kernel meanwhile finds `ENDING` set and halts without a report. No
//! lock is taken and nothing is allocated, because this code runs in panics and exception reports.

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

/// The software-generated interrupt. By convention 0 to 7 belong to the non-secure side.
const STOP: IntId = IntId::sgi(7);

/// The longest wait for the other CPUs.
const PATIENCE: Duration = Duration::from_millis(200);
/// The greatest number of polls, in case that the counter does not count.
const LOOKS: u32 = 100_000_000;

/// 1 + the number of the CPU that ends the kernel; 0 while there is none.
static ENDING: AtomicU32 = AtomicU32::new(0);

/// Registers the handler, on the boot CPU.
///
/// # Errors
///
/// Errors of [`interrupts::register`] and [`interrupts::enable`].
pub(crate) fn init() -> Result<(), InterruptError> {
    interrupts::register(STOP, |_| stop_here())?;
    enable()
}

/// Enables the interrupt on the calling CPU.
///
/// # Errors
///
/// Errors of [`interrupts::enable`].
pub(crate) fn enable() -> Result<(), InterruptError> {
    interrupts::enable(STOP)
}

fn stop_here() -> ! {
    if let Some(cpu) = percpu::try_current() {
        cpu.set_stopped();
    }
    irq_mask::halt()
}

/// Stops all other CPUs as far as possible, because the calling CPU ends the kernel.
///
/// A second call by the same CPU does nothing. A call by another CPU does not return.
pub fn stop_others() {
    // Before the per-CPU block exists, only this CPU runs.
    let Some(here) = percpu::try_current() else {
        return;
    };
    let me = here.index() + 1;
    match ENDING.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(first) if first == me => return,
        Err(_) => stop_here(),
    }
    // Without an interrupt controller no other CPU has been started.
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
/// Errors of `out`.
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
