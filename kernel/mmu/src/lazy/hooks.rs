// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hooks that run when lazy MMU mode is entered, flushed and left. Linux: `arch_enter_lazy_mmu_mode()`,
//! `arch_flush_lazy_mmu_mode()`, `arch_leave_lazy_mmu_mode()`.
//!
//! They run on the transitions of the counters and on nothing else (R9), never in an interrupt. They do not ask
//! the counters: when the last `leave` runs, the mode is inactive already (R10).

use crate::backend;
use crate::counters::Counters;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;

/// The mode becomes active.
#[inline]
pub(super) fn enter<K: Kernel>(mmu: &Mmu<K>, counters: &Counters) {
    counters.enter(1);
    if !mmu.backend().is_preemptible() {
        mmu.kernel().current_lazy().bind();
    }
}

/// The mode stays active, and all earlier writes take effect: what waits is drained, what is owed is paid.
#[inline]
pub(super) fn flush<K: Kernel>(mmu: &Mmu<K>) {
    let counters = mmu.kernel().current_counters();
    counters.flush(1);
    backend::drain(mmu);
    mmu.pay_all(counters);
}

/// The mode is not active any more, and all earlier writes take effect.
#[inline]
pub(super) fn leave<K: Kernel>(mmu: &Mmu<K>) {
    let counters = mmu.kernel().current_counters();
    counters.leave(1);
    if mmu.kernel().current_lazy().is_waiting_or_bound() {
        let_go(mmu);
    }
    mmu.pay_all(counters);
}

/// The task drains its CPU's batch first, and only then may it leave the CPU.
#[cold]
#[inline(never)]
fn let_go<K: Kernel>(mmu: &Mmu<K>) {
    backend::drain(mmu);
    mmu.kernel().current_lazy().unbind();
    backend::offer_preemption(mmu);
}
