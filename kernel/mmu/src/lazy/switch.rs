// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a scheduler must do for a task that leaves its CPU.
//!
//! # The protocol
//!
//! 1. Before it sleeps, a task calls [`Lazy::might_sleep`]. The call refuses in a section with a
//!    strategy that keeps its task on the CPU, where sleeping is a mistake. The state says where
//!    that section was opened ([`LazyMmuSnapshot::opened_at`](crate::LazyMmuSnapshot::opened_at)).
//! 2. The context switch takes the lock of the run queue from which the next task comes. While it
//!    holds the lock, with interrupts masked, on the CPU that the task leaves, and before another
//!    CPU can run the task, it calls [`Lazy::switch_out`]. This holds for voluntary switches and
//!    for preemptions, also at the end of an interrupt. If the call refuses, the task keeps the
//!    CPU, and the scheduler tries again when the library calls
//!    [`crate::Context::preemption_point`].
//! 3. A task that continues on another CPU executes an `ISB` first, or returns from an exception.
//!    This synchronizes the new CPU with what was complete on the old one (row M3).
//! 4. A task that ends calls [`Lazy::exit`] before its last switch.
//!
//! # Why the barrier comes after the lock is taken
//!
//! The `DSB ISH` of the switch serves the task that leaves: it completes that task's stores on the
//! CPU that executed them. It also serves the task that arrives. A store that the arriving task has
//! executed on another CPU must be ordered before a TLBI that the task issues on this CPU. Taking
//! the lock makes the store visible to this CPU, and a `DSB ISH` after the lock is taken orders it
//! before everything that follows:
//!
//! ```text
//! CPU 0, task A: store entry = 0; DSB ISHST      (preempted before its TLBI)
//! CPU 0:         lock the queue of CPU 1, put A into it, unlock
//! CPU 1:         lock, DSB ISH, pick A, unlock   (orders the store before what CPU 1 does next)
//! CPU 1, task A: TLBI; DSB ISH
//! ```
//!
//! If CPU 1 executed its `DSB ISH` before it takes the lock, nothing would order the store before
//! the TLBI: a walker could still read the old entry after the TLBI and cache it again. The machine
//! model reports the stale translation in that order:
//! `r11_r17_a_call_that_moves_at_any_moment_takes_effect_on_both_cpus`
//! (`tests/model/scheduler.rs`).
//!
//! # What it costs
//!
//! Every switch executes a `DSB ISH`, as Linux's `__switch_to()` does, even if the task has written
//! nothing: the barrier also completes TLB maintenance that a task has begun outside of any
//! section. If the switch has nothing else to do, it costs a load, a test and a branch besides the
//! barrier and its counting. This is so for a task outside of any section, and for a task in a
//! section with a strategy that allows preemption that has stored nothing, and let nothing wait,
//! since the last switch.
//!
//! The library executes the barrier, and not the kernel, because forgiving the debt and executing
//! the barrier that pays it must not be separated, and because the library counts every barrier.

use super::mode::Lazy;
use crate::backend;
use crate::error::LazyMmuError;
use crate::hardware::Kernel;

impl<K: Kernel> Lazy<'_, K> {
    /// Whether the task may sleep now (R38). Linux: `might_sleep()`, as far as it is about lazy MMU
    /// mode.
    ///
    /// # Errors
    /// [`LazyMmuError::NotPreemptible`] from the start of an active section until the drain at its
    /// end, if the strategy keeps the task on its CPU ([`crate::Backend::is_preemptible`]); and
    /// with any strategy while the library works on the batch.
    #[inline(always)]
    pub fn might_sleep(self) -> Result<(), LazyMmuError> {
        if self.current().stays() {
            return Err(LazyMmuError::NotPreemptible);
        }
        Ok(())
    }

    /// Prepares the current task to lose this CPU. The context switch calls it on the CPU that the
    /// task leaves, with interrupts masked, before the task can run on another CPU. At the end of
    /// an interrupt it may be called on behalf of the interrupted task.
    ///
    /// It drains the CPU's batch and completes the task's stores with `DSB ISH` (R17). Of the pair
    /// that the task owes, only the `ISB` is left. The task's counters do not change (R11).
    ///
    /// The barrier is `DSB ISH` and not `DSB ISHST`, because it also completes TLB maintenance that
    /// the task has begun. The test `random_programs_notice_a_bare_context_switch` fails without
    /// it.
    ///
    /// # Errors
    /// [`LazyMmuError::NotPreemptible`] where [`Lazy::might_sleep`] returns it. Nothing was done,
    /// and the task must keep its CPU; the scheduler tries the preemption again at
    /// [`crate::Context::preemption_point`].
    #[inline(always)]
    pub fn switch_out(self) -> Result<(), LazyMmuError> {
        if self.current().concerns_switch() {
            return self.settle_and_switch_out();
        }
        self.mmu.complete_stores();
        Ok(())
    }

    /// The rare case: the switch refuses, or it has something to drain or to forgive.
    #[cold]
    #[inline(never)]
    fn settle_and_switch_out(self) -> Result<(), LazyMmuError> {
        self.might_sleep()?;
        backend::switch_out(self.mmu);
        self.mmu.complete_stores();
        self.current().stores_completed();
        Ok(())
    }
}
