// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bare-metal arm64 mini-kernel that shows lazy MMU mode, measures what it saves, and
//! tests that deferring barriers is safe.
//!
//! The modules:
//!
//! - [`arch`]: the assembly;
//! - [`platform`]: the machine around the CPU;
//! - `mm`: memory management on top of the [`lazymmu`] crate;
//! - `sched`: tasks and the scheduler;
//! - [`selftest`]: the self-tests;
//! - `demo`: the demonstration that `cargo xtask run` shows;
//! - `bench`: the measurements of `cargo xtask counts`;
//! - `start`: the steps of the boot, which call the others.
//!
//! Code that needs no hardware also compiles on the host and is tested there.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod arch;
pub mod bench;
#[cfg(target_os = "none")]
pub mod demo;
pub mod errors;
#[cfg(target_os = "none")]
pub mod exceptions;
pub mod filter;
#[cfg(target_os = "none")]
pub mod litmus;
pub mod machine;
#[cfg(target_os = "none")]
pub mod mm;
/// Memory management: the part that needs no hardware.
#[cfg(not(target_os = "none"))]
pub mod mm {
    pub mod area;
}
#[cfg(target_os = "none")]
mod panic;
pub mod platform;
pub mod sched;
pub mod selftest;
#[cfg(target_os = "none")]
pub mod smp;
/// Calls on other CPUs: the part that needs no hardware.
#[cfg(not(target_os = "none"))]
pub mod smp {
    pub mod mailbox;
}
#[cfg(target_os = "none")]
pub mod soak;
#[cfg(target_os = "none")]
mod spurious;
pub mod stack;
#[cfg(target_os = "none")]
pub mod start;
#[cfg(target_os = "none")]
pub mod sync;
pub mod text;
