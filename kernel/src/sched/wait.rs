// SPDX-License-Identifier: MIT OR Apache-2.0

//! Wait queues: a task waits for something that another task, or an interrupt handler, will do.

use alloc::sync::Arc;

use super::entity::{Entity, List};
use super::might_sleep::might_sleep;
use super::task::{Task, current_arc};
use super::{CPUS, run};
use crate::sync::IrqLock;

/// Tasks that wait for one condition. Linux: `wait_queue_head_t`.
///
/// # The protocol
///
/// A task that waits tests its condition under the queue's lock. If the condition does not hold,
/// the task enters the queue under the same lock, before it releases it. Code that makes the
/// condition true does so first, and then takes the lock to wake a task. So no wake-up is lost:
///
/// ```text
/// waiter: lock, condition is false, enter the queue, unlock
/// waker:  (condition = true at any time)                    lock, take the waiter, unlock, wake it
/// ```
///
/// If the waker locks first, the waiter's test follows under the lock and finds the condition true.
///
/// The condition must not sleep, log, or take a lock that comes before this one in the order of
/// [`crate::sync`].
#[derive(Debug)]
pub struct WaitQueue {
    waiting: IrqLock<List<Task>>,
}

impl WaitQueue {
    /// A queue without tasks.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            waiting: IrqLock::new(List::new()),
        }
    }

    /// Sleeps until `condition` holds. The condition is tested at once, and after each wake-up.
    /// Linux: `wait_event()`.
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

    /// Wakes the task that has waited longest; returns whether there was one. Interrupt handlers
    /// may call it.
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

    /// Wakes all tasks that wait now. Interrupt handlers may call it.
    pub fn wake_all(&self) {
        let masked = run::Masked::new();
        // A task that enters the queue again in the meantime is not woken again, so this loop ends.
        let mut woken = core::mem::take(&mut *self.waiting.lock());
        while let Some(task) = woken.pop() {
            CPUS.wake(&task);
        }
        drop(masked);
    }

    /// The number of tasks that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Whether no task waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `task`, which never runs again, on the queue. The list of tasks to be freed is such a
    /// queue.
    pub(super) fn add_dead(&self, task: Arc<Task>) {
        let _masked = run::Masked::new();
        // SAFETY: the task has left its CPU and its run queue for good.
        unsafe { self.waiting.lock().push(task) };
    }

    /// Takes the first task.
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
