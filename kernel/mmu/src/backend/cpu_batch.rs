// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access to the batch of the CPU on which the task runs.
//!
//! While a task works on the batch it keeps its CPU: the word of its state has the mark `BUSY`, and
//! [`crate::Lazy::switch_out`] refuses. So from the first access to the last, the batch is that of
//! the CPU on which the task runs.

use crate::batch::Batch;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::task::{Busy, LazyMmuState};
use core::mem;

/// Calls `work` with the batch of this CPU. Offers a preemption afterwards, in case one was refused
/// during the work.
///
/// # Panics
/// If [`crate::Context::batch`] returns `None` although it returned a batch when the strategy was
/// chosen.
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

/// The mark `BUSY` of a task that works on a batch. It is removed when the work ends, also if a
/// call of a hypervisor panics.
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

/// [`with_batch`] for work that leaves something waiting until the next drain.
#[inline]
pub(super) fn wait_in_batch<K: Kernel, T>(mmu: &Mmu<K>, work: impl FnOnce(&Batch) -> T) -> T {
    with_batch(mmu, |batch| {
        // After "busy" is set. If the mark were set before, a context switch in between would find
        // an empty batch and clear the mark.
        mmu.kernel().current_lazy().set_waiting();
        work(batch)
    })
}

/// Calls [`crate::Context::preemption_point`] unless the task must keep its CPU.
#[inline]
pub(crate) fn offer_preemption<K: Kernel>(mmu: &Mmu<K>) {
    if !mmu.kernel().current_lazy().stays() {
        mmu.kernel().preemption_point();
    }
}
