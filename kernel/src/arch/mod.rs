// SPDX-License-Identifier: MIT OR Apache-2.0

//! arm64: all assembly of this kernel, apart from crate `boot`.
//!
//! A function wraps one instruction ([`cache`], [`sysreg`], and in the page-table library
//! [`barrier`] and [`tlbi`]), and everything that means more than a single instruction is built on
//! these functions. Code that needs no hardware compiles on the host and is tested there as well:
//! decoding of [ID registers](features) and of [syndromes](exceptions::esr),
//! [comparing CPUs](compatibility), and [walking frame records](backtrace).

pub mod backtrace;
#[cfg(target_os = "none")]
pub mod cache;
pub mod compatibility;
pub mod exceptions;
#[cfg(target_os = "none")]
pub mod fault;
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
pub mod window;

#[cfg(target_os = "none")]
pub use hardware::Arm64;
#[cfg(target_os = "none")]
pub use lazymmu::aarch64::{barrier, tlbi};
