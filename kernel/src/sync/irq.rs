// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks that interrupt handlers may take as well.
//!
//! `spin`'s mutex does not mask interrupts. A handler that takes a lock which the interrupted code
//! holds would spin forever. [`IrqLock`] masks interrupts on this CPU while it is held, which also
//! keeps its holder on the CPU.

use core::ops::{Deref, DerefMut};

use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::arch::interrupts::{self, Masked};
use crate::arch::relax::CpuRelax;

/// A spin lock that masks interrupts while it is held.
#[derive(Debug)]
pub struct IrqLock<T>(SpinMutex<T, CpuRelax>);

impl<T> IrqLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    /// Masks interrupts and takes the lock.
    pub fn lock(&self) -> IrqLockGuard<'_, T> {
        let masked = interrupts::mask();
        IrqLockGuard {
            guard: self.0.lock(),
            _masked: masked,
        }
    }
}

/// Access to the value that an [`IrqLock`] protects.
///
/// The fields drop in this order: first the lock is released, then the guard of the mask is
/// dropped.
#[derive(Debug)]
pub struct IrqLockGuard<'a, T> {
    guard: SpinMutexGuard<'a, T, CpuRelax>,
    _masked: Masked,
}

impl<T> Deref for IrqLockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for IrqLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
