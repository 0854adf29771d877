// SPDX-License-Identifier: MIT OR Apache-2.0
//! powerpc's and sparc64's lazy MMU mode: entries are stored at once, and TLB invalidations are
//! collected.
//!
//! Both architectures keep a list per CPU of 192 translations whose entries were changed
//! (`PPC64_TLB_BATCH_NR`, `TLB_BATCH_NR`). They drain the list when the section is left, paused or
//! flushed; when it is full; when an entry of another address space would join it; and when
//! translations must be gone, because frames are given back or an address is mapped again. Here an
//! element of the list is a range, and neighbors are joined.
//!
//! The list belongs to the CPU. Today both architectures disable preemption in a section. Where a
//! task could lose its CPU in a section, `__switch_to()` drained the list and remembered that the
//! section was still open. This strategy does the same: the switch drains the list on the CPU that
//! the task leaves, and what the task empties afterwards waits on its new CPU.
//!
//! Barriers of makes are deferred as on arm64 ([`super::defer_barriers`]).

use super::cpu_batch::{wait_in_batch, with_batch};
use super::defer_barriers;
use super::own;
use super::run::{Duty, Fill, Run, Was};
use crate::addr::PageRange;
use crate::batch::Invalidations;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::policy::Owed;
use crate::tlbi::{Reach, Scope};

/// Writes a run, and queues or executes the invalidation of the old entries.
pub(super) fn write_run<K: Kernel>(
    mmu: &Mmu<K>,
    run: Run<'_>,
    fill: Fill<'_>,
    was: Was,
    owed: Owed,
) -> Duty {
    defer_barriers::write_run(mmu, run, fill, owed);
    if was == Was::Live {
        invalidate(mmu, run.scope, run.pages);
    }
    Duty::Backend
}

/// Invalidates what was live in `range` (R27): with the next drain in an active section, and now
/// otherwise.
pub(super) fn invalidate<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
    if !mmu.is_active() {
        mmu.invalidate(core::iter::once(range), scope, Reach::Page);
        return;
    }
    wait_in_batch(mmu, |batch| {
        let list = &batch.invalidations;
        if !list.add(scope, range) {
            drain(mmu, list);
            list.add(scope, range);
        }
    });
}

/// Executes the invalidations that wait for pages of `range`, before they are mapped again (R27,
/// R29).
#[cold]
pub(super) fn before_make<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
    if mmu.is_active() {
        with_batch(mmu, |batch| {
            if batch.invalidations.meets(scope, range) {
                drain(mmu, &batch.invalidations);
            }
        });
    } else {
        own::drain_of_pages(mmu, scope, range, |batch| {
            drain(mmu, &batch.invalidations);
        });
    }
}

/// Invalidates the ranges in `list`, waits until that is complete, and empties the list.
pub(super) fn drain<K: Kernel>(mmu: &Mmu<K>, list: &Invalidations) {
    if !list.is_empty() {
        mmu.kernel().current_counters().drains(1);
        mmu.invalidate(list.ranges(), list.scope(), Reach::Page);
        list.clear();
    }
}
