// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lazy MMU state of a task: two counters, the barriers that it owes, and where its section
//! began.
//!
//! # Who writes the word
//!
//! The state is one word, plus the announced ranges and the place where the section began. A change
//! of the word is a load and a store, not one atomic step, because only its own task writes it, and
//! only outside of interrupts (R3). There is one exception: at the end of an interrupt a context
//! switch may call [`crate::Lazy::switch_out`] on behalf of the task that was interrupted. If that
//! happens between the load and the store of a change, the store undoes what the switch wrote:
//!
//! ```text
//! task, in owe():      w = load word              (owes STORES, say, and a batch WAITS)
//! interrupt:               switch_out(): drain the batch, DSB ISH, word &= !(STORES | WAITING)
//! another CPU or later:    the task continues: a context switch, then an exception return
//! task, in owe():      store w | CONTEXT          (STORES and WAITING are set again)
//! ```
//!
//! The task then owes a `DSB` that the switch has executed already, or looks once into an empty
//! batch. Both cost a few instructions and break nothing. The store may also clear the `ISB` that
//! the drain made the task owe. That `ISB` is for the CPU on which the task continues, and the
//! exception return by which a preempted task continues synchronizes the context there as well.
//! While the word says that the task keeps its CPU ([`STAYS`]), `switch_out` refuses and writes
//! nothing.

use super::hints::Hints;
use crate::policy::Owed;
use core::fmt;
use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Whether the task is working on the batch of its CPU. While it does, it must not leave the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// The task is working on the batch.
    Yes,
    /// The task is not working on the batch.
    No,
}

/// The lazy MMU state of one task.
///
/// It belongs to the task, not to a CPU: a context switch changes the counters of neither task
/// (R11). A new task starts with [`LazyMmuState::new`], outside of any section and owing nothing
/// (R1). Only its own task writes it, with the exception of `switch_out`; it is atomic so that
/// another CPU may read it.
///
/// A write to an entry checks whether the mode is active and whether the task owes the barriers
/// already, with one load and two compares of the word. A context switch checks whether it has
/// anything to do, with one load and one test.
#[derive(Default)]
pub struct LazyMmuState {
    word: AtomicU32,
    hints: Hints,
    /// The caller that opened the outermost section. Outside of any section the value has no
    /// meaning.
    opened_at: AtomicPtr<Location<'static>>,
}

const ENABLE: u32 = 0xff;
const PAUSE_SHIFT: u32 = 8;
const PAUSE: u32 = 0xff << PAUSE_SHIFT;
/// The strategy keeps the task on its CPU, from the enter hook to the leave hook.
const BOUND: u32 = 1 << 16;
/// The task is working on its CPU's batch.
const BUSY: u32 = 1 << 17;
/// Something of the task waits in its CPU's batch.
const WAITING: u32 = 1 << 18;
const OWED_SHIFT: u32 = 19;
const OWED: u32 = 0xff << OWED_SHIFT;
/// A word that no task has: all bits of the debts are set, also those that mean no barrier.
const NO_WORD: u32 = OWED;

/// The bits that keep the task on its CPU.
const STAYS: u32 = BOUND | BUSY;
/// The bits for which a context switch has more to do than its barrier: it refuses, drains, or
/// forgives the debt of the stores. It never pays an `ISB`, so the only debt among them is that of
/// the stores, the lowest bit.
const CONCERNS_SWITCH: u32 = STAYS | WAITING | (Owed::STORES.bits() as u32) << OWED_SHIFT;

const _: () = assert!(
    is_one_run(CONCERNS_SWITCH) && is_one_run(STAYS),
    "bits in a row are an immediate operand of TST"
);

const fn is_one_run(mask: u32) -> bool {
    (mask >> mask.trailing_zeros())
        .wrapping_add(1)
        .is_power_of_two()
}

#[inline(always)]
const fn enable_count(word: u32) -> u8 {
    (word & ENABLE) as u8
}

#[inline(always)]
const fn pause_count(word: u32) -> u8 {
    ((word & PAUSE) >> PAUSE_SHIFT) as u8
}

#[inline(always)]
const fn owed(word: u32) -> Owed {
    Owed::from_bits_truncate(((word & OWED) >> OWED_SHIFT) as u8)
}

#[inline(always)]
const fn is_active(word: u32) -> bool {
    // One comparison for both counters: with a pause the number is 256 or more.
    let counts = word & (ENABLE | PAUSE);
    0 < counts && counts <= ENABLE
}

impl LazyMmuState {
    /// The state of a new task: both counters are 0, and it owes nothing.
    pub const fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            hints: Hints::new(),
            opened_at: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The counters, the debts and the number of announced ranges at this moment.
    #[must_use]
    pub fn read(&self) -> LazyMmuSnapshot {
        let opened_at = self.opened_at.load(Ordering::Relaxed);
        LazyMmuSnapshot {
            word: self.word(),
            fast_pte_ranges: self.hints.in_force(),
            // SAFETY: only `set_opened_at` stores here, a null pointer or a `&'static Location`.
            opened_at: unsafe { opened_at.as_ref() },
        }
    }

    /// [`LazyMmuSnapshot::enable_count`].
    #[inline(always)]
    pub(crate) fn enable_count(&self) -> u8 {
        enable_count(self.word())
    }

    /// [`LazyMmuSnapshot::pause_count`].
    #[inline(always)]
    pub(crate) fn pause_count(&self) -> u8 {
        pause_count(self.word())
    }

    /// [`LazyMmuSnapshot::owed`].
    #[inline(always)]
    pub(crate) fn owed(&self) -> Owed {
        owed(self.word())
    }

    /// [`LazyMmuSnapshot::is_active`].
    #[inline(always)]
    pub(crate) fn is_active(&self) -> bool {
        is_active(self.word())
    }

    /// Whether the task is in a section or a pause, or has suspended them.
    pub(crate) fn is_inside(&self) -> bool {
        self.word() & (ENABLE | PAUSE) != 0 || self.hints.is_suspended()
    }

    /// Whether something that the task wrote or emptied waits in the batch of its CPU.
    #[inline(always)]
    pub(crate) fn is_waiting(&self) -> bool {
        self.word() & WAITING != 0
    }

    /// Notes that something waits in the batch.
    #[inline(always)]
    pub(crate) fn set_waiting(&self) {
        self.set(WAITING, WAITING);
    }

    /// Notes that nothing waits in the batch any more.
    #[inline(always)]
    pub(crate) fn clear_waiting(&self) {
        self.set(WAITING, 0);
    }

    /// Whether a context switch has more to do than its barrier.
    #[inline(always)]
    pub(crate) fn concerns_switch(&self) -> bool {
        self.word() & CONCERNS_SWITCH != 0
    }

    /// Whether the task must keep its CPU: because of its strategy, or because it is working on the
    /// CPU's batch.
    #[inline(always)]
    pub(crate) fn stays(&self) -> bool {
        self.word() & STAYS != 0
    }

    /// Binds the task to its CPU.
    #[inline]
    pub(crate) fn bind(&self) {
        self.set(BOUND, BOUND);
    }

    /// Lets the task leave its CPU again.
    #[inline]
    pub(crate) fn unbind(&self) {
        self.set(BOUND, 0);
    }

    /// Whether the end of a section must drain the batch, or let the task leave its CPU again.
    #[inline(always)]
    pub(crate) fn is_waiting_or_bound(&self) -> bool {
        self.word() & (WAITING | BOUND) != 0
    }

    /// Whether the task is working on the batch of its CPU, and must not leave the CPU.
    #[inline(always)]
    pub(crate) fn is_busy(&self) -> bool {
        self.word() & BUSY != 0
    }

    /// Sets or clears the mark [`BUSY`]. Returns the old one.
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

    /// The word that this task has when it owes every barrier. A store that finds the state word
    /// equal to it adds no debt. If the mode is not active, [`NO_WORD`].
    #[inline]
    pub(crate) fn word_owing_all(&self) -> u32 {
        let all = u32::from(Owed::all().bits()) << OWED_SHIFT;
        if self.is_active() {
            self.word() | all
        } else {
            NO_WORD
        }
    }

    /// Notes that a `DSB ISH` on the CPU that the task leaves has completed its stores (R17). Of
    /// the pair that the task owes, only the `ISB` is left.
    #[inline(always)]
    pub(crate) fn stores_completed(&self) {
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
    pub(crate) fn set_enable_count(&self, n: u8) {
        self.set(ENABLE, u32::from(n));
    }

    #[inline(always)]
    pub(crate) fn set_opened_at(&self, at: Option<&'static Location<'static>>) {
        let at = at.map_or(ptr::null(), ptr::from_ref);
        self.opened_at.store(at.cast_mut(), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn set_pause_count(&self, n: u8) {
        self.set(PAUSE, u32::from(n) << PAUSE_SHIFT);
    }

    #[inline(always)]
    pub(crate) fn owe(&self, more: Owed) {
        let bits = u32::from(more.bits()) << OWED_SHIFT;
        if self.word() & bits != bits {
            self.set(bits, bits);
        }
    }

    /// Whether this is the state of a new task.
    pub(crate) fn is_new(&self) -> bool {
        self.word() == 0 && self.hints.is_new()
    }

    /// Makes the state that of a new task.
    pub(crate) fn renew(&self) {
        self.word.store(0, Ordering::Relaxed);
        self.hints.clear();
    }

    #[inline(always)]
    pub(crate) fn forgive(&self, paid: Owed) {
        self.set(u32::from(paid.bits()) << OWED_SHIFT, 0);
    }
}

impl fmt::Debug for LazyMmuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

/// The lazy MMU state of a task at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LazyMmuSnapshot {
    word: u32,
    fast_pte_ranges: usize,
    opened_at: Option<&'static Location<'static>>,
}

impl LazyMmuSnapshot {
    /// Number of sections entered and not left, 0..=255.
    pub const fn enable_count(self) -> u8 {
        enable_count(self.word)
    }

    /// Number of pauses entered and not left, 0..=255.
    pub const fn pause_count(self) -> u8 {
        pause_count(self.word)
    }

    /// Barriers that the task's earlier writes still need.
    pub const fn owed(self) -> Owed {
        owed(self.word)
    }

    /// Whether the *task* is in a section and not paused. This is R2 without the condition that the
    /// caller is not in interrupt context. Linux: `__task_lazy_mmu_mode_active()`.
    pub const fn is_active(self) -> bool {
        is_active(self.word)
    }

    /// How many announced ranges are in force (see [`crate::Lazy::enable_fast_pte_range`]).
    pub const fn fast_pte_ranges(self) -> usize {
        self.fast_pte_ranges
    }

    /// Where the outermost section of the task was opened: the caller of [`crate::Lazy::enable`],
    /// [`crate::Lazy::section`] or [`crate::AddressSpace::fast_pte_range`], or of an operation that
    /// calls a callback in a section of its own. For an operation without callback, such as
    /// [`crate::AddressSpace::map`], it is a line of this crate, because passing its caller on
    /// would make each call slower. `None` outside of any section, and while all are suspended.
    pub const fn opened_at(self) -> Option<&'static Location<'static>> {
        match self.enable_count() {
            0 => None,
            _ => self.opened_at,
        }
    }
}

impl fmt::Debug for LazyMmuSnapshot {
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
