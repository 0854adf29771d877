// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the library, the scheduler and the boot execute: measured, predicted, and committed. `cargo xtask bench` shows
//! it, and `cargo xtask test` judges it.
//!
//! [`subjects`] lists what is measured, and the target of each subject. [`boots`] boots the kernel and reads what it
//! counted itself ([`lines`]) and what the QEMU plugin counted ([`windows`], [`outside`]). [`agreement`] compares both
//! with the machine model's [`prediction`]. [`results`] keeps the plugin's counts as JSON; one such file is committed,
//! the [`baseline`]. [`linux`] has Linux's figures of the same operations.

pub mod agreement;
pub mod baseline;
pub mod boots;
pub mod changes;
pub mod costs;
pub mod lines;
pub mod linux;
pub mod outside;
pub mod prediction;
pub mod results;
pub mod subjects;
pub mod windows;
