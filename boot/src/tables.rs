// SPDX-License-Identifier: MIT OR Apache-2.0

//! The early tables, built with the MMU off. They map by 2 MiB blocks, and one block by pages.
//!
//! | half | maps | by |
//! |---|---|---|
//! | TTBR0 | the first block of the image, one to one, read-only and executable | one block |
//! | TTBR1 | the image at its link address, writable and executable | 1 to 512 blocks, one of them by pages |
//! | TTBR1 | the boot window, empty at first | filled by [`window`](crate::window) |
//! | TTBR1 | RAM for the kernel's own tables, not mapped at first | filled by [`linear`](crate::linear) |
//!
//! The block that is mapped by pages contains the guard page of the boot stack
//! (`_boot_stack_guard`), which is not mapped. The deepest calls of the boot occur before the
//! kernel has tables of its own, and these early tables lie below the guard.
//!
//! # Cache maintenance
//!
//! With the MMU off these stores go to memory and bypass the data cache, but walks read through the
//! cache (TCR_EL1.IRGN/ORGN). Two kinds of cache lines could break this:
//!
//! - a dirty line that firmware left, which would overwrite the tables when it is evicted;
//! - a clean line that was fetched speculatively before the store, which a walk would hit.
//!
//! Therefore the lines are invalidated by VA to the point of coherency before the stores (which
//! drops the first kind) and after them (which drops the second). A DSB completes each invalidation
//! (H9). QEMU has no caches and cannot show the loss of either; `cargo xtask check` does.

use crate::registers::block;
use core::arch::{global_asm, naked_asm};

// Bytes of the region between `_boot_tables_start` and `_boot_tables_end`. linker.ld reserves it in
// the part of `.bss` that is not cleared.
global_asm!(
    ".globl boot_tables_size",
    ".set boot_tables_size, {END}",
    END = const offset::END,
);

/// Offsets of the tables from `_boot_tables_start`, in bytes.
pub(crate) mod offset {
    /// TTBR0, levels 0, 1 and 2: the identity map.
    pub(crate) const IDENTITY_L0: u64 = 0x0000;
    pub(crate) const IDENTITY_L1: u64 = 0x1000;
    pub(crate) const IDENTITY_L2: u64 = 0x2000;
    /// TTBR1, level 0.
    pub(crate) const KERNEL_L0: u64 = 0x3000;
    /// The image: last entry of level 0, last but one entry of level 1.
    pub(crate) const IMAGE_L1: u64 = 0x4000;
    pub(crate) const IMAGE_L2: u64 = 0x5000;
    /// The boot window: last but one entry of level 0, first of level 1.
    pub(crate) const WINDOW_L1: u64 = 0x6000;
    pub(crate) const WINDOW_L2: u64 = 0x7000;
    /// Never filled. A TTBR points to it when its half must translate nothing.
    pub(crate) const EMPTY: u64 = 0x8000;
    /// The image's block that is mapped by pages, level 3.
    pub(crate) const IMAGE_L3: u64 = 0x9000;
    /// RAM at the addresses of the kernel's linear map: one table of level 1, and two of level 2
    /// for two gigabytes, beginning with the gigabyte in which the RAM starts.
    pub(crate) const LINEAR_L1: u64 = 0xa000;
    pub(crate) const LINEAR_L2: u64 = 0xb000;
    /// End of the last table.
    pub(crate) const END: u64 = 0xd000;
}

/// Builds the tables; returns TTBR0 in x0 and TTBR1 in x1.
///
/// In: x21 = physical address of the image; EL1, MMU off. Clobbers x0-x9, x17.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn build() {
    naked_asm!(
        "mov x17, x30",
        "adrp x9, _boot_tables_start",
        "bl {invalidate}",
        // Clear all entries. The stores are 16 bytes, on a region that is 4 KiB aligned: there is
        // no unaligned Device access, and no DC ZVA (H3, H5).
        "mov x0, x9",
        "adrp x1, _boot_tables_end",
        "1:",
        "stp xzr, xzr, [x0], #16",
        "cmp x0, x1",
        "b.lo 1b",
        // Identity map: one block of 2 MiB, which holds the image's first bytes and so all of
        // .text.boot.
        "and x2, x21, #~0x1fffff",             // x2 = base of that block
        "ubfx x3, x21, #39, #9",               // level 0 index
        "add x4, x9, #{IDENTITY_L1}",
        "orr x4, x4, #{TABLE}",
        "add x5, x9, #{IDENTITY_L0}",
        "str x4, [x5, x3, lsl #3]",
        "ubfx x3, x21, #30, #9",               // level 1
        "mov x4, #{IDENTITY_L2}",
        "add x4, x4, x9",
        "orr x4, x4, #{TABLE}",
        "mov x5, #{IDENTITY_L1}",
        "add x5, x5, x9",
        "str x4, [x5, x3, lsl #3]",
        "ubfx x3, x21, #21, #9",               // level 2
        "ldr x4, ={IDENTITY}",
        "orr x4, x4, x2",
        "mov x5, #{IDENTITY_L2}",
        "add x5, x5, x9",
        "str x4, [x5, x3, lsl #3]",
        // Image at its link address 0xffff_ffff_8008_0000: level 0 entry 511, level 1 entry 510,
        // level 2 from entry 0.
        "mov x5, #{KERNEL_L0}",
        "add x5, x5, x9",
        "mov x4, #{IMAGE_L1}",
        "add x4, x4, x9",
        "orr x3, x4, #{TABLE}",
        "str x3, [x5, #(511 * 8)]",
        "mov x6, #{IMAGE_L2}",
        "add x6, x6, x9",
        "orr x3, x6, #{TABLE}",
        "str x3, [x4, #(510 * 8)]",
        // Blocks until the image ends. linker.ld asserts that it fits into one level 2 table.
        "adrp x7, _image_end",                 // 4 KiB aligned
        "ldr x4, ={IMAGE}",
        "2:",
        "orr x3, x4, x2",
        "str x3, [x6], #8",
        "add x2, x2, #0x200, lsl #12",         // 2 MiB
        "cmp x2, x7",
        "b.lo 2b",
        // Map the block of the guard again, by pages.
        "adrp x8, _boot_stack_guard",
        "and x2, x8, #~0x1fffff",
        "mov x5, #{IMAGE_L3}",
        "add x5, x5, x9",
        "orr x4, x4, #{TABLE}",                // a page has the type bits of a table
        "add x7, x5, #0x1000",
        "3:",
        "orr x3, x4, x2",
        "cmp x2, x8",
        "csel x3, xzr, x3, eq",
        "str x3, [x5], #8",
        "add x2, x2, #0x1000",
        "cmp x5, x7",
        "b.lo 3b",
        "sub x5, x5, #0x1000",
        "orr x5, x5, #{TABLE}",
        "and x2, x21, #~0x1fffff",             // index in level 2: blocks above the first
        "sub x8, x8, x2",
        "lsr x8, x8, #21",
        "mov x6, #{IMAGE_L2}",
        "add x6, x6, x9",
        "str x5, [x6, x8, lsl #3]",
        // Boot window at 0xffff_ff00_0000_0000: level 0 entry 510, level 1 entry 0. Its level 2
        // table stays empty here.
        "mov x5, #{KERNEL_L0}",
        "add x5, x5, x9",
        "mov x4, #{WINDOW_L1}",
        "add x4, x4, x9",
        "orr x3, x4, #{TABLE}",
        "str x3, [x5, #(510 * 8)]",
        "mov x3, #{WINDOW_L2}",
        "add x3, x3, x9",
        "orr x3, x3, #{TABLE}",
        "str x3, [x4]",
        // The stores reach memory before the second invalidation. The order of parents and
        // children does not matter, because translation is off.
        "dsb sy",
        "bl {invalidate}",
        "mov x1, #{KERNEL_L0}",
        "add x1, x1, x9",
        "add x0, x9, #{IDENTITY_L0}",
        "ret x17",
        invalidate = sym invalidate,
        IDENTITY_L0 = const offset::IDENTITY_L0,
        IDENTITY_L1 = const offset::IDENTITY_L1,
        IDENTITY_L2 = const offset::IDENTITY_L2,
        KERNEL_L0 = const offset::KERNEL_L0,
        IMAGE_L1 = const offset::IMAGE_L1,
        IMAGE_L2 = const offset::IMAGE_L2,
        IMAGE_L3 = const offset::IMAGE_L3,
        WINDOW_L1 = const offset::WINDOW_L1,
        WINDOW_L2 = const offset::WINDOW_L2,
        TABLE = const block::TABLE,
        IDENTITY = const block::IDENTITY,
        IMAGE = const block::IMAGE,
    )
}

/// Discards every cache line of the tables, up to the point of coherency.
///
/// In: x9 = their start. Clobbers x0-x2.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn invalidate() {
    naked_asm!(
        "mrs x0, ctr_el0",
        "ubfx x0, x0, #16, #4", // DminLine: log2 of the smallest data cache line, in words
        "mov x1, #4",
        "lsl x1, x1, x0", // in bytes
        "mov x0, x9",     // 4 KiB aligned: no line is shared with a neighbor
        "adrp x2, _boot_tables_end",
        "1:",
        "dc ivac, x0",
        "add x0, x0, x1",
        "cmp x0, x2",
        "b.lo 1b",
        "dsb sy", // completes the maintenance, for all observers
        "ret",
    )
}
