// SPDX-License-Identifier: MIT OR Apache-2.0

//! The code that stays resident at EL3 if the entry was at EL3.
//!
//! A GIC with two security states starts with every interrupt in Group 0, which belongs to the
//! secure side, and only the secure side may move it to Group 1. On real boards the firmware does
//! this. When the image itself is the firmware (QEMU with `secure=on` and the ELF file), the kernel
//! must do it. But the kernel finds the GIC's address in the device tree, long after the drop to
//! EL1. Therefore it calls EL3 for one service:
//!
//! | register | SMC64 [`GROUP1_CALL`] |
//! |---|---|
//! | x1 | GIC architecture version, 2 or 3 |
//! | x2 | physical address of GICD |
//! | x3 | physical address of GICC (version 2) or of the first redistributor (version 3) |
//! | x4 | number of redistributors, at least 1 (version 3) |
//! | x0 out | 0, or -1 for any other function or version |
//!
//! The call moves all shared interrupts and the calling CPU's private ones (with version 3: the
//! private ones of every redistributor) to non-secure Group 1. It lets the non-secure side set any
//! priority mask. With version 3 it wakes the calling CPU's redistributor, because only the secure
//! side can write GICR_WAKER. Each CPU may call it again.
//!
//! The code runs with EL3's MMU and caches off and accesses no memory besides the GIC. It trusts
//! its caller, because both sides are one program and EL3 holds no secret. Every other exception to
//! EL3 is reported, and the CPU [parks](crate::park).

use crate::fail::exception;
use core::arch::{global_asm, naked_asm};

/// SMCCC function identifier: fast call, SMC64, OEM service range (DEN 0028, 6.1), number 1.
pub const GROUP1_CALL: u64 = 0xc300_0001;

unsafe extern "C" {
    /// EL3's vector table; never called.
    pub(crate) safe fn boot_el3_vectors();
}

global_asm!(
    ".pushsection .text.boot, \"ax\"",
    ".macro el3_park_entry number",
    ".balign 0x80",
    "mov x0, #\\number",
    "b {exception}",
    ".endm",
    ".balign 0x800", // VBAR_EL3[10:0] are RES0
    ".globl boot_el3_vectors",
    ".type boot_el3_vectors, @object",
    "boot_el3_vectors:",
    "el3_park_entry 0",
    "el3_park_entry 1",
    "el3_park_entry 2",
    "el3_park_entry 3",
    "el3_park_entry 4",
    "el3_park_entry 5",
    "el3_park_entry 6",
    "el3_park_entry 7",
    // 0x400: synchronous from a lower level in AArch64. The callee may clobber x4-x17 (SMCCC 1.0).
    ".balign 0x80",
    "mrs x5, esr_el3",
    "lsr x5, x5, #26", // ESR_EL3.EC
    "cmp x5, #0x17",   // SMC from AArch64
    "b.eq {service}",
    "mov x0, #8",
    "b {exception}",
    "el3_park_entry 9",
    "el3_park_entry 10",
    "el3_park_entry 11",
    "el3_park_entry 12",
    "el3_park_entry 13",
    "el3_park_entry 14",
    "el3_park_entry 15",
    ".balign 0x80",
    ".size boot_el3_vectors, . - boot_el3_vectors",
    ".popsection",
    exception = sym exception,
    service = sym service,
);

/// Dispatches an SMC. In: x0-x4 as the caller set them.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn service() {
    naked_asm!(
        "ldr x5, ={GROUP1_CALL}",
        "cmp x0, x5",
        "b.ne 9f",
        "cmp x1, #2",
        "b.eq {group1_v2}",
        "cmp x1, #3",
        "b.eq {group1_v3}",
        "9:",
        "mov x0, #-1",
        "eret",
        GROUP1_CALL = const GROUP1_CALL,
        group1_v2 = sym group1_v2,
        group1_v3 = sym group1_v3,
    )
}

/// GICv2 (IHI 0048B): writes IGROUPR of all interrupts, and the priority mask.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn group1_v2() {
    naked_asm!(
        "mov w4, #-1",
        "ldr w5, [x2, #0x4]", // GICD_TYPER
        "and w5, w5, #0x1f",  // ITLinesNumber: 32 * (n + 1) interrupts
        "add w5, w5, #1",
        "add x6, x2, #0x80", // GICD_IGROUPR0: banked, the calling CPU's SGIs and PPIs
        "1:",
        "str w4, [x6], #4",
        "subs w5, w5, #1",
        "b.ne 1b",
        "mov w4, #0xff",
        // GICC_PMR: a non-secure write cannot move it out of the secure half (IHI 0048B 4.4.6).
        "str w4, [x3, #0x4]",
        "dsb sy", // device writes complete before EL1 continues
        "mov x0, xzr",
        "eret",
    )
}

/// GICv3 (IHI 0069): turns on affinity routing, writes IGROUPR and IGRPMODR of all interrupts,
/// wakes this CPU's redistributor, and writes the priority mask.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn group1_v3() {
    naked_asm!(
        "mov x12, x4",
        // GICD_CTLR: set ARE_NS and ARE_S before anything that depends on them (12.9.4).
        "ldr w4, [x2]",
        "orr w4, w4, #0x30",
        "str w4, [x2]",
        "1:",
        "ldr w4, [x2]",
        "tbnz w4, #31, 1b", // RWP: 1 until the write has arrived
        // Shared interrupts: IGROUPR = 1 with IGRPMODR = 0 means non-secure Group 1. The registers
        // are 1..=ITLinesNumber.
        "mov w4, #-1",
        "ldr w5, [x2, #0x4]", // GICD_TYPER
        "and w5, w5, #0x1f",
        "add x6, x2, #0x84",  // GICD_IGROUPR1
        "add x7, x2, #0xd04", // GICD_IGRPMODR1
        "2:",
        "cbz w5, 3f",
        "str w4, [x6], #4",
        "str wzr, [x7], #4",
        "sub w5, w5, #1",
        "b 2b",
        "3:",
        // This CPU's affinity in the format of GICR_TYPER[63:32]: Aff3.Aff2.Aff1.Aff0.
        "mrs x8, mpidr_el1",
        "and x9, x8, #0xffffff",
        "ubfx x8, x8, #32, #8",
        "orr x8, x9, x8, lsl #24",
        // For each redistributor. Its SGI frame is 64 KiB above its first frame.
        "4:",
        "add x6, x3, #0x10, lsl #12",
        "str w4, [x6, #0x80]",   // GICR_IGROUPR0
        "str wzr, [x6, #0xd00]", // GICR_IGRPMODR0
        "ldr w9, [x3, #0x8]",    // GICR_TYPER in two words: not all buses split 64 bits
        "ldr w10, [x3, #0xc]",
        "cmp x10, x8",
        "b.ne 6f",
        "ldr w11, [x3, #0x14]", // GICR_WAKER
        "bic w11, w11, #2",     // ProcessorSleep
        "str w11, [x3, #0x14]",
        "5:",
        "ldr w11, [x3, #0x14]",
        "tbnz w11, #2, 5b", // ChildrenAsleep
        "6:",
        "subs x12, x12, #1",
        "b.eq 7f",
        "add x3, x3, #0x20, lsl #12", // two frames of 64 KiB,
        "tbz w9, #1, 4b",             // four with virtual LPIs (GICv4)
        "add x3, x3, #0x20, lsl #12",
        "b 4b",
        "7:",
        "dsb sy",
        // The non-secure side gets the full range of priorities (4.8.6).
        "mov x4, #0xff",
        "msr s3_0_c4_c6_0, x4", // ICC_PMR_EL1
        "isb",
        "mov x0, xzr",
        "eret",
    )
}
