// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the `lazymmu` crate asks: who is running, and in an interrupt or not.

use lazymmu::{Batch, Context, Counters, Counts, LazyMmuError, LazyMmuState};

use super::preempt;
use super::run;
use super::task::current;
use crate::arch::{Arm64, percpu};

/// What the interrupts of the calling CPU executed.
#[must_use]
pub fn interrupt_counts() -> Counts {
    percpu::current().interrupt_counters().read()
}

// SAFETY: `current()` is the task that runs on this CPU, and its state lives as long as the task. The batch and the
// counters of interrupts are this CPU's. An interrupt ends where it began, so the answer of `in_interrupt` does not change
// during a call.
unsafe impl Context for Arm64 {
    #[inline(always)]
    unsafe fn lazy(&self) -> &LazyMmuState {
        current().lazy()
    }

    #[inline(always)]
    fn in_interrupt(&self) -> bool {
        preempt::in_interrupt()
    }

    /// An interrupt's events are nobody's but its CPU's. A task with bottom halves off counts as one, but
    /// real interrupts come in between its load and its store: it has its own counters, as ever, so that
    /// each has one writer.
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

    /// The CPU's; the library asks while the task cannot leave it.
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
