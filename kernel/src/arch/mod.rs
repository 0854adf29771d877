// SPDX-License-Identifier: MIT OR Apache-2.0

//! arm64: the only assembly outside of crate `boot`.
//!
//! Instructions are wrapped one by one ([`barrier`], [`tlbi`], [`cache`], [`sysreg`]); everything
//! with a meaning above a single instruction is built on those. What needs no hardware (decoding
//! of [ID registers](features) and of [syndromes](exceptions::esr), [comparing
//! CPUs](compatibility), [walking frame records](backtrace)) compiles and is tested on the host as well.

pub mod backtrace;
#[cfg(target_os = "none")]
pub mod barrier;
#[cfg(target_os = "none")]
pub mod cache;
pub mod compatibility;
pub mod exceptions;
pub mod features;
#[cfg(target_os = "none")]
pub mod hardware;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod litmus;
#[cfg(target_os = "none")]
pub mod page;
#[cfg(target_os = "none")]
pub mod percpu;
#[cfg(target_os = "none")]
pub mod probe;
pub mod relax;
#[cfg(target_os = "none")]
pub mod semihosting;
#[cfg(target_os = "none")]
pub mod switch;
#[cfg(target_os = "none")]
pub mod sysreg;
#[cfg(target_os = "none")]
pub mod timer;
#[cfg(target_os = "none")]
pub mod tlbi;
#[cfg(target_os = "none")]
pub mod window;

#[cfg(target_os = "none")]
pub use hardware::Arm64;
