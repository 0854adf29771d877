// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access to the batch of the CPU that the task runs on.
//!
//! While a task works on a batch it keeps its CPU: the word of its state says that it is busy, and
//! [`crate::Lazy::switch_out`] refuses. So the batch is that CPU's from the first look at it to the
//! last.

use crate::batch::Batch;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::task::{Busy, LazyMmuState};
use core::mem;

/// Works on what waits on this CPU.
///
/// # Panics
/// If the kernel has no batch any more: it had one when the strategy was chosen.
#[inline]
pub(super) fn with_batch<K: Kernel, T>(mmu: &Mmu<K>, work: impl FnOnce(&Batch) -> T) -> T {
    let busy = AtWork::begin(mmu.kernel().current_lazy());
    let batch = mmu
        .kernel()
        .batch()
        .expect("Context::batch() had one when the backend was chosen");
    let result = work(batch);
    busy.end();
    offer_preemption(mmu);
    result
}

/// The task's mark that it is at work on a batch. It goes when the work ends, also if a hypervisor's call panics.
pub(super) struct AtWork<'a> {
    state: &'a LazyMmuState,
    before: Busy,
}

impl<'a> AtWork<'a> {
    #[inline(always)]
    pub(super) fn begin(state: &'a LazyMmuState) -> Self {
        Self {
            state,
            before: state.set_busy(Busy::Yes),
        }
    }

    #[inline(always)]
    pub(super) fn end(self) {
        self.state.set_busy(self.before);
        mem::forget(self);
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.state.set_busy(self.before);
    }
}

/// The same for work that leaves something waiting until the next drain.
#[inline]
pub(super) fn wait_in_batch<K: Kernel, T>(mmu: &Mmu<K>, work: impl FnOnce(&Batch) -> T) -> T {
    with_batch(mmu, |batch| {
        // After "busy" is set. If the mark were set before, a context switch in between would find
        // an empty batch and clear the mark.
        mmu.kernel().current_lazy().set_waiting();
        work(batch)
    })
}

/// Calls `preemption_point` unless the task must keep its CPU.
#[inline]
pub(crate) fn offer_preemption<K: Kernel>(mmu: &Mmu<K>) {
    if !mmu.kernel().current_lazy().stays() {
        mmu.kernel().preemption_point();
    }
}
