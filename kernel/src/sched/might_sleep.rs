// SPDX-License-Identifier: MIT OR Apache-2.0

//! The check whether the calling task may give up its CPU, with the reason if it may not.

use core::fmt;
use core::panic::Location;

use super::preempt::{BOTTOM_HALVES_MASK, INTERRUPT_MASK};
use super::task::current;
use crate::arch::interrupts;
use crate::mm::MMU;

/// The reason why the caller must not sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotSleep {
    /// An interrupt handler runs: there is no task that could sleep.
    Interrupt,
    /// Bottom halves are off.
    BottomHalvesOff,
    /// Preemption is off, for example because a spin lock is held.
    PreemptOff,
    /// Interrupts are masked.
    Masked,
    /// A lazy MMU section is active and its backend keeps the batch on the CPU (R38).
    LazySection {
        /// The number of sections entered and not left.
        depth: u8,
        /// Where the outermost section was entered.
        opened: Option<&'static Location<'static>>,
    },
}

impl fmt::Display for CannotSleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupt => f.write_str("in an interrupt handler: let a task do it"),
            Self::BottomHalvesOff => f.write_str("with bottom halves off: turn them on first"),
            Self::PreemptOff => f.write_str(
                "with preemption off: release the spin lock, or drop the PreemptOff, first",
            ),
            Self::Masked => f.write_str("with interrupts masked: unmask them first"),
            Self::LazySection { depth, opened } => {
                write!(f, "in a lazy MMU section, {depth} deep")?;
                if let Some(opened) = opened {
                    write!(f, ", opened at {opened}")?;
                }
                write!(
                    f,
                    ", that backend {} keeps on its CPU (R38): leave all sections first, as \
                     suspend_all() does",
                    MMU.backend()
                )
            }
        }
    }
}

impl core::error::Error for CannotSleep {}

/// Whether the caller may sleep now.
///
/// # Errors
/// [`CannotSleep`] says why it may not.
pub fn may_sleep() -> Result<(), CannotSleep> {
    let count = current().preempt_count();
    if count & INTERRUPT_MASK != 0 {
        return Err(CannotSleep::Interrupt);
    }
    if count & BOTTOM_HALVES_MASK != 0 {
        return Err(CannotSleep::BottomHalvesOff);
    }
    if count != 0 {
        return Err(CannotSleep::PreemptOff);
    }
    if interrupts::are_masked() {
        return Err(CannotSleep::Masked);
    }
    let lazy = MMU.lazy();
    lazy.might_sleep().map_err(|_| CannotSleep::LazySection {
        depth: lazy.state().enable_count(),
        opened: lazy.state().opened_at(),
    })
}

/// Checks that the caller may sleep, at a place where it may have to. The check is made even if
/// there is nothing to wait for, so that a mistake is always found. Linux: `might_sleep()`, which
/// warns. Here the kernel panics, because the wait could not happen.
///
/// # Panics
/// If the caller must not sleep. The message says why.
#[track_caller]
pub fn might_sleep() {
    if let Err(why) = may_sleep() {
        panic!("task {} would sleep {why}", current().name());
    }
}
