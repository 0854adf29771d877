// SPDX-License-Identifier: MIT OR Apache-2.0
//! An invalidation that a caller has asked for, as a drain sees it: it is executed together with
//! what waits, so that both share one set of barriers.

use crate::addr::PageRange;
use crate::batch::Slot;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::tlbi::{Reach, Scope};

/// An invalidation that a caller has asked for.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    /// Which pages; `None` for everything, tables included.
    pub(super) ranges: Option<&'a [PageRange]>,
    pub(super) scope: Scope,
    pub(super) reach: Reach,
}

impl Request<'_> {
    /// Takes the pages that are asked for off what the slot has to have invalidated.
    pub(super) fn covers_in(self, slot: &Slot) {
        if slot.scope.get() != self.scope {
            return;
        }
        match self.ranges {
            Some(ranges) => ranges.iter().for_each(|range| slot.invalidated(*range)),
            None => slot.stale.clear_all(),
        }
    }

    /// Executes it, and that of the pages `more`, with one set of barriers.
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
