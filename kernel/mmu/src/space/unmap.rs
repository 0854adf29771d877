// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping: valid entries become invalid, and no TLB may keep them (R27).

use super::AddressSpace;
use super::cursor::LeafTable;
use crate::addr::{Level, PageRange};
use crate::backend::{self, Duty, Fill, Was};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::tlbi::{Reach, Scope};
use core::fmt;
use core::marker::PhantomData;

/// Entries are cleared and their invalidation is still to come. Until then the old
/// translations may be used, so neither the frames nor the addresses may be reused.
/// Give it to [`AddressSpace::flush`]; dropped, it invalidates as well, but the space does not
/// learn of it and may do so again. Not `Send`: the task that cleared must flush.
#[must_use = "the old translations may be used until the flush"]
pub struct PendingFlush<'m, K: Kernel> {
    mmu: &'m Mmu<K>,
    range: PageRange,
    scope: Scope,
    /// Whose invalidation it is: where it is the backend's, a drain is all that is left to do.
    duty: Duty,
    /// Not `Send`: the `DSB` in front of the TLBI must be executed by the CPU that
    /// cleared the entries, or after a context switch of this task (R27, R_SPVBD).
    _task: PhantomData<*mut ()>,
}

impl<K: Kernel> PendingFlush<'_, K> {
    /// Takes over the invalidation of a neighbor: one flush for both.
    ///
    /// # Errors
    /// Gives `other` back if the two ranges do not touch, or belong to different
    /// spaces.
    pub fn merge(&mut self, other: Self) -> Result<(), Self> {
        let touching =
            self.range.end() == other.range.start().as_u64() && self.scope == other.scope;
        let joined = PageRange::from_bounds(self.range.start().as_u64(), other.range.end());
        match joined {
            Ok(range) if touching => {
                self.range = range;
                self.duty = self.duty.and(other.duty);
                core::mem::forget(other);
                Ok(())
            }
            _ => Err(other),
        }
    }
}

impl<K: Kernel> Drop for PendingFlush<'_, K> {
    fn drop(&mut self) {
        match self.duty {
            Duty::Caller => self
                .mmu
                .flush_tlb_range(self.range, self.scope, Reach::Leaf),
            Duty::Backend => backend::drain(self.mmu),
        }
    }
}

impl<K: Kernel> fmt::Debug for PendingFlush<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingFlush({})", self.range)
    }
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// Unmaps `range` and invalidates it. The frames stay with whoever owns
    /// them, and may be reused as soon as this returns (R25). Linux: `vunmap_range()`.
    ///
    /// # Errors
    /// Refuses a range of the other half and a page that is not mapped, or mapped
    /// by a block. On an error nothing was changed.
    pub fn unmap(&mut self, range: PageRange) -> Result<(), SpaceError> {
        self.check_half(range)?;
        // By far the most requests lie in one table. Emptying owes no barrier, so no section is
        // needed for the one run.
        if range.is_in_one_table(Level::L3)
            && let Some(found) = self.leaf_table(range)
        {
            self.check_run_mapped(&found)?;
            let duty = self.empty_run(&found);
            self.settle(duty, range);
            return Ok(());
        }
        let pending = self.unmap_no_flush(range)?;
        self.flush(pending);
        Ok(())
    }

    /// Executes the invalidation that `pending` stands for and waits until it is complete
    /// on every CPU.
    pub fn flush(&mut self, pending: PendingFlush<'m, K>) {
        let range = pending.range;
        drop(pending);
        self.unflushed.flushed(range);
    }

    /// Unmaps `range` and leaves the invalidation to the caller. Linux:
    /// `vunmap_range_noflush()`.
    ///
    /// # Errors
    /// As [`AddressSpace::unmap`].
    pub fn unmap_no_flush(&mut self, range: PageRange) -> Result<PendingFlush<'m, K>, SpaceError> {
        self.check_half(range)?;
        self.check_mapped(range)?;
        let _section = self.mmu.lazy().section_unless_active()?;
        let mut duty = Duty::Backend;
        self.each_leaf_table(range, |found| duty = duty.and(self.empty_run(&found)));
        self.owe_invalidation(duty, range);
        Ok(PendingFlush {
            duty,
            mmu: self.mmu,
            range,
            scope: self.kind.scope(),
            _task: PhantomData,
        })
    }

    #[inline]
    fn empty_run(&self, found: &LeafTable<'_>) -> Duty {
        let duty = self.write(found, Fill::Zero, Was::Live);
        self.add_population(found.parent, -(found.piece.pages() as isize));
        duty
    }
}
