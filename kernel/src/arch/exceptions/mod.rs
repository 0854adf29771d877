// SPDX-License-Identifier: MIT OR Apache-2.0

//! Exceptions: all sixteen vectors, and the decoding of what they report. The vectors call
//! `exception_handler`, which the kernel defines above its scheduler ([`crate::exceptions`]).
//!
//! | entry | what happens |
//! |---|---|
//! | EL1 with SP_EL1, synchronous | a [probe](super::probe) returns an error; all others are reported |
//! | EL1 with SP_EL1, IRQ | depth + 1, [dispatch], depth - 1 |
//! | all others | reported |
//!
//! [`esr`] is portable; the rest is not.
//!
//! [dispatch]: crate::platform::interrupts::dispatch

pub mod esr;
#[cfg(target_os = "none")]
pub mod frame;
#[cfg(target_os = "none")]
mod vectors;

#[cfg(target_os = "none")]
pub use vectors::init;
