// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping many ranges with one invalidation, and giving frames back after it. Linux:
//! `struct mmu_gather`.
//!
//! R25 is an order: the entry is made invalid, its invalidation is complete on every CPU, and only
//! *then* the frame may be used again. A [`MmuGather`] keeps this order in two steps:
//!
//! 1. [`MmuGather::unmap`] makes entries invalid and leaves the addresses of the frames in them.
//!    The entries themselves remember the frames, so no list of frames can run out of memory.
//! 2. [`MmuGather::finish`] invalidates once for all ranges, and only then passes the frames to
//!    `give_back` and empties the entries.
//!
//! The gather has room for 16 ranges. Ranges that touch are joined. If another range does not fit,
//! what was gathered so far is finished early, as Linux does when its batch is full. A call for a
//! range with holes ([`MmuGather::unmap_existing`]) adds each mapped part of it; if they do not all
//! fit, the last ones share one range, and the holes between them are invalidated as well.
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

/// Unmaps ranges, and gives their frames back after one invalidation for all of them, when the
/// gather is finished or dropped.
#[must_use = "frames are given back when the gather is finished or dropped"]
pub struct MmuGather<'s, 'm, K: Kernel, F: FnMut(VirtAddr, Frame)> {
    space: &'s mut AddressSpace<'m, K>,
    give_back: F,
    ranges: Ranges,
    /// The hull of the ranges that were finished early.
    finished: Option<PageRange>,
    /// Who invalidates; see [`crate::Backend::invalidates`].
    duty: Duty,
    /// What had to be invalidated before the gather began.
    stale: Stale,
    /// Not `Send`: the task that emptied the entries must invalidate them, and what waits is in its
    /// CPU's batch (R25).
    _task: PhantomData<*mut ()>,
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// Begins a gather. `give_back` gets each frame with the address at which it was mapped, after
    /// the invalidation of that address is complete on every CPU (R25).
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

    /// Unmaps `range`, invalidates it, and then passes each frame to `give_back`, in ascending
    /// order of address: a gather of one range.
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

    /// Makes the entries of the piece invalid, `mapped` of which are mapped. The addresses of the
    /// frames stay in the entries.
    fn gather_run(&self, found: &LeafTable<'_>, mapped: usize) -> Duty {
        let invalid = Fill::Update {
            keep: !bits::VALID,
            set: 0,
            sample: Desc::INVALID,
        };
        let duty = self.writer.write_run(found, invalid, Was::Live);
        // Gathered entries are not counted, so that a table of gathered entries is not taken for a
        // mapped one.
        links::add_population(self.mmu(), found.parent, -(mapped as isize));
        duty
    }
}

impl<K: Kernel, F: FnMut(VirtAddr, Frame)> MmuGather<'_, '_, K, F> {
    /// Makes the pages of `range` invalid. Until the gather is finished a TLB may still
    /// translate them, and their addresses and frames stay in use.
    ///
    /// # Errors
    /// The errors of [`AddressSpace::unmap`]; a page that was gathered before is not mapped. On an
    /// error nothing was changed.
    ///
    /// # Panics
    /// If the list of ranges is full and `give_back` panics. `range` is then still mapped.
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
        // If the gather is forgotten, mapping in `range` invalidates first.
        space.writer.owe_invalidation_of_all(duty, range);
        self.duty = duty;
        Ok(())
    }

    /// [`MmuGather::unmap`] for those pages of `range` that are mapped; see
    /// [`AddressSpace::unmap_existing`]. Returns how many there were. Linux: `unmap_page_range()`.
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

    /// Finishes the gather as [`MmuGather::finish`] does, and then frees the tables that became
    /// empty (R32). Returns how many tables were freed. If ranges were finished early, all empty
    /// tables between the first and the last of their pages are freed.
    pub fn finish_and_free_tables(mut self) -> usize {
        let ranges = self.ranges;
        self.finish_gathered();
        // The hull of the ranges that were finished early may cover some of the others. A table
        // that was freed is not found again.
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
        // R25: the frames are given back below, so the invalidation must be complete here.
        let duty = core::mem::replace(&mut self.duty, Duty::Backend);
        backend::complete_invalidation(space.mmu(), duty, |mmu| {
            mmu.drain_and_invalidate(ranges.as_slice(), space.kind().scope(), Reach::Page);
        });
        // The gather borrows the space, so nothing else was emptied since it began.
        space.writer.restore_stale(&self.stale);
        let emptied = Emptied { space, ranges };
        for range in ranges.iter() {
            space.writer.invalidated(range);
            space.each_leaf_table(range, |found| {
                for (i, pte) in found.ptes().iter().enumerate() {
                    let entry = space.load(pte);
                    // Empty entries are holes, or were given back as pages of another range of the
                    // list.
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

/// A guard around the calls of `give_back`. If one of them panics, the entries are emptied, so that
/// their addresses can be mapped again. The frames that were not given back by then are lost.
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
