// SPDX-License-Identifier: MIT OR Apache-2.0

//! Cache maintenance by address, and what executable mappings need.
//!
//! Ranges are half-open, in bytes, of addresses that are mapped; lines at the ends are included
//! whole. Every function completes its maintenance (DSB) before it returns. QEMU has no caches:
//! no test there can notice the loss of anything in this file; on hardware, a secondary CPU that
//! starts on stale memory or new code that does not run would.

use super::barrier;
use core::{arch::asm, ops::Range};

/// Smallest line of any data cache, in bytes (CTR_EL0.DminLine).
#[must_use]
pub fn data_line() -> u64 {
    4 << ((ctr() >> 16) & 0xf)
}

/// Smallest line of any instruction cache, in bytes (CTR_EL0.IminLine).
#[must_use]
pub fn instruction_line() -> u64 {
    4 << (ctr() & 0xf)
}

fn ctr() -> u64 {
    let value: u64;
    // SAFETY: reads a constant register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// First address of every line that `range` touches.
fn lines(range: Range<u64>, line: u64) -> impl Iterator<Item = u64> {
    let first = range.start & !(line - 1);
    let count = if range.is_empty() {
        0
    } else {
        (range.end - first).div_ceil(line)
    };
    (0..count).map(move |index| first + index * line)
}

/// Writes dirty lines back to the point of coherency; they stay valid.
///
/// Rule: B2.10.8: memory that an agent reads past the caches (a CPU whose MMU is still off) must
/// be cleaned first.
pub fn clean_to_poc(range: Range<u64>) {
    for address in lines(range, data_line()) {
        // SAFETY: writing back a line does not change what memory holds for anyone who looks
        // through the caches.
        unsafe { asm!("dc cvac, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb_sy();
}

/// Writes dirty lines back to the point of coherency and drops them.
///
/// Rule: as [`clean_to_poc`]; also before memory changes to a non-cacheable type.
pub fn clean_and_invalidate_to_poc(range: Range<u64>) {
    for address in lines(range, data_line()) {
        // SAFETY: as in `clean_to_poc`; the dropped line is read again from memory.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb_sy();
}

/// Drops lines without writing them back, to the point of coherency.
///
/// Rule: B2.10.8: before reading memory that an agent wrote past the caches.
///
/// # Safety
///
/// Whatever was written to the lines of `range` through the cache is lost, also in the parts of
/// the first and last line outside of it: no such write may be needed.
pub unsafe fn invalidate_to_poc(range: Range<u64>) {
    for address in lines(range, data_line()) {
        // SAFETY: the caller does without the contents.
        unsafe { asm!("dc ivac, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb_sy();
}

/// Makes instructions that were written to `range` executable, on all PEs; the caller's pipeline
/// included.
///
/// Rule: B2.2.5, R35: clean to the point of unification, DSB, invalidate the instruction caches,
/// DSB, ISB. Other PEs need a context synchronization event of their own.
pub fn sync_instructions(range: Range<u64>) {
    for address in lines(range.clone(), data_line()) {
        // SAFETY: as in `clean_to_poc`.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb_ish();
    for address in lines(range, instruction_line()) {
        // SAFETY: instructions are fetched again.
        unsafe { asm!("ic ivau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb_ish();
    barrier::isb();
}

/// Invalidates all instruction caches of the inner shareable domain to the point of unification.
///
/// Rule: R35, for an executable mapping whose code is reached through another address than it was
/// written at (an instruction cache may be indexed by virtual address).
pub fn invalidate_all_instructions() {
    // SAFETY: instructions are fetched again.
    unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
    barrier::dsb_ish();
    barrier::isb();
}
