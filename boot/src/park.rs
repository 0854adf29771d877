// SPDX-License-Identifier: MIT OR Apache-2.0

//! The end of the road: a CPU that cannot go on waits in WFI with a code in x0.
//!
//! What is an error has been told by [`fail`](crate::fail) before. A debugger (or QEMU's `info registers`) shows which:
//!
//! | x0 | meaning | x1 |
//! |---|---|---|
//! | [`SECONDARY`] | not the boot CPU: entered at EL3, where all may enter, and its affinity is not 0.0.0.0; if the boot CPU is missing, that was told | MPIDR_EL1 |
//! | [`MISALIGNED`] | the image is not 0x80000 above a 2 MiB boundary | its address |
//! | [`NO_4K_GRANULE`] | the CPU has no 4 KiB translation granule | ID_AA64MMFR0_EL1 |
//! | [`NO_SLOT`] | a secondary CPU that the kernel has not prepared | MPIDR_EL1, affinity only |
//! | [`EXCEPTION`] + n | exception n where nothing handles it | ELR of the current level |
//!
//! n is the vector's offset divided by 0x80. "Nothing handles it": at EL1 before the kernel has its
//! vectors, at EL2 and EL3 always.

use crate::fail::exception;
use core::arch::{global_asm, naked_asm};

/// x0 of a CPU that is not the boot CPU.
pub const SECONDARY: u64 = 0x6c6d_0001;
/// x0 when the image was loaded at an address it cannot run at.
pub const MISALIGNED: u64 = 0x6c6d_0002;
/// x0 when the CPU lacks the 4 KiB granule.
pub const NO_4K_GRANULE: u64 = 0x6c6d_0003;
/// x0 of a CPU that entered as a secondary and has no slot.
pub const NO_SLOT: u64 = 0x6c6d_0004;
/// x0 of an unhandled exception is this plus the vector's number, 0 to 15.
pub const EXCEPTION: u64 = 0x6c6d_0100;

/// Waits for ever with the code in x0 and its detail in x1.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn park(code: u64, detail: u64) -> ! {
    naked_asm!(
        // Nothing may wake this CPU for good: it takes no interrupt, ...
        "msr daifset, #0xf",
        // ... and one that is pending ends a WFI all the same, hence the loop. Not WFE: QEMU's returns at
        // once, so that a parked CPU would take a whole one of the host.
        "1:",
        "wfi",
        "b 1b",
    )
}

// A vector table for EL1 until the kernel has its own, and for EL2 for good: every entry reports, so
// that a stray exception stands still instead of running wild. VBAR_ELx wants 2 KiB alignment
// (D24.2), each entry has 0x80 bytes.
//
// The one call that is answered is HVC from EL1: SMCCC (DEN 0028, 5.2) wants -1, "not supported",
// for a function that nobody serves, so a kernel that asks for PSCI where there is none learns it
// instead of hanging.
global_asm!(
    ".pushsection .text.boot, \"ax\"",
    ".macro park_entry number",
    ".balign 0x80",
    "mov x0, #\\number",
    "b {exception}",
    ".endm",
    ".balign 0x800",
    ".globl boot_park_vectors",
    ".type boot_park_vectors, @object",
    "boot_park_vectors:",
    "park_entry 0",
    "park_entry 1",
    "park_entry 2",
    "park_entry 3",
    "park_entry 4",
    "park_entry 5",
    "park_entry 6",
    "park_entry 7",
    // 0x400, synchronous from a lower level in AArch64: only EL2 gets here, there is no EL0 yet.
    ".balign 0x80",
    "mrs x0, esr_el2",
    "lsr x0, x0, #26",     // ESR_EL2.EC
    "cmp x0, #0x16",       // HVC from AArch64
    "b.ne 9f",
    "mov x0, #-1",
    "eret",
    "9:",
    "mov x0, #8",
    "b {exception}",
    "park_entry 9",
    "park_entry 10",
    "park_entry 11",
    "park_entry 12",
    "park_entry 13",
    "park_entry 14",
    "park_entry 15",
    ".balign 0x80",
    ".size boot_park_vectors, . - boot_park_vectors",
    ".popsection",
    exception = sym exception,
);
