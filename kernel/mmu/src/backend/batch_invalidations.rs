// SPDX-License-Identifier: MIT OR Apache-2.0
//! powerpc's and sparc64's lazy MMU mode: stores at once, TLB invalidations together.
//!
//! Both keep a list of 192 translations per CPU (`PPC64_TLB_BATCH_NR`, `TLB_BATCH_NR`) whose entries
//! were changed, and invalidate them when the section is left, paused or flushed; when the list is
//! full; when an entry of another address space would join it; and when somebody needs
//! them gone, because frames are about to be given back or an address is to be mapped again.
//! Here an element of the list is a range, and neighbors are joined.
//!
//! The list is the CPU's. Both architectures switch preemption off in a section today; before, and where a
//! task lost its CPU all the same, `__switch_to()` drained the list and remembered that the section went on. So
//! does this backend: what waits is invalidated at the switch, on the CPU that the task leaves, and what the task
//! empties later waits anew, wherever it runs by then.
//!
//! Barriers of makes are deferred as arm64 does it ([`super::defer_barriers`]).

use super::defer_barriers::DeferBarriers;
use super::{Duty, Fill, Run, Strategy, Was};
use crate::addr::PageRange;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::policy::Owed;
use crate::tlbi::{Reach, Scope};
use core::cell::Cell;
use core::fmt;

/// Ranges that wait at most.
pub const BATCHED_RANGES: usize = 192;

/// Ranges of one scope whose invalidation waits.
pub(super) struct Invalidations {
    scope: Cell<Scope>,
    len: Cell<usize>,
    ranges: [Cell<PageRange>; BATCHED_RANGES],
}

impl Invalidations {
    pub(super) const fn new() -> Self {
        Self {
            scope: Cell::new(Scope::AllAsids),
            len: Cell::new(0),
            ranges: [const { Cell::new(PageRange::NONE) }; BATCHED_RANGES],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    fn ranges(&self) -> impl Iterator<Item = PageRange> + Clone {
        self.ranges[..self.len.get()].iter().map(Cell::get)
    }

    fn meets(&self, scope: Scope, range: PageRange) -> bool {
        !self.is_empty()
            && self.scope.get() == scope
            && self.ranges().any(|known| known.meets(range))
    }

    /// Takes `range` on; `false` if the list has to be drained before.
    fn add(&self, scope: Scope, range: PageRange) -> bool {
        let len = self.len.get();
        if len == 0 {
            self.scope.set(scope);
        } else if self.scope.get() != scope {
            return false;
        } else if let Some(joined) = self.ranges[len - 1].get().joined(range) {
            self.ranges[len - 1].set(joined);
            return true;
        } else if len == BATCHED_RANGES {
            return false;
        }
        self.ranges[len].set(range);
        self.len.set(len + 1);
        true
    }

    /// Invalidates what waits, and waits for it.
    pub(super) fn drain<K: Kernel>(&self, mmu: &Mmu<K>) {
        if !self.is_empty() {
            mmu.kernel().counters().drains(1);
            mmu.invalidate(self.ranges(), self.scope.get(), Reach::Leaf);
            self.len.set(0);
        }
    }
}

impl fmt::Debug for Invalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

#[derive(Debug)]
pub(super) struct BatchInvalidations;

impl BatchInvalidations {
    /// R27: the invalidation of what was live in `range`, later or now.
    pub(super) fn invalidate<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
        super::invalidate_later_or_now(mmu, scope, range, |batch| {
            let list = &batch.invalidations;
            if !list.add(scope, range) {
                list.drain(mmu);
                list.add(scope, range);
            }
        });
    }

    /// R27, R29: what a TLB may hold for `range` goes before something else is made there.
    #[cold]
    pub(super) fn before_make<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
        if mmu.lazy().is_lazy_mmu_mode_active() {
            mmu.with_batch(|batch| {
                if batch.invalidations.meets(scope, range) {
                    batch.invalidations.drain(mmu);
                }
            });
        }
    }
}

impl Strategy for BatchInvalidations {
    fn write_run<K: Kernel>(
        mmu: &Mmu<K>,
        run: Run<'_>,
        fill: Fill<'_>,
        was: Was,
        owed: Owed,
    ) -> Duty {
        DeferBarriers::write_run(mmu, run, fill, was, owed);
        if was == Was::Live {
            Self::invalidate(mmu, run.scope, run.pages);
        }
        Duty::Backend
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Asid, PAGE_SIZE};

    fn page(n: u64) -> PageRange {
        PageRange::new(n * PAGE_SIZE, 1).unwrap()
    }

    #[test]
    fn neighbors_share_an_element_and_another_space_none() {
        let list = Invalidations::new();
        let (a, b) = (Scope::Asid(Asid(1)), Scope::Asid(Asid(2)));
        assert!(list.add(a, page(7)) && list.add(a, page(8)) && list.add(a, page(6)));
        assert_eq!(list.len.get(), 1);
        assert!(list.meets(a, page(6)) && !list.meets(a, page(9)));
        assert!(!list.meets(b, page(6)));
        assert!(!list.add(b, page(9)), "one scope");
        for n in 1..BATCHED_RANGES as u64 {
            assert!(list.add(a, page(8 + 2 * n)), "{n}");
        }
        assert!(!list.add(a, page(4000)), "full");
        assert!(
            list.add(a, page(9 + 2 * (BATCHED_RANGES as u64 - 1))),
            "a neighbor of the last needs no room"
        );
    }
}
