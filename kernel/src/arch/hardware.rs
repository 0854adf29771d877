// SPDX-License-Identifier: MIT OR Apache-2.0

//! The page-table library's view of this kernel.
//!
//! The instructions are the library's own ([`lazymmu::aarch64`]). `mm::kernel_space` says where its
//! memory comes from, and `sched::context` which task is running.

use lazymmu::Hardware;

/// This kernel, on this CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arm64;

// SAFETY: nothing is overridden: each method executes the library's own instruction.
unsafe impl Hardware for Arm64 {}
