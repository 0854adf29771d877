// SPDX-License-Identifier: MIT OR Apache-2.0

//! The run queue of one CPU, and the decisions about it.

use alloc::sync::Arc;
use core::fmt;

use spin::mutex::SpinMutexGuard;

use crate::arch::relax::CpuRelax;
use crate::sched::entity::{Entity, List, State};
use crate::sched::stats::Stats;

/// One CPU's queue.
#[derive(Debug)]
pub struct Queue<T: Entity> {
    /// The task that has the CPU; `None` for the idle task.
    pub(super) current: Option<Arc<T>>,
    /// The ready tasks, in the order in which they get the CPU.
    pub(super) ready: List<T>,
    /// The tasks that wait for a time, earliest deadline first.
    pub(super) sleepers: List<T>,
    /// The task that is leaving; it still uses its stack.
    pub(super) leaving: Option<Arc<T>>,
    /// When the time slice of the current task ends, in ticks.
    pub(super) slice_end: u64,
    pub(super) stats: Stats,
}

/// The decision about which task gets a CPU.
#[must_use = "the queue may be locked"]
pub enum Decision<'a, T: Entity> {
    /// The current task keeps it.
    Stay,
    /// The current task keeps it, because it must not leave.
    Refused,
    /// Another task gets it.
    Switch(Switch<'a, T>),
}

/// A decision that `next` gets the CPU. The queue is locked until
/// [`Cpus::finish`](super::Cpus::finish).
#[must_use = "the queue stays locked until `finish`"]
pub struct Switch<'a, T: Entity> {
    pub(super) guard: SpinMutexGuard<'a, Queue<T>, CpuRelax>,
}

impl<T: Entity> fmt::Debug for Decision<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stay => "Stay",
            Self::Refused => "Refused",
            Self::Switch(_) => "Switch",
        })
    }
}

impl<T: Entity> fmt::Debug for Switch<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Switch with {} ready", self.guard.ready.len())
    }
}

impl<T: Entity> Switch<'_, T> {
    /// The task that gets the CPU; `None` for the idle task.
    #[must_use]
    pub fn next(&self) -> Option<&Arc<T>> {
        self.guard.current.as_ref()
    }

    /// When the next tick is needed, in ticks; `u64::MAX` for never.
    #[must_use]
    pub fn next_tick(&self) -> u64 {
        self.guard.next_tick()
    }

    /// Counts that [`Switch::next`] ran on another CPU before, or has not run yet.
    pub fn count_arrival(&mut self) {
        bump(&mut self.guard.stats.arrivals);
    }

    /// Keeps the queue locked when this value is gone; [`Cpus::finish`](super::Cpus::finish)
    /// unlocks it.
    pub fn hold(self) {
        let _ = SpinMutexGuard::leak(self.guard);
    }
}

/// What remains to be done for a task that has left its CPU.
#[derive(Debug)]
pub enum Left<T> {
    /// Nothing.
    Nothing,
    /// The task has ended, and no longer uses its stack.
    Dead(Arc<T>),
}

impl<T: Entity> Queue<T> {
    pub(super) const fn new() -> Self {
        Self {
            current: None,
            ready: List::new(),
            sleepers: List::new(),
            leaving: None,
            slice_end: 0,
            stats: Stats::new(),
        }
    }

    pub(super) fn next_tick(&self) -> u64 {
        let alarm = self
            .sleepers
            .first()
            .map_or(u64::MAX, |task| task.entry().deadline());
        if self.ready.is_empty() {
            alarm
        } else {
            alarm.min(self.slice_end)
        }
    }

    pub(super) fn make_ready(&mut self, task: Arc<T>) {
        task.entry().set_state(State::Ready);
        // SAFETY: every caller has just taken the task from a list, or from a place where tasks are
        // on none.
        unsafe { self.ready.push(task) };
    }
}

/// Increments `count`. It wraps instead of checking for an overflow: 2^64 events take centuries.
#[inline(always)]
pub(super) const fn bump(count: &mut u64) {
    *count = count.wrapping_add(1);
}
