// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a task carries from CPU to CPU: its counters, its debts, and the ranges that it announced.
//!
//! This module holds the data and knows who may write it. The rules by which it changes are in `lazy`.

mod hints;
mod state;

pub(crate) use hints::Hint;
pub(crate) use state::Busy;
pub use state::{LazyMmuSnapshot, LazyMmuState};
