// SPDX-License-Identifier: MIT OR Apache-2.0

//! Cache maintenance by address, and the sequence that executable mappings need.
//!
//! Ranges are half-open, in bytes, of addresses that are mapped. Lines at the ends are included
//! whole. Every function completes its maintenance (DSB) before it returns.
//!
//! QEMU has no caches, so no test there can notice the loss of anything in this file. On hardware a
//! secondary CPU could start from stale memory, or new code could fail to run.

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

/// Writes dirty lines back to the point of coherency and drops them.
///
/// Rule: H12, H17: before memory is read with the caches off, and before its type changes to a
/// non-cacheable one.
/// Witness: the DC and the DSB: `cargo xtask check`. None in QEMU, which has no caches; real
/// hardware shows stale data.
#[inline(never)] // `cargo xtask check` finds it by its name in the machine code.
pub fn clean_and_invalidate_to_poc(range: Range<u64>) {
    for address in lines(range, data_line()) {
        // SAFETY: writing a line back does not change the contents of memory for an access through
        // the caches; the dropped line is read again from memory.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb_sy();
}

/// Makes instructions that were written to `range` executable on all PEs, including the pipeline of
/// the calling one.
///
/// `range` must be the addresses from which they are fetched. Another mapping of the same memory is
/// not enough where the instruction cache is indexed by virtual address (CTR_EL0.L1Ip = VIPT).
///
/// Rule: R35, H15: clean to the point of unification, DSB, invalidate the instruction
/// caches, DSB, ISB. Other PEs need a context synchronization event of their own.
/// Witness: none in QEMU, which notices writes to translated code by itself; on hardware the
/// self-test `wx.text_mapping_can_be_executed` may fetch the old instructions.
pub fn sync_instructions(range: Range<u64>) {
    for address in lines(range.clone(), data_line()) {
        // SAFETY: as in `clean_and_invalidate_to_poc`.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb_ish();
    for address in lines(range, instruction_line()) {
        // SAFETY: the instructions are only fetched again.
        unsafe { asm!("ic ivau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    barrier::dsb_ish();
    barrier::isb();
}
