// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping: empty entries become valid. The new entries need no TLBI (R31).

use super::address_space::AddressSpace;
use super::leaf_table::LeafTable;
use super::links;
use super::spare::Spare;
use crate::addr::{Frame, Level, PAGE_SIZE, PageRange, VirtAddr};
use crate::backend::{Fill, Was};
use crate::desc::{Desc, Prot};
use crate::error::SpaceError;
use crate::hardware::Kernel;

/// The frames that a range is mapped to. A [`Frame`] and a slice of frames convert into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing<'a> {
    /// Physically consecutive frames, from this one on.
    Contiguous(Frame),
    /// One frame per page, in order.
    Scattered(&'a [Frame]),
}

impl From<Frame> for Backing<'_> {
    fn from(first: Frame) -> Self {
        Self::Contiguous(first)
    }
}

impl<'a> From<&'a [Frame]> for Backing<'a> {
    fn from(frames: &'a [Frame]) -> Self {
        Self::Scattered(frames)
    }
}

impl<'a> Backing<'a> {
    fn check(self, pages: u64) -> Result<(), SpaceError> {
        match self {
            Self::Contiguous(first) if !first.has_room_for(pages) => {
                Err(SpaceError::BackingEnd { first, pages })
            }
            Self::Scattered(list) if list.len() as u64 != pages => Err(SpaceError::BackingLength {
                pages,
                frames: list.len() as u64,
            }),
            _ => Ok(()),
        }
    }

    /// The descriptors for the `pages` pages from page `from` of the range on.
    #[inline]
    fn fill(self, from: u64, pages: u64, prot: Prot) -> Fill<'a> {
        match self {
            Self::Contiguous(first) => Fill::Contiguous {
                first: Desc::from_u64(Desc::page(first, prot).as_u64() + from * PAGE_SIZE),
            },
            Self::Scattered(list) => Fill::Scattered {
                frames: &list[from as usize..(from + pages) as usize],
                template: Desc::page(Frame::ZERO, prot),
            },
        }
    }
}

impl<K: Kernel> AddressSpace<'_, K> {
    /// Maps `range` to `backing` with attributes `prot`, with one walk per table. The mapping takes
    /// effect before the call returns, or, if the caller is in an active section, with the next
    /// flush or end of a section (R5). Linux: `vmap_pages_range()`, `vmap_page_range()`.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`]; [`SpaceError::OutsideWindow`]; [`SpaceError::WrongPrivilege`];
    /// [`SpaceError::BackingEnd`] or [`SpaceError::BackingLength`] for a wrong number of frames;
    /// [`SpaceError::AlreadyMapped`] for a page that is in use; [`SpaceError::OutOfTables`]. On an
    /// error nothing was changed and every reserved table was given back.
    #[inline]
    pub fn map<'b>(
        &mut self,
        range: PageRange,
        backing: impl Into<Backing<'b>>,
        prot: Prot,
    ) -> Result<(), SpaceError> {
        let backing = backing.into();
        if let Backing::Contiguous(frame) = backing
            && range.pages() == 1
            && self.map_like_last(range.start(), frame, prot)
        {
            return Ok(());
        }
        self.map_anywhere(range, backing, prot)
    }

    /// Maps the page `va` to `frame` if the writer remembers its table from the last page and
    /// nothing has changed since. Returns whether it did.
    #[inline(always)]
    fn map_like_last(&self, va: VirtAddr, frame: Frame, prot: Prot) -> bool {
        let Some(last) = self.writer.last(va, prot) else {
            return false;
        };
        let parent = &self.table(last.upper).entries()[Level::L2.index(va)];
        let pte = &self.table(last.table).entries()[Level::L3.index(va)];
        self.writer.set_like_last(&last, parent, pte, frame)
    }

    #[inline(never)]
    fn map_anywhere(
        &self,
        range: PageRange,
        backing: Backing<'_>,
        prot: Prot,
    ) -> Result<(), SpaceError> {
        self.check_request(range, prot)?;
        backing.check(range.pages())?;
        // Most requests lie in one table that exists: one walk serves the check and the write.
        if range.is_in_one_table(Level::L3)
            && let Some(found) = &self.leaf_table(range)
        {
            self.check_run_unused(found)?;
            self.writer.invalidate_before_reuse(range);
            // One run needs no section of its own: its barriers follow the whole run.
            self.map_run(found, backing.fill(0, range.pages(), prot), prot);
            if self.may_change(PageRange::of_table(range.start())) {
                self.writer.remember(found, prot);
            }
            return Ok(());
        }
        let needed = self.missing_tables(range, |found| self.check_run_unused(found))?;
        let mut spare = Spare::reserve(self.mmu(), needed)?;
        let _section = self.mmu().lazy().section_unless_active()?;
        self.writer.invalidate_before_reuse(range);
        let mut done = 0;
        self.each_table(range, &mut spare, |found| {
            let pages = found.piece.pages();
            self.map_run(&found, backing.fill(done, pages, prot), prot);
            done += pages;
            Ok(())
        })
    }

    #[inline(always)]
    fn map_run(&self, found: &LeafTable<'_>, fill: Fill<'_>, prot: Prot) {
        links::note_memory_type(self.mmu(), found.parent, prot);
        self.writer.write(found, fill, Was::Gone);
        links::add_population(self.mmu(), found.parent, found.piece.pages() as isize);
    }

    #[inline(always)]
    pub(super) fn check_run_unused(&self, found: &LeafTable<'_>) -> Result<(), SpaceError> {
        if found.is_empty() {
            return Ok(());
        }
        self.check_entries_unused(found)
    }

    #[inline(never)]
    fn check_entries_unused(&self, found: &LeafTable<'_>) -> Result<(), SpaceError> {
        match found.position(self.mmu(), Desc::is_in_use) {
            None => Ok(()),
            Some(i) => Err(SpaceError::AlreadyMapped {
                va: found.piece.page(i),
                entry: found.read(self.mmu(), i),
                level: Level::L3,
            }),
        }
    }
}
