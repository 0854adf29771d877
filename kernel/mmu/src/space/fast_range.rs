// SPDX-License-Identifier: MIT OR Apache-2.0
//! A range of entries whose table is known: no walk per page.
//!
//! What `fast_pte_range` is about: the caller names the range once, the table is found
//! once, and after that a page is an index. [`AddressSpace::map`] works the same way
//! inside; this is for callers that write entries one by one or in runs of
//! their own choice, in any order and any subset.
//!
//! The range is announced for as long as it is held ([`crate::Lazy::enable_fast_pte_range`]).

use super::AddressSpace;
use super::cursor::LeafTable;
use super::quick::{Quick, Sums};
use super::tables::Spare;
use crate::addr::{Frame, PAGE_SIZE, PageRange};
use crate::backend::{Backend, Fill, Was};
use crate::contiguous::{self, GROUP};
use crate::desc::{Desc, Prot, bits};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::lazy::LazySection;
use crate::policy;

/// The entries of a range inside one table, in a lazy section of their own.
/// Leaves the section on drop.
#[must_use = "dropping the range leaves its section"]
pub struct FastPteRange<'s, 'm, K: Kernel> {
    space: &'s AddressSpace<'m, K>,
    table: LeafTable<'s>,
    before: Option<usize>,
    quick: Quick,
    sums: Sums,
    section: Option<LazySection<'m, K>>,
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
        self.check_one_table(range)?;
        let needed = self.missing_tables_for_entries(range)?;
        let mut spare = Spare::reserve(self.mmu, needed)?;
        let section = self.mmu.lazy().section()?;
        let Some(table) = self.cursor(range).next_or_build(&mut spare) else {
            unreachable!("a range has at least one page, and so one table");
        };
        if section.is_counted() {
            let hint = self.hint(range, table.link.frame())?;
            self.mmu.lazy().announce(hint);
        }
        // Settled on drop. Should that never happen, the table counts as neither empty
        // nor full for ever, each of its entries is looked at, and it is never freed.
        let before = table.link.population();
        let link = table.link.with_unknown_population();
        self.mmu.kernel().store(table.parent, link);
        let table = table.with_link(link);
        Ok(FastPteRange {
            quick: Quick::of(self, range),
            table,
            space: self,
            before,
            sums: Sums::ZERO,
            section: Some(section),
        })
    }
}

impl<K: Kernel> FastPteRange<'_, '_, K> {
    /// The pages of the range.
    pub const fn range(&self) -> PageRange {
        self.table.piece
    }

    /// Value of the entry of page `i`, counted from the start of the range.
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline]
    pub fn get(&self, i: usize) -> Desc {
        assert!(i < self.table.ptes().len(), "page {i} of {self:?}");
        self.space.read(&self.table, i)
    }

    /// Maps page `i`. If its entry was emptied and not invalidated yet, it is
    /// invalidated first (R29).
    ///
    /// # Errors
    /// As [`super::PteRef::set`].
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline(always)]
    pub fn set(&mut self, i: usize, frame: Frame, prot: Prot) -> Result<(), SpaceError> {
        let pte = &self.table.ptes()[i];
        let kernel = self.space.mmu.kernel();
        if self.quick.set(kernel, pte, Desc::page(frame, prot), prot) {
            self.sums.quick += 1;
            return Ok(());
        }
        let change = self.space.set_leaf(&self.table.nth(i), frame, prot)?;
        self.sums.add(change);
        self.quick = Quick::of(self.space, self.table.piece);
        Ok(())
    }

    /// Maps `pages` empty pages from page `first` on, page `i` of the range to the frame `frame(i)`. The
    /// same as so many calls of [`FastPteRange::set`], and the shortest loop there is where stores
    /// happen at once.
    ///
    /// # Errors
    /// [`SpaceError::WrongPrivilege`], [`SpaceError::AlreadyMapped`] if one is in use;
    /// nothing is written.
    ///
    /// # Panics
    /// If the pages are not in the range.
    #[inline]
    pub fn set_each(
        &mut self,
        first: usize,
        pages: usize,
        prot: Prot,
        mut frame: impl FnMut(usize) -> Frame,
    ) -> Result<(), SpaceError> {
        let space = self.space;
        let found = self.empty_part(first, pages, prot)?;
        if matches!(
            space.mmu.backend(),
            Backend::DeferBarriers | Backend::BatchInvalidations
        ) {
            let kernel = space.mmu.kernel();
            for (i, pte) in (first..).zip(found.ptes()) {
                kernel.store(pte, Desc::page(frame(i), prot));
            }
            policy::account(space.mmu, pages, Desc::page(Frame::ZERO, prot));
        } else {
            for i in 0..pages {
                let first = Desc::page(frame(first + i), prot);
                space.write(&found.nth(i), Fill::Contiguous { first }, Was::Gone);
            }
        }
        self.sums.change += pages as isize;
        Ok(())
    }

    /// Maps `pages` empty pages from page `first` on to consecutive frames. Contiguous groups among
    /// them (16 pages, aligned addresses and frames) are made as such (user mappings).
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
        if !frame.has_room_for(pages as u64) {
            let pages = pages as u64;
            return Err(SpaceError::BackingEnd {
                first: frame,
                pages,
            });
        }
        if pages == 0 {
            return Ok(());
        }
        let found = self.empty_part(first, pages, prot)?;
        let space = self.space;
        let write = |from: usize, pages: usize, hint: u64| {
            let raw = Desc::page(frame, prot).as_u64() + from as u64 * PAGE_SIZE;
            let first = Desc::from_u64(raw | hint);
            if pages > 0 {
                let part = found.part(from, pages);
                space.write(&part, Fill::Contiguous { first }, Was::Gone);
            }
        };
        let (head, groups) = contiguous::groups(found.piece, frame, space.kind.scope());
        write(0, head, 0);
        write(head, groups * GROUP, bits::CONT);
        write(head + groups * GROUP, pages - head - groups * GROUP, 0);
        self.sums.change += pages as isize;
        Ok(())
    }

    /// Checks that `prot` may be set for a part of the range, and that nothing is in use there.
    #[inline]
    fn empty_part(
        &self,
        first: usize,
        pages: usize,
        prot: Prot,
    ) -> Result<LeafTable<'_>, SpaceError> {
        self.space.kind.check_prot(prot)?;
        assert!(
            first + pages <= self.table.ptes().len(),
            "pages {first}..{} of {self:?}",
            first + pages
        );
        let found = self.table.part(first, pages);
        // A table that came empty, and in which nothing was set since, is empty.
        if self.before != Some(0) || self.sums.quick != 0 || self.sums.change != 0 {
            self.space.check_run_unused(&found)?;
        }
        self.space.invalidate_before_reuse(found.piece);
        Ok(found)
    }

    /// Empties page `i` and returns what it held. The invalidation is the
    /// caller's, as with [`super::PteRef::get_and_clear`].
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline]
    pub fn get_and_clear(&mut self, i: usize) -> Desc {
        let old = self.space.take_leaf(&self.table.nth(i));
        self.sums.change -= isize::from(old.is_in_use());
        // The page cannot be mapped again before its invalidation.
        self.quick = Quick::never(self.space.kind());
        old
    }
}

impl<K: Kernel> Drop for FastPteRange<'_, '_, K> {
    fn drop(&mut self) {
        let change = self.sums.settle(self.space);
        // What waits is written before the table may count as empty.
        drop(self.section.take());
        if let Some(before) = self.before {
            self.space.set_population(self.table.parent, before, change);
        }
    }
}

impl<K: Kernel> core::fmt::Debug for FastPteRange<'_, '_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FastPteRange({})", self.table.piece)
    }
}
