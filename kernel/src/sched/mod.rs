// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is running: the current task, and whether an interrupt has borrowed its CPU.

pub mod task;

pub use task::{Task, current, interrupt_counts};
