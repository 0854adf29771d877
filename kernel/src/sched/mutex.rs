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

/// A sleeping lock. Linux: `struct mutex`. Who does not get it sleeps; who holds it may sleep as well, be
/// preempted and moved to another CPU, and may be in a lazy section if the backend allows that.
pub struct Mutex<T> {
    /// Who holds it.
    holder: AtomicPtr<Task>,
    waiters: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard alone, of which there is one at a time.
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

    /// Takes the lock, and sleeps until it is free.
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
                "task {} asked for a mutex that it holds: it would wait for itself for ever",
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
        // Under the waiters' lock: who has just found the mutex taken is on the queue, or tests it again.
        self.mutex.waiters.wake_one();
    }
}
