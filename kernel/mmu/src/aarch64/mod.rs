// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arm64 instructions that page-table code executes, one function each.
//!
//! This module exists on AArch64 only, and not where a hosted operating system (Unix, Windows) runs
//! programs at EL0. A kernel for that target implements none of them: the methods of
//! [`Hardware`](crate::Hardware) have bodies there that call these functions. They are public
//! because a kernel needs the same barriers elsewhere too.
//!
//! All of the crate's assembly is in this folder. No `asm!` in it is `nomem`: the compiler must not
//! move a store to a table entry across a barrier, and must not keep an entry in a register across
//! a store that it cannot see. Assembly in a kernel must follow the same rule.

pub mod barrier;
mod entries;
pub mod tlbi;

pub use entries::{store_frames, store_linear, store_zero, update_run};
