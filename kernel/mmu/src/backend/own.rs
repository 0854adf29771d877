// SPDX-License-Identifier: MIT OR Apache-2.0
//! What waits for the very entries of a call in interrupt context.
//!
//! An interrupt leaves the batch of the interrupted task alone (R12), and the entries that the task has let
//! wait are not the interrupt's to change (R43). Bottom halves off counts as interrupt context, too
//! ([`crate::Context::in_interrupt`]), and the caller is then the task itself, whose own stores and
//! invalidations may wait in the batch. Both cases are told apart by the entries: if something waits for
//! those of the call, it is the caller's own. A read sees the value that waits (R20). Before a write, and before
//! an invalidation (R26), the batch is drained: a store that waits would otherwise be executed after the one
//! of the call, and an entry would be made before its old value is invalidated (R27).
//!
//! If the task was interrupted at work on the batch, the caller is an interrupt, and does not look.

use super::cpu_batch::AtWork;
use super::run::Run;
use crate::addr::{Frame, PageRange};
use crate::batch::Batch;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::tlbi::Scope;

/// In interrupt context, the batch of the CPU, unless somebody is at work on it.
pub(super) fn batch<K: Kernel>(mmu: &Mmu<K>) -> Option<&Batch> {
    let kernel = mmu.kernel();
    let is_at_work = kernel.current_lazy().is_busy();
    kernel.batch().filter(|_| !is_at_work)
}

/// Before a run is written outside of an active section: calls `drain` if something waits for one of its entries.
#[inline(always)]
pub(super) fn drain_of_run<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>, drain: impl FnOnce(&Batch)) {
    if mmu.kernel().current_lazy().is_waiting() {
        drain_if_own(mmu, Some(run.table), (run.scope, run.pages), drain);
    }
}

/// The same before `pages` are invalidated, or mapped where stores do not wait.
#[inline(always)]
pub(super) fn drain_of_pages<K: Kernel>(
    mmu: &Mmu<K>,
    scope: Scope,
    pages: PageRange,
    drain: impl FnOnce(&Batch),
) {
    if mmu.kernel().current_lazy().is_waiting() {
        drain_if_own(mmu, None, (scope, pages), drain);
    }
}

#[cold]
#[inline(never)]
fn drain_if_own<K: Kernel>(
    mmu: &Mmu<K>,
    table: Option<Frame>,
    (scope, pages): (Scope, PageRange),
    drain: impl FnOnce(&Batch),
) {
    let concerned = batch(mmu).filter(|batch| batch.concerns(table, scope, pages));
    if let Some(batch) = concerned {
        // No preemption is offered afterwards: bottom halves are off.
        let busy = AtWork::begin(mmu.kernel().current_lazy());
        drain(batch);
        if batch.is_empty() {
            mmu.kernel().current_lazy().clear_waiting();
        }
        busy.end();
    }
}
