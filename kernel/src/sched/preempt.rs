// SPDX-License-Identifier: MIT OR Apache-2.0

//! What keeps a task on its CPU: preemption turned off, bottom halves turned off, or an interrupt.
//!
//! One word of the task counts all three, like Linux's `preempt_count`:
//!
//! | bits | counts | [`in_interrupt`] |
//! |---|---|---|
//! | 0-7 | sections with preemption off ([`off`]) | no |
//! | 8-15 | sections with bottom halves off ([`bottom_halves_off`]) | yes (R3) |
//! | 16-19 | interrupts that run on top of the task | yes |
//!
//! While the word is not 0, the task is not preempted and must not sleep.
//!
//! The word belongs to the task and not to the CPU. If it belonged to the CPU, a task could move to
//! another CPU between finding out its CPU's number and reading that CPU's word. Here the read
//! needs no CPU number.
//!
//! The kernel has no bottom halves. It has sections with bottom halves off because Linux code
//! around page tables expects such a section to be treated like an interrupt (`b81c688426a9`), and
//! so the self-tests can try them.

use core::marker::PhantomData;

use super::run;
use super::task::current;

/// One section with preemption off.
pub(super) const PREEMPT: u32 = 1;
/// One section with bottom halves off.
pub(super) const BOTTOM_HALVES: u32 = 1 << 8;
/// One interrupt.
pub(super) const INTERRUPT: u32 = 1 << 16;

/// Any number of sections with bottom halves off.
pub(super) const BOTTOM_HALVES_MASK: u32 = 0xff << 8;
/// Any number of interrupts.
pub(super) const INTERRUPT_MASK: u32 = 0xf << 16;

/// Keeps the task on its CPU until it is dropped. It is not `Send`, because it belongs to the task
/// that made it.
#[must_use = "preemption is on again when this is dropped"]
#[derive(Debug)]
pub struct PreemptOff {
    not_send: PhantomData<*const ()>,
}

/// Turns preemption off. Linux: `preempt_disable()`.
#[inline(always)]
pub fn off() -> PreemptOff {
    current().count_up(PREEMPT);
    PreemptOff {
        not_send: PhantomData,
    }
}

impl Drop for PreemptOff {
    #[inline(always)]
    fn drop(&mut self) {
        on();
    }
}

/// Ends one section with preemption off whose guard was forgotten. Linux: `preempt_enable()`.
#[inline(always)]
pub(crate) fn on() {
    current().count_down(PREEMPT);
    run::preempt_if_due();
}

/// Keeps bottom halves off until it is dropped. The task keeps its CPU, and what it does counts as
/// done in an interrupt (R3). It is not `Send`.
#[must_use = "bottom halves are on again when this is dropped"]
#[derive(Debug)]
pub struct BottomHalvesOff {
    not_send: PhantomData<*const ()>,
}

/// Turns bottom halves off. Linux: `local_bh_disable()`.
pub fn bottom_halves_off() -> BottomHalvesOff {
    current().count_up(BOTTOM_HALVES);
    BottomHalvesOff {
        not_send: PhantomData,
    }
}

impl Drop for BottomHalvesOff {
    fn drop(&mut self) {
        current().count_down(BOTTOM_HALVES);
        run::preempt_if_due();
    }
}

/// Whether the caller runs in an interrupt, or with bottom halves off. Linux: `in_interrupt()`.
#[inline(always)]
#[must_use]
pub fn in_interrupt() -> bool {
    current().preempt_count() & (INTERRUPT_MASK | BOTTOM_HALVES_MASK) != 0
}

/// The number of interrupts that run on top of the current task.
#[must_use]
pub fn interrupt_depth() -> u32 {
    (current().preempt_count() & INTERRUPT_MASK) >> INTERRUPT.trailing_zeros()
}

/// Whether the caller runs in an interrupt handler. Linux: `in_hardirq()`.
#[inline(always)]
#[must_use]
pub fn in_hard_interrupt() -> bool {
    current().preempt_count() & INTERRUPT_MASK != 0
}
