// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping: valid entries become empty, and are then invalidated in every TLB (R27).

use super::address_space::AddressSpace;
use super::leaf_table::LeafTable;
use super::links;
use super::ranges::Ranges;
use crate::addr::{Level, PageRange};
use crate::backend::{self, Duty, Fill, Was};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::tlbi::{Reach, Scope};
use core::fmt;
use core::marker::PhantomData;

/// The invalidation of a range whose entries were emptied. Until it is executed a CPU may use the
/// old translations, so neither the frames nor the addresses may be reused.
///
/// Pass it to [`AddressSpace::invalidate`]. Dropping it invalidates as well, but the space cannot
/// note that, and may invalidate a second time. Not `Send`: the task that emptied the entries must
/// invalidate them.
#[must_use = "the old translations may be used until the invalidation"]
pub struct PendingInvalidation<'m, K: Kernel> {
    mmu: &'m Mmu<K>,
    /// The space whose entries these were ([`AddressSpace::name`]).
    space: u64,
    range: PageRange,
    scope: Scope,
    /// Who invalidates. If it is the strategy, only a drain remains to be done.
    duty: Duty,
    /// Not `Send`: the `DSB` before the TLBI must be executed by the CPU that emptied the entries,
    /// or after a context switch of this task (R27, R_SPVBD).
    _task: PhantomData<*mut ()>,
}

impl<K: Kernel> PendingInvalidation<'_, K> {
    /// Takes over the invalidation of a range that touches this one, so that one invalidation
    /// serves both.
    ///
    /// # Errors
    /// Returns `other` if the two ranges do not touch, or belong to different spaces.
    pub fn merge(&mut self, other: Self) -> Result<(), Self> {
        match self.range.joined(other.range) {
            Some(range) if self.space == other.space && core::ptr::eq(self.mmu, other.mmu) => {
                self.range = range;
                self.duty = self.duty.combined(other.duty);
                core::mem::forget(other);
                Ok(())
            }
            _ => Err(other),
        }
    }
}

impl<K: Kernel> PendingInvalidation<'_, K> {
    #[inline(always)]
    fn complete(&self) {
        let (range, scope) = (self.range, self.scope);
        backend::complete_invalidation(self.mmu, self.duty, |mmu| {
            mmu.invalidate_range(range, scope, Reach::Page);
        });
    }
}

impl<K: Kernel> Drop for PendingInvalidation<'_, K> {
    #[inline]
    fn drop(&mut self) {
        self.complete();
    }
}

impl<K: Kernel> fmt::Debug for PendingInvalidation<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingInvalidation({})", self.range)
    }
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// Unmaps `range` and invalidates it, also inside a section. The frames stay with their owner,
    /// and may be reused as soon as the call returns (R25). Linux: `vunmap_range()`.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`]; [`SpaceError::OutsideWindow`]; [`SpaceError::NotMapped`] for a
    /// page that is not mapped; [`SpaceError::Block`] for one that a block maps. On an error
    /// nothing was changed.
    pub fn unmap(&mut self, range: PageRange) -> Result<(), SpaceError> {
        self.check_range(range)?;
        // Most requests lie in one table. Emptying owes no barrier, so the one run needs no
        // section.
        if range.is_in_one_table(Level::L3)
            && let Some(found) = self.leaf_table(range)
        {
            self.check_run_mapped(&found)?;
            let duty = self.empty_run(&found);
            self.writer.settle(duty, range);
            return Ok(());
        }
        let pending = self.unmap_no_invalidate(range)?;
        self.invalidate(pending);
        Ok(())
    }

    /// Executes the invalidation `pending` and waits until it is complete on every CPU, also with
    /// bottom halves off or in an interrupt. If `pending` belongs to another space, it is executed
    /// as well, but that space cannot note it, and may invalidate a second time.
    #[inline(always)]
    pub fn invalidate(&mut self, pending: PendingInvalidation<'m, K>) {
        let is_ours = pending.space == self.name() && core::ptr::eq(pending.mmu, self.mmu());
        let range = pending.range;
        // What its drop does, inlined.
        pending.complete();
        core::mem::forget(pending);
        if is_ours {
            self.writer.invalidated(range);
        }
    }

    /// Unmaps `range` and leaves the invalidation to the caller, so that several can be merged.
    /// Linux: `vunmap_range_noflush()`.
    ///
    /// # Errors
    /// As [`AddressSpace::unmap`].
    pub fn unmap_no_invalidate(
        &mut self,
        range: PageRange,
    ) -> Result<PendingInvalidation<'m, K>, SpaceError> {
        self.check_range(range)?;
        self.check_mapped(range)?;
        let _section = self.mmu().lazy().section_unless_active()?;
        let mut duty = Duty::Backend;
        self.each_leaf_table(range, |found| duty = duty.combined(self.empty_run(&found)));
        self.writer.owe_invalidation_of_all(duty, range);
        Ok(PendingInvalidation {
            duty,
            mmu: self.mmu(),
            space: self.name(),
            range,
            scope: self.kind().scope(),
            _task: PhantomData,
        })
    }

    /// Unmaps those pages of `range` that are mapped, and returns how many there were. When the
    /// call returns, no CPU translates a page of `range`; this includes pages that were emptied
    /// before and not invalidated yet. The frames stay with their owner.
    ///
    /// An entry without a table is skipped with all addresses that it would translate (512 GiB,
    /// 1 GiB or 2 MiB). The pages that were emptied are invalidated together. If they form more
    /// than 16 ranges, the last ones are invalidated as one range, with the holes between them. The
    /// call needs no memory. Linux: `unmap_page_range()`.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`], [`SpaceError::OutsideWindow`], and [`SpaceError::Block`] for a
    /// page that a block maps. On an error nothing was changed.
    pub fn unmap_existing(&mut self, range: PageRange) -> Result<u64, SpaceError> {
        self.check_range(range)?;
        self.check_no_block(range)?;
        let section = self.mmu().lazy().section_unless_active()?;
        let (mut pages, mut emptied) = (0, Ranges::NONE);
        self.each_run_in_use(range, |run, mapped| {
            if self.writer.write_run(&run, Fill::Zero, Was::Live) == Duty::Caller {
                emptied.add_or_widen(run.piece);
            }
            links::add_population(self.mmu(), run.parent, -(mapped as isize));
            pages += mapped as u64;
        });
        self.writer.invalidate_all_of(range, &emptied);
        drop(section);
        Ok(pages)
    }

    /// A number that identifies the space among those of one [`Mmu`]: the root's frame with the
    /// kind of the space. The frame alone does not suffice: after the space has ended, the frame
    /// may be the root of another one, whose ASID the old invalidation does not reach.
    #[inline(always)]
    const fn name(&self) -> u64 {
        self.root.as_u64() | self.kind().tag()
    }

    #[inline]
    fn empty_run(&self, found: &LeafTable<'_>) -> Duty {
        let duty = self.writer.write(found, Fill::Zero, Was::Live);
        links::add_population(self.mmu(), found.parent, -(found.piece.pages() as isize));
        duty
    }
}
