// SPDX-License-Identifier: MIT OR Apache-2.0
//! A few ranges that share one invalidation.

use crate::addr::PageRange;

/// Ranges, not touching each other, that share one invalidation.
pub(super) const RANGES: usize = 16;

/// Up to [`RANGES`] ranges of one half, the first ones of the list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges([Option<PageRange>; RANGES]);

impl Ranges {
    pub(super) const NONE: Self = Self([None; RANGES]);

    pub(super) fn iter(&self) -> impl Iterator<Item = PageRange> + Clone {
        self.0.iter().flatten().copied()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.0[RANGES - 1].is_some()
    }

    /// Adds `range`, joined with a neighbor if there is one. `false` if the list is full.
    pub(super) fn add(&mut self, range: PageRange) -> bool {
        for slot in &mut self.0 {
            match slot {
                None => {
                    *slot = Some(range);
                    return true;
                }
                Some(known) => {
                    if let Some(joined) = known.joined(range) {
                        *slot = Some(joined);
                        return true;
                    }
                }
            }
        }
        false
    }

    /// The same; if the list is full, its last range grows until it covers `range`.
    pub(super) fn add_or_widen(&mut self, range: PageRange) {
        if !self.add(range)
            && let Some(last) = &mut self.0[RANGES - 1]
        {
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
