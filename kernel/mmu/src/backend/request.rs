// SPDX-License-Identifier: MIT OR Apache-2.0
//! An invalidation that a caller has asked for while something waits. The drain executes it
//! together with what waits, so that both share one set of barriers.

use crate::addr::PageRange;
use crate::batch::Slot;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::tlbi::{Reach, Scope};

/// An invalidation that a caller has asked for.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    /// The pages; `None` for every entry of the scope, tables included.
    pub(super) ranges: Option<&'a [PageRange]>,
    pub(super) scope: Scope,
    pub(super) reach: Reach,
}

impl Request<'_> {
    /// Removes the pages of the request from those that the slot must invalidate.
    pub(super) fn covers_in(self, slot: &Slot) {
        if slot.scope.get() != self.scope {
            return;
        }
        match self.ranges {
            Some(ranges) => ranges.iter().for_each(|range| slot.invalidated(*range)),
            None => slot.stale.clear_all(),
        }
    }

    /// Invalidates the pages of the request and those of `more`, with one set of barriers.
    pub(super) fn execute<K: Kernel>(
        self,
        mmu: &Mmu<K>,
        more: impl Iterator<Item = PageRange> + Clone,
    ) {
        match self.ranges {
            Some(ranges) => {
                mmu.invalidate(ranges.iter().copied().chain(more), self.scope, self.reach);
            }
            None => mmu.invalidate_everything(self.scope),
        }
    }
}
