// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a task carries: two counters and what is owed.

use crate::policy::Owed;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

/// Lazy MMU state of one task.
///
/// Belongs to the task, not to a CPU: a context switch changes neither task's
/// (R11). A new task starts with [`LazyMmuState::new`]: nothing counted, nothing
/// owed (R1). Only its own task writes it, and only outside interrupts (R3), so the
/// fields are read and written with plain relaxed accesses; they are atomics so that
/// another CPU may look.
#[derive(Default)]
pub struct LazyMmuState {
    enable_count: AtomicU8,
    pause_count: AtomicU8,
    owed: AtomicU8,
}

impl LazyMmuState {
    /// The state of a new task: `(0, 0)`, nothing owed.
    pub const fn new() -> Self {
        Self {
            enable_count: AtomicU8::new(0),
            pause_count: AtomicU8::new(0),
            owed: AtomicU8::new(0),
        }
    }

    /// Number of sections entered and not left, 0..=255.
    #[inline(always)]
    pub fn enable_count(&self) -> u8 {
        self.enable_count.load(Ordering::Relaxed)
    }

    /// Number of pauses entered and not left, 0..=255.
    #[inline(always)]
    pub fn pause_count(&self) -> u8 {
        self.pause_count.load(Ordering::Relaxed)
    }

    /// Barriers that the task's earlier writes still need.
    #[inline(always)]
    pub fn owed(&self) -> Owed {
        Owed::from_bits_truncate(self.owed.load(Ordering::Relaxed))
    }

    /// R2 without its first half: whether the *task* is in an unpaused
    /// section. Linux: `__task_lazy_mmu_mode_active()`.
    #[inline(always)]
    pub fn is_active(&self) -> bool {
        self.enable_count() > 0 && self.pause_count() == 0
    }

    #[inline(always)]
    pub(super) fn set_enable_count(&self, n: u8) {
        self.enable_count.store(n, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn set_pause_count(&self, n: u8) {
        self.pause_count.store(n, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn owe(&self, more: Owed) {
        self.owed
            .store((self.owed() | more).bits(), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn forgive(&self, paid: Owed) {
        self.owed
            .store((self.owed() - paid).bits(), Ordering::Relaxed);
    }
}

impl fmt::Debug for LazyMmuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "(enable {}, pause {}, owed {:?})",
            self.enable_count(),
            self.pause_count(),
            self.owed()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r16_debts_add_up_and_are_forgiven_apart() {
        let state = LazyMmuState::new();
        state.owe(Owed::STORES);
        state.owe(Owed::CONTEXT);
        assert_eq!(state.owed(), Owed::all());
        state.forgive(Owed::STORES);
        assert_eq!(state.owed(), Owed::CONTEXT);
    }
}
