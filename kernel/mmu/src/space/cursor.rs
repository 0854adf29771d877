// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk: from the root to the last-level tables of a range, one after the other.
//!
//! A range is gone through in ascending order, with one stop per last-level
//! table, or per hole, however large. The level-2 table is looked up once per GiB, and
//! its entries are read in a row.
//!
//! The stops are callbacks and not an iterator: with everything inlined a stop costs about a
//! dozen instructions, and an iterator's item is copied through memory.

use super::tables::Spare;
use super::{AddressSpace, SpaceError};
use crate::addr::{ENTRIES, Frame, Level, PageRange, VirtAddr};
use crate::backend::{self, Run};
use crate::desc::Desc;
use crate::hardware::Kernel;
use crate::lazy::Hint;
use crate::table::{Pte, Table};
use crate::tlbi::Scope;
use core::convert::Infallible;

/// A last-level table, and the part of a range that it translates.
#[derive(Clone, Copy)]
pub(super) struct LeafTable<'s> {
    /// The entry that links the table.
    pub(super) parent: &'s Pte,
    /// What that entry held when the cursor came by.
    pub(super) link: Desc,
    /// The part of the range.
    pub(super) piece: PageRange,
    table: &'s Table,
    /// The level-2 table that holds the link.
    pub(super) upper: Frame,
}

/// Where a walk ended early, and the part of a range that this concerns.
#[derive(Clone, Copy)]
pub(super) struct Hole {
    /// The level of the entry that leads nowhere.
    pub(super) level: Level,
    /// That entry: invalid, or a block.
    pub(super) entry: Desc,
    /// The part of the range.
    pub(super) piece: PageRange,
}

/// A stop of a walk.
pub(super) enum Stop<'s> {
    Table(LeafTable<'s>),
    Hole(Hole),
}

/// A level-2 table on the way.
#[derive(Clone, Copy)]
struct Near<'s> {
    frame: Frame,
    table: &'s Table,
    /// The entry that links it.
    parent: &'s Pte,
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// Shows each stop of the walk through `range`, until one returns an error.
    ///
    /// # Errors
    /// That of `visit`.
    #[inline(always)]
    pub(super) fn each_stop<'s, E>(
        &'s self,
        range: PageRange,
        mut visit: impl FnMut(Stop<'s>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = Some(range);
        while let Some(range) = rest {
            let piece = match self.level_2(range.start()) {
                Ok(near) => {
                    let piece = range.first_in(Level::L1);
                    near.each_entry(piece, |parent, piece| {
                        let link = self.load(parent);
                        visit(if link.is_table(Level::L2) {
                            Stop::Table(self.leaf_table_at(near.frame, parent, link, piece))
                        } else {
                            Stop::Hole(Hole {
                                level: Level::L2,
                                entry: link,
                                piece,
                            })
                        })
                    })?;
                    piece
                }
                Err((level, entry)) => {
                    let piece = range.first_in(level);
                    visit(Stop::Hole(Hole {
                        level,
                        entry,
                        piece,
                    }))?;
                    piece
                }
            };
            rest = range.behind(piece);
        }
        Ok(())
    }

    /// Shows each last-level table of `range`; tables that are missing are taken from `spare`.
    ///
    /// # Errors
    /// That of `visit`.
    #[inline(always)]
    pub(super) fn each_table<'s, E>(
        &'s self,
        range: PageRange,
        spare: &mut Spare<'_, K>,
        mut visit: impl FnMut(LeafTable<'s>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = Some(range);
        while let Some(range) = rest {
            let near = match self.level_2(range.start()) {
                Ok(near) => near,
                Err(_) => self.build_level_2(range.start(), spare),
            };
            let piece = range.first_in(Level::L1);
            near.each_entry(piece, |parent, piece| {
                let link = self.link_or_build(Level::L2, parent, Some(near.parent), spare);
                visit(self.leaf_table_at(near.frame, parent, link, piece))
            })?;
            rest = range.behind(piece);
        }
        Ok(())
    }

    /// The one table of a range that does not cross a table's end; built if it is missing.
    pub(super) fn build_leaf_table(
        &self,
        range: PageRange,
        spare: &mut Spare<'_, K>,
    ) -> LeafTable<'_> {
        let mut only = None;
        let Ok(()) = self.each_table(range, spare, |found| {
            only = Some(found);
            Ok::<(), Infallible>(())
        });
        match only {
            Some(found) => found,
            None => unreachable!("a range has at least one page, and so one table"),
        }
    }

    /// Shows each last-level table of `range` that exists.
    #[inline(always)]
    pub(super) fn each_leaf_table<'s>(
        &'s self,
        range: PageRange,
        mut visit: impl FnMut(LeafTable<'s>),
    ) {
        let Ok(()) = self.each_stop(range, |stop| {
            if let Stop::Table(found) = stop {
                visit(found);
            }
            Ok::<(), Infallible>(())
        });
    }

    #[inline(always)]
    fn leaf_table_at<'s>(
        &'s self,
        upper: Frame,
        parent: &'s Pte,
        link: Desc,
        piece: PageRange,
    ) -> LeafTable<'s> {
        LeafTable {
            parent,
            link,
            piece,
            table: self.table(link.frame()),
            upper,
        }
    }

    /// Finds the level-2 table for `va`; `Err` with where the walk ended early.
    #[inline]
    fn level_2(&self, va: VirtAddr) -> Result<Near<'_>, (Level, Desc)> {
        self.mmu.kernel().counters().walks(1);
        let top = &self.table(self.root).entries()[Level::L0.index(va)];
        let link = self.load(top);
        if !link.is_table(Level::L0) {
            return Err((Level::L0, link));
        }
        let parent = &self.table(link.frame()).entries()[Level::L1.index(va)];
        let link = self.load(parent);
        if !link.is_table(Level::L1) {
            return Err((Level::L1, link));
        }
        Ok(self.near(parent, link))
    }

    #[inline(never)]
    fn build_level_2(&self, va: VirtAddr, spare: &mut Spare<'_, K>) -> Near<'_> {
        let top = &self.table(self.root).entries()[Level::L0.index(va)];
        let link = self.link_or_build(Level::L0, top, None, spare);
        let parent = &self.table(link.frame()).entries()[Level::L1.index(va)];
        let link = self.link_or_build(Level::L1, parent, Some(top), spare);
        self.near(parent, link)
    }

    fn near<'s>(&'s self, parent: &'s Pte, link: Desc) -> Near<'s> {
        Near {
            frame: link.frame(),
            table: self.table(link.frame()),
            parent,
        }
    }
}

impl<'s> Near<'s> {
    /// Shows the entries of the table for `range`, which is all in it, each with its piece.
    #[inline(always)]
    fn each_entry<E>(
        &self,
        range: PageRange,
        mut visit: impl FnMut(&'s Pte, PageRange) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = range;
        for parent in &self.table.entries()[Level::L2.index(range.start())..] {
            let piece = rest.first_in(Level::L2);
            visit(parent, piece)?;
            match rest.behind(piece) {
                Some(behind) => rest = behind,
                None => break,
            }
        }
        Ok(())
    }
}

impl<'s> LeafTable<'s> {
    /// The entries of the piece.
    #[inline]
    pub(super) fn ptes(&self) -> &'s [Pte] {
        let first = Level::L3.index(self.piece.start());
        let pages = self.piece.pages() as usize;
        &self.table.entries()[first..][..pages]
    }

    /// Number of an entry of the piece.
    #[inline]
    pub(super) fn index_of(&self, pte: &Pte) -> usize {
        let offset = pte.as_ptr().addr() - self.ptes().as_ptr().addr();
        offset / size_of::<Pte>()
    }

    /// The same table, and entry `i` of the piece alone.
    #[inline(always)]
    pub(super) fn nth(&self, i: usize) -> LeafTable<'s> {
        self.part(i, 1)
    }

    /// The same table, and the `pages` entries from `first` on alone.
    #[inline(always)]
    pub(super) fn part(&self, first: usize, pages: usize) -> LeafTable<'s> {
        LeafTable {
            piece: self.piece.part(first, pages),
            ..*self
        }
    }

    /// The same table, whose link holds `link` now.
    pub(super) const fn with_link(self, link: Desc) -> Self {
        Self { link, ..self }
    }

    /// The piece as what is written to.
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
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// The last-level table of `range`, which does not cross a table's end, if there is
    /// one: what the cursor would find, for the most common request.
    #[inline]
    pub(super) fn leaf_table(&self, range: PageRange) -> Option<LeafTable<'_>> {
        let va = range.start();
        if let Some(found) = self.announced_table(range) {
            return Some(found);
        }
        let near = self.level_2(va).ok()?;
        self.below(near.frame, range)
    }

    /// The table of a range that was announced: no walk.
    #[inline]
    fn announced_table(&self, range: PageRange) -> Option<LeafTable<'_>> {
        let kernel = self.mmu.kernel();
        let upper = kernel.lazy().hints().upper_table(self.root, range)?;
        // The hints are the task's; an interrupt has none.
        if kernel.in_interrupt() {
            return None;
        }
        self.below(upper, range)
    }

    /// The last-level table of `range` below the level-2 table `upper`, if there is one.
    #[inline(always)]
    fn below(&self, upper: Frame, range: PageRange) -> Option<LeafTable<'_>> {
        let parent = &self.table(upper).entries()[Level::L2.index(range.start())];
        let link = self.load(parent);
        link.is_table(Level::L2)
            .then(|| self.leaf_table_at(upper, parent, link, range))
    }

    /// What is kept of a table's piece that is announced.
    pub(super) const fn hint_of(&self, found: &LeafTable<'_>) -> Hint {
        Hint {
            root: self.root,
            upper: found.upper,
            table: found.link.frame(),
            pages: found.piece,
            scope: self.kind.scope(),
        }
    }

    /// What [`crate::Lazy::enable_fast_pte_range`] keeps of a range of this space in `table`.
    pub(crate) fn hint(&self, pages: PageRange, table: Frame) -> Result<Hint, SpaceError> {
        self.check_half(pages)?;
        self.check_one_table(pages)?;
        let found = self
            .level_2(pages.start())
            .ok()
            .and_then(|near| self.below(near.frame, pages))
            .filter(|found| found.link.frame() == table);
        match found {
            Some(found) => Ok(self.hint_of(&found)),
            None => Err(SpaceError::WrongTable {
                va: pages.start(),
                table,
            }),
        }
    }

    /// The first entry of the piece whose value is as asked.
    #[inline]
    pub(super) fn position(
        &self,
        found: &LeafTable<'_>,
        is_it: impl Fn(Desc) -> bool,
    ) -> Option<usize> {
        if backend::is_memory_current(self.mmu) {
            found.ptes().iter().position(|pte| is_it(self.load(pte)))
        } else {
            (0..found.ptes().len()).find(|i| is_it(self.read(found, *i)))
        }
    }

    /// The value of entry `i` of the piece, wherever it is (R13, R20).
    #[inline(always)]
    pub(super) fn read(&self, found: &LeafTable<'_>, i: usize) -> Desc {
        let index = Level::L3.index(found.piece.start()) + i;
        let pte = &found.table.entries()[index];
        backend::read(self.mmu, found.link.frame(), index, pte)
    }

    /// Checks that every page of `range` is mapped by a page of its own.
    pub(super) fn check_mapped(&self, range: PageRange) -> Result<(), SpaceError> {
        self.each_stop(range, |stop| {
            let found = match stop {
                Stop::Table(found) => found,
                Stop::Hole(hole) => {
                    let (va, level) = (hole.piece.start(), hole.level);
                    return Err(if hole.entry.is_leaf(level) {
                        SpaceError::Block { va, level }
                    } else {
                        SpaceError::NotMapped { va }
                    });
                }
            };
            self.check_run_mapped(&found)
        })
    }

    /// Checks that every page of the piece is mapped.
    pub(super) fn check_run_mapped(&self, found: &LeafTable<'_>) -> Result<(), SpaceError> {
        // What is counted is valid, but for a moment inside `remap`.
        if found.is_full() {
            return Ok(());
        }
        let absent = match found.piece.pages() {
            1 => (!self.read(found, 0).is_valid()).then_some(0),
            _ => self.position(found, |entry| !entry.is_valid()),
        };
        match absent {
            None => Ok(()),
            Some(i) => Err(SpaceError::NotMapped {
                va: found.piece.page(i),
            }),
        }
    }
}
