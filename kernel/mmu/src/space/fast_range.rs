// SPDX-License-Identifier: MIT OR Apache-2.0
//! A range of entries whose table is known: no walk per page.
//!
//! What `fast_pte_range` is about: the caller names the range once, the table is found
//! once, and after that a page is an index. [`AddressSpace::map`] works the same way
//! inside; this is for callers that write entries one by one or in runs of
//! their own choice, in any order and any subset.

use super::AddressSpace;
use super::tables::Spare;
use crate::addr::{Frame, Level, PageRange, RangeError};
use crate::backend::{self, Fill};
use crate::bbm;
use crate::desc::{Desc, Prot};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::lazy::LazySection;
use crate::mmu::Mmu;
use crate::table::Pte;

/// The entries of a range inside one table, in a lazy section of their own.
/// Leaves the section on drop.
#[must_use = "dropping the range leaves its section"]
pub struct FastPteRange<'s, 'm, K: Kernel> {
    space: &'s AddressSpace<'m, K>,
    ptes: &'s [Pte],
    parent: &'s Pte,
    range: PageRange,
    before: Option<usize>,
    change: isize,
    _section: LazySection<'m, K>,
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// Opens a section over `range`, which lies inside one last-level table; the
    /// table is built if it is missing. Linux (proposed):
    /// `lazy_mmu_mode_enable_fast_pte_range()`.
    ///
    /// # Errors
    /// [`SpaceError::Range`] if `range` crosses a table's end (2 MiB), and what
    /// [`AddressSpace::apply_to_page_range`] refuses.
    pub fn fast_pte_range(
        &mut self,
        range: PageRange,
    ) -> Result<FastPteRange<'_, 'm, K>, SpaceError> {
        self.check_half(range)?;
        if !range.is_in_one_table(Level::L3) {
            return Err(SpaceError::Range(RangeError::CrossesTable {
                start: range.start().as_u64(),
                pages: range.pages(),
            }));
        }
        let needed = self.missing_tables_for_entries(range)?;
        let mut spare = Spare::reserve(self.mmu, needed)?;
        let section = self.mmu.lazy().section()?;
        let Some(found) = self.cursor(range).next_or_build(&mut spare) else {
            unreachable!("a range has at least one page, and so one table");
        };
        // Settled on drop. Should that never happen, the table counts as neither empty
        // nor full for ever, and each of its entries is looked at.
        let before = found.link.population();
        self.mmu
            .kernel()
            .store(found.parent, found.link.with_unknown_population());
        Ok(FastPteRange {
            ptes: found.run(),
            parent: found.parent,
            space: self,
            range,
            before,
            change: 0,
            _section: section,
        })
    }
}

impl<K: Kernel> FastPteRange<'_, '_, K> {
    fn mmu(&self) -> &Mmu<K> {
        self.space.mmu
    }

    /// The pages of the range.
    pub const fn range(&self) -> PageRange {
        self.range
    }

    /// Value of the entry of page `i`, counted from the start of the range.
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline]
    pub fn get(&self, i: usize) -> Desc {
        self.mmu().kernel().load(&self.ptes[i])
    }

    /// Maps page `i`. If its entry was emptied and not invalidated yet, it is
    /// invalidated first (R29).
    ///
    /// # Errors
    /// As [`super::PteRef::set`].
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline]
    pub fn set(&mut self, i: usize, frame: Frame, prot: Prot) -> Result<(), SpaceError> {
        self.space.kind.check_prot(prot)?;
        let old = self.get(i);
        let new = Desc::page(frame, prot);
        if old.is_in_use() {
            bbm::check(Level::L3, old, new).map_err(|violation| SpaceError::BreakBeforeMake {
                va: self.range.page(i),
                violation,
            })?;
        } else {
            self.change += 1;
            let va = self.range.page(i);
            if self.space.unflushed.contains(va) {
                self.space.invalidate_unflushed();
            }
        }
        let kernel = self.mmu().kernel();
        kernel.store(&self.ptes[i], new);
        kernel.counters().ptes(1);
        backend::complete(self.mmu(), Level::L3, new);
        Ok(())
    }

    /// Maps `pages` empty pages from page `first` on to consecutive frames.
    ///
    /// # Errors
    /// [`SpaceError::WrongPrivilege`], [`SpaceError::AlreadyMapped`] if one is in use,
    /// [`SpaceError::BackingEnd`];
    /// nothing is written.
    ///
    /// # Panics
    /// If the pages are not in the range.
    pub fn set_run(
        &mut self,
        first: usize,
        pages: usize,
        frame: Frame,
        prot: Prot,
    ) -> Result<(), SpaceError> {
        self.space.kind.check_prot(prot)?;
        let run = &self.ptes[first..first + pages];
        if !frame.has_room_for(pages as u64) {
            let pages = pages as u64;
            return Err(SpaceError::BackingEnd {
                first: frame,
                pages,
            });
        }
        for (i, pte) in run.iter().enumerate() {
            let entry = self.mmu().kernel().load(pte);
            if entry.is_in_use() {
                return Err(SpaceError::AlreadyMapped {
                    va: self.range.page(first + i),
                    entry,
                    level: Level::L3,
                });
            }
        }
        self.space.invalidate_before_reuse(self.range);
        let first = Desc::page(frame, prot);
        backend::write_run(self.mmu(), run, Fill::Contiguous { first });
        self.change += pages as isize;
        Ok(())
    }

    /// Empties page `i` and returns what it held. The invalidation is the
    /// caller's, as with [`super::PteRef::get_and_clear`].
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline]
    pub fn get_and_clear(&mut self, i: usize) -> Desc {
        let kernel = self.mmu().kernel();
        let old = kernel.swap(&self.ptes[i], Desc::INVALID);
        kernel.counters().ptes(1);
        backend::complete(self.mmu(), Level::L3, Desc::INVALID);
        if old.is_in_use() {
            self.change -= 1;
            self.space.unflushed.widen_by_page(self.range.page(i));
        }
        old
    }
}

impl<K: Kernel> Drop for FastPteRange<'_, '_, K> {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            self.space.set_population(self.parent, before, self.change);
        }
    }
}

impl<K: Kernel> core::fmt::Debug for FastPteRange<'_, '_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FastPteRange({})", self.range)
    }
}
