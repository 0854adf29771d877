// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls in interrupt context for entries for which something of the caller waits.
//!
//! There are two callers in interrupt context ([`crate::Context::in_interrupt`]):
//!
//! * An interrupt handler. It must leave the batch of the interrupted task as it is (R12), and it
//!   must not change entries for which that task has let something wait (R43).
//! * A task that has turned bottom halves off inside its section. Its own stores and invalidations
//!   may wait in the batch.
//!
//! The entries tell the two apart: if something waits for an entry of the call, the caller is the
//! task. A read then returns the value that waits (R20). Before a write, and before an invalidation
//! (R26), the batch is drained. Otherwise the waiting store would be executed after the store of
//! the call, or an entry would be made before its old value is invalidated (R27).
//!
//! If the task is marked as working on the batch, an interrupt handler has interrupted that work.
//! It must not read the batch.

use super::cpu_batch::AtWork;
use super::run::Run;
use crate::addr::{Frame, PageRange};
use crate::batch::Batch;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::tlbi::Scope;

/// The batch of the CPU, for a call in interrupt context, unless the task is working on it.
pub(super) fn batch<K: Kernel>(mmu: &Mmu<K>) -> Option<&Batch> {
    let kernel = mmu.kernel();
    let is_at_work = kernel.current_lazy().is_busy();
    kernel.batch().filter(|_| !is_at_work)
}

/// Calls `drain` if something waits for an entry of `run`, before the run is written outside of an
/// active section.
#[inline(always)]
pub(super) fn drain_of_run<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>, drain: impl FnOnce(&Batch)) {
    if mmu.kernel().current_lazy().is_waiting() {
        drain_if_own(mmu, Some(run.table), (run.scope, run.pages), drain);
    }
}

/// Calls `drain` if something waits for one of `pages`, before they are invalidated, or mapped by a
/// strategy whose stores do not wait.
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
