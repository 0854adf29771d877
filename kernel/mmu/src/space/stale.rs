// SPDX-License-Identifier: MIT OR Apache-2.0
//! The addresses that may still be in a TLB although their entries are empty.
//!
//! An emptied entry looks like one that was never used. A new mapping in its place would be the
//! make of a break-before-make without the invalidation in between (R27, R29): a TLB could then
//! hold two frames for one address. So a space remembers the hull of what was emptied and not
//! invalidated yet, and an operation that maps inside the hull invalidates it first.

use core::cell::Cell;

use crate::addr::PageRange;

/// The hull of the addresses, as byte addresses `(start, end)`. It is empty if `start >= end`.
#[derive(Debug)]
pub(super) struct Stale(Cell<(u64, u64)>);

impl Stale {
    const NOTHING: (u64, u64) = (u64::MAX, 0);

    pub(super) const fn new() -> Self {
        Self(Cell::new(Self::NOTHING))
    }

    /// A copy of the hull, for [`Stale::restore`].
    pub(super) fn now(&self) -> Self {
        Self(self.0.clone())
    }

    /// Notes that everything that was emptied since the copy `before` is invalidated.
    pub(super) fn restore(&self, before: &Self) {
        self.0.set(before.0.get());
    }

    /// Notes that entries of `range` were emptied.
    #[inline]
    pub(super) fn widen(&self, range: PageRange) {
        let (start, end) = self.0.get();
        self.0
            .set((start.min(range.start().as_u64()), end.max(range.end())));
    }

    /// Whether the hull and `range` have an address in common.
    #[inline]
    pub(super) fn meets(&self, range: PageRange) -> bool {
        let (start, end) = self.0.get();
        start < range.end() && range.start().as_u64() < end
    }

    /// The hull, if there is one.
    pub(super) fn hull(&self) -> Option<PageRange> {
        let (start, end) = self.0.get();
        PageRange::from_bounds(start, end).ok()
    }

    /// Notes that `range` was invalidated. The hull is empty then if `range` covers it; otherwise
    /// it stays.
    #[inline]
    pub(super) fn invalidated(&self, range: PageRange) {
        let (start, end) = self.0.get();
        if range.start().as_u64() <= start && end <= range.end() {
            self.0.set(Self::NOTHING);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, pages: u64) -> PageRange {
        PageRange::new(start, pages).unwrap()
    }

    #[test]
    fn the_hull_grows_and_goes_at_once() {
        let set = Stale::new();
        assert_eq!(set.hull(), None);
        assert!(!set.meets(range(0, 1)));
        set.widen(range(0x5000, 2));
        set.widen(range(0x9000, 1));
        assert_eq!(set.hull(), Some(range(0x5000, 5)));
        // A later range does not replace an earlier one.
        set.widen(range(0x7000, 1));
        assert_eq!(set.hull(), Some(range(0x5000, 5)));
        assert!(set.meets(range(0x6000, 1)) && !set.meets(range(0xa000, 1)));
        assert!(!set.meets(range(0x4000, 1)) && set.meets(range(0x4000, 2)));
        set.invalidated(range(0x5000, 4));
        assert!(set.hull().is_some());
        set.invalidated(range(0x4000, 6));
        assert_eq!(set.hull(), None);
    }
}
