// SPDX-License-Identifier: MIT OR Apache-2.0
//! Building, sharing and freeing tables.

use super::address_space::AddressSpace;
use super::kind::SpaceKind;
use super::leaf_table::{Hole, LeafTable, Stop};
use super::links;
use super::spare::{Spare, Unlinked};
use crate::addr::{ENTRIES, Frame, Level, PageRange};
use crate::backend;
use crate::desc::Desc;
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::table::{Pte, Table};
use crate::tlbi::Reach;
use core::mem;

/// The number of tables that must be built below `hole` to translate all of its piece.
fn tables_below(hole: Hole) -> usize {
    let piece = hole.piece;
    let spanned = |level: Level| {
        let shift = level.shift();
        (((piece.end() - 1) >> shift) - (piece.start().as_u64() >> shift) + 1) as usize
    };
    match hole.level {
        Level::L0 => 1 + spanned(Level::L1) + spanned(Level::L2),
        Level::L1 => 1 + spanned(Level::L2),
        Level::L2 | Level::L3 => 1,
    }
}

impl<K: Kernel> AddressSpace<'_, K> {
    /// [`AddressSpace::missing_tables`] for operations that accept entries with any value. Only a
    /// block makes it fail.
    pub(super) fn missing_tables_for_entries(&self, range: PageRange) -> Result<usize, SpaceError> {
        self.missing_tables(range, |_| Ok(()))
            .map_err(|error| match error {
                SpaceError::AlreadyMapped { va, level, entry } if entry.is_leaf(level) => {
                    SpaceError::Block { va, level }
                }
                other => other,
            })
    }

    /// Counts the tables that are missing to translate all of `range`, and passes each last-level
    /// table that exists to `check`.
    ///
    /// # Errors
    /// The first error of `check`, or [`SpaceError::AlreadyMapped`] for a block.
    pub(super) fn missing_tables(
        &self,
        range: PageRange,
        mut check: impl FnMut(&LeafTable<'_>) -> Result<(), SpaceError>,
    ) -> Result<usize, SpaceError> {
        let mut needed = 0;
        self.each_stop(range, |stop| match stop {
            Stop::Table(found) => check(&found),
            Stop::Hole(hole) if hole.entry.is_in_use() => Err(SpaceError::AlreadyMapped {
                va: hole.piece.start(),
                entry: hole.entry,
                level: hole.level,
            }),
            Stop::Hole(hole) => {
                needed += tables_below(hole);
                Ok(())
            }
        })?;
        Ok(needed)
    }

    /// The link in `entry`, which is of `level`. If there is none, links a reserved table. `above`
    /// is the entry that links the table of `entry`, unless that table is the root.
    #[inline(always)]
    pub(super) fn link_or_build(
        &self,
        level: Level,
        entry: &Pte,
        above: Option<&Pte>,
        spare: &mut Spare<'_, K>,
    ) -> Desc {
        let link = self.load(entry);
        if link.is_table(level) {
            return link;
        }
        self.build(level, entry, above, spare)
    }

    #[inline(never)]
    fn build(
        &self,
        level: Level,
        entry: &Pte,
        above: Option<&Pte>,
        spare: &mut Spare<'_, K>,
    ) -> Desc {
        let frame = spare.take().expect("reserve() counted every missing table");
        let link = Desc::table(frame);
        links::write(self.mmu(), level, entry, link);
        if let Some(parent) = above {
            links::add_population(self.mmu(), parent, 1);
        }
        link
    }

    /// Copies the top-level entries of `other` for `range`, so that both kernel spaces share the
    /// tables below them. Returns the number of entries copied.
    ///
    /// # Safety
    /// `other` is a space of the same [`Mmu`](crate::Mmu). From now on:
    ///
    /// * one holder at a time changes mappings of `range`, by either space;
    /// * only one of the two spaces links tables in `range`;
    /// * neither space frees a table in `range`: the shared tables outlive both;
    /// * what was emptied by one space is invalidated before the other one maps there, because a
    ///   space remembers only what was emptied by itself (R29).
    ///
    /// # Errors
    /// [`SpaceError::SharedByUsers`] for a user space; [`SpaceError::WrongHalf`] or
    /// [`SpaceError::OutsideWindow`] for either space; [`SpaceError::AlreadyMapped`] if this space
    /// has a top-level entry in `range`. On an error nothing was copied.
    pub unsafe fn share_tables(
        &mut self,
        other: &Self,
        range: PageRange,
    ) -> Result<usize, SpaceError> {
        if self.kind() != SpaceKind::Kernel || other.kind() != SpaceKind::Kernel {
            return Err(SpaceError::SharedByUsers);
        }
        self.check_range(range)?;
        other.check_range(range)?;
        let (here, there) = (self.table(self.root), self.table(other.root));
        let first = Level::L0.index(range.start());
        let last = ((range.end() - 1) >> Level::L0.shift()) as usize & (ENTRIES - 1);
        for (i, piece) in (first..=last).zip(range.per_entry(Level::L0)) {
            let entry = self.load(&here.entries()[i]);
            if entry.is_in_use() {
                let va = piece.start();
                let level = Level::L0;
                return Err(SpaceError::AlreadyMapped { va, entry, level });
            }
        }
        let _section = self.mmu().lazy().section_unless_active()?;
        self.is_private.set(false);
        other.is_private.set(false);
        let mut copied = 0;
        for i in first..=last {
            let link = self.load(&there.entries()[i]);
            if link.is_table(Level::L0) {
                links::write(self.mmu(), Level::L0, &here.entries()[i], link);
                copied += 1;
            }
        }
        Ok(copied)
    }

    /// Frees every table below the root that translates an address of `range` and has no entry in
    /// use, after one invalidation for all of them. Returns how many tables were freed. Linux:
    /// `free_pgd_range()`, here for empty tables only.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`], [`SpaceError::OutsideWindow`].
    pub fn free_empty_tables(&mut self, range: PageRange) -> Result<usize, SpaceError> {
        self.check_range(range)?;
        // Nothing may wait for a table that is about to be freed.
        backend::drain(self.mmu());
        self.writer.forget_last();
        Ok(self.free_tables(range, &|link| link.population() == Some(0)))
    }

    /// Frees every table below the root that translates an address of `range` and for whose link
    /// `goes` is true after the tables below it were freed. Returns how many tables were freed.
    fn free_tables(&self, range: PageRange, goes: &impl Fn(Desc) -> bool) -> usize {
        let mut unlinked = Unlinked::default();
        let root = self.table(self.root);
        self.unlink(Level::L0, root, range, goes, &mut unlinked);
        let Some(hull) = unlinked.hull else {
            return 0;
        };
        if !self.mmu().kernel().in_interrupt() {
            self.mmu().lazy().current().hints().forget_space(self.root);
        }
        // R32: no walker may still hold an entry that leads to a table when its frame is reused, so
        // the invalidation must reach table entries. One page that the table translates would be
        // enough for each table. But the tables of a range are usually neighbors, so `tlbi::plan`
        // covers the hull with few operations.
        self.mmu()
            .invalidate_range(hull, self.kind().scope(), Reach::Walk);
        self.writer.invalidated(hull);
        let mut spare = unlinked.into_spare(self.mmu());
        let mut freed = 0;
        while let Some(frame) = spare.take() {
            // SAFETY: the table came from `alloc_table`, its only link was cleared by
            // `unlink`, and the invalidation of all levels is complete.
            unsafe { self.mmu().kernel().free_table(frame) };
            freed += 1;
        }
        freed
    }

    /// Unlinks those tables below `table`, which is of `level`, that translate an address of
    /// `range` and for whose link `goes` is true. Returns how many entries of `table` were emptied.
    fn unlink(
        &self,
        level: Level,
        table: &Table,
        range: PageRange,
        goes: &impl Fn(Desc) -> bool,
        unlinked: &mut Unlinked,
    ) -> isize {
        let Some(next) = level.next() else {
            return 0;
        };
        let mut emptied = 0;
        let mut rest = Some(range);
        while let Some(range) = rest {
            let piece = range.first_in(level);
            let entry = &table.entries()[level.index(piece.start())];
            let link = self.load(entry);
            if link.is_table(level) {
                let table = self.table(link.frame());
                let below = self.unlink(next, table, piece, goes, unlinked);
                if below != 0 {
                    links::add_population(self.mmu(), entry, -below);
                }
                if goes(self.load(entry)) {
                    links::write(self.mmu(), level, entry, Desc::INVALID);
                    emptied += 1;
                    unlinked.add(self.mmu(), table, link.frame(), piece);
                }
            }
            rest = range.behind(piece);
        }
        emptied
    }

    /// Invalidates every TLB entry of the space and frees the whole tree, root included. Frames
    /// that are still mapped stay with their owners.
    ///
    /// # Safety
    /// No CPU has the root in a TTBR, and no table is shared. No task other than the caller is in a
    /// section in which it wrote to the space or announced a range of it.
    pub unsafe fn destroy(self) {
        // R25: the tables are freed only after the invalidation is complete. The root is in no
        // TTBR, so no new entry can be cached after it.
        backend::drain_own(self.mmu());
        self.mmu().invalidate_all(self.kind().scope());
        self.mmu().lazy().current().hints().forget_space(self.root);
        self.free_tree(Level::L0, self.root);
        mem::forget(self);
    }

    /// Frees the whole tree, root included, of a space whose tables no CPU can have walked.
    pub(super) fn free_private(&self) {
        backend::drain_own(self.mmu());
        let half = self.kind().half();
        let Ok(all) = PageRange::from_bounds(half.start(), half.end()) else {
            unreachable!("a half is a range");
        };
        self.free_tables(all, &|_| true);
        // SAFETY: the root came from `alloc_table`, and only this space knows it.
        unsafe { self.mmu().kernel().free_table(self.root) };
    }

    /// Whether a [`FastPteRange`](super::FastPteRange) in or below `frame`, a table of `level`, was
    /// forgotten: its table still has an unknown population. A task may still have announced it.
    pub(super) fn has_open_range(&self, level: Level, frame: Frame) -> bool {
        let Some(next) = level.next() else {
            return false;
        };
        self.table(frame).entries().iter().any(|entry| {
            let link = self.load(entry);
            link.is_table(level)
                && (link.population().is_none() || self.has_open_range(next, link.frame()))
        })
    }

    /// Counts the entries in use of `frame`, a table of `level`, and sets the populations of all
    /// tables below it. Entries that are not zero and yet translate nothing are emptied.
    pub(super) fn count_entries(&self, level: Level, frame: Frame) -> usize {
        let mut used = 0;
        for entry in self.table(frame).entries() {
            let held = self.load(entry);
            match level.next() {
                Some(next) if held.is_table(level) => {
                    let below = self.count_entries(next, held.frame());
                    links::set_counted(self.mmu(), entry, held, below);
                }
                _ if held.is_leaf(level) => {}
                _ if !held.is_in_use() => continue,
                Some(_) => {
                    links::write(self.mmu(), level, entry, Desc::INVALID);
                    continue;
                }
                None => {
                    self.writer.discard(entry);
                    continue;
                }
            }
            used += 1;
        }
        used
    }

    fn free_tree(&self, level: Level, frame: Frame) {
        if let Some(next) = level.next() {
            for entry in self.table(frame).entries() {
                let link = self.load(entry);
                if link.is_table(level) {
                    self.free_tree(next, link.frame());
                }
            }
        }
        // SAFETY: the caller of `destroy` promises that no CPU has the root in a TTBR, and the
        // invalidation is complete, so no walker reaches this tree any more.
        unsafe { self.mmu().kernel().free_table(frame) };
    }
}
