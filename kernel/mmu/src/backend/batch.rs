// SPDX-License-Identifier: MIT OR Apache-2.0
//! What waits on a CPU: the queues of the backends that defer more than barriers.
//!
//! A barrier that is owed is one bit, and the task carries it. Stores and invalidations that
//! are owed need room, and as on the architectures that they come from that room is the CPU's. A
//! kernel that wants these backends gives each CPU a [`Batch`]; one that does not need not.
//!
//! Nothing waits here unless the CPU's current task is in an active section, so a batch
//! is empty whenever another task could see it: with [`crate::Backend::DeferStores`] a task keeps its CPU
//! in a section, and whatever waits when a CPU changes hands is executed there and then, on the CPU that the
//! task leaves ([`crate::Lazy::switch_out`]).

use super::batch_invalidations::Invalidations;
use super::defer_stores::Slots;
use super::multicall::Fifo;
use core::fmt;

/// Room for what one CPU defers. Size: about 21 KiB, all zeroes when empty, so that a `static` takes no
/// room in an image.
pub struct Batch {
    pub(super) slots: Slots,
    pub(super) invalidations: Invalidations,
    pub(super) fifo: Fifo,
}

impl Batch {
    /// An empty batch.
    ///
    /// # Safety
    /// It is handed out by [`crate::Context::batch`] of one kernel only, and there to one CPU
    /// only: two flows of control never use it at the same time. (Interrupt handlers may run in
    /// between; the library leaves the batch alone while [`crate::Context::in_interrupt`].)
    pub const unsafe fn new() -> Self {
        Self {
            slots: Slots::new(),
            invalidations: Invalidations::new(),
            fifo: Fifo::new(),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.invalidations.is_empty() && self.fifo.is_empty()
    }
}

const _: () = assert!(size_of::<Batch>() < 22 << 10);

// SAFETY: `new` asks that one flow of control uses it at a time.
unsafe impl Sync for Batch {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("stores", &self.slots)
            .field("invalidations", &self.invalidations)
            .field("calls", &self.fifo)
            .finish()
    }
}
