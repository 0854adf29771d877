// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stops of a walk: a last-level table with the part of a range that it translates, or a part
//! of the range that has no table.

use crate::addr::{ENTRIES, Frame, Level, PageRange};
use crate::backend::{self, Run};
use crate::desc::Desc;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::table::{Pte, Table};
use crate::tlbi::Scope;

/// A last-level table, and the part of a range that it translates.
#[derive(Clone, Copy)]
pub(super) struct LeafTable<'s> {
    /// The entry that links the table.
    pub(super) parent: &'s Pte,
    /// What that entry held when the walk read it.
    pub(super) link: Desc,
    /// The part of the range, at most 512 pages. Other comments call it "the piece".
    pub(super) piece: PageRange,
    /// The table.
    pub(super) table: &'s Table,
    /// The level-2 table that holds the link.
    pub(super) upper: Frame,
}

impl<'s> LeafTable<'s> {
    /// The entries of the piece.
    #[inline]
    pub(super) fn ptes(&self) -> &'s [Pte] {
        let first = Level::L3.index(self.piece.start());
        let pages = self.piece.pages() as usize;
        &self.table.entries()[first..][..pages]
    }

    /// The index of `pte`, an entry of the piece, counted from the start of the piece.
    #[inline]
    pub(super) fn index_of(&self, pte: &Pte) -> usize {
        let offset = pte.as_ptr().addr() - self.ptes().as_ptr().addr();
        offset / size_of::<Pte>()
    }

    /// The same table with entry `i` of the piece as its piece.
    #[inline(always)]
    pub(super) fn nth(&self, i: usize) -> LeafTable<'s> {
        self.part(i, 1)
    }

    /// The same table with the `pages` entries from entry `first` of the piece on as its piece.
    #[inline(always)]
    pub(super) fn part(&self, first: usize, pages: usize) -> LeafTable<'s> {
        LeafTable {
            piece: self.piece.part(first, pages),
            ..*self
        }
    }

    /// The same table with the entries of the piece from `first` to the end as its piece.
    pub(super) fn from(&self, first: usize) -> LeafTable<'s> {
        self.part(first, self.ptes().len() - first)
    }

    /// The same table after its link was changed to `link`.
    pub(super) const fn with_link(self, link: Desc) -> Self {
        Self { link, ..self }
    }

    /// The piece as a run of entries to write.
    #[inline(always)]
    pub(super) fn run(&self, scope: Scope) -> Run<'s> {
        Run {
            ptes: self.ptes(),
            table: self.link.frame(),
            pages: self.piece,
            scope,
        }
    }

    /// Whether no entry of the whole table is in use.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.link.population() == Some(0)
    }

    /// Whether every entry of the whole table is in use.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.link.population() == Some(ENTRIES)
    }

    /// The same table with all pages that it translates as its piece.
    pub(super) fn whole(&self) -> LeafTable<'s> {
        LeafTable {
            piece: PageRange::of_table(self.piece.start()),
            ..*self
        }
    }

    /// Counts the entries of the piece whose value satisfies `is_it`.
    #[cold]
    pub(super) fn count<K: Kernel>(&self, mmu: &Mmu<K>, is_it: impl Fn(Desc) -> bool) -> usize {
        let pages = 0..self.ptes().len();
        pages.filter(|i| is_it(self.read(mmu, *i))).count()
    }

    /// Calls `work` for each longest run of entries of the piece that are in use. `work` may empty
    /// them.
    #[cold]
    pub(super) fn each_in_use<K: Kernel>(&self, mmu: &Mmu<K>, work: impl Fn(&LeafTable<'s>)) {
        let pages = self.ptes().len();
        let is_used = |i: &usize| self.read(mmu, *i).is_in_use();
        let mut at = 0;
        while let Some(first) = (at..pages).find(is_used) {
            at = (first..pages).find(|i| !is_used(i)).unwrap_or(pages);
            work(&self.part(first, at - first));
        }
    }

    /// The value of entry `i` of the piece, in memory or in the batch (R13, R20).
    #[inline(always)]
    pub(super) fn read<K: Kernel>(&self, mmu: &Mmu<K>, i: usize) -> Desc {
        let index = Level::L3.index(self.piece.start()) + i;
        let pte = &self.table.entries()[index];
        backend::read(mmu, self.link.frame(), index, pte)
    }

    /// The first entry of the piece whose value satisfies `is_it`.
    #[inline]
    pub(super) fn position<K: Kernel>(
        &self,
        mmu: &Mmu<K>,
        is_it: impl Fn(Desc) -> bool,
    ) -> Option<usize> {
        if backend::is_memory_current(mmu) {
            self.ptes()
                .iter()
                .position(|pte| is_it(mmu.kernel().load(pte)))
        } else {
            (0..self.ptes().len()).find(|i| is_it(self.read(mmu, *i)))
        }
    }
}

/// The entry at which a walk ended early, and the part of the range that it would translate.
#[derive(Clone, Copy)]
pub(super) struct Hole {
    /// The level of the entry that links no table.
    pub(super) level: Level,
    /// That entry: invalid, or a block.
    pub(super) entry: Desc,
    /// The part of the range.
    pub(super) piece: PageRange,
}

/// A stop of a walk.
pub(super) enum Stop<'s> {
    /// The table that translates a part of the range.
    Table(LeafTable<'s>),
    /// A part of the range without such a table.
    Hole(Hole),
}
