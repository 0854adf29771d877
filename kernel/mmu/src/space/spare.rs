// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chains of tables that no tree links: reserved tables, and tables that are about to be freed.
//!
//! The first entry of each table holds the address of the next one, so a request of any size needs
//! no other memory. No walker reaches a reserved table. A walker may still reach a table that was
//! just unlinked, until the invalidation is complete; so the chain's links are invalid descriptors.

#![expect(
    clippy::disallowed_methods,
    reason = "it stores chains of tables that no tree links"
)]

use crate::addr::{Frame, PageRange};
use crate::desc::Desc;
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::table::Table;

/// Tables reserved for one request. Dropping the value frees those that were not taken.
pub(super) struct Spare<'m, K: Kernel> {
    mmu: &'m Mmu<K>,
    first: Option<Frame>,
    len: usize,
}

impl<'m, K: Kernel> Spare<'m, K> {
    /// Reserves `needed` zeroed tables, or none if there is not enough memory.
    pub(super) fn reserve(mmu: &'m Mmu<K>, needed: usize) -> Result<Self, SpaceError> {
        let mut spare = Self {
            mmu,
            first: None,
            len: 0,
        };
        while spare.len < needed {
            let Some(frame) = mmu.kernel().alloc_table() else {
                return Err(SpaceError::OutOfTables {
                    needed,
                    available: spare.len,
                });
            };
            spare.chain(frame, spare.first);
            spare.first = Some(frame);
            spare.len += 1;
        }
        Ok(spare)
    }

    /// The next reserved table, zeroed.
    pub(super) fn take(&mut self) -> Option<Frame> {
        let frame = self.first?;
        // SAFETY: the frame is reserved, hence allocated, and no other code has it.
        let table = unsafe { self.mmu.kernel().table_ptr(frame).as_ref() };
        self.first = chained(self.mmu.kernel().load(&table.entries()[0]));
        self.len -= 1;
        self.chain(frame, None);
        Some(frame)
    }

    fn chain(&self, frame: Frame, next: Option<Frame>) {
        // SAFETY: as in `take`.
        let table = unsafe { self.mmu.kernel().table_ptr(frame).as_ref() };
        self.mmu
            .kernel()
            .store(&table.entries()[0], chain_link(next));
    }
}

/// Set in each link of a chain, so that a link to frame 0 differs from the end of the chain. Bit 0
/// stays clear: a walker that still reaches the table finds an invalid entry.
const CHAINED: u64 = 1 << 1;

/// The value of the first entry of a chained table; `next` is the next table of the chain.
const fn chain_link(next: Option<Frame>) -> Desc {
    match next {
        Some(frame) => Desc::from_u64(frame.as_u64() | CHAINED),
        None => Desc::INVALID,
    }
}

/// The table to which `link`, the first entry of a chained table, leads.
fn chained(link: Desc) -> Option<Frame> {
    (link.as_u64() & CHAINED != 0).then(|| link.frame())
}

impl<K: Kernel> Drop for Spare<'_, K> {
    fn drop(&mut self) {
        while let Some(frame) = self.take() {
            // SAFETY: `take` unchained it, and a reserved table was never linked.
            unsafe { self.mmu.kernel().free_table(frame) };
        }
    }
}

/// Tables that are no longer linked and not free yet.
#[derive(Default)]
pub(super) struct Unlinked {
    first: Option<Frame>,
    len: usize,
    /// The hull of the addresses that the tables translated.
    pub(super) hull: Option<PageRange>,
}

impl Unlinked {
    /// Adds the table `dead` in `frame`, which translated `served`. The chain goes through the dead
    /// table itself.
    pub(super) fn add<K: Kernel>(
        &mut self,
        mmu: &Mmu<K>,
        dead: &Table,
        frame: Frame,
        served: PageRange,
    ) {
        mmu.kernel()
            .store(&dead.entries()[0], chain_link(self.first));
        self.first = Some(frame);
        self.len += 1;
        self.hull = Some(self.hull.map_or(served, |hull| hull.hull(served)));
    }

    /// Turns the tables into spare ones, which may be freed or linked again. The caller has
    /// invalidated the hull at all levels.
    pub(super) fn into_spare<K: Kernel>(self, mmu: &Mmu<K>) -> Spare<'_, K> {
        Spare {
            mmu,
            first: self.first,
            len: self.len,
        }
    }
}
