// SPDX-License-Identifier: MIT OR Apache-2.0

//! The panic handler: message, place, backtrace, status 2.
//!
//! It uses the emergency writer and counts its attempts per CPU together with exception reports, so
//! that a panic inside a report (or a report inside a panic) is told in one line, and a third one
//! not at all: it ends.

use super::{
    console::Emergency,
    exit::{Status, exit},
};
use crate::arch::{backtrace, interrupts, percpu, sysreg};
use core::{fmt::Write, panic::PanicInfo};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    interrupts::mask_all();
    // Before the per-CPU block there are no vectors either: nothing can recurse but this handler.
    let before = if sysreg::tpidr() == 0 {
        0
    } else {
        percpu::current().begin_ending()
    };
    let mut out = Emergency::new();
    // The emergency writer never fails; a value's own `Display` may, then the rest is missing.
    let _ = match before {
        0 => write_report(info, &mut out),
        1 => writeln!(out, "\npanic: {}, while reporting", info.message()),
        _ => Ok(()),
    };
    exit(Status::Panic)
}

fn write_report(info: &PanicInfo<'_>, out: &mut Emergency) -> core::fmt::Result {
    writeln!(out, "panic: {}", info.message())?;
    if let Some(location) = info.location() {
        writeln!(out, "  at {location}")?;
    }
    if sysreg::tpidr() == 0 {
        return Ok(());
    }
    let cpu = percpu::current();
    writeln!(
        out,
        "  CPU {}, {} interrupts deep",
        cpu.index(),
        cpu.irq_depth()
    )?;
    backtrace::write_current(out)
}
