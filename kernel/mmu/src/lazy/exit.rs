// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a task.
//!
//! A task that ends has no business in a section: whoever opened it can close it no more. But its
//! function may return with a guard forgotten, or the kernel may end it in the middle of anything, and
//! then what it had deferred must not be lost: others rely on it, and the CPU's batch must not pass on to
//! the next task. So the kernel calls [`Lazy::exit`] for every task, as the last thing that runs as this
//! task before its last context switch, and reports what that says.

use super::{Lazy, LazyMmuError};
use crate::hardware::Kernel;

impl<K: Kernel> Lazy<'_, K> {
    /// Leaves every level for good: sections, pauses and suspended ones. All earlier writes have taken
    /// effect when it returns; contiguous groups in ranges that [`Lazy::enable_fast_pte_range`] announced are
    /// folded, and all ranges are withdrawn. The state is that of a new task (R1): it may be switched
    /// out, with any backend, or used again.
    ///
    /// How deep the task was and where its section was opened is in the state before
    /// ([`super::LazyMmuState::opened_at`]). In interrupt context nothing is done (R3).
    ///
    /// # Errors
    /// [`LazyMmuError::EndedInside`] if there was anything to leave, which is a mistake of the task's; it is
    /// left all the same.
    pub fn exit(self) -> Result<(), LazyMmuError> {
        let state = self.state();
        if state.is_new() {
            return Ok(());
        }
        if !self.in_interrupt() {
            self.leave_for_good();
        }
        Err(LazyMmuError::EndedInside)
    }

    #[cold]
    fn leave_for_good(self) {
        let state = self.state();
        let was_active = state.is_active();
        // R10: the mode is inactive already when the last hook runs.
        state.set_enable_count(0);
        state.set_pause_count(0);
        self.end_ranges(0);
        // The tables of suspended ranges stay until their section is left, which is now.
        while state.hints().is_suspended() {
            state.hints().resume();
            self.end_ranges(0);
        }
        // Or it was ended in the middle of its last hook.
        if was_active || state.word() != 0 {
            self.mmu.hook_leave();
        }
        // Ranges of guards that were forgotten go, and the mark of work on the batch, if the task was ended
        // in the middle of that: who has that mark never leaves its CPU.
        state.renew();
    }
}
