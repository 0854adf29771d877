// SPDX-License-Identifier: MIT OR Apache-2.0

//! A spin lock for data that tasks use and interrupt handlers do not.

use core::mem;

use lock_api::{GuardNoSend, RawMutex};
use spin::mutex::SpinMutex;

use super::preempt;
use crate::arch::relax::CpuRelax;

/// A spin lock whose holder keeps its CPU. Linux: `raw_spinlock_t`.
#[derive(Debug)]
pub struct RawSpinLock(SpinMutex<(), CpuRelax>);

// SAFETY: the inner mutex excludes other CPUs. Preemption is off from before the lock is taken
// until after it is released.
unsafe impl RawMutex for RawSpinLock {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait has this constant, and it is used to initialize locks only"
    )]
    const INIT: Self = Self(SpinMutex::new(()));

    type GuardMarker = GuardNoSend;

    /// Turns preemption off and takes the lock.
    ///
    /// # Panics
    /// In an interrupt handler: the interrupted code may hold the lock, and would never release it.
    fn lock(&self) {
        assert!(
            !preempt::in_hard_interrupt(),
            "an interrupt handler asked for a lock that the interrupted code may hold: use an IrqLock"
        );
        mem::forget(preempt::off());
        RawMutex::lock(&self.0);
    }

    /// Takes the lock if it is free, without waiting. It may be called from anywhere: reports use
    /// it while the kernel is about to end.
    fn try_lock(&self) -> bool {
        let off = preempt::off();
        let is_taken = RawMutex::try_lock(&self.0);
        if is_taken {
            mem::forget(off);
        }
        is_taken
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock, which is what the inner `unlock` requires.
        unsafe { RawMutex::unlock(&self.0) };
        preempt::on();
    }
}
