// SPDX-License-Identifier: MIT OR Apache-2.0
//! A callback per entry. Linux: `apply_to_page_range()`.
//!
//! The callback runs inside a section and may do what callbacks do in Linux: set,
//! clear, read, open and close sections, pause (S6, S7). Each write through a
//! [`PteRef`] follows the state of that very moment: deferred in the section,
//! completed at once while paused.
//!
//! Each table in turn is announced, as Linux's `apply_to_pte_range()` does
//! ([`crate::Lazy::enable_fast_pte_range`]).

use super::AddressSpace;
use super::cursor::LeafTable;
use super::quick::{Quick, Sums};
use super::tables::Spare;
use crate::addr::{Frame, PageRange, VirtAddr};
use crate::backend::Backend;
use crate::desc::{Desc, Prot};
use crate::error::SpaceError;
use crate::hardware::Kernel;

/// One last-level entry in the hands of a callback.
pub struct PteRef<'a, K: Kernel> {
    space: &'a AddressSpace<'a, K>,
    table: &'a LeafTable<'a>,
    /// Number of the entry in the table's piece.
    i: usize,
    quick: &'a mut Quick,
    sums: &'a mut Sums,
}

impl<K: Kernel> PteRef<'_, K> {
    /// The page this entry translates.
    pub const fn va(&self) -> VirtAddr {
        self.table.piece.page(self.i)
    }

    /// The entry's value (R13, R20: what was written is what is read).
    #[inline]
    pub fn get(&self) -> Desc {
        self.space.read(self.table, self.i)
    }

    /// Maps the page. If the entry was emptied and not invalidated yet, it is
    /// invalidated first (R29). Linux: `set_pte_at()`.
    ///
    /// If the entry is live, its permissions may change; their invalidation is the caller's
    /// ([`AddressSpace::flush_tlb_range`], R30).
    ///
    /// # Errors
    /// [`SpaceError::WrongPrivilege`]; [`SpaceError::BreakBeforeMake`] if the entry is
    /// live and may not be replaced in place (R29). Nothing is written.
    #[inline(always)]
    pub fn set(&mut self, frame: Frame, prot: Prot) -> Result<(), SpaceError> {
        let pte = &self.table.ptes()[self.i];
        let kernel = self.space.mmu.kernel();
        if self.quick.set(kernel, pte, Desc::page(frame, prot), prot) {
            self.sums.quick += 1;
            return Ok(());
        }
        let (quick, change) = set_slowly(self.space, self.table, self.i, frame, prot)?;
        *self.quick = quick;
        self.sums.change += change;
        Ok(())
    }

    /// Empties the entry and returns what it held. The invalidation is the
    /// caller's: [`AddressSpace::flush_tlb_range`], before the frame is reused (R25).
    /// Linux: `ptep_get_and_clear()`.
    #[inline]
    pub fn get_and_clear(&mut self) -> Desc {
        let old = self.space.take_leaf(&self.table.nth(self.i));
        self.sums.change -= isize::from(old.is_in_use());
        // The page cannot be mapped again before its invalidation.
        *self.quick = Quick::never(self.space.kind());
        old
    }
}

/// By value: what a loop keeps in registers stays there.
#[inline(never)]
fn set_slowly<K: Kernel>(
    space: &AddressSpace<'_, K>,
    table: &LeafTable<'_>,
    i: usize,
    frame: Frame,
    prot: Prot,
) -> Result<(Quick, isize), SpaceError> {
    let change = space.set_leaf(&table.nth(i), frame, prot)?;
    Ok((Quick::of(space, table.piece), change.count()))
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
    /// [`SpaceError::WrongHalf`], [`SpaceError::OutOfTables`],
    /// [`SpaceError::Block`], before the first call; or the first error of `f`, which
    /// ends the iteration: the section is left, what `f` did before stays.
    pub fn apply_to_page_range<E: From<SpaceError>>(
        &mut self,
        range: PageRange,
        mut f: impl FnMut(&mut PteRef<'_, K>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_half(range)?;
        let needed = self.missing_tables_for_entries(range)?;
        let mut spare = Spare::reserve(self.mmu, needed)?;
        let _section = self
            .mmu
            .lazy()
            .section_unless_active()
            .map_err(SpaceError::from)?;
        let mut cursor = self.cursor(range);
        while let Some(found) = cursor.next_or_build(&mut spare) {
            self.announced(&found, || self.apply_to_table(&found, &mut f))?;
        }
        Ok(())
    }

    #[inline(always)]
    fn apply_to_table<E>(
        &self,
        found: &LeafTable<'_>,
        f: &mut impl FnMut(&mut PteRef<'_, K>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut sums = Sums::ZERO;
        let mut quick = Quick::of(self, found.piece);
        let mut result = Ok(());
        for i in 0..found.ptes().len() {
            result = f(&mut PteRef {
                space: self,
                table: found,
                i,
                quick: &mut quick,
                sums: &mut sums,
            });
            if result.is_err() {
                break;
            }
        }
        self.add_population(found.parent, sums.settle(self));
        result
    }

    /// Calls `f` while the piece is announced, where that makes a difference.
    #[inline(always)]
    fn announced<T>(&self, found: &LeafTable<'_>, f: impl FnOnce() -> T) -> T {
        let lazy = self.mmu.lazy();
        if self.mmu.backend() != Backend::DeferStores || !lazy.is_lazy_mmu_mode_active() {
            return f();
        }
        let before = lazy.state().hints().len();
        if let Ok(hint) = self.hint(found.piece, found.link.frame()) {
            lazy.announce(hint);
        }
        let result = f();
        lazy.state().hints().truncate(before);
        result
    }
}
