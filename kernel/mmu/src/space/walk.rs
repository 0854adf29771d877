// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk: from the root to each last-level table of a range.
//!
//! A walk goes through a range in ascending order and stops once per last-level table, or once per
//! hole of any size (up to 512 GiB). It looks the level-2 table up once per GiB, and reads its
//! entries one after the other.
//!
//! A walk calls a closure at each stop, and is not an iterator: with everything inlined a stop
//! costs about a dozen instructions, while the item of an iterator would be copied through memory.

use super::address_space::AddressSpace;
use super::leaf_table::{Hole, LeafTable, Stop};
use super::spare::Spare;
use crate::addr::{Frame, Level, PageRange, VirtAddr};
use crate::desc::Desc;
use crate::error::SpaceError;
use crate::hardware::{CurrentTask, Kernel};
use crate::table::{Pte, Table};
use crate::task::Hint;
use core::convert::Infallible;

/// The level-2 table that a walk has reached.
#[derive(Clone, Copy)]
struct Near<'s> {
    frame: Frame,
    table: &'s Table,
    /// The entry that links it.
    parent: &'s Pte,
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// Calls `visit` for each stop of the walk through `range`, until it returns an error.
    ///
    /// # Errors
    /// The error of `visit`.
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

    /// Calls `visit` for each last-level table of `range`, until it returns an error. Missing
    /// tables are taken from `spare` and linked.
    ///
    /// # Errors
    /// The error of `visit`.
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

    /// The last-level table of a range that lies in one table. A missing one is built.
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

    /// Calls `visit` for each last-level table of `range` that exists.
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

    /// Calls `visit` for each longest run of entries of `range` that are in use, with the number of
    /// those that are mapped. Empty entries, tables without entries in use and missing tables are
    /// skipped; a missing table costs one step for all addresses that it would translate.
    #[inline(never)]
    pub(super) fn each_run_in_use<'s>(
        &'s self,
        range: PageRange,
        mut visit: impl FnMut(LeafTable<'s>, usize),
    ) {
        let mmu = self.mmu();
        self.each_leaf_table(range, |found| {
            let mut rest = (!found.is_empty()).then_some(found);
            while let Some(part) = rest {
                // A closure of this function alone: with a second caller, the compiler would no
                // longer inline the search of the other operations.
                let Some(first) = part.position(mmu, |entry| entry.is_in_use()) else {
                    break;
                };
                let part = part.from(first);
                let len = part.position(mmu, |entry| !entry.is_in_use());
                let run = part.part(0, len.unwrap_or(part.ptes().len()));
                visit(run, run.count(mmu, |entry| entry.is_leaf(Level::L3)));
                rest = len.map(|len| part.from(len));
            }
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

    /// Finds the level-2 table for `va`. If there is none, `Err` holds the level and the value of
    /// the entry at which the walk ended.
    #[inline]
    fn level_2(&self, va: VirtAddr) -> Result<Near<'_>, (Level, Desc)> {
        self.mmu().kernel().current_counters().walks(1);
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
    /// Calls `visit` for each entry of the table that translates a part of `range`, with that part.
    /// `range` lies in this table.
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

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// The last-level table of `range`, which lies in one table, if it exists. An announced range
    /// needs no walk.
    #[inline]
    pub(super) fn leaf_table(&self, range: PageRange) -> Option<LeafTable<'_>> {
        let va = range.start();
        if let Some(found) = self.announced_table(range) {
            return Some(found);
        }
        let near = self.level_2(va).ok()?;
        self.below(near.frame, range)
    }

    /// The table of `range` if the current task has announced it. Found without a walk.
    #[inline]
    fn announced_table(&self, range: PageRange) -> Option<LeafTable<'_>> {
        let kernel = self.mmu().kernel();
        let upper = kernel
            .current_lazy()
            .hints()
            .upper_table(self.root, range)?;
        // The hints belong to the task. An interrupt must not use them.
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

    /// The hint that a task keeps of a table's piece that it announces.
    pub(super) const fn hint_of(&self, found: &LeafTable<'_>) -> Hint {
        Hint {
            root: self.root,
            upper: found.upper,
            table: found.link.frame(),
            pages: found.piece,
        }
    }

    /// The hint for [`crate::Lazy::enable_fast_pte_range`]: `pages` of this space in `table`.
    pub(super) fn hint(&self, pages: PageRange, table: Frame) -> Result<Hint, SpaceError> {
        self.check_range(pages)?;
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

    /// Checks that no page of `range` is mapped by a block.
    #[inline(never)]
    pub(super) fn check_no_block(&self, range: PageRange) -> Result<(), SpaceError> {
        self.each_stop(range, |stop| match stop {
            Stop::Hole(hole) if hole.entry.is_leaf(hole.level) => Err(SpaceError::Block {
                va: hole.piece.start(),
                level: hole.level,
            }),
            _ => Ok(()),
        })
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
        // Entries that are counted are valid, except for a moment inside `remap`.
        if found.is_full() {
            return Ok(());
        }
        let absent = match found.piece.pages() {
            1 => (!found.read(self.mmu(), 0).is_valid()).then_some(0),
            _ => found.position(self.mmu(), |entry| !entry.is_valid()),
        };
        match absent {
            None => Ok(()),
            Some(i) => Err(SpaceError::NotMapped {
                va: found.piece.page(i),
            }),
        }
    }
}
