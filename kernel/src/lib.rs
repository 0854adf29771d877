// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bare-metal arm64 mini-kernel that shows lazy MMU mode, measures what it saves, and
//! tests that deferring barriers is safe.
//!
//! The rooms: [`arch`] holds the assembly, [`platform`] the machine around the CPU, `mm` memory
//! management on top of the [`lazymmu`] crate, `sched` who is running, [`selftest`] the tests, `demo`
//! the story that `cargo xtask run` shows, `bench` what `cargo xtask counts` measures. `start` is
//! the way through them at boot.
//!
//! What needs no hardware compiles on the host, too, and is tested there.

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
/// Memory management: what of it needs no hardware.
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
