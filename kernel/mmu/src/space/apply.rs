// SPDX-License-Identifier: MIT OR Apache-2.0
//! A callback per entry. Linux: `apply_to_page_range()`.
//!
//! The callback runs inside a section and may do what callbacks do in Linux: set,
//! clear, read, open and close sections, pause (S6, S7). Each write through a
//! [`PteRef`] follows the state of that very moment: deferred in the section,
//! completed at once while paused.

use super::AddressSpace;
use super::tables::Spare;
use crate::addr::{Frame, Level, PageRange, VirtAddr};
use crate::backend;
use crate::bbm;
use crate::desc::{Desc, Prot};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::table::Pte;

/// One last-level entry in the hands of a callback.
pub struct PteRef<'a, K: Kernel> {
    space: &'a AddressSpace<'a, K>,
    pte: &'a Pte,
    va: VirtAddr,
    /// Entries taken into use minus entries emptied, of the whole run.
    change: &'a mut isize,
}

impl<K: Kernel> PteRef<'_, K> {
    fn mmu(&self) -> &'_ Mmu<K> {
        self.space.mmu
    }

    /// The page this entry translates.
    pub const fn va(&self) -> VirtAddr {
        self.va
    }

    /// The entry's value (R13: what was written is what is read).
    #[inline]
    pub fn get(&self) -> Desc {
        self.mmu().kernel().load(self.pte)
    }

    /// Maps the page. If the entry was emptied and not invalidated yet, it is
    /// invalidated first (R29). Linux: `set_pte_at()`.
    ///
    /// # Errors
    /// [`SpaceError::WrongPrivilege`]; [`SpaceError::BreakBeforeMake`] if the entry is
    /// live and may not be replaced in place (R29). Nothing is written.
    #[inline]
    pub fn set(&mut self, frame: Frame, prot: Prot) -> Result<(), SpaceError> {
        self.space.kind.check_prot(prot)?;
        let old = self.get();
        let new = Desc::page(frame, prot);
        if old.is_in_use() {
            bbm::check(Level::L3, old, new).map_err(|violation| SpaceError::BreakBeforeMake {
                va: self.va,
                violation,
            })?;
        } else {
            *self.change += 1;
            if self.space.unflushed.contains(self.va) {
                self.space.invalidate_unflushed();
            }
        }
        self.mmu().kernel().store(self.pte, new);
        self.mmu().kernel().counters().ptes(1);
        backend::complete(self.mmu(), Level::L3, new);
        Ok(())
    }

    /// Empties the entry and returns what it held. The invalidation is the
    /// caller's: [`AddressSpace::flush_tlb_range`], before the frame is reused (R25).
    /// Linux: `ptep_get_and_clear()`.
    #[inline]
    pub fn get_and_clear(&mut self) -> Desc {
        let old = self.mmu().kernel().swap(self.pte, Desc::INVALID);
        if old.is_in_use() {
            *self.change -= 1;
            self.space.unflushed.widen_by_page(self.va);
        }
        self.mmu().kernel().counters().ptes(1);
        backend::complete(self.mmu(), Level::L3, Desc::INVALID);
        old
    }
}

impl<K: Kernel> core::fmt::Debug for PteRef<'_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PteRef({}: {})", self.va, self.get())
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
            let mut change = 0;
            let result = found.run().iter().enumerate().try_for_each(|(i, pte)| {
                f(&mut PteRef {
                    space: self,
                    pte,
                    va: found.piece.page(i),
                    change: &mut change,
                })
            });
            self.add_population(found.parent, change);
            result?;
        }
        Ok(())
    }
}
