// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a task carries: two counters and what is owed.

use super::hints::Hints;
use crate::policy::Owed;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

/// Whether a task is at work on the batch of its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    Yes,
    No,
}

/// Lazy MMU state of one task.
///
/// Belongs to the task, not to a CPU: a context switch changes neither task's
/// (R11). A new task starts with [`LazyMmuState::new`]: nothing counted, nothing
/// owed (R1). Only its own task writes it, and only outside interrupts (R3), so a change
/// is a load and a store; it is an atomic so that another CPU may look.
///
/// All but the announced ranges is one word: the question that each write asks, "active, and owing this
/// already?", is one load and two compares.
#[derive(Default)]
pub struct LazyMmuState {
    word: AtomicU32,
    hints: Hints,
}

const ENABLE: u32 = 0xff;
const PAUSE_SHIFT: u32 = 8;
const PAUSE: u32 = 0xff << PAUSE_SHIFT;
const OWED_SHIFT: u32 = 16;
const OWED: u32 = 0xff << OWED_SHIFT;
/// No task's word: there are two kinds of barriers to owe.
const UNPAYABLE: u32 = OWED;
/// The task is at work on its CPU's batch.
const BUSY: u32 = 1 << 24;
/// Something of the task waits in its CPU's batch.
const WAITING: u32 = 1 << 25;

impl LazyMmuState {
    /// The state of a new task: `(0, 0)`, nothing owed.
    pub const fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            hints: Hints::new(),
        }
    }

    /// Number of sections entered and not left, 0..=255.
    #[inline(always)]
    pub fn enable_count(&self) -> u8 {
        (self.word() & ENABLE) as u8
    }

    /// Number of pauses entered and not left, 0..=255.
    #[inline(always)]
    pub fn pause_count(&self) -> u8 {
        ((self.word() & PAUSE) >> PAUSE_SHIFT) as u8
    }

    /// Barriers that the task's earlier writes still need.
    #[inline(always)]
    pub fn owed(&self) -> Owed {
        Owed::from_bits_truncate(((self.word() & OWED) >> OWED_SHIFT) as u8)
    }

    /// Whether the task is in a section or a pause, or has left them for a while only.
    pub(crate) fn is_inside(&self) -> bool {
        self.word() & (ENABLE | PAUSE) != 0 || self.hints.is_suspended()
    }

    /// Whether something that the task wrote waits in the batch of the CPU that it runs on.
    #[inline(always)]
    pub(crate) fn is_waiting(&self) -> bool {
        self.word() & WAITING != 0
    }

    /// Something waits from now on.
    #[inline(always)]
    pub(crate) fn wait(&self) {
        self.set(WAITING, WAITING);
    }

    /// Nothing waits any more.
    #[inline(always)]
    pub(crate) fn waited(&self) {
        self.set(WAITING, 0);
    }

    /// Whether the task is at work on the batch of the CPU that it runs on, and must not leave it.
    #[inline(always)]
    pub(crate) fn is_busy(&self) -> bool {
        self.word() & BUSY != 0
    }

    /// Says so, and returns what was said before.
    #[inline(always)]
    pub(crate) fn set_busy(&self, busy: Busy) -> Busy {
        let before = if self.is_busy() { Busy::Yes } else { Busy::No };
        let bits = match busy {
            Busy::Yes => BUSY,
            Busy::No => 0,
        };
        self.set(BUSY, bits);
        before
    }

    /// The word of an active task that is where this one is, and owes everything: what a store finds
    /// that has nothing to add. If it is not active, a word that no task has.
    #[inline]
    pub(crate) fn word_owing_all(&self) -> u32 {
        let all = u32::from(Owed::all().bits()) << OWED_SHIFT;
        if self.is_active() {
            self.word() | all
        } else {
            UNPAYABLE
        }
    }

    /// R2 without its first half: whether the *task* is in an unpaused
    /// section. Linux: `__task_lazy_mmu_mode_active()`.
    #[inline(always)]
    pub fn is_active(&self) -> bool {
        // One compare for both counters: with a pause the number is 256 or more.
        let counts = self.word() & (ENABLE | PAUSE);
        (1..=ENABLE).contains(&counts)
    }

    /// How many announced ranges are in force (see [`crate::Lazy::enable_fast_pte_range`]).
    pub fn fast_pte_ranges(&self) -> usize {
        self.hints.in_force()
    }

    /// Takes note that a `DSB ISH` on the CPU that the task leaves has completed its stores (R17): of
    /// the pair that it owes, only the `ISB` is left. For the context switch; see
    /// [`crate::Lazy::switch_out`], which does it.
    #[inline(always)]
    pub fn stores_completed(&self) {
        self.forgive(Owed::STORES);
    }

    #[inline(always)]
    pub(crate) const fn hints(&self) -> &Hints {
        &self.hints
    }

    #[inline(always)]
    pub(crate) fn word(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn set(&self, mask: u32, bits: u32) {
        self.word
            .store(self.word() & !mask | bits, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn set_enable_count(&self, n: u8) {
        self.set(ENABLE, u32::from(n));
    }

    #[inline(always)]
    pub(super) fn set_pause_count(&self, n: u8) {
        self.set(PAUSE, u32::from(n) << PAUSE_SHIFT);
    }

    #[inline(always)]
    pub(crate) fn owe(&self, more: Owed) {
        let bits = u32::from(more.bits()) << OWED_SHIFT;
        if self.word() & bits != bits {
            self.set(bits, bits);
        }
    }

    #[inline(always)]
    pub(crate) fn forgive(&self, paid: Owed) {
        self.set(u32::from(paid.bits()) << OWED_SHIFT, 0);
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
