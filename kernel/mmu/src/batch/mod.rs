// SPDX-License-Identifier: MIT OR Apache-2.0
//! The batch of a CPU: the queues of the strategies that defer more than barriers.
//!
//! A barrier that is owed is one bit in the state of the task. Stores and invalidations that wait
//! need room, and that room belongs to the CPU, as on the architectures that these strategies come
//! from. A kernel that uses one of these strategies gives each CPU a [`Batch`].
//!
//! Only the current task of the CPU has anything waiting in the batch, and only while its section
//! is active. So the batch is empty whenever another task runs on the CPU: with
//! [`crate::Backend::DeferStores`] a task keeps its CPU in a section, and with the other strategies
//! the context switch drains the batch on the CPU that the task leaves
//! ([`crate::Lazy::switch_out`]).
//!
//! This module holds the data. The strategies in `backend` fill and drain the queues.

mod bitmap;
mod calls;
mod invalidations;
mod slots;

pub use calls::{Call, MULTICALLS};
pub(crate) use calls::{Calls, NO_CALL, entry_address};
pub use invalidations::BATCHED_RANGES;
pub(crate) use invalidations::Invalidations;
pub use slots::DEFERRED_TABLES;
pub(crate) use slots::{Slot, Slots};

use crate::addr::{Frame, Level, PageRange};
use crate::tlbi::Scope;
use core::fmt;

/// Room for what one CPU defers, about 21 KiB. All bytes of an empty batch are zero, so a `static`
/// takes no room in an image.
pub struct Batch {
    pub(crate) slots: Slots,
    pub(crate) invalidations: Invalidations,
    pub(crate) calls: Calls,
}

impl Batch {
    /// An empty batch.
    ///
    /// # Safety
    /// [`crate::Context::batch`] of one kernel returns the batch, and only to one CPU, so two flows
    /// of control never use it at the same time. (Interrupt handlers may interrupt a use: in
    /// interrupt context the library touches only what waits for the entries of a call, and that
    /// belongs to the caller.)
    pub const unsafe fn new() -> Self {
        Self {
            slots: Slots::new(),
            invalidations: Invalidations::new(),
            calls: Calls::new(),
        }
    }

    /// Whether something waits for `pages` of `scope`: an invalidation, or a store to their
    /// entries. A store in the queue of `Multicall` is known by the physical address of its entry,
    /// so it is found only if `table`, the table that translates `pages`, is given.
    pub(crate) fn concerns(&self, table: Option<Frame>, scope: Scope, pages: PageRange) -> bool {
        let of_table = |frame| table == Some(frame);
        self.slots.concern(table, scope, pages)
            || self.invalidations.meets(scope, pages)
            || self.calls.iter().any(|call| match call {
                Call::Store { entry, .. } => {
                    let first = Level::L3.index(pages.start());
                    let index = entry.index_in_table().checked_sub(first);
                    of_table(entry.frame()) && index.is_some_and(|i| (i as u64) < pages.pages())
                }
                Call::Invalidate { range, scope: of } => of == scope && range.meets(pages),
            })
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.invalidations.is_empty() && self.calls.is_empty()
    }
}

const _: () = assert!(size_of::<Batch>() < 22 << 10);

// SAFETY: the caller of `new` promises that one flow of control uses it at a time.
unsafe impl Sync for Batch {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("stores", &self.slots)
            .field("invalidations", &self.invalidations)
            .field("calls", &self.calls)
            .finish()
    }
}
