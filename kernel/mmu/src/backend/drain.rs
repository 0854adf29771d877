// SPDX-License-Identifier: MIT OR Apache-2.0
//! Draining: storing and invalidating what waits in the CPU's batch.
//!
//! A drain notes what its stores owe in the task's state, and does not pay it; the flush or the end
//! of the section that calls the drain pays afterwards. An invalidation that a caller asks for in a
//! section takes effect after the section's writes (R26), so the public invalidations drain first.
//!
//! In interrupt context a drain could touch the batch of an interrupted task, which must stay as it
//! is (R12). `own.rs` says when something in the batch belongs to the caller all the same.

use super::cpu_batch::{AtWork, with_batch};
use super::own;
use super::request::Request;
use super::run::Duty;
use super::{batch_invalidations, defer_stores, multicall};
use crate::addr::PageRange;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::tlbi::{Reach, Scope};
use core::iter;

/// Drains everything that the task has waiting (R23), even if `set_backend` has changed the
/// strategy since. In interrupt context it does nothing, because the batch is that of the
/// interrupted task (R12).
#[inline]
pub(crate) fn drain<K: Kernel>(mmu: &Mmu<K>) {
    if mmu.kernel().current_lazy().is_waiting() && !mmu.kernel().in_interrupt() {
        drain_batch(mmu);
    }
}

/// Drains on behalf of the task that leaves the CPU, in an interrupt or not. The batch must be
/// empty for the next task, which would neither see nor drain what another task has let wait. If
/// the drain has executed an `ISB`, the task does not owe it again on another CPU (R16), because
/// its arrival there synchronizes the context (step 3 of the protocol in `lazy/switch.rs`).
#[inline]
pub(crate) fn switch_out<K: Kernel>(mmu: &Mmu<K>) {
    let state = mmu.kernel().current_lazy();
    if state.is_waiting() {
        // The mark stays until after the drain, so that `with_batch` offers no preemption: the task
        // is leaving the CPU, perhaps in an interrupt.
        let busy = AtWork::begin(state);
        drain_batch(mmu);
        busy.end();
    }
}

/// Drains, and then executes `request`. In interrupt context it drains only if what waits for the
/// pages of `request` belongs to the caller (`own.rs`). Otherwise the batch keeps waiting, and a
/// later drain does not repeat the invalidation of what `request` has covered in slots.
#[cold]
#[inline(never)]
fn execute_with_batch<K: Kernel>(mmu: &Mmu<K>, request: Request<'_>) {
    if !mmu.kernel().in_interrupt() {
        return drain_batch_and(mmu, Some(request));
    }
    let Some(batch) = own::batch(mmu) else {
        return request.execute(mmu, iter::empty());
    };
    let concerns = |range: &PageRange| batch.concerns(None, request.scope, *range);
    if request.ranges.is_some_and(|all| all.iter().any(concerns)) {
        let busy = AtWork::begin(mmu.kernel().current_lazy());
        drain_batch_and(mmu, Some(request));
        busy.end();
    } else {
        request.execute(mmu, iter::empty());
        batch.slots.iter().for_each(|slot| request.covers_in(slot));
    }
}

#[inline]
fn drain_batch<K: Kernel>(mmu: &Mmu<K>) {
    drain_batch_and(mmu, None);
}

/// Drains, and executes `request` afterwards, or together with an invalidation that the drain
/// executes last.
#[cold]
#[inline(never)]
fn drain_batch_and<K: Kernel>(mmu: &Mmu<K>, request: Option<Request<'_>>) {
    with_batch(mmu, |batch| {
        batch_invalidations::drain(mmu, &batch.invalidations);
        multicall::drain(mmu, &batch.calls);
        defer_stores::drain(mmu, &batch.slots, request);
        mmu.kernel().current_lazy().clear_waiting();
    });
}

/// Completes the invalidation of leaves that were emptied before, perhaps in another context (R25).
/// `duty` says who invalidates them; `invalidate` invalidates them independently of the batch.
///
/// If it is the caller's duty, `invalidate` is called. If it is the strategy's, the invalidation
/// waits in the batch or is complete already, so a drain is enough. In interrupt context the batch
/// of an interrupted task must not be drained (R12), so `invalidate` is called there as well: it
/// drains if the invalidation waits in the batch, which then belongs to the caller (`own.rs`), and
/// executes it in any case.
#[inline]
pub(crate) fn complete_invalidation<K: Kernel>(
    mmu: &Mmu<K>,
    duty: Duty,
    invalidate: impl FnOnce(&Mmu<K>),
) {
    if duty == Duty::Caller {
        invalidate(mmu);
    } else if mmu.kernel().current_lazy().is_waiting() {
        if mmu.kernel().in_interrupt() {
            invalidate(mmu);
        } else {
            drain_batch(mmu);
        }
    }
}

/// Removes the pages of `range` from what the slots must have invalidated. The caller must
/// invalidate a part of `range`, and so invalidates all of it.
#[inline(always)]
pub(crate) fn leave_to_caller<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
    if mmu.kernel().current_lazy().is_waiting() {
        leave_slots_to_caller(mmu, scope, range);
    }
}

#[cold]
#[inline(never)]
fn leave_slots_to_caller<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
    // In an interrupt nothing of the request waits.
    if !mmu.kernel().in_interrupt() {
        with_batch(mmu, |batch| {
            let of_scope = batch.slots.iter().filter(|slot| slot.scope.get() == scope);
            of_scope.for_each(|slot| slot.invalidated(range));
        });
    }
}

/// Drains before tables are freed for which something may wait, or before their lock is released;
/// also in interrupt context.
///
/// The caller holds these tables. In interrupt context, therefore, what waits for them is from the
/// caller itself, a task with bottom halves off, and such a caller is not in the middle of work on
/// the batch. If the task is marked as working on the batch, the caller is an interrupt handler
/// instead, nothing waits for its tables, and the batch stays as it is.
#[inline]
pub(crate) fn drain_own<K: Kernel>(mmu: &Mmu<K>) {
    let state = mmu.kernel().current_lazy();
    if !state.is_waiting() {
        return;
    }
    if !mmu.kernel().in_interrupt() {
        drain_batch(mmu);
    } else if !state.is_busy() {
        switch_out(mmu);
    }
}

impl<K: Kernel> Mmu<K> {
    /// Drains what waits on this CPU, invalidates the TLB entries of `range`, and waits until that
    /// is complete on every CPU: `DSB ISHST`, TLBIs, `DSB ISH`, and for kernel mappings `ISB`.
    /// Linux: `flush_tlb_kernel_range()`, `flush_tlb_range()`.
    pub fn invalidate_range(&self, range: PageRange, scope: Scope, reach: Reach) {
        self.drain_and_invalidate(&[range], scope, reach);
    }

    /// [`Mmu::invalidate_range`] for several ranges, with one set of barriers.
    pub(crate) fn drain_and_invalidate(&self, ranges: &[PageRange], scope: Scope, reach: Reach) {
        if !self.kernel().current_lazy().is_waiting() {
            return self.invalidate(ranges.iter().copied(), scope, reach);
        }
        let ranges = Some(ranges);
        let request = Request {
            ranges,
            scope,
            reach,
        };
        execute_with_batch(self, request);
    }

    /// Drains what waits on this CPU, invalidates every TLB entry of `scope`, those of tables
    /// included, and waits until that is complete on every CPU. Linux: `flush_tlb_all()`,
    /// `flush_tlb_mm()`.
    pub fn invalidate_all(&self, scope: Scope) {
        if !self.kernel().current_lazy().is_waiting() {
            return self.invalidate_everything(scope);
        }
        let request = Request {
            ranges: None,
            scope,
            reach: Reach::Walk,
        };
        execute_with_batch(self, request);
    }
}
