// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arm64 instructions that page-table code executes, one function each.
//!
//! This module exists on bare AArch64 only, not on AArch64 with a hosted operating system (Unix,
//! Windows), whose programs run at EL0. On bare AArch64 the methods of
//! [`Hardware`](crate::Hardware) have bodies that call these functions, so a kernel implements none
//! of them. The functions are public because a kernel needs the same barriers elsewhere too.
//!
//! All of the crate's assembly is in this folder. No `asm!` here has the option `nomem`: the
//! compiler must not move a store to a table entry across a barrier, and must not keep an entry in
//! a register across a store that it cannot see. Assembly in a kernel must follow the same rule.

pub mod barrier;
mod entries;
pub mod tlbi;

pub use entries::{store_frames, store_linear, store_zero, update_run};
