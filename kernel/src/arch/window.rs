// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measured windows: marks for a counter outside of the machine, and a loop with a known number of
//! instructions for checking a counter inside of it.
//!
//! The marks are unallocated hints, so every CPU executes them as NOPs. Linux was measured with the
//! same marks. A QEMU plugin that knows them counts the instructions between them.

use core::arch::asm;

/// The operation that a window measures, and its number of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowId(u64);

impl WindowId {
    /// The window of operation `op` on `pages` pages (below 2^24).
    #[must_use]
    pub const fn new(op: u8, pages: usize) -> Self {
        Self((op as u64) << 24 | pages as u64)
    }
}

/// Begins a window. The compiler moves no memory access across it.
#[inline(always)]
pub fn begin(id: WindowId) {
    // SAFETY: an unallocated hint is a NOP.
    unsafe { asm!("hint #0x60", in("x0") id.0, options(nostack, preserves_flags)) };
}

/// Ends a window. The compiler moves no memory access across it.
#[inline(always)]
pub fn end(id: WindowId) {
    // SAFETY: an unallocated hint is a NOP.
    unsafe { asm!("hint #0x61", in("x0") id.0, options(nostack, preserves_flags)) };
}

/// Instructions that [`spend`] executes in each round.
pub const ROUND: u64 = 2;

/// Executes an empty loop `rounds` times (at least once).
#[inline(never)]
pub fn spend(rounds: u64) {
    // SAFETY: the loop changes its own register and the flags, which are clobbered by default.
    unsafe {
        asm!("2:", "subs {n}, {n}, #1", "b.ne 2b", n = inout(reg) rounds.max(1) => _,
             options(nostack));
    }
}
