// SPDX-License-Identifier: MIT OR Apache-2.0
//! Announced ranges: which entries a section is about, and where they are.
//!
//! Linux keeps one range, that of the outermost section: an inner one is ignored, and a pause forgets it.
//! Here each level may bring its own, and a range is in force until its level is left, across pauses
//! and nested sections. That shows in what is fast and in nothing else (R22): a hint changes where a
//! store waits, never what a caller may rely on.
//!
//! There is room for [`Hints::ROOM`] ranges. One more is not kept, and its entries are
//! written as in a plain section, which is always allowed.

use crate::addr::{Asid, Frame, PAGE_SIZE, PageRange};
use crate::tlbi::Scope;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

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
    /// Whose translations.
    pub(crate) scope: Scope,
    /// The depth of its section, from 1 on.
    pub(crate) depth: u8,
}

/// A hint as the task carries it. Addresses are page aligned, and the small numbers are in the bits
/// that this leaves.
#[derive(Debug, Default)]
struct Stored {
    root_and_depth: AtomicU64,
    upper: AtomicU64,
    table: AtomicU64,
    start_and_pages: AtomicU64,
    /// An ASID, or [`ALL_ASIDS`].
    scope: AtomicU32,
}

/// The ranges in force, outermost first. Written by the task alone; atomics, because its state may be
/// looked at by others.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    len: AtomicU8,
    stored: [Stored; Self::ROOM],
}

const LOW: u64 = PAGE_SIZE - 1;
const ALL_ASIDS: u32 = u32::MAX;

impl Stored {
    const fn new() -> Self {
        Self {
            root_and_depth: AtomicU64::new(0),
            upper: AtomicU64::new(0),
            table: AtomicU64::new(0),
            start_and_pages: AtomicU64::new(0),
            scope: AtomicU32::new(ALL_ASIDS),
        }
    }

    fn set(&self, hint: Hint) {
        let relaxed = Ordering::Relaxed;
        self.root_and_depth
            .store(hint.root.as_u64() | u64::from(hint.depth), relaxed);
        self.upper.store(hint.upper.as_u64(), relaxed);
        self.table.store(hint.table.as_u64(), relaxed);
        self.start_and_pages
            .store(hint.pages.start().as_u64() | hint.pages.pages(), relaxed);
        let scope = match hint.scope {
            Scope::AllAsids => ALL_ASIDS,
            Scope::Asid(asid) => asid.0.into(),
        };
        self.scope.store(scope, relaxed);
    }

    fn depth(&self) -> u8 {
        (self.root_and_depth.load(Ordering::Relaxed) & LOW) as u8
    }

    fn pages(&self) -> Option<PageRange> {
        let raw = self.start_and_pages.load(Ordering::Relaxed);
        PageRange::new(raw & !LOW, raw & LOW).ok()
    }

    fn get(&self) -> Option<Hint> {
        let frame = |word: &AtomicU64| Frame::from_output_address(word.load(Ordering::Relaxed));
        Some(Hint {
            root: frame(&self.root_and_depth),
            upper: frame(&self.upper),
            table: frame(&self.table),
            pages: self.pages()?,
            scope: match self.scope.load(Ordering::Relaxed) {
                ALL_ASIDS => Scope::AllAsids,
                asid => Scope::Asid(Asid(asid as u16)),
            },
            depth: self.depth(),
        })
    }

    /// Whether `pages` of the table are inside.
    #[inline]
    fn covers(&self, pages: PageRange) -> bool {
        let raw = self.start_and_pages.load(Ordering::Relaxed);
        let (start, end) = (
            raw & !LOW,
            (raw & !LOW).wrapping_add((raw & LOW) * PAGE_SIZE),
        );
        start <= pages.start().as_u64() && pages.end() <= end
    }
}

impl Hints {
    /// Ranges in force at a time, at most.
    pub(crate) const ROOM: usize = 4;

    pub(crate) const fn new() -> Self {
        Self {
            len: AtomicU8::new(0),
            stored: [const { Stored::new() }; Self::ROOM],
        }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    fn stored(&self) -> impl DoubleEndedIterator<Item = &Stored> {
        self.stored[..self.len()].iter()
    }

    /// Keeps a hint if there is room.
    pub(crate) fn push(&self, hint: Hint) {
        if let Some(place) = self.stored.get(self.len()) {
            place.set(hint);
            self.len.store(self.len() as u8 + 1, Ordering::Relaxed);
        }
    }

    /// Forgets the hints behind the first `len`.
    pub(crate) fn truncate(&self, len: usize) {
        if len < self.len() {
            self.len.store(len as u8, Ordering::Relaxed);
        }
    }

    /// How many hints belong to sections of `depth` at most.
    pub(crate) fn up_to(&self, depth: u8) -> usize {
        self.stored()
            .take_while(|hint| hint.depth() <= depth)
            .count()
    }

    /// The hints from number `first` on.
    pub(crate) fn from(&self, first: usize) -> impl Iterator<Item = Hint> {
        self.stored().skip(first).filter_map(Stored::get)
    }

    /// Whether `pages` of `table` were announced.
    pub(crate) fn cover(&self, table: Frame, pages: PageRange) -> bool {
        self.stored()
            .any(|hint| hint.table.load(Ordering::Relaxed) == table.as_u64() && hint.covers(pages))
    }

    /// The level-2 table above `pages` of the address space with `root`, if they were announced.
    #[inline(always)]
    pub(crate) fn upper_table(&self, root: Frame, pages: PageRange) -> Option<Frame> {
        if self.len() == 0 {
            return None;
        }
        self.find_upper(root, pages)
    }

    fn find_upper(&self, root: Frame, pages: PageRange) -> Option<Frame> {
        let found = self.stored().rev().find(|hint| {
            let of = hint.root_and_depth.load(Ordering::Relaxed) & !LOW;
            of == root.as_u64() && hint.covers(pages)
        })?;
        Some(Frame::from_output_address(
            found.upper.load(Ordering::Relaxed),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(root: u64, start: u64, pages: u64, depth: u8) -> Hint {
        let frame = |raw| Frame::from_u64(raw).unwrap();
        Hint {
            root: frame(root),
            upper: frame(root + 0x1000),
            table: frame(root + 0x2000),
            pages: PageRange::new(start, pages).unwrap(),
            scope: Scope::Asid(Asid(0xffff)),
            depth,
        }
    }

    #[test]
    fn r22_ranges_are_kept_as_they_were_given_and_a_fifth_is_not() {
        let hints = Hints::new();
        let given = [
            hint(0x10_0000, 0xffff_8000_0020_0000, 512, 1),
            hint(0xffff_ffff_0000, 0x40_0000, 1, 1),
            hint(0x20_0000, 0x1000, 511, 7),
            hint(0x20_0000, 0x60_0000, 3, 255),
        ];
        for hint in given {
            hints.push(hint);
        }
        hints.push(hint(0x30_0000, 0x80_0000, 1, 255));
        assert!(hints.from(0).eq(given));
        assert_eq!((hints.up_to(0), hints.up_to(1), hints.up_to(7)), (0, 2, 3));
        hints.truncate(2);
        assert!(hints.from(0).eq(given[..2].iter().copied()));
        hints.truncate(3);
        assert_eq!(hints.len(), 2, "a longer list does not come back");
    }

    #[test]
    fn r21_a_range_is_one_space_s_and_ends_where_it_ends() {
        let hints = Hints::new();
        let given = hint(0x10_0000, 0x40_1000, 4, 1);
        hints.push(given);
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
}
