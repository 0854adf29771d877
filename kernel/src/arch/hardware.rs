// SPDX-License-Identifier: MIT OR Apache-2.0

//! This kernel as the page-table library knows it.
//!
//! The instructions are the library's own ([`lazymmu::aarch64`]). Where its memory comes from is said in
//! `mm::kernel_space`, and which task is running in `sched::context`.

use lazymmu::Hardware;

/// This kernel, on this CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arm64;

// SAFETY: nothing is overridden: each method executes the library's own instruction.
unsafe impl Hardware for Arm64 {}
