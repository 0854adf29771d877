// SPDX-License-Identifier: MIT OR Apache-2.0

//! Waiting for something that another task, or an interrupt, will do.

use alloc::sync::Arc;

use super::entity::{Entity, List};
use super::might_sleep::might_sleep;
use super::task::{Task, current_arc};
use super::{CPUS, run};
use crate::sync::IrqLock;

/// Tasks that wait for one thing. Linux: `wait_queue_head_t`.
///
/// The protocol: who waits tests its condition under the queue's lock, and gets on the queue under the same lock
/// if it does not hold. Who makes the condition true does that first and wakes then, under that
/// lock. So no wake-up is lost. The condition must not sleep, log or take locks that come
/// before this one ([`crate::sync`]).
#[derive(Debug)]
pub struct WaitQueue {
    waiting: IrqLock<List<Task>>,
}

impl WaitQueue {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            waiting: IrqLock::new(List::new()),
        }
    }

    /// Sleeps until `condition` holds: it is tested at once, and after each wake-up. Linux: `wait_event()`.
    ///
    /// # Panics
    /// Where the caller must not sleep; see [`might_sleep`].
    #[track_caller]
    pub fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        might_sleep();
        loop {
            let masked = run::Masked::new();
            let mut waiting = self.waiting.lock();
            if condition() {
                return;
            }
            let task = current_arc();
            task.entry().block();
            // SAFETY: a task that runs is on no list.
            unsafe { waiting.push(task) };
            drop(waiting);
            run::schedule(run::Why::Waits, &masked);
        }
    }

    /// Wakes whoever has waited longest; returns whether there was one. May be called in interrupts.
    pub fn wake_one(&self) -> bool {
        let masked = run::Masked::new();
        let task = self.waiting.lock().pop();
        let found = task.is_some();
        if let Some(task) = task {
            CPUS.wake(&task);
        }
        drop(masked);
        found
    }

    /// Wakes everybody who waits now. May be called in interrupts.
    pub fn wake_all(&self) {
        let masked = run::Masked::new();
        // Who comes back to the queue meanwhile is not woken again, so this ends.
        let mut woken = core::mem::take(&mut *self.waiting.lock());
        while let Some(task) = woken.pop() {
            CPUS.wake(&task);
        }
        drop(masked);
    }

    /// How many tasks wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `task`, which never runs again, on the queue: for lists of what is to be cleared away.
    pub(super) fn add_dead(&self, task: Arc<Task>) {
        let _masked = run::Masked::new();
        // SAFETY: it has left its CPU and its run queue for good.
        unsafe { self.waiting.lock().push(task) };
    }

    /// Takes the first one.
    pub(super) fn take_dead(&self) -> Option<Arc<Task>> {
        let _masked = run::Masked::new();
        self.waiting.lock().pop()
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}
