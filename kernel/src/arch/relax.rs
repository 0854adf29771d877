// SPDX-License-Identifier: MIT OR Apache-2.0

//! Waiting in a loop.
//!
//! [`core::hint::spin_loop`] is an `ISB` on arm64. A kernel whose barriers are counted and argued one by one has no use for
//! one that nobody owes: it would hide the loss of another from whoever waits for a lock, on a board as well, and a plugin
//! that counts would see it. So a loop that waits executes `YIELD`, as Linux's `cpu_relax()`; clippy refuses
//! the other one (clippy.toml).
//!
//! Under QEMU with several CPUs in one thread (`-icount`) a `YIELD` also lets the next CPU run. Without it who waits for a
//! lock would spin until its own timer fires, and find the lock taken again each time.

use spin::relax::RelaxStrategy;

/// Tells the CPU that the caller waits in a loop. Linux: `cpu_relax()`. A compiler barrier, and no other.
#[inline(always)]
pub fn cpu_relax() {
    #[cfg(target_os = "none")]
    // SAFETY: a hint changes nothing.
    unsafe {
        core::arch::asm!("yield", options(nostack, preserves_flags));
    };
    #[cfg(not(target_os = "none"))]
    #[allow(clippy::disallowed_methods, reason = "what the host has for it")]
    core::hint::spin_loop();
}

/// How the locks of crate `spin` wait: by [`cpu_relax`].
#[derive(Debug)]
pub struct CpuRelax;

impl RelaxStrategy for CpuRelax {
    #[inline(always)]
    fn relax() {
        cpu_relax();
    }
}
