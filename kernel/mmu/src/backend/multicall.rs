// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen PV's lazy MMU mode: stores and invalidations in one queue, executed in order.
//!
//! A Xen guest may not write its page tables. It calls the hypervisor for entry writes and for TLB
//! maintenance, and lazy MMU mode collects up to 32 such calls (`MC_BATCH`) for one transition.
//! Both kinds of call wait in one queue, so writes and invalidations keep the order in which they
//! were requested without any further rule (R26).
//!
//! A [`Hypervisor`](crate::Hypervisor) executes the calls. Without one the library executes them on
//! this CPU, which shows the semantics of the strategy on a machine without a hypervisor.
//!
//! The queue is drained when the section is left, paused or flushed; when it is full; when frames
//! or tables are given back; and by the context switch, so a task may be preempted in a section. As
//! in Xen, `ptep_get_and_clear` does not wait: the value that it returns must hold the final access
//! and dirty bits. So an entry is emptied at once, after all waiting stores are executed, and only
//! its invalidation is queued. Outside of an active section nothing waits.

use super::cpu_batch::{wait_in_batch, with_batch};
use super::defer_barriers;
use super::own;
use super::run::{Duty, Fill, Run, Was};
use super::store::{replace, store};
use crate::addr::{Level, PageRange, PhysAddr};
use crate::batch::{Call, Calls, MULTICALLS, NO_CALL, entry_address};
use crate::desc::Desc;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::policy::{self, Owed};
use crate::table::Pte;
use crate::tlbi::{Reach, Scope};

/// Writes a run: queues makes and changes in an active section, and stores everything else at once.
pub(super) fn write_run<K: Kernel>(
    mmu: &Mmu<K>,
    run: Run<'_>,
    fill: Fill<'_>,
    was: Was,
    owed: Owed,
) -> Duty {
    let is_active = mmu.is_active();
    let makes = fill.sample().is_valid();
    if is_active && makes {
        mmu.kernel().current_counters().deferred(run.ptes.len());
        wait_in_batch(mmu, |batch| {
            for (i, pte) in run.ptes.iter().enumerate() {
                let index = run.first() + i;
                let waiting = batch.calls.waiting(run.table, index);
                let seen = waiting.unwrap_or_else(|| mmu.kernel().load(pte));
                let call = Call::Store {
                    entry: entry_address(run.table, index),
                    seen,
                    new: fill.value(i, seen),
                };
                push(mmu, &batch.calls, call);
            }
        });
    } else {
        if is_active {
            before_emptying(mmu);
        } else {
            drain_own(mmu, &run);
        }
        defer_barriers::write_run(mmu, run, fill, owed);
    }
    if was == Was::Live {
        invalidate(mmu, run.scope, run.pages);
    }
    Duty::Backend
}

/// Invalidates what was live in `range` (R27): queues the invalidation in an active section, and
/// executes it now otherwise.
pub(super) fn invalidate<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
    if !mmu.is_active() {
        mmu.invalidate(core::iter::once(range), scope, Reach::Page);
        return;
    }
    wait_in_batch(mmu, |batch| {
        push(mmu, &batch.calls, Call::Invalidate { range, scope });
    });
}

/// Drains the stores that wait, so that an entry is emptied after them.
pub(super) fn before_emptying<K: Kernel>(mmu: &Mmu<K>) {
    with_batch(mmu, |batch| {
        let is_store = |call| matches!(call, Call::Store { .. });
        if batch.calls.iter().any(is_store) {
            drain(mmu, &batch.calls);
        }
    });
}

/// Drains the queue if something waits there for the run, outside of an active section.
#[inline(always)]
pub(super) fn drain_own<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>) {
    own::drain_of_run(mmu, run, |batch| drain(mmu, &batch.calls));
}

fn push<K: Kernel>(mmu: &Mmu<K>, queue: &Calls, call: Call) {
    if queue.is_full() {
        drain(mmu, queue);
    }
    queue.push(call);
}

/// Executes the calls that wait.
pub(super) fn drain<K: Kernel>(mmu: &Mmu<K>, queue: &Calls) {
    if queue.is_empty() {
        return;
    }
    let kernel = mmu.kernel();
    kernel.current_counters().drains(1);
    let mut calls = [NO_CALL; MULTICALLS];
    let len = queue.take(&mut calls);
    let calls = &calls[..len];
    match kernel.hypervisor() {
        Some(hypervisor) => {
            kernel.current_counters().late_stores(stores(calls));
            hypervisor.multicall(calls);
        }
        None => execute(mmu, calls),
    }
}

fn stores(calls: &[Call]) -> usize {
    let is_store = |call: &&Call| matches!(call, Call::Store { .. });
    calls.iter().filter(is_store).count()
}

/// Executes calls without a hypervisor. What the stores owe is noted in the task's state; a drain
/// does not pay it.
///
/// Invalidations share their barriers as far as possible. An invalidation may be executed after
/// later changes of live entries. It is executed before the next make, which may be the second half
/// of a break-before-make (R29), and before the next invalidation of another address space.
fn execute<K: Kernel>(mmu: &Mmu<K>, calls: &[Call]) {
    let mut done = 0;
    let mut waiting = None;
    for (i, call) in calls.iter().enumerate() {
        let goes_on = match *call {
            Call::Store { seen, .. } => seen.is_valid() || waiting.is_none(),
            Call::Invalidate { scope, .. } => waiting.is_none_or(|other| other == scope),
        };
        if !goes_on {
            invalidate_all(mmu, &calls[done..i], waiting);
            (done, waiting) = (i, None);
        }
        match *call {
            Call::Store { entry, seen, new } => execute_store(mmu, entry, seen, new),
            Call::Invalidate { scope, .. } => waiting = Some(scope),
        }
    }
    invalidate_all(mmu, &calls[done..], waiting);
}

/// Executes the invalidations among `calls`, which are all of `scope`, with one set of barriers.
fn invalidate_all<K: Kernel>(mmu: &Mmu<K>, calls: &[Call], scope: Option<Scope>) {
    if let Some(scope) = scope {
        let ranges = calls.iter().filter_map(|call| match call {
            Call::Invalidate { range, .. } => Some(*range),
            Call::Store { .. } => None,
        });
        mmu.invalidate(PageRange::all_joined(ranges), scope, Reach::Page);
    }
}

fn execute_store<K: Kernel>(mmu: &Mmu<K>, entry: PhysAddr, seen: Desc, new: Desc) {
    let kernel = mmu.kernel();
    let table = kernel.table_ptr(entry.frame());
    // SAFETY: the frame is that of a table in which an entry was written in this section. It is not
    // freed: an entry whose value waits counts as in use, and only tables without entries in use
    // are freed. `destroy` drains first, and requires that no other task is in such a section.
    let table = unsafe { table.as_ref() };
    let pte: &Pte = &table.entries()[entry.index_in_table()];
    kernel.current_counters().late_stores(1);
    if seen.is_valid() {
        replace(kernel, pte, seen, new);
    } else {
        store(kernel, pte, new);
    }
    let owed = policy::owed_by(mmu.policy(), Level::L3, new);
    kernel.current_lazy().owe(owed);
}
