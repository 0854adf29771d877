// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a task.
//!
//! A task should not end inside a section, because nothing can close the section afterwards. But
//! its function may forget a guard, or the kernel may end the task in the middle of a call. What
//! the task has deferred must not be lost then: other tasks rely on it, and the CPU's batch must be
//! empty for the next task. So the kernel calls [`Lazy::exit`] for every task, as the last call
//! that the task makes before its last context switch, and reports the error that it returns.

use super::hooks;
use super::mode::Lazy;
use crate::error::LazyMmuError;
use crate::hardware::Kernel;

impl<K: Kernel> Lazy<'_, K> {
    /// Leaves every level for good: sections, pauses and suspensions. When it returns, all earlier
    /// writes have taken effect and all announced ranges are withdrawn. The state is that of a new
    /// task (R1): it may be switched out, with any strategy, or used again.
    ///
    /// Until the call, the state says how deep the task is and where its section was opened
    /// ([`LazyMmuSnapshot::opened_at`](crate::LazyMmuSnapshot::opened_at)). In an interrupt the
    /// call does nothing (R3).
    ///
    /// # Errors
    /// [`LazyMmuError::EndedInside`] if the task was inside a level, which is a mistake of the
    /// task; all levels were left. [`LazyMmuError::InInterrupt`] if the task is inside a level and
    /// the caller is in an interrupt: nothing was done.
    pub fn exit(self) -> Result<(), LazyMmuError> {
        let state = self.current();
        if state.is_new() {
            return Ok(());
        }
        if self.in_interrupt() {
            return Err(LazyMmuError::InInterrupt);
        }
        self.leave_for_good();
        Err(LazyMmuError::EndedInside)
    }

    #[cold]
    fn leave_for_good(self) {
        let state = self.current();
        let was_active = state.is_active();
        // R10: the mode is inactive already when the last hook runs.
        state.set_enable_count(0);
        state.set_pause_count(0);
        // `word() != 0` with the mode inactive: the task was ended during its last `leave` hook.
        if was_active || state.word() != 0 {
            hooks::leave(self.mmu);
        }
        // This also clears the mark of work on the batch (`BUSY`), which is left over if the task
        // was ended during that work. A task with this mark could never leave its CPU.
        state.renew();
    }
}
