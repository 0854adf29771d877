// SPDX-License-Identifier: MIT OR Apache-2.0
//! A callback for each entry of a range. Linux: `apply_to_page_range()`.
//!
//! The callback runs inside a section. It may set, clear and read its entry, open and close
//! sections, and pause, as the callbacks of KASAN do in Linux. Each write through a [`PteRef`] goes
//! by the task's state at the time of the write: its barriers are deferred in the section, and
//! executed at once while paused.
//!
//! Each table is announced during its visit, as in Linux's `apply_to_pte_range()`
//! ([`crate::Lazy::enable_fast_pte_range`]).

use super::address_space::AddressSpace;
use super::leaf_table::{LeafTable, Stop};
use super::links;
use super::spare::Spare;
use super::write::{ShortWay, Sums};
use crate::addr::{Frame, PageRange, VirtAddr};
use crate::desc::{Desc, Prot};
use crate::error::SpaceError;
use crate::hardware::{CurrentTask, Kernel};
use crate::strategy::Backend;
use crate::table::Pte;
use crate::task::LazyMmuState;
use core::mem;

/// One last-level entry, as a callback gets it.
pub struct PteRef<'a, K: Kernel> {
    space: &'a AddressSpace<'a, K>,
    table: &'a LeafTable<'a>,
    /// An entry of the table's piece.
    pte: &'a Pte,
    /// The state of the calling task.
    state: &'a LazyMmuState,
    short: &'a mut ShortWay,
    sums: &'a mut Sums,
    /// Whether the entry is known to be empty, because the table was empty and every earlier
    /// callback only set its own entry. Kernel spaces only.
    is_fresh: bool,
    /// Whether the entry was set by the short way.
    was_short: bool,
}

/// The visit of one table's entries. It is dropped only if the callback panics, and then counts the
/// entries that are in use.
struct Visit<'a, 's, K: Kernel> {
    space: &'a AddressSpace<'a, K>,
    found: &'a LeafTable<'s>,
    sums: Sums,
    /// The number under which the end withdraws the announcement, if the table was announced.
    announced: Option<u8>,
}

impl<K: Kernel> Visit<'_, '_, K> {
    /// Ends the visit, in which `short` entries were set by the short way.
    #[inline(always)]
    fn end(mut self, short: usize) {
        self.sums.short = short;
        self.settle();
        mem::forget(self);
    }

    #[inline(always)]
    fn settle(&self) {
        let (mmu, parent) = (self.space.mmu(), self.found.parent);
        links::add_population(mmu, parent, self.sums.settle(&self.space.writer));
        if let Some(number) = self.announced {
            mmu.kernel().current_lazy().hints().withdraw(number);
        }
    }
}

impl<K: Kernel> Drop for Visit<'_, '_, K> {
    fn drop(&mut self) {
        let before = self.found.link.population();
        let now = self.found.whole().count(self.space.mmu(), Desc::is_in_use);
        // What changed by other ways is in `sums.change` already.
        self.sums.short = before.map_or(0, |before| {
            now.wrapping_sub(before)
                .wrapping_add_signed(-self.sums.change)
        });
        self.settle();
    }
}

impl<K: Kernel> PteRef<'_, K> {
    /// The index of the entry in the table's piece. It is computed on demand, so that the loop over
    /// the entries need not count.
    fn i(&self) -> usize {
        self.table.index_of(self.pte)
    }

    /// The address of the page that this entry translates.
    pub fn va(&self) -> VirtAddr {
        self.table.piece.page(self.i())
    }

    /// The entry's value: the one that was written last, also if its store waits (R13, R20).
    #[inline]
    pub fn get(&self) -> Desc {
        self.table.read(self.space.mmu(), self.i())
    }

    /// Maps the page. If the entry was emptied and not invalidated yet, it is
    /// invalidated first (R29). Linux: `set_pte_at()`.
    ///
    /// A live entry may be set again with other permissions. The caller must then invalidate it
    /// ([`AddressSpace::invalidate_range`], R30).
    ///
    /// # Errors
    /// [`SpaceError::WrongPrivilege`]; [`SpaceError::BreakBeforeMake`] if the entry is
    /// live and may not be replaced in place (R29). Nothing is written.
    #[inline(always)]
    pub fn set(&mut self, frame: Frame, prot: Prot) -> Result<(), SpaceError> {
        let (mmu, pte, new) = (self.space.mmu(), self.pte, (frame, prot));
        let is_short = (self.is_fresh && self.short.set_fresh(mmu, self.state, pte, new))
            || self.short.set(mmu, self.state, pte, new);
        if is_short {
            // The entry is not empty any more, so a second `set` must read it.
            (self.is_fresh, self.was_short) = (false, true);
            return Ok(());
        }
        // Even if the long way refuses, later calls read the entry.
        self.is_fresh = false;
        let (short, change) = set_the_long_way(self.space, self.table, self.pte, frame, prot)?;
        *self.short = short;
        self.sums.change += change;
        Ok(())
    }

    /// Empties the entry and returns what it held, with the final access and dirty bits. The caller
    /// must invalidate it with [`AddressSpace::invalidate_range`] before the frame is reused (R25).
    /// Linux: `ptep_get_and_clear()`.
    #[inline(always)]
    pub fn get_and_clear(&mut self) -> Desc {
        self.space
            .writer
            .take_shortly(self.table, self.pte, self.short, self.sums)
    }
}

/// The long way of [`PteRef::set`]. It takes and returns values and no references to the loop's
/// variables, so that the compiler keeps these in registers.
#[cold]
#[inline(never)]
fn set_the_long_way<K: Kernel>(
    space: &AddressSpace<'_, K>,
    table: &LeafTable<'_>,
    pte: &Pte,
    frame: Frame,
    prot: Prot,
) -> Result<(ShortWay, isize), SpaceError> {
    let i = table.index_of(pte);
    let change = space.writer.set_leaf(&table.nth(i), frame, prot)?;
    Ok((space.writer.short_way(table.piece), change.count()))
}

impl<K: Kernel> core::fmt::Debug for PteRef<'_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PteRef({}: {})", self.va(), self.get())
    }
}

impl<K: Kernel> AddressSpace<'_, K> {
    /// Calls `f` for every entry of `range` in ascending order, inside a section (the
    /// caller's if one is active), building tables that are missing. Linux:
    /// `apply_to_page_range()`.
    ///
    /// # Errors
    /// Before the first call of `f`: [`SpaceError::WrongHalf`], [`SpaceError::OutsideWindow`],
    /// [`SpaceError::OutOfTables`], [`SpaceError::Block`]. Afterwards: the first error of `f`,
    /// which ends the iteration. The section is left, and what `f` did before stays.
    #[track_caller]
    pub fn apply_to_page_range<E: From<SpaceError>>(
        &mut self,
        range: PageRange,
        mut f: impl FnMut(&mut PteRef<'_, K>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_range(range)?;
        let needed = self.missing_tables_for_entries(range)?;
        let mut spare = Spare::reserve(self.mmu(), needed)?;
        let _section = self
            .mmu()
            .lazy()
            .section_unless_active()
            .map_err(SpaceError::from)?;
        self.each_table(range, &mut spare, |found| {
            self.apply_to_table(&found, &mut f)
        })
    }

    /// Calls `f` for those entries of `range` that are in use, in ascending order, inside a section
    /// (the caller's if one is active). Holes are skipped as in [`AddressSpace::unmap_existing`],
    /// and no table is built. Linux: `apply_to_existing_page_range()`, `walk_page_range()`.
    ///
    /// # Errors
    /// Before the first call of `f`: [`SpaceError::WrongHalf`], [`SpaceError::OutsideWindow`],
    /// [`SpaceError::Block`]. Afterwards: the first error of `f`, which ends the iteration. The
    /// section is left, and what `f` did before stays.
    #[track_caller]
    pub fn apply_to_existing_page_range<E: From<SpaceError>>(
        &mut self,
        range: PageRange,
        mut f: impl FnMut(&mut PteRef<'_, K>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_range(range)?;
        self.check_no_block(range)?;
        let _section = self
            .mmu()
            .lazy()
            .section_unless_active()
            .map_err(SpaceError::from)?;
        let mut f = |entry: &mut PteRef<'_, K>| match entry.get().is_in_use() {
            true => f(entry),
            false => Ok(()),
        };
        self.each_stop(range, |stop| match stop {
            Stop::Table(found) if !found.is_empty() => self.apply_to_table(&found, &mut f),
            _ => Ok(()),
        })
    }

    #[inline(always)]
    fn apply_to_table<E>(
        &self,
        found: &LeafTable<'_>,
        f: &mut impl FnMut(&mut PteRef<'_, K>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut visit = Visit {
            space: self,
            found,
            sums: Sums::ZERO,
            announced: self.announce(found),
        };
        let mut short = self.writer.short_way(found.piece);
        let state = self.mmu().kernel().current_lazy();
        let mut rest = found.ptes().iter();
        let mut other = 0;
        // The first loop runs while every callback only sets its entry. The table was empty, so no
        // entry needs to be read. After the first callback that does something else, the second
        // loop takes over.
        let mut failed = None;
        if short.sets(Prot::KERNEL) && found.is_empty() {
            for pte in rest.by_ref() {
                let mut entry = PteRef {
                    space: self,
                    table: found,
                    pte,
                    state,
                    short: &mut short,
                    sums: &mut visit.sums,
                    is_fresh: true,
                    was_short: false,
                };
                if let Err(error) = f(&mut entry) {
                    failed = Some(error);
                }
                if !entry.was_short || failed.is_some() {
                    other = usize::from(!entry.was_short);
                    break;
                }
            }
        }
        if failed.is_none() {
            for pte in rest.by_ref() {
                let mut entry = PteRef {
                    space: self,
                    table: found,
                    pte,
                    state,
                    short: &mut short,
                    sums: &mut visit.sums,
                    is_fresh: false,
                    was_short: false,
                };
                let result = f(&mut entry);
                other += usize::from(!entry.was_short);
                if let Err(error) = result {
                    failed = Some(error);
                    break;
                }
            }
        }
        visit.end(found.ptes().len() - rest.len() - other);
        failed.map_or(Ok(()), Err)
    }

    /// Announces the piece if the strategy looks at announced ranges and the mode is active.
    /// Returns the number under which to withdraw it.
    #[inline]
    fn announce(&self, found: &LeafTable<'_>) -> Option<u8> {
        let lazy = self.mmu().lazy();
        let waits = self.mmu().backend() == Backend::DeferStores && lazy.is_lazy_mmu_mode_active();
        waits.then(|| {
            lazy.current()
                .hints()
                .announce_numbered(self.hint_of(found))
        })
    }
}
