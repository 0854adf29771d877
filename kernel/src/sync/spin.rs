// SPDX-License-Identifier: MIT OR Apache-2.0

//! Locks that tasks take, and interrupt handlers do not.

use core::ops::{Deref, DerefMut};

use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::arch::relax::CpuRelax;
use crate::sched::preempt::{self, PreemptOff};

/// A spin lock whose holder keeps its CPU. Linux: `spinlock_t`.
#[derive(Debug)]
pub struct SpinLock<T>(SpinMutex<T, CpuRelax>);

impl<T> SpinLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    /// Turns preemption off and takes the lock.
    ///
    /// # Panics
    /// In an interrupt handler: the interrupted code may hold the lock, and would never release it.
    #[track_caller]
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        assert!(
            !crate::sched::in_hard_interrupt(),
            "an interrupt handler asked for a lock that the interrupted code may hold: use an IrqLock"
        );
        let off = preempt::off();
        SpinLockGuard {
            guard: self.0.lock(),
            _off: off,
        }
    }

    /// Access without waiting, from anywhere: for reports of a kernel that is about to end.
    pub fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
        let off = preempt::off();
        self.0
            .try_lock()
            .map(|guard| SpinLockGuard { guard, _off: off })
    }
}

/// Access to what a [`SpinLock`] protects.
///
/// The fields drop in this order: first the lock is released, then the task may be preempted again.
#[derive(Debug)]
pub struct SpinLockGuard<'a, T> {
    guard: SpinMutexGuard<'a, T, CpuRelax>,
    _off: PreemptOff,
}

impl<T> Deref for SpinLockGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for SpinLockGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
