// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping many ranges with one invalidation, and giving frames back after it. Linux:
//! `struct mmu_gather`.
//!
//! R25 is an order: the entry is emptied and invalidated, the invalidation is complete, and *then*
//! the frame may be used again. A [`MmuGather`] keeps this order by construction.
//! [`MmuGather::unmap`] makes entries invalid and leaves the addresses in them, so the entries
//! themselves remember the frames and no list can run out of memory. [`MmuGather::finish`]
//! invalidates once for all ranges, and only then hands the frames out and empties the entries.
//!
//! Ranges that touch are joined. When more than 16 ranges do not touch, what was gathered so far is
//! finished early, as Linux does when its batch is full. One call for a range with holes counts as
//! its mapped stretches; if there is no room for all of them, the last ones share one range, and the
//! holes between them are invalidated as well.
//!
//! So each page of a range on the list is gathered or empty.

use super::address_space::AddressSpace;
use super::leaf_table::LeafTable;
use super::links;
use super::ranges::Ranges;
use super::stale::Stale;
use crate::addr::{Frame, PageRange, VirtAddr};
use crate::backend::{self, Duty, Fill, Was};
use crate::desc::{Desc, bits};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::tlbi::Reach;
use core::fmt;
use core::marker::PhantomData;

/// Unmaps ranges, and gives their frames back after one invalidation for all of them, when it is
/// finished or dropped.
#[must_use = "frames are given back when the gather is finished or dropped"]
pub struct MmuGather<'s, 'm, K: Kernel, F: FnMut(VirtAddr, Frame)> {
    space: &'s mut AddressSpace<'m, K>,
    give_back: F,
    ranges: Ranges,
    /// The hull of the ranges that were finished early.
    finished: Option<PageRange>,
    /// Who invalidates; see [`crate::Backend::invalidates`].
    duty: Duty,
    /// What had to be invalidated before anything was gathered.
    stale: Stale,
    /// Not `Send`: the task that emptied the entries must invalidate them, and what waits is in its CPU's batch (R25).
    _task: PhantomData<*mut ()>,
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// Begins to gather. Each frame goes to `give_back` with the address that it was mapped at,
    /// after the invalidation of that address is complete on every CPU (R25).
    pub fn gather<F: FnMut(VirtAddr, Frame)>(&mut self, give_back: F) -> MmuGather<'_, 'm, K, F> {
        let stale = self.writer.stale();
        MmuGather {
            space: self,
            give_back,
            ranges: Ranges::NONE,
            finished: None,
            duty: Duty::Backend,
            stale,
            _task: PhantomData,
        }
    }

    /// Unmaps `range`, invalidates it, and then hands each frame to `give_back`, in
    /// ascending order of address: a gather of one range.
    ///
    /// # Errors
    /// As [`AddressSpace::unmap`].
    pub fn unmap_frames(
        &mut self,
        range: PageRange,
        give_back: impl FnMut(VirtAddr, Frame),
    ) -> Result<(), SpaceError> {
        let mut gather = self.gather(give_back);
        gather.unmap(range)?;
        gather.finish();
        Ok(())
    }

    /// Makes the pages of the piece invalid, of which `mapped` are mapped. Their addresses stay in
    /// the entries.
    fn gather_run(&self, found: &LeafTable<'_>, mapped: usize) -> Duty {
        let invalid = Fill::Update {
            keep: !bits::VALID,
            set: 0,
            sample: Desc::INVALID,
        };
        let duty = self.writer.write_run(found, invalid, Was::Live);
        // No longer counted, so that a table gathered as a whole does not pass for mapped.
        links::add_population(self.mmu(), found.parent, -(mapped as isize));
        duty
    }
}

impl<K: Kernel, F: FnMut(VirtAddr, Frame)> MmuGather<'_, '_, K, F> {
    /// Makes the pages of `range` invalid. Until the gather is finished a TLB may still
    /// translate them, and their addresses and frames stay in use.
    ///
    /// # Errors
    /// As [`AddressSpace::unmap`], in particular for a page that was gathered before. On an error
    /// nothing was changed.
    ///
    /// # Panics
    /// If the list of ranges is full and `give_back` panics: then `range` is still mapped.
    pub fn unmap(&mut self, range: PageRange) -> Result<(), SpaceError> {
        self.space.check_range(range)?;
        self.space.check_mapped(range)?;
        if !self.ranges.add(range) {
            self.finish_early();
            self.ranges.add(range);
        }
        let (space, mut duty) = (&*self.space, self.duty);
        space.each_leaf_table(range, |found| {
            duty = duty.combined(space.gather_run(&found, found.ptes().len()));
        });
        // Should the gather be forgotten, mapping there invalidates first.
        space.writer.owe_invalidation_of_all(duty, range);
        self.duty = duty;
        Ok(())
    }

    /// The same for those pages of `range` that are mapped, however few; see
    /// [`AddressSpace::unmap_existing`]. Returns how many that are. Linux: `unmap_page_range()`.
    ///
    /// # Errors
    /// As [`AddressSpace::unmap_existing`]. On an error nothing was changed.
    ///
    /// # Panics
    /// As [`MmuGather::unmap`].
    pub fn unmap_existing(&mut self, range: PageRange) -> Result<u64, SpaceError> {
        self.space.check_range(range)?;
        self.space.check_no_block(range)?;
        if self.ranges.is_full() {
            self.finish_early();
        }
        let (space, mut duty, mut pages) = (&*self.space, self.duty, 0);
        let ranges = &mut self.ranges;
        space.each_run_in_use(range, |run, mapped| {
            ranges.add_or_widen(run.piece);
            duty = duty.combined(space.gather_run(&run, mapped));
            space.writer.owe_invalidation(duty, run.piece);
            pages += mapped as u64;
        });
        self.duty = duty;
        Ok(pages)
    }

    /// Invalidates once for everything gathered, and then gives the frames back.
    pub fn finish(self) {
        drop(self);
    }

    /// Does what [`MmuGather::finish`] does, then frees the tables that became empty (R32). Returns how many. If more than
    /// 16 ranges that do not touch were gathered, all empty tables between the first and the last of their pages are freed.
    pub fn finish_and_free_tables(mut self) -> usize {
        let ranges = self.ranges;
        self.finish_gathered();
        // The hull of those that were finished early covers some of the others perhaps; no table is found twice.
        let mut freed = 0;
        for range in self.finished.into_iter().chain(ranges.iter()) {
            freed += match self.space.free_empty_tables(range) {
                Ok(tables) => tables,
                Err(error) => unreachable!("the range was unmapped: {error}"),
            };
        }
        freed
    }

    /// Finishes what was gathered so far, so that the list has room again.
    fn finish_early(&mut self) {
        let hull = self.ranges.iter().chain(self.finished);
        self.finished = hull.reduce(PageRange::hull);
        self.finish_gathered();
    }

    /// Invalidates once for everything gathered so far, gives the frames back, and empties the
    /// entries.
    fn finish_gathered(&mut self) {
        let ranges = core::mem::replace(&mut self.ranges, Ranges::NONE);
        if ranges.is_empty() {
            return;
        }
        let space = &*self.space;
        // R25: frames are given back after the invalidation, so nothing waits for more.
        let duty = core::mem::replace(&mut self.duty, Duty::Backend);
        backend::complete_invalidation(space.mmu(), duty, |mmu| {
            mmu.drain_and_invalidate(ranges.as_slice(), space.kind().scope(), Reach::Page);
        });
        // The space is borrowed, so nothing else was emptied meanwhile.
        space.writer.restore_stale(&self.stale);
        let emptied = Emptied { space, ranges };
        for range in ranges.iter() {
            space.writer.invalidated(range);
            space.each_leaf_table(range, |found| {
                for (i, pte) in found.ptes().iter().enumerate() {
                    let entry = space.load(pte);
                    // A hole, or given back already as a page of another range of the list.
                    if entry.is_in_use() {
                        (self.give_back)(found.piece.page(i), entry.frame());
                    }
                }
                space.writer.empty_gathered(&found);
            });
        }
        core::mem::forget(emptied);
    }
}

/// Empties what was gathered if `give_back` panics. The frames that were not given back by then are lost to the caller,
/// the addresses are not.
struct Emptied<'s, 'm, K: Kernel> {
    space: &'s AddressSpace<'m, K>,
    ranges: Ranges,
}

impl<K: Kernel> Drop for Emptied<'_, '_, K> {
    fn drop(&mut self) {
        for range in self.ranges.iter() {
            self.space
                .each_leaf_table(range, |found| self.space.writer.empty_gathered(&found));
        }
    }
}

impl<K: Kernel, F: FnMut(VirtAddr, Frame)> Drop for MmuGather<'_, '_, K, F> {
    fn drop(&mut self) {
        self.finish_gathered();
    }
}

impl<K: Kernel, F: FnMut(VirtAddr, Frame)> fmt::Debug for MmuGather<'_, '_, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MmuGather ")?;
        f.debug_list().entries(self.ranges.iter()).finish()
    }
}
