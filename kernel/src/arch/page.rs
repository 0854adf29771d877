// SPDX-License-Identifier: MIT OR Apache-2.0

//! Clearing a page. This is the cost of a new table, apart from its link. Linux: `clear_page()`.
//!
//! This target has no vector registers to store from, and its `memset` is a loop of three
//! instructions for each 8 bytes: 1536 for a page. `STP` of the zero register takes 272. `DC ZVA`
//! would take fewer, but its block size depends on the CPU, it may be prohibited (DCZID_EL0), and
//! it faults on memory that is not Normal. New tables are rare, so the simple way is good enough.

use core::arch::asm;

/// Zeroes the page of 4096 bytes at `page`.
///
/// # Safety
/// `page` is aligned to 4096, and the 4096 bytes from it on are mapped and writable; nothing else
/// uses them.
pub unsafe fn clear_page(page: *mut u8) {
    // SAFETY: this writes 4096 bytes from `page` on, in eight rounds of 512. `page` is aligned, so
    // its address is a multiple of 4096 again after the last round and not before. The caller
    // vouches for the bytes.
    unsafe {
        asm!(
            "2:",
            ".irp at, 0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240",
            "stp xzr, xzr, [{at}, #\\at]",
            "stp xzr, xzr, [{at}, #256 + \\at]",
            ".endr",
            "add {at}, {at}, #512",
            "tst {at}, #0xfff",
            "b.ne 2b",
            at = inout(reg) page => _,
            options(nostack),
        );
    }
}
