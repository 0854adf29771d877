// SPDX-License-Identifier: MIT OR Apache-2.0

//! The handler that the vectors call: it passes each exception to the code that handles it.

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

/// The vectors call it with everything masked; it returns to the interrupted code.
#[unsafe(no_mangle)]
extern "C" fn exception_handler(frame: &mut TrapFrame) {
    match (frame.origin(), frame.kind()) {
        (Origin::El1, Kind::Synchronous) if probe::fix_up(frame) => {}
        (Origin::El1, Kind::Irq) if !frame.stack_was_bad() => irq(),
        _ => report::unexpected(frame),
    }
}

/// Handles an interrupt. IRQs stay masked, so handlers do not nest. At the end the scheduler may
/// switch to another task; the frame stays on the stack of the interrupted one.
fn irq() {
    // The next task may have been switched out outside of an exception, where SError is not masked.
    unmask_serror();
    sched::interrupt(interrupts::dispatch);
}
