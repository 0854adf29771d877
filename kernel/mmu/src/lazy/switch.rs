// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lazy MMU mode asks of a scheduler: the task that leaves its CPU, for a while.
//!
//! # The protocol
//!
//! 1. Before it sleeps, a task asks [`Lazy::might_sleep`]. It is refused where sleeping is a mistake of the
//!    caller's: in a section with a backend that keeps its task on the CPU. The state says where that
//!    section was opened ([`super::LazyMmuState::opened_at`]).
//! 2. The context switch picks the next task, under its run queue's lock. Then, with interrupts masked, on the
//!    CPU that the task leaves and before anybody else can run it, it calls [`Lazy::switch_out`],
//!    voluntary or not, at the end of an interrupt or not. If that is refused, the task keeps the CPU, and
//!    the scheduler tries again when [`crate::Context::preemption_point`] says that it may. *Behind the lock*, because the barrier has a second
//!    duty: what the coming task has stored on another CPU it orders before a TLBI that it issues here.
//!    Witness: `r11_r17_a_call_that_moves_at_any_moment_takes_effect_on_both_cpus`, which has it earlier.
//! 3. A task that goes on on another CPU executes an `ISB`, or returns from an exception, before it does
//!    (what was complete on the old CPU is synchronized on the new one; row M3).
//! 4. A task that ends calls [`Lazy::exit`] before its last switch.
//!
//! # What it costs
//!
//! Every switch executes a `DSB ISH`, as Linux's `__switch_to()` does, whatever the task has written: it also
//! completes TLB maintenance that a task has begun outside of any section. Beside that and its counting, a task
//! for which there is nothing else to do pays a load, a test and a branch. Such a task is in no section; or it is in
//! one with a backend that does not mind, and has nothing stored or waiting since the last switch.
//!
//! The barrier is this crate's, not the kernel's, because the debt that it pays must not be forgiven
//! without it, and because it is counted like every other.

use super::{Lazy, LazyMmuError};
use crate::backend;
use crate::hardware::Kernel;

impl<K: Kernel> Lazy<'_, K> {
    /// Whether the task may sleep now (R38). Linux: `might_sleep()`, as far as it is about lazy MMU mode.
    ///
    /// # Errors
    /// [`LazyMmuError::NotPreemptible`] in an active section if the backend keeps the task on its CPU
    /// ([`crate::Backend::is_preemptible`]); at its end, until the batch is drained; and with any backend while
    /// the library works on the batch.
    #[inline(always)]
    pub fn might_sleep(self) -> Result<(), LazyMmuError> {
        if self.state().stays() {
            return Err(LazyMmuError::NotPreemptible);
        }
        Ok(())
    }

    /// What the context switch does for the current task, on the CPU that it leaves, before it can run
    /// anywhere else: executes what waits in the CPU's batch, and completes the task's stores with
    /// `DSB ISH` (R17). Of the pair that it owes only the `ISB` is left. Its counters are not touched
    /// (R11). Interrupts are masked meanwhile, and it may be called at the end of an interrupt, on behalf of
    /// the task that was interrupted.
    ///
    /// `DSB ISH` and not `ISHST`: it also completes TLB maintenance that the task has begun. Witness:
    /// `random_programs_notice_a_bare_context_switch`.
    ///
    /// # Errors
    /// [`LazyMmuError::NotPreemptible`] as [`Lazy::might_sleep`]; nothing is done, and the task keeps
    /// its CPU: a preemption is tried again later.
    #[inline(always)]
    pub fn switch_out(self) -> Result<(), LazyMmuError> {
        if self.state().concerns_switch() {
            return self.settle_and_switch_out();
        }
        self.mmu.complete_stores();
        Ok(())
    }

    /// The long way.
    #[cold]
    #[inline(never)]
    fn settle_and_switch_out(self) -> Result<(), LazyMmuError> {
        self.might_sleep()?;
        backend::switch_out(self.mmu);
        self.mmu.complete_stores();
        self.state().stores_completed();
        Ok(())
    }
}
