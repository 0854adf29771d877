// SPDX-License-Identifier: MIT OR Apache-2.0
//! A short list of ranges that share one invalidation.

use crate::addr::PageRange;

/// The capacity of the list, in ranges.
pub(super) const RANGES: usize = 16;

/// Up to [`RANGES`] ranges of one half, in the order in which they were added. Ranges that touch
/// are joined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges {
    /// The list is the first `len` elements.
    all: [PageRange; RANGES],
    len: usize,
}

impl Ranges {
    pub(super) const NONE: Self = Self {
        all: [PageRange::NONE; RANGES],
        len: 0,
    };

    pub(super) fn as_slice(&self) -> &[PageRange] {
        &self.all[..self.len]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = PageRange> + Clone {
        self.as_slice().iter().copied()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len == RANGES
    }

    /// Adds `range`, joined with a range that it touches if there is one. Returns `false`, and adds
    /// nothing, if there is none and the list is full.
    pub(super) fn add(&mut self, range: PageRange) -> bool {
        for known in &mut self.all[..self.len] {
            if let Some(joined) = known.joined(range) {
                *known = joined;
                return true;
            }
        }
        if let Some(next) = self.all.get_mut(self.len) {
            *next = range;
            self.len += 1;
            return true;
        }
        false
    }

    /// [`Ranges::add`], except that in a full list the last range grows until it covers `range`.
    pub(super) fn add_or_widen(&mut self, range: PageRange) {
        if !self.add(range) {
            let last = &mut self.all[RANGES - 1];
            *last = last.hull(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn range(page: u64, pages: u64) -> PageRange {
        PageRange::new(page << 12, pages).unwrap()
    }

    #[test]
    fn neighbors_are_one_and_the_last_one_grows() {
        let mut list = Ranges::NONE;
        assert!(list.is_empty());
        for i in 0..RANGES as u64 {
            assert!(!list.is_full());
            assert!(list.add(range(4 * i, 1)));
        }
        assert!(list.is_full() && list.add(range(5, 2)), "it has a neighbor");
        assert!(!list.add(range(100, 1)));
        list.add_or_widen(range(100, 3));
        list.add_or_widen(range(105, 1));
        let all: Vec<_> = list.iter().collect();
        assert_eq!(all[1], range(4, 3));
        assert_eq!(all[RANGES - 1], range(60, 46));
    }
}
