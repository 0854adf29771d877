// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library bound to a kernel: its configuration, and the barriers and invalidations that it
//! executes.

mod barriers;
mod config;
mod invalidation;

pub(crate) use config::Terms;
pub use config::{Features, Mmu};
