// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sets EL1's own registers, and then turns on translation and caches.
//!
//! Both routines run at a physical address through the identity map, need no stack and write no
//! memory, so that a secondary CPU can use them unchanged.

use crate::registers::{IPS_MAX, MAIR, SCTLR_MMU_OFF, SCTLR_MMU_ON, TCR, TCR_AS, TCR_IPS_SHIFT};
use core::arch::naked_asm;

/// Puts EL1's controls, which are UNKNOWN at reset, into a known state with the MMU off, selects
/// SP_EL1 and masks DAIF (H6, H11).
///
/// An ERET has already done the last two, but firmware that enters at EL1 may not have. Clobbers
/// x0.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn init_el1() {
    naked_asm!(
        "msr daifset, #0xf",
        "msr spsel, #1",
        "ldr x0, ={SCTLR_MMU_OFF}",
        "msr sctlr_el1, x0",
        // Until the kernel installs its vectors, these report an exception. The physical address
        // is valid before and after the MMU is on, as long as the identity map exists.
        "adrp x0, boot_park_vectors",
        "add x0, x0, :lo12:boot_park_vectors",
        "msr vbar_el1, x0",
        "msr cpacr_el1, xzr",      // FP and SIMD trap: the kernel is soft-float
        "msr cntkctl_el1, xzr",    // no timer or counter for EL0
        "msr mdscr_el1, xzr",      // no single step, no breakpoints
        "msr contextidr_el1, xzr",
        "msr tpidr_el1, xzr",      // no per-CPU block yet
        "isb",
        "ret",
        SCTLR_MMU_OFF = const SCTLR_MMU_OFF,
    )
}

/// Turns on the MMU and the caches (H10), and returns to the same (physical) address, now through
/// TTBR0 (H11).
///
/// In: x0 = TTBR0, x1 = TTBR1. The tables are complete and clean to the point of coherency, and the
/// CPU has the 4 KiB granule. Clobbers x1-x4.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn enable_mmu() {
    naked_asm!(
        "ldr x3, ={MAIR}",
        "msr mair_el1, x3",
        // TCR: IPS is the CPU's physical address size, at most 48 bits. An IPS larger than PARange
        // is UNPREDICTABLE.
        "ldr x3, ={TCR}",
        "mrs x2, id_aa64mmfr0_el1",
        "and x4, x2, #0xf",              // PARange
        "cmp x4, #{IPS_MAX}",
        "b.ls 2f",
        "mov x4, #{IPS_MAX}",
        "2:",
        "orr x3, x3, x4, lsl #{IPS_SHIFT}",
        "ubfx x4, x2, #4, #4",           // ASIDBits
        "cmp x4, #2",
        "b.ne 3f",
        "orr x3, x3, #{TCR_AS}",
        "3:",
        "msr tcr_el1, x3",
        "msr ttbr0_el1, x0",
        "msr ttbr1_el1, x1",
        "isb",                           // takes effect before SCTLR_EL1.M is set
        // Remove what firmware left. The contents of TLB and instruction cache are UNKNOWN after
        // reset. The scope is local because both belong to this CPU, also on a secondary CPU.
        "tlbi vmalle1",
        "ic iallu",
        "dsb nsh",                       // completes both (R_YNJCP, H10)
        "isb",
        "ldr x3, ={SCTLR_MMU_ON}",
        "msr sctlr_el1, x3",
        "isb",                           // the next instruction is fetched through the tables
        "ret",
        MAIR = const MAIR,
        TCR = const TCR,
        IPS_MAX = const IPS_MAX,
        IPS_SHIFT = const TCR_IPS_SHIFT,
        TCR_AS = const TCR_AS,
        SCTLR_MMU_ON = const SCTLR_MMU_ON,
    )
}
