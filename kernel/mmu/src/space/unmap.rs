// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping: valid entries become invalid, and no TLB may keep them (R27).

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

/// Entries are emptied and their invalidation is still to come. Until then a CPU may use the old
/// translations, so neither the frames nor the addresses may be reused. Give it to
/// [`AddressSpace::invalidate`]. Dropping it invalidates as well, but the space does not learn of
/// it and may do so again. Not `Send`: the task that emptied the entries must invalidate them.
#[must_use = "the old translations may be used until the invalidation"]
pub struct PendingInvalidation<'m, K: Kernel> {
    mmu: &'m Mmu<K>,
    /// The space whose entries these were ([`AddressSpace::name`]).
    space: u64,
    range: PageRange,
    scope: Scope,
    /// Who invalidates. If it is the strategy, a drain is all that is left to do.
    duty: Duty,
    /// Not `Send`: the `DSB` in front of the TLBI must be executed by the CPU that
    /// cleared the entries, or after a context switch of this task (R27, R_SPVBD).
    _task: PhantomData<*mut ()>,
}

impl<K: Kernel> PendingInvalidation<'_, K> {
    /// Takes over the invalidation of a neighbor, so that one invalidation serves both.
    ///
    /// # Errors
    /// Gives `other` back if the two ranges do not touch, or belong to different
    /// spaces.
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
    /// Unmaps `range` and invalidates it. The frames stay with their
    /// owner, and may be reused as soon as this returns (R25). Linux: `vunmap_range()`.
    ///
    /// # Errors
    /// Refuses a range of the other half ([`SpaceError::WrongHalf`]) or outside of the window
    /// ([`SpaceError::OutsideWindow`]), and a page that is not mapped, or mapped
    /// by a block. On an error nothing was changed.
    pub fn unmap(&mut self, range: PageRange) -> Result<(), SpaceError> {
        self.check_range(range)?;
        // By far the most requests lie in one table. Emptying owes no barrier, so no section is
        // needed for the one run.
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

    /// Executes the invalidation that `pending` stands for and waits until it is complete on every CPU, also with bottom
    /// halves off or in an interrupt. If `pending` is another space's, it is executed all the same, and that space does not
    /// learn of it.
    #[inline(always)]
    pub fn invalidate(&mut self, pending: PendingInvalidation<'m, K>) {
        let is_ours = pending.space == self.name() && core::ptr::eq(pending.mmu, self.mmu());
        let range = pending.range;
        // As its drop does, inlined.
        pending.complete();
        core::mem::forget(pending);
        if is_ours {
            self.writer.invalidated(range);
        }
    }

    /// Unmaps `range` and leaves the invalidation to the caller. Linux:
    /// `vunmap_range_noflush()`.
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

    /// Unmaps what is mapped in `range`, however little that is, and returns how many pages it was. No
    /// page of `range` is translated on any CPU when this returns, also if it was emptied before and
    /// its invalidation was still to come. The frames stay with their owner.
    ///
    /// Holes cost nothing that lies below them: an entry without a table skips all that it would
    /// translate (512 GiB, 1 GiB or 2 MiB). Only what was emptied is invalidated, in one go; if it is
    /// more than 16 stretches, the last ones and the holes between them are invalidated as one. No
    /// memory is needed. Linux: `unmap_page_range()`.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`], [`SpaceError::OutsideWindow`], and [`SpaceError::Block`] for a page
    /// that is mapped by a block. On an error nothing was changed.
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

    /// Names the space among those of one [`Mmu`]: the root's frame, and whose translations these are. Once a space is
    /// gone its root's frame may be another one's, which the invalidation of the first ASID does not reach.
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
