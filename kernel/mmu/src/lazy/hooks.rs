// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hooks that run when lazy MMU mode is entered, flushed and left. Linux:
//! `arch_enter_lazy_mmu_mode()`, `arch_flush_lazy_mmu_mode()`, `arch_leave_lazy_mmu_mode()`.
//!
//! They run only when the counters change (R9; the table in the [module text](super)), and never in
//! an interrupt. They do not read the counters: when the last `leave` runs, the mode is inactive
//! already (R10).

use crate::backend;
use crate::counters::Counters;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;

/// The mode becomes active. A strategy that is not preemptible binds the task to its CPU.
#[inline]
pub(super) fn enter<K: Kernel>(mmu: &Mmu<K>, counters: &Counters) {
    counters.enter(1);
    if !mmu.backend().is_preemptible() {
        mmu.kernel().current_lazy().bind();
    }
}

/// The mode stays active, and all earlier writes take effect: drains what waits, then pays what the
/// task owes.
#[inline]
pub(super) fn flush<K: Kernel>(mmu: &Mmu<K>) {
    let counters = mmu.kernel().current_counters();
    counters.flush(1);
    backend::drain(mmu);
    mmu.pay_all(counters);
}

/// The mode is not active any more, and all earlier writes take effect: drains what waits, lets the
/// task leave its CPU again, then pays what it owes.
#[inline]
pub(super) fn leave<K: Kernel>(mmu: &Mmu<K>) {
    let counters = mmu.kernel().current_counters();
    counters.leave(1);
    if mmu.kernel().current_lazy().is_waiting_or_bound() {
        let_go(mmu);
    }
    mmu.pay_all(counters);
}

/// Drains the CPU's batch, and only then lets the task leave the CPU.
#[cold]
#[inline(never)]
fn let_go<K: Kernel>(mmu: &Mmu<K>) {
    backend::drain(mmu);
    mmu.kernel().current_lazy().unbind();
    backend::offer_preemption(mmu);
}
