// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FastPteRange`]: a range of entries of one table, whose table is found once instead of once per
//! page.
//!
//! The caller names a range once, the library finds its table once, and from then on a page is an
//! index. [`AddressSpace::map`] works the same way inside. A `FastPteRange` is for callers that
//! write entries one by one, or in runs that they choose, in any order and any subset.
//!
//! The range is announced while the value lives ([`crate::Lazy::enable_fast_pte_range`]). The value
//! borrows the space, so its end may read and write any entry of the range: if an entry was set,
//! the end folds the contiguous groups of user mappings.

use super::address_space::AddressSpace;
use super::fold;
use super::leaf_table::LeafTable;
use super::links;
use super::spare::Spare;
use super::write::{ShortWay, Sums, Writer};
use crate::addr::{Frame, PAGE_SIZE, PageRange};
use crate::backend::{self, Fill, Was};
use crate::desc::{Desc, Prot, bits};
use crate::error::SpaceError;
use crate::group::{self, GROUP};
use crate::hardware::{CurrentTask, Kernel};
use crate::lazy::LazySection;
use crate::strategy::Backend;
use crate::table::Pte;
use core::mem;

/// The entries of a range inside one table, in a lazy section of their own. Dropping the value
/// leaves the section.
#[must_use = "dropping the range leaves its section"]
pub struct FastPteRange<'s, 'm, K: Kernel> {
    space: &'s AddressSpace<'m, K>,
    table: LeafTable<'s>,
    ptes: &'s [Pte],
    /// The population of the table when the range was opened, if it was known.
    before: Option<usize>,
    /// The number under which the end withdraws the announcement, if the range was announced.
    announced: Option<u8>,
    short: ShortWay,
    sums: Sums,
    /// Whether an entry was set by another way than the short one.
    was_set: bool,
    section: Option<LazySection<'m, K>>,
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// Opens a section over `range`, which lies inside one last-level table; the
    /// table is built if it is missing. Linux (proposed):
    /// `lazy_mmu_mode_enable_fast_pte_range()`.
    ///
    /// The range executes no more stores, `DSB`, `ISB` or TLBI than the same writes in a plain
    /// section, with one exception: contiguous groups of user mappings that were set one by one and
    /// are complete at the end of the range are folded there. All of them share one break, one
    /// invalidation and one make: two more stores for each of their entries and one set of
    /// barriers. With [`Backend::DeferStores`] a group of which all entries waited is made without
    /// a break.
    ///
    /// # Errors
    /// [`SpaceError::Range`] if `range` crosses a table's end (2 MiB), and the errors with which
    /// [`AddressSpace::apply_to_page_range`] refuses a range.
    // Inlined, because the value is too large to be copied from one function to the next.
    #[inline(always)]
    #[track_caller]
    pub fn fast_pte_range(
        &mut self,
        range: PageRange,
    ) -> Result<FastPteRange<'_, 'm, K>, SpaceError> {
        self.check_range(range)?;
        self.check_one_table(range)?;
        let space = &*self;
        let (table, section) = match space.leaf_table(range) {
            Some(found) => (found, space.mmu().lazy().section()?),
            None => space.build_fast_range(range)?,
        };
        // Only `DeferStores` looks at announced ranges.
        let waits = space.mmu().backend() == Backend::DeferStores;
        let announced = (section.is_counted() && waits).then(|| {
            let hints = space.mmu().lazy().current().hints();
            hints.announce_numbered(space.hint_of(&table))
        });
        // The drop sets the population again. If the value is forgotten, the population stays
        // unknown: each operation then reads the entries of the table, and the table is never
        // freed.
        let before = table.link.population();
        let link = links::forget_population(space.mmu(), table.parent, table.link);
        let table = table.with_link(link);
        Ok(FastPteRange {
            short: space.writer.short_way(range),
            ptes: table.ptes(),
            table,
            space,
            before,
            announced,
            sums: Sums::ZERO,
            was_set: false,
            section: Some(section),
        })
    }

    /// Builds the missing table. The section is opened last, after everything that can fail.
    #[cold]
    #[inline(never)]
    #[track_caller]
    fn build_fast_range(
        &self,
        range: PageRange,
    ) -> Result<(LeafTable<'_>, LazySection<'m, K>), SpaceError> {
        let needed = self.missing_tables_for_entries(range)?;
        let mut spare = Spare::reserve(self.mmu(), needed)?;
        let section = self.mmu().lazy().section()?;
        Ok((self.build_leaf_table(range, &mut spare), section))
    }
}

impl<'s, K: Kernel> FastPteRange<'s, '_, K> {
    /// The pages of the range.
    pub const fn range(&self) -> PageRange {
        self.table.piece
    }

    /// The value of the entry of page `i`, counted from the start of the range.
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline]
    #[track_caller]
    pub fn get(&self, i: usize) -> Desc {
        self.pte(i);
        self.table.read(self.space.mmu(), i)
    }

    /// Maps page `i` to `frame`. If its entry was emptied and not invalidated yet, it is
    /// invalidated first (R29).
    ///
    /// # Errors
    /// As [`super::PteRef::set`].
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline(always)]
    #[track_caller]
    pub fn set(&mut self, i: usize, frame: Frame, prot: Prot) -> Result<(), SpaceError> {
        let pte = self.pte(i);
        let (mmu, writer) = (self.space.mmu(), &self.space.writer);
        if self
            .short
            .set(mmu, mmu.kernel().current_lazy(), pte, (frame, prot))
        {
            self.sums.short = self.sums.short.wrapping_add(1);
            return Ok(());
        }
        let change = writer.set_leaf(&self.table.nth(i), frame, prot)?;
        self.was_set = true;
        self.sums.change += change.count();
        self.short = writer.short_way(self.table.piece);
        Ok(())
    }

    /// Maps `pages` empty pages from page `first` on, page `i` of the range to the frame
    /// `frame(i)`. The result is that of one call of [`FastPteRange::set`] per page. If stores do
    /// not wait, the loop stores each entry itself and settles debts and counters once at its end.
    ///
    /// # Errors
    /// [`SpaceError::WrongPrivilege`]; [`SpaceError::AlreadyMapped`] if one of the pages is in use.
    /// Nothing is written.
    ///
    /// # Panics
    /// If the pages are not in the range.
    #[inline]
    #[track_caller]
    pub fn set_each(
        &mut self,
        first: usize,
        pages: usize,
        prot: Prot,
        mut frame: impl FnMut(usize) -> Frame,
    ) -> Result<(), SpaceError> {
        if pages == 0 {
            return Ok(());
        }
        let found = self.empty_part(first, pages, prot)?;
        let (writer, change) = (&self.space.writer, &mut self.sums.change);
        let stores_each = writer.stores_each(&found);
        let unfinished = SetEach {
            writer,
            found: &found,
            prot,
            stores_each,
            change,
        };
        writer.set_each(&found, prot, stores_each, |i| frame(first.wrapping_add(i)));
        *unfinished.change += pages as isize;
        mem::forget(unfinished);
        Ok(())
    }

    /// Maps empty pages from page `first` on to `frames`, one page per frame. If stores do not
    /// wait, each store instruction writes two entries.
    ///
    /// # Errors
    /// As [`FastPteRange::set_each`].
    ///
    /// # Panics
    /// If the pages are not in the range.
    #[track_caller]
    pub fn set_frames(
        &mut self,
        first: usize,
        frames: &[Frame],
        prot: Prot,
    ) -> Result<(), SpaceError> {
        if frames.is_empty() {
            return Ok(());
        }
        let found = self.empty_part(first, frames.len(), prot)?;
        let template = Desc::page(Frame::ZERO, prot);
        let fill = Fill::Scattered { frames, template };
        self.space.writer.write_run(&found, fill, Was::Gone);
        self.sums.change += frames.len() as isize;
        Ok(())
    }

    /// Maps `pages` empty pages from page `first` on to consecutive frames from `frame` on. In user
    /// mappings, 16 pages whose addresses and frames are aligned to 64 KiB are written as a folded
    /// contiguous group.
    ///
    /// # Errors
    /// [`SpaceError::WrongPrivilege`]; [`SpaceError::AlreadyMapped`] if one of the pages is in use;
    /// [`SpaceError::BackingEnd`] if the frames do not end below 2^48. Nothing is written.
    ///
    /// # Panics
    /// If the pages are not in the range.
    #[track_caller]
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
                space
                    .writer
                    .write_run(&part, Fill::Contiguous { first }, Was::Gone);
            }
        };
        let (head, groups) = group::whole_groups(found.piece, frame, space.kind().scope());
        write(0, head, 0);
        write(head, groups * GROUP, bits::CONT);
        write(head + groups * GROUP, pages - head - groups * GROUP, 0);
        self.sums.change += pages as isize;
        Ok(())
    }

    /// Checks that `prot` may be set in a part of the range, and that no entry is in use there.
    #[inline]
    #[track_caller]
    fn empty_part(
        &mut self,
        first: usize,
        pages: usize,
        prot: Prot,
    ) -> Result<LeafTable<'s>, SpaceError> {
        self.space.kind().check_prot(prot)?;
        let found = self.part(first, pages);
        // The table was empty when the range was opened, and nothing was set since: no entry needs
        // to be read.
        if self.before != Some(0) || self.sums.short != 0 || self.sums.change != 0 {
            self.space.check_run_unused(&found)?;
        }
        self.space.writer.invalidate_before_reuse(found.piece);
        links::note_memory_type(self.space.mmu(), found.parent, prot);
        self.was_set = true;
        Ok(found)
    }

    /// Empties the entries of `pages` pages from page `first` on, mapped or not, and returns how
    /// many were in use. The caller must invalidate them, as after
    /// [`super::PteRef::get_and_clear`]. Linux: `clear_full_ptes()`.
    ///
    /// # Panics
    /// If the pages are not in the range.
    #[track_caller]
    pub fn clear_run(&mut self, first: usize, pages: usize) -> usize {
        let found = self.part(first, pages);
        if pages == 0 {
            return 0;
        }
        let (mut used, mut counted) = (0, 0);
        let mut look = |entry: Desc| {
            used += usize::from(entry.is_in_use());
            // An entry that is in use and invalid was gathered, and is not counted any more.
            counted += isize::from(entry.is_valid());
        };
        let space = self.space;
        if backend::is_memory_current(space.mmu()) {
            for pte in found.ptes() {
                look(space.load(pte));
            }
        } else {
            for i in 0..pages {
                look(found.read(space.mmu(), i));
            }
        }
        if used > 0 {
            let empty = |part: &LeafTable<'_>| {
                let duty = space.writer.write_run(part, Fill::Zero, Was::Live);
                space.writer.owe_invalidation(duty, part.piece);
            };
            if used == pages {
                empty(&found);
            } else {
                found.each_in_use(space.mmu(), empty);
            }
            self.sums.change -= counted;
            self.short = self.short.after_take();
        }
        used
    }

    /// The entry of page `i`.
    #[inline(always)]
    #[track_caller]
    fn pte(&self, i: usize) -> &'s Pte {
        match self.ptes.get(i) {
            Some(pte) => pte,
            None => outside(self.range(), i, 1),
        }
    }

    /// A part of the range.
    #[inline]
    #[track_caller]
    fn part(&self, first: usize, pages: usize) -> LeafTable<'s> {
        let end = first.checked_add(pages);
        if end.is_none_or(|end| end > self.ptes.len()) {
            outside(self.range(), first, pages);
        }
        self.table.part(first, pages)
    }

    /// Empties the entry of page `i` and returns what it held. The caller must invalidate it, as
    /// after [`super::PteRef::get_and_clear`].
    ///
    /// # Panics
    /// If `i` is not in the range.
    #[inline]
    #[track_caller]
    pub fn get_and_clear(&mut self, i: usize) -> Desc {
        let pte = self.pte(i);
        self.space
            .writer
            .take_shortly(&self.table, pte, &mut self.short, &mut self.sums)
    }
}

/// A guard around the loop of [`FastPteRange::set_each`]. It is dropped only if the caller's
/// closure panics, and then counts the entries that were set before.
struct SetEach<'a, 's, 'm, K: Kernel> {
    writer: &'a Writer<'m, K>,
    found: &'a LeafTable<'s>,
    prot: Prot,
    stores_each: bool,
    change: &'a mut isize,
}

impl<K: Kernel> Drop for SetEach<'_, '_, '_, K> {
    fn drop(&mut self) {
        // All were empty before.
        let set = self.found.count(self.writer.mmu, Desc::is_in_use);
        if self.stores_each {
            self.writer.count_each(set, self.prot);
        }
        *self.change += set as isize;
    }
}

impl<K: Kernel> Drop for FastPteRange<'_, '_, K> {
    fn drop(&mut self) {
        let (space, found) = (self.space, self.table);
        let (mmu, scope) = (space.mmu(), space.kind().scope());
        let was_set = self.was_set || self.sums.short > 0;
        let change = self.sums.settle(&space.writer);
        if let Some(number) = self.announced {
            mmu.lazy().current().hints().withdraw(number);
        }
        // All groups are folded here at once, after their members may have changed several times.
        // If nothing was set, no group can have become complete.
        if was_set && group::is_foldable(scope) {
            fold::fold(mmu, found.table, found.piece, scope);
        }
        // The section's end stores what waits, before the population may say that the table is
        // empty.
        drop(self.section.take());
        if let Some(before) = self.before {
            links::set_population(mmu, self.table.parent, before, change);
        }
    }
}

#[cold]
#[track_caller]
fn outside(range: PageRange, first: usize, pages: usize) -> ! {
    panic!(
        "{pages} pages from page {first} on are not in {range}, whose pages are 0 to {}",
        range.pages() - 1
    );
}

impl<K: Kernel> core::fmt::Debug for FastPteRange<'_, '_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FastPteRange({})", self.table.piece)
    }
}
