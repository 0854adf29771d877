// SPDX-License-Identifier: MIT OR Apache-2.0

//! The panic handler: it prints message, place and backtrace, and ends with status 2.
//!
//! It uses the emergency stack and writer. Its attempts are counted for each CPU together with
//! those of exception reports. A panic inside a report, or a report inside a panic, is printed as
//! one line, twice at most; after that the CPU halts.

use crate::{
    arch::{
        backtrace, interrupts,
        percpu::{self, PerCpu},
    },
    platform::{
        console::Emergency,
        exit::{Status, exit},
        stop,
    },
    sched,
};
use core::{fmt::Write, panic::PanicInfo};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    interrupts::mask_all();
    match percpu::try_current() {
        Some(cpu) => cpu.on_emergency_stack(report, info),
        None => report(info),
    }
}

extern "C" fn report(info: &PanicInfo<'_>) -> ! {
    // This comes first: from here on only this CPU prints.
    stop::stop_others();
    // Before the per-CPU block exists there are no vectors, so only this handler can recurse.
    let failed = percpu::try_current().map_or(0, PerCpu::begin_ending);
    let mut out = Emergency::after(failed);
    // The emergency writer never fails. A value's own `Display` may fail; then the rest is missing.
    let _ = match failed {
        0 => write_report(info, &mut out),
        1 | 2 => writeln!(out, "panic: {}, while reporting", info.message()),
        // Reporting and ending have failed three times.
        _ => interrupts::halt(),
    };
    exit(Status::Panic)
}

fn write_report(info: &PanicInfo<'_>, out: &mut Emergency) -> core::fmt::Result {
    writeln!(out, "panic: {}", info.message())?;
    if let Some(location) = info.location() {
        writeln!(out, "  at {location}")?;
    }
    let Some(cpu) = percpu::try_current() else {
        return Ok(());
    };
    writeln!(
        out,
        "  CPU {}, task {}, {} interrupts deep",
        cpu.index(),
        sched::current().name(),
        sched::interrupt_depth()
    )?;
    stop::write_running(out)?;
    backtrace::write_current(out)
}
