// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own suites, one file each. They run from simple to complex, by their `order`.

mod allocator;
mod announced_counts;
mod arguments;
mod backends;
mod backends_counts;
mod bbm;
mod exceptions;
pub(crate) mod fixture;
mod interrupts;
mod lazy;
mod lazy_counts;
mod leaks;
mod litmus;
mod memory;
mod registers;
mod scene;
mod sched;
mod sched_fixture;
mod sched_lazy;
mod smp;
mod sweep;
mod tables;
mod wx;

pub use leaks::KernelState;
