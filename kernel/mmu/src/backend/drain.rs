// SPDX-License-Identifier: MIT OR Apache-2.0
//! Draining: what waits in the CPU's batch is stored and invalidated.
//!
//! A drain pays no barriers: what the stores owe is owed by the task afterwards. An invalidation
//! that was asked for in a section takes effect after the section's writes (R26), so the public
//! invalidations drain first.

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
/// strategy since. In an interrupt nothing happens: what waits is the interrupted task's (R12).
#[inline]
pub(crate) fn drain<K: Kernel>(mmu: &Mmu<K>) {
    if mmu.kernel().current_lazy().is_waiting() && !mmu.kernel().in_interrupt() {
        drain_batch(mmu);
    }
}

/// Drains on behalf of the task that leaves the CPU, in an interrupt or not. Afterwards the batch
/// is as empty as the next task must find it: the next task would neither see nor drain what
/// another one let wait. The arrival on another CPU synchronizes its context (step 3 of the
/// protocol in `lazy/switch.rs`), so the `ISB` that the drain executed here is not owed again
/// (R16).
#[inline]
pub(crate) fn switch_out<K: Kernel>(mmu: &Mmu<K>) {
    let state = mmu.kernel().current_lazy();
    if state.is_waiting() {
        // Busy until after the drain: the task is leaving the CPU, and in an interrupt perhaps, so
        // no preemption is offered to it.
        let busy = AtWork::begin(state);
        drain_batch(mmu);
        busy.end();
    }
}

/// Executes `request` after what waits. In interrupt context that is drained only if it is the caller's
/// own (`own.rs`); otherwise the request is executed beside it, and a later drain does not
/// invalidate again what it has covered in slots.
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

/// Drains, and executes `request` afterwards, with an invalidation that the drain executes anyway
/// where there is one.
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

/// Completes the invalidation of leaves that were emptied before, perhaps in another context (R25). `duty` says who
/// invalidates them, and `invalidate` does it beside the batch.
///
/// If the strategy does, the invalidation waits in the batch, unless it is done already, and a drain executes it. In
/// interrupt context nothing of an interrupted task may be drained (R12), so `invalidate` is called: it drains if the
/// invalidation waits in the batch, which is then the caller's own (`own.rs`), and executes it in any case.
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

/// Leaves the invalidation of all of `range` to the caller, who has to do it for a part of it: what waits in slots for these
/// pages is not invalidated by the strategy as well.
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

/// Drains before tables are freed in which something may wait, or their lock is released; in
/// interrupt context as well. There, what waits for these tables is the caller's own (bottom halves
/// are off), so it is not at work on the batch. A task that an interrupt has found at work on it
/// has nothing waiting for these tables, because their owner is the caller.
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

    /// The same for several ranges, with one set of barriers.
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
