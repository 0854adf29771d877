// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks: what runs, with the lazy MMU state that belongs to it.

use mmu::{Batch, Context, Counters, Counts, LazyMmuError, LazyMmuState};

use crate::arch::{Arm64, percpu};

/// A thread of execution.
#[derive(Debug)]
pub struct Task {
    name: &'static str,
    lazy: LazyMmuState,
    counters: Counters,
}

/// The task that boots the kernel and runs everything.
static BOOT_TASK: Task = Task::new("boot");

/// Where interrupts are counted: their events are nobody's but theirs.
static INTERRUPT_COUNTERS: Counters = Counters::new();

impl Task {
    /// A task that has not run: no section, nothing owed (R1).
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            lazy: LazyMmuState::new(),
            counters: Counters::new(),
        }
    }

    /// The name in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its lazy MMU state.
    #[must_use]
    pub const fn lazy(&self) -> &LazyMmuState {
        &self.lazy
    }

    /// What it executed.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }
}

/// The task that runs on this CPU; in an interrupt, the one it interrupted.
#[inline(always)]
#[must_use]
pub fn current() -> &'static Task {
    &BOOT_TASK
}

/// What the interrupts of this CPU executed.
#[must_use]
pub fn interrupt_counts() -> Counts {
    INTERRUPT_COUNTERS.read()
}

impl Context for Arm64 {
    #[inline(always)]
    fn lazy(&self) -> &LazyMmuState {
        &current().lazy
    }

    #[inline(always)]
    fn in_interrupt(&self) -> bool {
        percpu::current().in_interrupt()
    }

    #[inline(always)]
    fn counters(&self) -> &Counters {
        if self.in_interrupt() {
            &INTERRUPT_COUNTERS
        } else {
            &current().counters
        }
    }

    #[inline(always)]
    fn task_counters(&self) -> Option<&Counters> {
        (!self.in_interrupt()).then(|| &current().counters)
    }

    fn batch(&self) -> Option<&Batch> {
        Some(percpu::current().batch())
    }

    fn report(&self, error: LazyMmuError) {
        log::error!("task {}: {error}", current().name());
    }
}
