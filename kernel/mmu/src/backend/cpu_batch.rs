// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access to the batch of the CPU that the task runs on.
//!
//! While a task works on a batch it keeps its CPU: the word of its state says that it is busy, and
//! [`crate::Lazy::switch_out`] refuses. So the batch is that CPU's from the first look at it to the last.

use crate::batch::Batch;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::task::Busy;

/// Works on what waits on this CPU.
///
/// # Panics
/// If the kernel has no batch any more: it had one when the strategy was chosen.
#[inline]
pub(super) fn with_batch<K: Kernel, T>(mmu: &Mmu<K>, work: impl FnOnce(&Batch) -> T) -> T {
    let state = mmu.kernel().lazy();
    let before = state.set_busy(Busy::Yes);
    let batch = mmu
        .kernel()
        .batch()
        .expect("Context::batch() had one when the backend was chosen");
    let result = work(batch);
    state.set_busy(before);
    offer_preemption(mmu);
    result
}

/// The same for work that leaves something waiting until the next drain.
#[inline]
pub(super) fn wait_in_batch<K: Kernel, T>(mmu: &Mmu<K>, work: impl FnOnce(&Batch) -> T) -> T {
    with_batch(mmu, |batch| {
        // After "busy" is set. If the mark were set before, a context switch in between would find an empty
        // batch and clear the mark.
        mmu.kernel().lazy().wait();
        work(batch)
    })
}

/// Tells the kernel that the task may be preempted, if it may.
#[inline]
pub(crate) fn offer_preemption<K: Kernel>(mmu: &Mmu<K>) {
    if !mmu.kernel().lazy().stays() {
        mmu.kernel().preemption_point();
    }
}
