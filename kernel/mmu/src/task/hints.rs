// SPDX-License-Identifier: MIT OR Apache-2.0
//! Announced ranges (*hints*): the pages that a section will write, and the table that holds their
//! entries.
//!
//! Linux's proposal keeps one range, that of the outermost section. It ignores the range of an
//! inner section, and a pause drops it. Here each section may announce a range of its own, which
//! stays in force until that section is left, across pauses and nested sections. This changes only
//! what is fast (R22): a range decides where a store waits, never what a caller may rely on.
//!
//! A task has room for [`Hints::ROOM`] ranges. A further one is not kept, and its entries are
//! written as in a plain section, which is always allowed. A range that the library announces for
//! one of its own values replaces one that was announced by the raw call, if there is no room.
//!
//! The end of a range removes the hint and does nothing else. It touches no entries, because the
//! caller that leaves the section need not hold the address space any more (`space/fold.rs`).

use crate::addr::{Frame, PAGE_SIZE, PageRange};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A range of pages of one last-level table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    /// Root table of the address space.
    pub(crate) root: Frame,
    /// The level-2 table that links `table`.
    pub(crate) upper: Frame,
    /// The last-level table.
    pub(crate) table: Frame,
    /// The pages.
    pub(crate) pages: PageRange,
}

/// How long a hint is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until the section of this depth is left.
    Depth(u8),
    /// Until the announcer withdraws this number.
    Withdrawn(u8),
}

/// A hint as the task stores it. Addresses are page aligned, so bits `[11:0]` of each word are
/// free. They hold, in the first word, whether the hint has a number of its own (bit 11) and its
/// number or depth (`[7:0]`); in the second word the number of suspensions when it was announced
/// (`[7:0]`); in the last word the length in pages.
#[derive(Debug, Default)]
struct Stored {
    root_and_until: AtomicU64,
    upper_and_suspensions: AtomicU64,
    table: AtomicU64,
    start_and_pages: AtomicU64,
}

/// The ranges of a task, outermost first. Only the task writes them; they are atomics because other
/// CPUs may read the task's state.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    len: AtomicU8,
    /// The number of suspensions ([`crate::Lazy::suspend_all`]) that the task is in. A hint is in
    /// force while this number is the one at which it was announced.
    suspensions: AtomicU8,
    /// The last number given to a hint.
    number: AtomicU8,
    stored: [Stored; Self::ROOM],
}

const LOW: u64 = PAGE_SIZE - 1;
const BYTE: u64 = 0xff;
const NUMBERED: u64 = 1 << 11;
const RELAXED: Ordering = Ordering::Relaxed;

impl Stored {
    const fn new() -> Self {
        Self {
            root_and_until: AtomicU64::new(0),
            upper_and_suspensions: AtomicU64::new(0),
            table: AtomicU64::new(0),
            start_and_pages: AtomicU64::new(0),
        }
    }

    fn set(&self, hint: Hint, until: Until, suspensions: u8) {
        let until = match until {
            Until::Depth(depth) => u64::from(depth),
            Until::Withdrawn(number) => NUMBERED | u64::from(number),
        };
        self.root_and_until
            .store(hint.root.as_u64() | until, RELAXED);
        self.upper_and_suspensions
            .store(hint.upper.as_u64() | u64::from(suspensions), RELAXED);
        self.table.store(hint.table.as_u64(), RELAXED);
        self.start_and_pages
            .store(hint.pages.start().as_u64() | hint.pages.pages(), RELAXED);
    }

    fn copy_to(&self, other: &Self) {
        let copy = |from: &AtomicU64, to: &AtomicU64| to.store(from.load(RELAXED), RELAXED);
        copy(&self.root_and_until, &other.root_and_until);
        copy(&self.upper_and_suspensions, &other.upper_and_suspensions);
        copy(&self.table, &other.table);
        copy(&self.start_and_pages, &other.start_and_pages);
    }

    fn root(&self) -> u64 {
        self.root_and_until.load(RELAXED) & !LOW
    }

    fn until(&self) -> Until {
        let raw = self.root_and_until.load(RELAXED);
        if raw & NUMBERED != 0 {
            Until::Withdrawn(raw as u8)
        } else {
            Until::Depth(raw as u8)
        }
    }

    fn suspensions(&self) -> u8 {
        (self.upper_and_suspensions.load(RELAXED) & BYTE) as u8
    }

    #[cfg(test)]
    fn get(&self) -> Option<Hint> {
        let frame = |word: &AtomicU64| Frame::from_output_address(word.load(RELAXED));
        let pages = self.start_and_pages.load(RELAXED);
        Some(Hint {
            root: frame(&self.root_and_until),
            upper: frame(&self.upper_and_suspensions),
            table: frame(&self.table),
            pages: PageRange::new(pages & !LOW, pages & LOW).ok()?,
        })
    }

    /// Whether `pages` lie in the hint's range. The tables are not compared.
    #[inline]
    fn covers(&self, pages: PageRange) -> bool {
        let raw = self.start_and_pages.load(RELAXED);
        let start = raw & !LOW;
        let end = start.wrapping_add((raw & LOW) * PAGE_SIZE);
        start <= pages.start().as_u64() && pages.end() <= end
    }
}

impl Hints {
    /// The largest number of ranges at a time.
    pub(crate) const ROOM: usize = 4;

    pub(crate) const fn new() -> Self {
        Self {
            len: AtomicU8::new(0),
            suspensions: AtomicU8::new(0),
            number: AtomicU8::new(0),
            stored: [const { Stored::new() }; Self::ROOM],
        }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len.load(RELAXED) as usize
    }

    fn stored(&self) -> &[Stored] {
        &self.stored[..self.len()]
    }

    fn in_force_iter(&self) -> impl DoubleEndedIterator<Item = &Stored> {
        let now = self.suspensions.load(RELAXED);
        self.stored()
            .iter()
            .filter(move |hint| hint.suspensions() == now)
    }

    /// The number of hints in force.
    pub(crate) fn in_force(&self) -> usize {
        self.in_force_iter().count()
    }

    /// Keeps a hint if there is room.
    fn push(&self, hint: Hint, until: Until) {
        if let Some(place) = self.stored.get(self.len()) {
            place.set(hint, until, self.suspensions.load(RELAXED));
            self.len.store(self.len() as u8 + 1, RELAXED);
        }
    }

    /// Keeps a hint, if there is room, until the section of `depth` is left.
    pub(crate) fn announce(&self, hint: Hint, depth: u8) {
        self.push(hint, Until::Depth(depth));
    }

    /// Keeps a hint until it is withdrawn under the number that is returned. If there is no room,
    /// the outermost hint that ends with a section is removed, so that hints of the raw call do not
    /// slow down operations that announce by themselves.
    pub(crate) fn announce_numbered(&self, hint: Hint) -> u8 {
        if self.len() == Self::ROOM {
            let ends_with_section = |hint: &Stored| matches!(hint.until(), Until::Depth(_));
            let outermost = self.stored().iter().position(ends_with_section);
            self.retain(|hint| outermost.is_none_or(|i| !core::ptr::eq(hint, &self.stored[i])));
        }
        let number = self.number.load(RELAXED).wrapping_add(1);
        self.number.store(number, RELAXED);
        self.push(hint, Until::Withdrawn(number));
        number
    }

    fn retain(&self, keep: impl Fn(&Stored) -> bool) {
        let mut kept = 0;
        for hint in self.stored() {
            if keep(hint) {
                hint.copy_to(&self.stored[kept]);
                kept += 1;
            }
        }
        self.len.store(kept as u8, RELAXED);
    }

    /// Removes the hint of this number, even if the task has entered, left or suspended sections
    /// since it was announced.
    pub(crate) fn withdraw(&self, number: u8) {
        if self.len() > 0 {
            self.retain(|hint| hint.until() != Until::Withdrawn(number));
        }
    }

    /// Removes the hints of an address space, before its tables are freed.
    pub(crate) fn forget_space(&self, root: Frame) {
        if self.len() > 0 {
            self.retain(|hint| hint.root() != root.as_u64());
        }
    }

    /// Whether a hint ends with a section deeper than `depth`.
    fn is_over(&self, hint: &Stored, depth: u8) -> bool {
        let here = hint.suspensions() == self.suspensions.load(RELAXED);
        here && matches!(hint.until(), Until::Depth(of) if of > depth)
    }

    /// Removes the hints of sections deeper than `depth`, the depth after a section was left.
    pub(crate) fn end(&self, depth: u8) {
        self.retain(|hint| !self.is_over(hint, depth));
    }

    /// Whether the task is in a suspension.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspensions.load(RELAXED) > 0
    }

    /// Whether no range is stored and nothing is suspended.
    pub(crate) fn is_new(&self) -> bool {
        self.len() == 0 && !self.is_suspended()
    }

    /// Removes all hints and ends all suspensions.
    pub(crate) fn clear(&self) {
        self.len.store(0, RELAXED);
        self.suspensions.store(0, RELAXED);
    }

    /// Begins a suspension: all hints are out of force until [`Hints::resume`]. Returns whether the
    /// suspension was counted, and so needs the call of `resume`. The counter ends at 255; a
    /// further suspension is not counted.
    pub(crate) fn suspend(&self) -> bool {
        let deeper = self.suspensions.load(RELAXED).checked_add(1);
        if let Some(deeper) = deeper {
            self.suspensions.store(deeper, RELAXED);
        }
        deeper.is_some()
    }

    /// Ends a suspension: the hints that were in force before the last [`Hints::suspend`] are in
    /// force again. Hints that were announced in the suspension and are still there are removed.
    pub(crate) fn resume(&self) {
        let before = self.suspensions.load(RELAXED).saturating_sub(1);
        self.suspensions.store(before, RELAXED);
        self.retain(|hint| hint.suspensions() <= before);
    }

    /// Whether `pages` of `table` are announced.
    pub(crate) fn cover(&self, table: Frame, pages: PageRange) -> bool {
        self.in_force_iter()
            .any(|hint| hint.table.load(RELAXED) == table.as_u64() && hint.covers(pages))
    }

    /// The level-2 table above `pages` of the address space with `root`, if they are announced.
    #[inline(always)]
    pub(crate) fn upper_table(&self, root: Frame, pages: PageRange) -> Option<Frame> {
        if self.len() == 0 {
            return None;
        }
        self.find_upper(root, pages)
    }

    /// The loop of [`Hints::upper_table`]. It does not use the iterators of this module, because a
    /// call per page must not cost more than the walk that it saves.
    #[inline(always)]
    fn find_upper(&self, root: Frame, pages: PageRange) -> Option<Frame> {
        let (root, now) = (root.as_u64(), u64::from(self.suspensions.load(RELAXED)));
        for hint in self.stored().iter().rev() {
            let upper = hint.upper_and_suspensions.load(RELAXED);
            let is_of_space = hint.root_and_until.load(RELAXED) ^ root <= LOW;
            if is_of_space && upper & BYTE == now && hint.covers(pages) {
                return Some(Frame::from_output_address(upper));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(root: u64, start: u64, pages: u64) -> Hint {
        let frame = |raw| Frame::from_u64(raw).unwrap();
        Hint {
            root: frame(root),
            upper: frame(root + 0x1000),
            table: frame(root + 0x2000),
            pages: PageRange::new(start, pages).unwrap(),
        }
    }

    fn kept(hints: &Hints) -> Vec<Hint> {
        hints.stored().iter().filter_map(Stored::get).collect()
    }

    #[test]
    fn r22_ranges_are_kept_as_they_were_given_and_a_fifth_is_not() {
        let hints = Hints::new();
        let given = [
            (hint(0x10_0000, 0xffff_8000_0020_0000, 512), 1),
            (hint(0xffff_ffff_0000, 0x40_0000, 1), 1),
            (hint(0x20_0000, 0x1000, 511), 7),
            (hint(0x20_0000, 0x60_0000, 3), 255),
        ];
        for (hint, depth) in given {
            hints.announce(hint, depth);
        }
        hints.announce(hint(0x30_0000, 0x80_0000, 1), 255);
        assert_eq!(kept(&hints), given.map(|(hint, _)| hint));
        hints.end(7);
        assert_eq!(kept(&hints), [given[0].0, given[1].0, given[2].0]);
        hints.end(1);
        assert_eq!(kept(&hints), [given[0].0, given[1].0]);
        hints.forget_space(given[0].0.root);
        assert_eq!(kept(&hints), [given[1].0]);
    }

    #[test]
    fn r21_a_range_is_one_space_s_and_ends_where_it_ends() {
        let hints = Hints::new();
        let given = hint(0x10_0000, 0x40_1000, 4);
        hints.announce(given, 1);
        let inside = |start, pages| {
            let pages = PageRange::new(start, pages).unwrap();
            let upper = hints.upper_table(given.root, pages);
            assert_eq!(upper.is_some(), hints.cover(given.table, pages));
            assert_eq!(hints.upper_table(given.upper, pages), None, "another root");
            upper == Some(given.upper)
        };
        assert!(inside(0x40_1000, 4) && inside(0x40_4000, 1));
        assert!(!inside(0x40_0000, 2) && !inside(0x40_4000, 2) && !inside(0x40_5000, 1));
    }

    #[test]
    fn r22_a_numbered_range_takes_the_place_of_the_outermost_raw_one() {
        let hints = Hints::new();
        let given = [1, 2, 3, 4, 5, 6].map(|n| hint(n * 0x10_0000, 0x40_0000, 1));
        let first = hints.announce_numbered(given[0]);
        (1..4).for_each(|i| hints.announce(given[i], i as u8));
        let second = hints.announce_numbered(given[4]);
        assert_eq!(kept(&hints), [given[0], given[2], given[3], given[4]]);
        hints.announce(given[5], 4);
        hints.withdraw(first);
        hints.withdraw(second);
        assert_eq!(kept(&hints), [given[2], given[3]]);
        let numbers = [0; Hints::ROOM].map(|_| hints.announce_numbered(given[1]));
        assert_eq!(kept(&hints), [given[1]; Hints::ROOM]);
        hints.announce_numbered(given[5]);
        assert_eq!(kept(&hints), [given[1]; Hints::ROOM], "no raw one is left");
        for number in numbers {
            hints.withdraw(number);
        }
        assert_eq!(hints.len(), 0);
    }

    #[test]
    fn s12_a_suspension_hides_ranges_and_a_number_finds_its_own_anywhere() {
        let hints = Hints::new();
        let (a, b, c) = (
            hint(0x1_0000, 0x1000, 1),
            hint(0x2_0000, 0x1000, 1),
            hint(0x3_0000, 0x1000, 1),
        );
        let first = hints.announce_numbered(a);
        hints.announce(b, 1);
        hints.suspend();
        assert!(hints.is_suspended());
        assert_eq!(hints.upper_table(b.root, b.pages), None);
        hints.announce(c, 1);
        assert_eq!(kept(&hints), [a, b, c]);
        hints.end(0);
        assert_eq!(kept(&hints), [a, b], "not what is suspended");
        hints.withdraw(first);
        hints.resume();
        assert_eq!(kept(&hints), [b]);
        assert_eq!(hints.upper_table(b.root, b.pages), Some(b.upper));
        hints.end(0);
        assert_eq!(hints.len(), 0);
    }
}
