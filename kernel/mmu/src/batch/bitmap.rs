// SPDX-License-Identifier: MIT OR Apache-2.0
//! One bit per entry of a table.

use crate::addr::ENTRIES;
use crate::group::GROUP;
use core::cell::Cell;

const WORD: usize = u64::BITS as usize;

/// A set of entries of one table.
pub(crate) struct Bitmap([Cell<u64>; ENTRIES / WORD]);

impl Bitmap {
    pub(crate) const fn new() -> Self {
        Self([const { Cell::new(0) }; ENTRIES / WORD])
    }

    pub(crate) fn has(&self, i: usize) -> bool {
        self.0[i / WORD].get() >> (i % WORD) & 1 != 0
    }

    /// The members among the 16 entries of contiguous group `group` (0..32), one bit per entry.
    pub(crate) fn group(&self, group: usize) -> u16 {
        let first = group * GROUP;
        (self.0[first / WORD].get() >> (first % WORD)) as u16
    }

    pub(crate) fn set(&self, i: usize) {
        let word = &self.0[i / WORD];
        word.set(word.get() | 1 << (i % WORD));
    }

    pub(crate) fn clear(&self, i: usize) {
        let word = &self.0[i / WORD];
        word.set(word.get() & !(1 << (i % WORD)));
    }

    pub(crate) fn clear_all(&self) {
        for word in &self.0 {
            word.set(0);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.get() == 0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0
            .iter()
            .map(|word| word.get().count_ones() as usize)
            .sum()
    }

    /// The members in ascending order. A change of the set during the iteration may or may not
    /// show.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = word.get();
            core::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.wrapping_sub(1);
                (bit < WORD).then_some(at * WORD + bit)
            })
        })
    }

    /// The longest runs of consecutive members as `(first, length)`, in ascending order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, usize)> + Clone {
        let mut at = 0;
        core::iter::from_fn(move || {
            let first = (at..ENTRIES).find(|i| self.has(*i))?;
            let end = (first..ENTRIES).find(|i| !self.has(*i)).unwrap_or(ENTRIES);
            at = end;
            Some((first, end - first))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_their_stretches() {
        let set = Bitmap::new();
        assert!(set.is_empty() && set.runs().next().is_none());
        for i in [0, 62, 63, 64, 65, 200, 511] {
            set.set(i);
        }
        set.set(201);
        set.clear(200);
        let members: Vec<_> = set.iter().collect();
        assert_eq!(members, [0, 62, 63, 64, 65, 201, 511]);
        let runs: Vec<_> = set.runs().collect();
        assert_eq!(runs, [(0, 1), (62, 4), (201, 1), (511, 1)]);
        assert_eq!(set.len(), 7);
        let groups = [0, 3, 4, 12, 31].map(|group| set.group(group));
        assert_eq!(groups, [1, 0xc000, 3, 1 << 9, 0x8000]);
        set.clear_all();
        assert!(set.is_empty());
    }
}
