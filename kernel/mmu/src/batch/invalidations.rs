// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue of [`crate::Backend::BatchInvalidations`]: ranges of one address space whose
//! invalidation waits.

use crate::addr::PageRange;
use crate::tlbi::Scope;
use core::cell::Cell;
use core::fmt;

/// Capacity of the queue, in ranges.
pub const BATCHED_RANGES: usize = 192;

/// Ranges of one scope whose invalidation waits.
pub(crate) struct Invalidations {
    scope: Cell<Scope>,
    len: Cell<usize>,
    ranges: [Cell<PageRange>; BATCHED_RANGES],
}

impl Invalidations {
    pub(crate) const fn new() -> Self {
        Self {
            scope: Cell::new(Scope::AllAsids),
            len: Cell::new(0),
            ranges: [const { Cell::new(PageRange::NONE) }; BATCHED_RANGES],
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    /// The ranges that wait.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = PageRange> + Clone {
        self.ranges[..self.len.get()].iter().map(Cell::get)
    }

    /// Whether the invalidation of a page of `range` in `scope` waits.
    pub(crate) fn meets(&self, scope: Scope, range: PageRange) -> bool {
        !self.is_empty()
            && self.scope.get() == scope
            && self.ranges().any(|known| known.meets(range))
    }

    /// Adds `range`. Returns `false`, and adds nothing, if the list must be drained first: it is
    /// full, or holds ranges of another scope.
    pub(crate) fn add(&self, scope: Scope, range: PageRange) -> bool {
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

    /// The scope of the ranges that wait.
    pub(crate) fn scope(&self) -> Scope {
        self.scope.get()
    }

    /// Empties the list, after its ranges were invalidated.
    pub(crate) fn clear(&self) {
        self.len.set(0);
    }
}

impl fmt::Debug for Invalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
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
