// SPDX-License-Identifier: MIT OR Apache-2.0

//! From the vectors to whoever is responsible.

use super::report;
use crate::{
    arch::{
        exceptions::frame::{Kind, Origin, TrapFrame},
        interrupts::unmask_serror,
        probe,
    },
    platform::interrupts,
    sched,
};

/// Called by the vectors with everything masked; returns to the interrupted code.
#[unsafe(no_mangle)]
extern "C" fn exception_handler(frame: &mut TrapFrame) {
    match (frame.origin(), frame.kind()) {
        (Origin::El1, Kind::Synchronous) if probe::fix_up(frame) => {}
        (Origin::El1, Kind::Irq) if !frame.stack_was_bad() => irq(),
        _ => report::unexpected(frame),
    }
}

/// An interrupt. Masked throughout: handlers do not nest. At its end another task may get the CPU; the frame
/// stays on the stack of the one that was interrupted.
fn irq() {
    // The task that comes next may have left its CPU outside of an exception, where SError is not masked.
    unmask_serror();
    sched::interrupt(interrupts::dispatch);
}
