// SPDX-License-Identifier: MIT OR Apache-2.0

//! A CPU that cannot continue waits in WFI with a code in x0.
//!
//! [`fail`](crate::fail) has reported the errors before. A debugger (or QEMU's `info registers`)
//! shows the code:
//!
//! | x0 | meaning | x1 |
//! |---|---|---|
//! | [`SECONDARY`] | not the boot CPU: it entered at EL3, where all CPUs may enter, and its affinity is not 0.0.0.0; if the boot CPU is missing, that was reported | MPIDR_EL1 |
//! | [`MISALIGNED`] | the image is not 0x80000 above a 2 MiB boundary | its address |
//! | [`NO_4K_GRANULE`] | the CPU has no 4 KiB translation granule | ID_AA64MMFR0_EL1 |
//! | [`NO_SLOT`] | a secondary CPU that the kernel has not prepared | MPIDR_EL1, affinity only |
//! | [`EXCEPTION`] + n | exception n, which nothing handles | ELR of the current level |
//!
//! n is the vector's offset divided by 0x80. Nothing handles an exception at EL1 before the kernel
//! installs its vectors, and at EL2 and EL3 except for one call each (HVC below, SMC in
//! [`el3`](crate::el3)).

use crate::fail::exception;
use core::arch::{global_asm, naked_asm};

/// x0 of a CPU that is not the boot CPU.
pub const SECONDARY: u64 = 0x6c6d_0001;
/// x0 when the image was loaded at an address at which it cannot run.
pub const MISALIGNED: u64 = 0x6c6d_0002;
/// x0 when the CPU lacks the 4 KiB granule.
pub const NO_4K_GRANULE: u64 = 0x6c6d_0003;
/// x0 of a CPU that entered as a secondary and has no slot.
pub const NO_SLOT: u64 = 0x6c6d_0004;
/// x0 of an unhandled exception is this plus the vector's number, 0 to 15.
pub const EXCEPTION: u64 = 0x6c6d_0100;

/// Waits forever, with the code in x0 and its detail in x1.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn park(code: u64, detail: u64) -> ! {
    naked_asm!(
        // Mask interrupts, so that none is taken.
        "msr daifset, #0xf",
        // A pending interrupt ends WFI even if it is masked, hence the loop. WFE would not do: QEMU returns
        // from it at once, so that each parked CPU would take a whole CPU of the host.
        "1:",
        "wfi",
        "b 1b",
    )
}

// The vector table of EL1 until the kernel installs its own, and of EL2 permanently. Every entry
// reports, so that an unexpected exception stops the CPU. VBAR_ELx requires 2 KiB alignment
// (D24.2), and each entry has 0x80 bytes.
//
// Only HVC from EL1 is answered. SMCCC (DEN 0028, 5.2) requires -1, "not supported", for a function
// that is not implemented. A kernel that calls PSCI where there is none therefore gets an error
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
    // 0x400, synchronous from a lower level in AArch64: only EL2 takes it, because there is no EL0.
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
