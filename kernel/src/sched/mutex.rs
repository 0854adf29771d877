// SPDX-License-Identifier: MIT OR Apache-2.0

//! A lock whose holder may sleep.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::might_sleep::might_sleep;
use super::task::{Task, current};
use super::wait::WaitQueue;

/// A sleeping lock. Linux: `struct mutex`.
///
/// A task that does not get the lock sleeps. The holder may sleep, be preempted and move to another
/// CPU. It may be in a lazy section if the backend allows sleeping there. A task that calls `lock`
/// takes a free mutex even if others have waited longer.
pub struct Mutex<T> {
    /// The task that holds the lock; null while it is free.
    holder: AtomicPtr<Task>,
    waiters: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and there is one guard at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            holder: AtomicPtr::new(ptr::null_mut()),
            waiters: WaitQueue::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the lock. Sleeps until it is free.
    ///
    /// # Panics
    /// If the caller must not sleep ([`might_sleep`]), or holds the lock already.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        might_sleep();
        let me = ptr::from_ref(current()).cast_mut();
        if !self.take(me) {
            assert!(
                self.holder.load(Ordering::Relaxed) != me,
                "task {} asked for a mutex that it holds, so it would wait forever: drop the guard first",
                current().name()
            );
            self.waiters.wait_until(|| self.take(me));
        }
        MutexGuard {
            mutex: self,
            not_send: PhantomData,
        }
    }

    /// Takes the lock if it is free. Never sleeps.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.take(ptr::from_ref(current()).cast_mut())
            .then(|| MutexGuard {
                mutex: self,
                not_send: PhantomData,
            })
    }

    fn take(&self, me: *mut Task) -> bool {
        self.holder
            .compare_exchange(ptr::null_mut(), me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = self.holder.load(Ordering::Relaxed).is_null();
        f.write_str(if free { "Mutex (free)" } else { "Mutex (held)" })
    }
}

/// Access to what a [`Mutex`] protects. Not `Send`: the task that took the lock releases it.
#[must_use = "the lock is released when this is dropped"]
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    not_send: PhantomData<*const ()>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the only one, and borrowed exclusively.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.holder.store(ptr::null_mut(), Ordering::Release);
        // `wake_one` takes the lock of the wait queue. A task that has just found the mutex taken
        // is either on the queue by then, or tests the mutex again.
        self.mutex.waiters.wake_one();
    }
}
