// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measured windows: marks for a counter outside of the machine, and a known number of
//! instructions to check a counter inside of it.
//!
//! The marks are hints that no extension has taken, so every CPU executes them as NOPs. They are
//! those that Linux was measured with; a QEMU plugin that knows them counts what lies between them.

use core::arch::asm;

/// What a window measures, and on how many pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowId(u64);

impl WindowId {
    /// The window of operation `op` on `pages` pages (below 2^24).
    #[must_use]
    pub const fn new(op: u8, pages: usize) -> Self {
        Self((op as u64) << 24 | pages as u64)
    }
}

/// Begins a window. No memory access moves across this.
#[inline(always)]
pub fn begin(id: WindowId) {
    // SAFETY: an unallocated hint is a NOP.
    unsafe { asm!("hint #0x60", in("x0") id.0, options(nostack, preserves_flags)) };
}

/// Ends a window. No memory access moves across this.
#[inline(always)]
pub fn end(id: WindowId) {
    // SAFETY: an unallocated hint is a NOP.
    unsafe { asm!("hint #0x61", in("x0") id.0, options(nostack, preserves_flags)) };
}

/// Instructions that [`spend`] executes in each round.
pub const ROUND: u64 = 2;

/// Goes around a loop `rounds` times (at least once) and does nothing else.
#[inline(never)]
pub fn spend(rounds: u64) {
    // SAFETY: counts a register of its own down to 0; the flags are clobbered by default.
    unsafe {
        asm!("2:", "subs {n}, {n}, #1", "b.ne 2b", n = inout(reg) rounds.max(1) => _,
             options(nostack));
    }
}
