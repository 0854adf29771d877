// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own suites, one file each, from simple to involved.

mod bbm;
mod exceptions;
mod fixture;
mod interrupts;

mod lazy;
mod lazy_counts;
mod memory;
mod tables;
mod wx;

pub use fixture::KernelState;
