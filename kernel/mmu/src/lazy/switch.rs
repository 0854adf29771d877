// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a scheduler must do for a task that leaves its CPU.
//!
//! # The protocol
//!
//! 1. Before it sleeps, a task asks [`Lazy::might_sleep`]. The call refuses where sleeping is a mistake: in a
//!    section with a strategy that keeps its task on the CPU. The state says where that section was opened
//!    ([`LazyMmuSnapshot::opened_at`](crate::LazyMmuSnapshot::opened_at)).
//! 2. The context switch takes its run queue's lock and picks the next task. Then, with interrupts masked, on the
//!    CPU that the task leaves, and before another CPU can run the task, it calls [`Lazy::switch_out`]: for a
//!    voluntary switch and for a preemption, at the end of an interrupt or not. If the call refuses, the task
//!    keeps the CPU, and the scheduler tries again when [`crate::Context::preemption_point`] says that it may.
//! 3. A task that goes on on another CPU executes an `ISB` before it does, or returns from an exception. What was
//!    complete on the old CPU is synchronized on the new one by that (row M3).
//! 4. A task that ends calls [`Lazy::exit`] before its last switch.
//!
//! # Why the barrier comes after the lock is taken
//!
//! The `DSB ISH` of the switch serves the task that leaves: it completes its stores on the CPU that executed them. It
//! also serves the task that arrives. What that task has stored on another CPU must be ordered before a TLBI that it
//! issues here, and this CPU learns of those stores when it takes the lock:
//!
//! ```text
//! CPU 0, task A: store entry = 0; DSB ISHST      (preempted before its TLBI)
//! CPU 0:         lock the queue of CPU 1, put A into it, unlock
//! CPU 1:         lock, pick A, DSB ISH           (the store is ordered before what CPU 1 does next)
//! CPU 1, task A: TLBI; DSB ISH
//! ```
//!
//! If CPU 1 executed its `DSB ISH` before the lock, nothing would order the store before the TLBI, and the entry could
//! be cached again. The model shows it:
//! `r11_r17_a_call_that_moves_at_any_moment_takes_effect_on_both_cpus` (`tests/model_scheduler.rs`).
//!
//! # What it costs
//!
//! Every switch executes a `DSB ISH`, as Linux's `__switch_to()` does, whatever the task has written: the barrier
//! also completes TLB maintenance that a task has begun outside of any section. Apart from that barrier and its
//! counting, a task for which there is nothing to do costs a load, a test and a branch. Such a task is in no
//! section; or it is in a section with a strategy that allows preemption, and has stored nothing and let nothing wait
//! since the last switch.
//!
//! The library executes the barrier, not the kernel, because the debt that it pays must not be forgiven without it,
//! and because it is counted like every other one.

use super::mode::Lazy;
use crate::backend;
use crate::error::LazyMmuError;
use crate::hardware::Kernel;

impl<K: Kernel> Lazy<'_, K> {
    /// Whether the task may sleep now (R38). Linux: `might_sleep()`, as far as it is about lazy MMU mode.
    ///
    /// # Errors
    /// [`LazyMmuError::NotPreemptible`] in an active section if the strategy keeps the task on its CPU
    /// ([`crate::Backend::is_preemptible`]); at its end, until the batch is drained; and with any strategy while
    /// the library works on the batch.
    #[inline(always)]
    pub fn might_sleep(self) -> Result<(), LazyMmuError> {
        if self.current().stays() {
            return Err(LazyMmuError::NotPreemptible);
        }
        Ok(())
    }

    /// The context switch calls this for the current task, on the CPU that it leaves, before the task can run
    /// anywhere else. It drains the CPU's batch and completes the task's stores with `DSB ISH` (R17). Of the pair
    /// that the task owes only the `ISB` is left. The counters of its state do not change (R11). Interrupts are
    /// masked meanwhile, and it may be called at the end of an interrupt, on behalf of the task that was
    /// interrupted.
    ///
    /// `DSB ISH` and not `ISHST`: it also completes TLB maintenance that the task has begun. Witness:
    /// `random_programs_notice_a_bare_context_switch`.
    ///
    /// # Errors
    /// [`LazyMmuError::NotPreemptible`] as [`Lazy::might_sleep`]; nothing is done, and the task keeps
    /// its CPU: a preemption is tried again later.
    #[inline(always)]
    pub fn switch_out(self) -> Result<(), LazyMmuError> {
        if self.current().concerns_switch() {
            return self.settle_and_switch_out();
        }
        self.mmu.complete_stores();
        Ok(())
    }

    /// The long way: the switch refuses, or there is something to drain or to forgive.
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
