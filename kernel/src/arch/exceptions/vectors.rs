// SPDX-License-Identifier: MIT OR Apache-2.0

//! The vector table, the entry into Rust and the return.
//!
//! An entry has 32 instructions and no free register. It saves x0 in TPIDRRO_EL0 (which EL0 may
//! read but not write, and nothing else uses) and x1 to x3 in the per-CPU block. Then it can check
//! SP *before* it stores anything on the stack: with an overflowed stack the first store would
//! fault, and so would each store of the exceptions that follow. If a frame does not fit into the
//! current stack (or into the emergency stack, where a report may fault), it goes to the top of the
//! emergency stack.
//!
//! Nothing can interrupt between the entry and the frame: PSTATE.DAIF is all ones after an
//! exception is taken, and the only memory accessed is the per-CPU block, which is always mapped.
//!
//! Entry and return execute no barrier. They are context synchronization events themselves
//! (SCTLR_EL1.EIS and EOS are 1), and an interrupt must not change the number of barriers of the
//! code that it interrupts.

use super::frame::{BAD_STACK, ELR, ESR, RECORD, SIZE, SP, VECTOR};
use crate::arch::{
    barrier, interrupts,
    percpu::{self, EMERGENCY, SCRATCH, STACK},
    sysreg,
};
use core::arch::global_asm;

unsafe extern "C" {
    /// The vector table; only its address is used.
    static exception_vectors: [u8; 0];
}

/// Installs the vectors on this CPU. From now on faults and SErrors are reported.
///
/// # Panics
///
/// If the CPU has no per-CPU block yet ([`percpu::init_boot_cpu`]), which the vectors need.
pub fn init() {
    // Panics without a block.
    let _ = percpu::current();
    // SAFETY: the table is part of the text, aligned by the assembler, and never unmapped.
    unsafe { sysreg::set_vbar(&raw const exception_vectors as u64) };
    barrier::isb();
    interrupts::unmask_serror();
}

global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".macro vector number",
    ".balign 0x80",
    "msr tpidrro_el0, x0",
    "mrs x0, tpidr_el1",               // the per-CPU block
    "stp x1, x2, [x0, #{SCRATCH}]",
    "str x3, [x0, #({SCRATCH} + 16)]",
    "mov x1, #\\number",
    "b exception_save",
    ".endm",
    //
    ".balign 0x800",                   // VBAR_EL1[10:0] are RES0
    ".globl exception_vectors",
    ".type exception_vectors, @object",
    "exception_vectors:",
    "vector 0",                        // EL1 on SP_EL0: synchronous, IRQ, FIQ, SError
    "vector 1",
    "vector 2",
    "vector 3",
    "vector 4",                        // EL1 on SP_EL1
    "vector 5",
    "vector 6",
    "vector 7",
    "vector 8",                        // EL0, AArch64
    "vector 9",
    "vector 10",
    "vector 11",
    "vector 12",                       // EL0, AArch32
    "vector 13",
    "vector 14",
    "vector 15",
    ".balign 0x80",
    ".size exception_vectors, . - exception_vectors",
    //
    // x0 = per-CPU block, x1 = vector; the entry has saved x0-x3 of the interrupted code.
    ".type exception_save, @function",
    "exception_save:",
    "mov x2, sp",
    "tst x2, #15",                     // the flags are free: SPSR_EL1 holds the interrupted ones
    "b.ne 3f",
    "sub x2, x2, #{SIZE}",             // start of the frame, if it fits
    "ldr x3, [x0, #{STACK}]",          // bottom of the current stack
    "cmp x2, x3",
    "b.lo 1f",
    "ldr x3, [x0, #({STACK} + 8)]",    // top
    "sub x3, x3, #{SIZE}",
    "cmp x2, x3",
    "b.ls 4f",
    "1:",
    "ldr x3, [x0, #{EMERGENCY}]",      // a report that faults continues on the emergency stack
    "cmp x2, x3",
    "b.lo 3f",
    "ldr x3, [x0, #({EMERGENCY} + 8)]",
    "sub x3, x3, #{SIZE}",
    "cmp x2, x3",
    "b.ls 4f",
    "3:",
    "ldr x2, [x0, #({EMERGENCY} + 8)]",
    "sub x2, x2, #{SIZE}",
    "orr x1, x1, #{BAD_STACK}",
    "4:",
    // x2 = frame, x1 = vector. Save x4 and up, then use x4 and x5.
    "stp x4, x5, [x2, #(4 * 8)]",
    "stp x6, x7, [x2, #(6 * 8)]",
    "stp x8, x9, [x2, #(8 * 8)]",
    "stp x10, x11, [x2, #(10 * 8)]",
    "stp x12, x13, [x2, #(12 * 8)]",
    "stp x14, x15, [x2, #(14 * 8)]",
    "stp x16, x17, [x2, #(16 * 8)]",
    "stp x18, x19, [x2, #(18 * 8)]",
    "stp x20, x21, [x2, #(20 * 8)]",
    "stp x22, x23, [x2, #(22 * 8)]",
    "stp x24, x25, [x2, #(24 * 8)]",
    "stp x26, x27, [x2, #(26 * 8)]",
    "stp x28, x29, [x2, #(28 * 8)]",
    "mov x5, sp",                      // SP of the interrupted code:
    "mrs x4, spsr_el1",
    "and x3, x4, #0xf",                // M[3:0]: 0b0101 is EL1 on SP_EL1, all else ran on SP_EL0
    "cmp x3, #5",
    "b.eq 5f",
    "mrs x5, sp_el0",
    "5:",
    "mov sp, x2",
    "stp x30, x5, [sp, #(30 * 8)]",    // x30 and sp
    "mrs x6, elr_el1",
    "stp x6, x4, [sp, #{ELR}]",        // elr and spsr
    "mrs x7, esr_el1",
    "mrs x8, far_el1",
    "stp x7, x8, [sp, #{ESR}]",        // esr and far
    "stp x1, xzr, [sp, #{VECTOR}]",
    "stp x29, x6, [sp, #{RECORD}]",    // frame record
    "mrs x4, tpidrro_el0",             // the registers that the entry has saved
    "ldp x5, x6, [x0, #{SCRATCH}]",
    "ldr x7, [x0, #({SCRATCH} + 16)]",
    "stp x4, x5, [sp]",
    "stp x6, x7, [sp, #16]",
    "msr tpidrro_el0, xzr",            // EL0 could read it
    "add x29, sp, #{RECORD}",
    "mov x0, sp",
    "bl exception_handler",
    // Return: only exceptions from EL1 on SP_EL1 return, to the stack that they interrupted.
    "ldp x0, x1, [sp, #{ELR}]",
    "msr elr_el1, x0",
    "msr spsr_el1, x1",
    "ldp x2, x3, [sp, #(2 * 8)]",
    "ldp x4, x5, [sp, #(4 * 8)]",
    "ldp x6, x7, [sp, #(6 * 8)]",
    "ldp x8, x9, [sp, #(8 * 8)]",
    "ldp x10, x11, [sp, #(10 * 8)]",
    "ldp x12, x13, [sp, #(12 * 8)]",
    "ldp x14, x15, [sp, #(14 * 8)]",
    "ldp x16, x17, [sp, #(16 * 8)]",
    "ldp x18, x19, [sp, #(18 * 8)]",
    "ldp x20, x21, [sp, #(20 * 8)]",
    "ldp x22, x23, [sp, #(22 * 8)]",
    "ldp x24, x25, [sp, #(24 * 8)]",
    "ldp x26, x27, [sp, #(26 * 8)]",
    "ldp x28, x29, [sp, #(28 * 8)]",
    "ldr x30, [sp, #(30 * 8)]",
    "ldp x0, x1, [sp]",
    "add sp, sp, #{SIZE}",
    "eret",
    ".size exception_save, . - exception_save",
    ".popsection",
    SCRATCH = const SCRATCH,
    STACK = const STACK,
    EMERGENCY = const EMERGENCY,
    SIZE = const SIZE,
    BAD_STACK = const BAD_STACK,
    ELR = const ELR,
    ESR = const ESR,
    VECTOR = const VECTOR,
    RECORD = const RECORD,
);

const _: () = assert!(SP == 31 * 8, "x30 and sp are stored as a pair");
