// SPDX-License-Identifier: MIT OR Apache-2.0

//! Waiting in a loop.
//!
//! [`core::hint::spin_loop`] is an `ISB` on arm64. This kernel counts each barrier and gives a
//! reason for it. An `ISB` without a reason would hide the loss of another one from a CPU that
//! waits for a lock, also on a board, and a plugin that counts barriers would count it. Therefore a
//! loop that waits executes `YIELD`, as Linux's `cpu_relax()` does, and clippy refuses `spin_loop`
//! (clippy.toml).
//!
//! When QEMU runs several CPUs in one thread (`-icount`), a `YIELD` also lets the next CPU run.
//! Without it a CPU that waits for a lock would spin until its own timer fires, and would then
//! often find the lock taken again.

use spin::relax::RelaxStrategy;

/// Tells the CPU that the caller waits in a loop. Linux: `cpu_relax()`. It is a compiler barrier,
/// but no barrier of the CPU.
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

/// Makes the locks of crate `spin` wait with [`cpu_relax`].
#[derive(Debug)]
pub struct CpuRelax;

impl RelaxStrategy for CpuRelax {
    #[inline(always)]
    fn relax() {
        cpu_relax();
    }
}
