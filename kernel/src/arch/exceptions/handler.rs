// SPDX-License-Identifier: MIT OR Apache-2.0

//! From the vectors to whoever is responsible.

use super::{
    frame::{Kind, Origin, TrapFrame},
    report,
};
use crate::{
    arch::{percpu, probe},
    platform::interrupts,
};

/// Called by the vectors with everything masked; returns to the interrupted code.
pub(super) extern "C" fn handle(frame: &mut TrapFrame) {
    match (frame.origin(), frame.kind()) {
        (Origin::El1, Kind::Synchronous) if probe::fix_up(frame) => {}
        (Origin::El1, Kind::Irq) if !frame.stack_was_bad() => irq(),
        _ => report::unexpected(frame),
    }
}

/// An interrupt. Masked throughout: handlers do not nest.
fn irq() {
    let cpu = percpu::current();
    cpu.enter_irq();
    interrupts::dispatch();
    cpu.leave_irq();
}
