// SPDX-License-Identifier: MIT OR Apache-2.0

//! One CPU's queue, and what is decided about it.

use alloc::sync::Arc;
use core::fmt;

use spin::mutex::SpinMutexGuard;

use crate::arch::relax::CpuRelax;
use crate::sched::entity::{Entity, List, State};
use crate::sched::stats::Stats;

/// One CPU's queue.
#[derive(Debug)]
pub struct Queue<T: Entity> {
    /// Who has the CPU; `None`: its idle task.
    pub(super) current: Option<Arc<T>>,
    /// Who could have it, next first.
    pub(super) ready: List<T>,
    /// Who waits for a time, earliest first.
    pub(super) sleepers: List<T>,
    /// Who is on its way out.
    pub(super) leaving: Option<Arc<T>>,
    /// When the current task is to make room, in ticks.
    pub(super) slice_end: u64,
    pub(super) stats: Stats,
}

/// Who gets a CPU.
#[must_use = "the queue may be locked"]
pub enum Decision<'a, T: Entity> {
    /// Who has it.
    Stay,
    /// Who has it, because it must not leave.
    Refused,
    /// Somebody else.
    Switch(Switch<'a, T>),
}

/// A decision: `next` gets the CPU. The queue is locked until [`Cpus::finish`](super::Cpus::finish).
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
    /// The task that gets the CPU; `None`: the idle task.
    #[must_use]
    pub fn next(&self) -> Option<&Arc<T>> {
        self.guard.current.as_ref()
    }

    /// When the next tick is needed, in ticks; `u64::MAX` for never.
    #[must_use]
    pub fn next_tick(&self) -> u64 {
        self.guard.next_tick()
    }

    /// Takes note that [`Switch::next`] was on another CPU.
    pub fn count_arrival(&mut self) {
        bump(&mut self.guard.stats.arrivals);
    }

    /// Lets the lock outlive this value; [`Cpus::finish`](super::Cpus::finish) releases it.
    pub fn hold(self) {
        let _ = SpinMutexGuard::leak(self.guard);
    }
}

/// What a task that has left its CPU asks for.
#[derive(Debug)]
pub enum Left<T> {
    /// Nothing.
    Nothing,
    /// It has ended, and is off its stack.
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
        // SAFETY: whoever calls this has just taken it from a list, or from where tasks are on none.
        unsafe { self.ready.push(task) };
    }
}

/// One more. It wraps, rather than ask whether it would: 2^64 events take centuries.
#[inline(always)]
pub(super) const fn bump(count: &mut u64) {
    *count = count.wrapping_add(1);
}
