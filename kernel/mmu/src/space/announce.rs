// SPDX-License-Identifier: MIT OR Apache-2.0
//! Announcing a range by the raw call of the Linux proposal, and folding the groups of a range.
//! [`super::FastPteRange`] does both as one value.

use super::address_space::AddressSpace;
use super::fold;
use crate::addr::{Frame, PageRange, VirtAddr};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::lazy::Lazy;

impl<K: Kernel> Lazy<'_, K> {
    /// Enters a section and announces the byte addresses `addr..end` of `mm`, whose entries are all
    /// in `table`. Writes to entries of the range are then faster:
    ///
    /// * calls for pages of the range find the table without a walk;
    /// * [`crate::Backend::DeferStores`] lets stores and their invalidations wait, and makes a
    ///   contiguous group as one if all of its entries wait and none is live.
    ///
    /// The section executes no more stores, barriers or TLBI than a section without a range. In
    /// particular its end folds nothing, because the task that ends it may no longer hold the
    /// space. The caller may fold contiguous groups before it gives up the space
    /// ([`AddressSpace::fold_contiguous`]).
    ///
    /// Entries outside the range are written as after [`Lazy::enable`]. Entries may be written in
    /// any order, and some may be left out (R21). Like `enable` the call has no effect while paused
    /// and in interrupt context, and is paired with [`Lazy::disable`]. Several ranges may be in
    /// force at once, for example source and destination of a move. Each lasts until its section is
    /// left, across pauses and nested sections. Linux (proposed):
    /// `lazy_mmu_mode_enable_fast_pte_range()`, which ignores a range when the mode is enabled
    /// already and drops it at a pause. The results do not tell a caller which of the two
    /// happens (R22).
    ///
    /// [`AddressSpace::fast_pte_range`] is the safe form: it returns a guard that borrows the
    /// space.
    ///
    /// # Safety
    /// Until the section is left, the tables above the range stay as they are: they are not freed
    /// by [`AddressSpace::free_empty_tables`],
    /// [`MmuGather::finish_and_free_tables`](crate::MmuGather::finish_and_free_tables) or
    /// [`AddressSpace::destroy`]. A suspension ([`Lazy::suspend_all`]) does not leave the section.
    ///
    /// # Errors
    /// [`SpaceError::Range`] if `addr..end` is no range of whole pages or crosses a table's end
    /// (2 MiB); [`SpaceError::WrongHalf`]; [`SpaceError::OutsideWindow`];
    /// [`SpaceError::WrongTable`] if `table` does not translate the range; and
    /// [`LazyMmuError::EnableOverflow`](crate::LazyMmuError::EnableOverflow). Nothing changes.
    #[track_caller]
    pub unsafe fn enable_fast_pte_range(
        self,
        mm: &AddressSpace<'_, K>,
        addr: VirtAddr,
        end: u64,
        table: Frame,
    ) -> Result<(), SpaceError> {
        let hint = mm.hint(PageRange::from_bounds(addr.as_u64(), end)?, table)?;
        let outside = self.current().enable_count();
        self.enable()?;
        let depth = self.current().enable_count();
        if depth > outside {
            self.current().hints().announce(hint, depth);
        }
        Ok(())
    }
}

impl<K: Kernel> AddressSpace<'_, K> {
    /// Folds the contiguous groups of `range`: every 16 neighboring, aligned entries that map
    /// 64 KiB of consecutive, aligned memory with the same attributes get the contiguous hint, so
    /// that a TLB may hold them as one entry. Groups that lie in the range only in part are folded
    /// as well. Returns how many groups were folded. Linux: `contpte_try_fold()`.
    ///
    /// The groups of one table share one break-before-make: their pages fault for a moment, and the
    /// handler of user faults must look at the entry again. Kernel mappings are never folded. In
    /// interrupt context the call folds nothing.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`], [`SpaceError::OutsideWindow`].
    pub fn fold_contiguous(&mut self, range: PageRange) -> Result<usize, SpaceError> {
        self.check_range(range)?;
        let mut folded = 0;
        self.each_leaf_table(range, |found| {
            folded += fold::fold(self.mmu(), found.table, found.piece, self.kind().scope());
        });
        Ok(folded)
    }
}
