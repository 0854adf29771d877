// SPDX-License-Identifier: MIT OR Apache-2.0

//! Exceptions: all sixteen vectors, what they mean, and the report of what nobody expected.
//!
//! | entry | what happens |
//! |---|---|
//! | EL1 with SP_EL1, synchronous | a [probe](super::probe) gets an error; all else is reported |
//! | EL1 with SP_EL1, IRQ | depth + 1, [dispatch], depth - 1 |
//! | every other one | reported |
//!
//! A report ends the kernel with status 3. It is written so that it gets out of a broken kernel:
//! on the emergency stack, through a writer without locks, and a fault inside of it makes a shorter
//! one.
//!
//! [`esr`] is portable, the rest is not.
//!
//! [dispatch]: crate::platform::interrupts::dispatch

pub mod esr;
#[cfg(target_os = "none")]
pub mod frame;
#[cfg(target_os = "none")]
mod handler;
#[cfg(target_os = "none")]
pub mod report;
#[cfg(target_os = "none")]
mod vectors;

#[cfg(target_os = "none")]
pub use vectors::init;
