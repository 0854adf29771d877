// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's answers to what the `lazymmu` crate asks: which task runs, and whether it runs in
//! an interrupt.

use lazymmu::{Batch, Context, Counters, Counts, LazyMmuError, LazyMmuState};

use super::preempt;
use super::run;
use super::task::current;
use crate::arch::{Arm64, percpu};

/// The counts of what the interrupts of the calling CPU executed.
#[must_use]
pub fn interrupt_counts() -> Counts {
    percpu::current().interrupt_counters().read()
}

// SAFETY: `current()` is the task that runs on this CPU, and its state lives as long as the task.
// The batch and the counters of interrupts belong to this CPU. An interrupt ends where it began, so
// the answer of `in_interrupt` does not change during a call.
unsafe impl Context for Arm64 {
    #[inline(always)]
    unsafe fn lazy(&self) -> &LazyMmuState {
        current().lazy()
    }

    #[inline(always)]
    fn in_interrupt(&self) -> bool {
        preempt::in_interrupt()
    }

    /// The events of an interrupt handler are accounted to its CPU, not to a task. A task with
    /// bottom halves off counts as an interrupt (R3), but it keeps its own counters: a real
    /// interrupt may come between its load and its store, and each counter must have one writer.
    #[inline(always)]
    unsafe fn counters(&self) -> &Counters {
        if preempt::in_hard_interrupt() {
            percpu::current().interrupt_counters()
        } else {
            current().counters()
        }
    }

    #[inline(always)]
    unsafe fn task_counters(&self) -> Option<&Counters> {
        (!self.in_interrupt()).then(|| current().counters())
    }

    /// The batch of this CPU. The library asks for it while the task cannot leave the CPU.
    fn batch(&self) -> Option<&Batch> {
        Some(percpu::current().batch())
    }

    fn preemption_point(&self) {
        run::preempt_if_due();
    }

    fn report(&self, error: LazyMmuError) {
        log::error!("task {}: {error}", current().name());
    }
}
