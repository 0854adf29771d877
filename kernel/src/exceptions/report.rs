// SPDX-License-Identifier: MIT OR Apache-2.0

//! The report of an unexpected exception, which ends the kernel.
//!
//! A report has this form (`cargo xtask` adds names to the backtrace):
//!
//! ```text
//! exception: data abort from EL1, translation fault at level 3, write, at 0xffff800000001000
//!   vector 4 (EL1, synchronous), CPU 0
//!   walk of 0xffff800000001000: ...
//!   esr ...  elr ...  spsr ...  sp ...
//!   x0 ...
//! backtrace:
//!   #0 0xffffffff80081234
//! lazymmu: exit 3
//! ```
//!
//! If the walk of the tables faults, a second, short report says so, and the kernel ends all the
//! same.

use crate::{
    arch::{
        backtrace,
        exceptions::{
            esr::{AccessKind, Esr},
            frame::{Kind, TrapFrame},
        },
        interrupts, percpu,
    },
    mm::fault,
    platform::{
        console::Emergency,
        exit::{Status, exit},
        stop,
    },
    sched,
};
use core::fmt::{self, Write};

/// Reports the exception and ends the kernel.
pub(super) fn unexpected(frame: &TrapFrame) -> ! {
    interrupts::mask_all();
    // The stack in use may have room for the frame and nothing else.
    percpu::current().on_emergency_stack(report, frame)
}

extern "C" fn report(frame: &TrapFrame) -> ! {
    // This comes first: from here on only this CPU prints.
    stop::stop_others();
    let failed = percpu::current().begin_ending();
    let mut out = Emergency::after(failed);
    // The emergency writer never fails.
    let _ = match failed {
        0 => write_report(frame, &mut out),
        1 | 2 => write_short(frame, &mut out),
        // Reporting and ending have failed three times.
        _ => interrupts::halt(),
    };
    exit(Status::Exception)
}

/// The first line, without the address.
fn write_title(frame: &TrapFrame, out: &mut Emergency) -> fmt::Result {
    match frame.kind() {
        Kind::Synchronous => write!(out, "exception: {}", Esr::new(frame.esr)),
        Kind::SError => write!(out, "exception: SError (asynchronous external abort)"),
        Kind::Irq => write!(out, "exception: IRQ from {}", frame.origin()),
        Kind::Fiq => write!(out, "exception: FIQ from {}", frame.origin()),
    }
}

fn write_short(frame: &TrapFrame, out: &mut Emergency) -> fmt::Result {
    write_title(frame, out)?;
    writeln!(out, ", at {:#018x}, while reporting", frame.far)?;
    writeln!(out, "  elr {:#018x}  sp {:#018x}", frame.elr, frame.sp)
}

fn write_report(frame: &TrapFrame, out: &mut Emergency) -> fmt::Result {
    let cpu = percpu::current();
    let esr = Esr::new(frame.esr);
    let address = (frame.kind() == Kind::Synchronous && esr.has_address()).then_some(frame.far);
    let (stack, emergency) = (cpu.stack(), cpu.emergency_stack());

    if frame.overflowed(stack) {
        writeln!(
            out,
            "exception: kernel stack overflow: SP {:#018x}, stack {:#018x}..{:#018x}",
            frame.sp, stack.bottom, stack.top
        )?;
        write!(out, "  found by: ")?;
    }
    write_title(frame, out)?;
    if let Some(far) = address {
        write!(out, ", at {far:#018x}")?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "  vector {} ({}, {}), CPU {}, task {}, {} interrupts deep",
        frame.vector(),
        frame.origin(),
        frame.kind(),
        cpu.index(),
        sched::current().name(),
        sched::interrupt_depth()
    )?;
    stop::write_running(out)?;
    if frame.stack_was_bad() && !frame.overflowed(stack) {
        writeln!(
            out,
            "  SP {:#018x} is not on the stack {:#018x}..{:#018x}",
            frame.sp, stack.bottom, stack.top
        )?;
    }
    if let Some(far) = address {
        write!(out, "  walk of {far:#018x}: ")?;
        fault::explain(far, out)?;
        writeln!(out)?;
    }
    writeln!(
        out,
        "  esr {:#010x}  far {:#018x}  spsr {:#010x} ({})",
        frame.esr,
        frame.far,
        frame.spsr,
        Pstate(frame.spsr)
    )?;
    writeln!(out, "  elr {:#018x}  sp  {:#018x}", frame.elr, frame.sp)?;
    for (index, value) in frame.x.iter().enumerate() {
        let separator = if index % 4 == 3 || index == 30 {
            "\n"
        } else {
            ""
        };
        write!(out, "  x{index:<2} {value:#018x}{separator}")?;
    }
    let stacks = [emergency, stack];
    let jumped = esr.access() == Some(AccessKind::Fetch) && frame.elr == frame.far;
    if jumped {
        // A call or jump to an address without code. No function has begun there, so the caller, if
        // it was a call, is still in x30 and not in a frame record.
        writeln!(
            out,
            "  jumped to {:#018x}; x30 is the caller below if it was a call",
            frame.elr
        )?;
        return backtrace::write_called(
            out,
            frame.elr,
            frame.x[30],
            frame.x[29],
            &stacks,
            backtrace::read_stack,
        );
    }
    backtrace::write(out, frame.elr, frame.x[29], &stacks, backtrace::read_stack)
}

/// The fields of a saved PSTATE that matter in a report.
struct Pstate(u64);

impl fmt::Display for Pstate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 & 0x1f {
            0b0_0000 => "EL0",
            0b0_0100 => "EL1 on SP_EL0",
            0b0_0101 => "EL1",
            0b1_0000..=0b1_1111 => "AArch32",
            _ => "unknown level",
        })?;
        f.write_str(", masked: ")?;
        if self.0 & 0x3c0 == 0 {
            return f.write_str("nothing");
        }
        for (bit, name) in [(9, "D"), (8, "A"), (7, "I"), (6, "F")] {
            if self.0 >> bit & 1 != 0 {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}
