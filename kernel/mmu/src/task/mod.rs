// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state that moves with a task from CPU to CPU: its counters of sections and pauses, the
//! barriers that it owes, and the ranges that it has announced.
//!
//! This module holds the data and says who may write it. The rules by which it changes are in
//! `lazy`.

mod hints;
mod state;

pub(crate) use hints::Hint;
pub(crate) use state::Busy;
pub use state::{LazyMmuSnapshot, LazyMmuState};
