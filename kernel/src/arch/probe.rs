// SPDX-License-Identifier: MIT OR Apache-2.0

//! Probes: accesses that return a fault as an error instead of ending the kernel.
//!
//! Each probe is one instruction at a known address. The exception handler compares ELR with
//! exactly these addresses. A fault elsewhere in the probe's caller, or in other code that accesses
//! the same memory, is still fatal, so a probe cannot hide a bug.
//!
//! | probe | instruction that may fault | recognized by |
//! |---|---|---|
//! | [`try_read_u8`], [`try_read_u64`], [`try_read_register`], [`try_write_u64`] | load, store | ELR |
//! | [`registers_changed_by_fault`] | load | ELR |
//! | [`litmus`] | load | ELR |
//! | [`try_exec`] | the fetch at the target | instruction abort, ELR = FAR, x30 = call + 4 |
//! | [`semihosting`](super::semihosting) | `hlt` | ELR |
//! | [`try_smc`], [`try_hvc`] | `smc`, `hvc` | ELR |
//!
//! Not caught: an SError that a store causes later (it has no address), and breakpoint, watchpoint
//! and SP alignment exceptions.

use super::{
    exceptions::{
        esr::{Class, Esr},
        frame::TrapFrame,
    },
    fault::Outcome,
    interrupts, litmus,
};
use core::arch::{asm, global_asm};

pub use super::fault::Fault;

// Leaf functions in the C calling convention. On a fault the handler puts ESR and FAR into x0 and
// x1 and continues at `probe_return` (`probe_exec_return` for `probe_exec`, which has a frame).
global_asm!(
    ".pushsection .text.probe, \"ax\"",
    ".macro probe_function name",
    ".balign 4",
    ".globl \\name",
    ".type \\name, @function",
    "\\name:",
    ".endm",
    //
    "probe_function probe_read_u8",
    ".globl probe_read_u8_at",
    "probe_read_u8_at:",
    "ldrb w1, [x0]",
    "mov x0, xzr",
    "ret",
    ".size probe_read_u8, . - probe_read_u8",
    //
    "probe_function probe_read_u64",
    ".globl probe_read_u64_at",
    "probe_read_u64_at:",
    "ldr x1, [x0]",
    "mov x0, xzr",
    "ret",
    ".size probe_read_u64, . - probe_read_u64",
    //
    "probe_function probe_read_u32",
    ".globl probe_read_u32_at",
    "probe_read_u32_at:",
    "ldr w1, [x0]",
    "mov x0, xzr",
    "ret",
    ".size probe_read_u32, . - probe_read_u32",
    //
    "probe_function probe_write_u64",
    ".globl probe_write_u64_at",
    "probe_write_u64_at:",
    "str x1, [x0]",
    "mov x0, xzr",
    "ret",
    ".size probe_write_u64, . - probe_write_u64",
    //
    "probe_function probe_exec",
    "stp x29, x30, [sp, #-16]!",
    "mov x29, sp",
    "blr x0",
    ".globl probe_exec_called",
    "probe_exec_called:",
    "mov x1, x0",
    "mov x0, xzr",
    ".globl probe_exec_return",
    "probe_exec_return:",
    "ldp x29, x30, [sp], #16",
    "ret",
    ".size probe_exec, . - probe_exec",
    //
    // x2 to x28 and the flags hold known values when the load faults. x0 collects a bit for each
    // one whose value has changed afterwards; bit 0 is for the flags.
    "probe_function probe_registers",
    "stp x29, x30, [sp, #-112]!",
    "mov x29, sp",
    "stp x19, x20, [sp, #16]",
    "stp x21, x22, [sp, #32]",
    "stp x23, x24, [sp, #48]",
    "stp x25, x26, [sp, #64]",
    "stp x27, x28, [sp, #80]",
    ".irp n, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28",
    "mov x\\n, #\\n * 0x123",
    ".endr",
    "cmp xzr, xzr",
    ".globl probe_registers_at",
    "probe_registers_at:",
    "ldr x1, [x0]",
    ".globl probe_registers_return",
    "probe_registers_return:",
    "cset x0, ne",
    ".irp n, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28",
    "mov x1, #\\n * 0x123",
    "cmp x\\n, x1",
    "cset x1, ne",
    "orr x0, x0, x1, lsl #\\n",
    ".endr",
    "ldp x19, x20, [sp, #16]",
    "ldp x21, x22, [sp, #32]",
    "ldp x23, x24, [sp, #48]",
    "ldp x25, x26, [sp, #64]",
    "ldp x27, x28, [sp, #80]",
    "ldp x29, x30, [sp], #112",
    "ret",
    ".size probe_registers, . - probe_registers",
    //
    // AArch64 semihosting: operation in w0, parameter in x1, result in x0. `hlt` is UNDEFINED where
    // no emulator or debugger handles it.
    "probe_function probe_semihosting",
    ".globl probe_semihosting_at",
    "probe_semihosting_at:",
    "hlt #0xf000",
    "mov x1, x0",
    "mov x0, xzr",
    ".globl probe_return",
    "probe_return:",
    "ret",
    ".size probe_semihosting, . - probe_semihosting",
    //
    // SMC Calling Convention (DEN 0028): function and arguments in x0 to x4, result in x0. The
    // callee may change x1 to x17, which a function of the C calling convention may change, too.
    "probe_function probe_smc",
    ".globl probe_smc_at",
    "probe_smc_at:",
    "smc #0",
    "mov x1, x0",
    "mov x0, xzr",
    "ret",
    ".size probe_smc, . - probe_smc",
    //
    "probe_function probe_hvc",
    ".globl probe_hvc_at",
    "probe_hvc_at:",
    "hvc #0",
    "mov x1, x0",
    "mov x0, xzr",
    "ret",
    ".size probe_hvc, . - probe_hvc",
    ".popsection",
);

unsafe extern "C" {
    fn probe_read_u8(address: u64) -> Outcome;
    fn probe_read_u32(address: u64) -> Outcome;
    fn probe_read_u64(address: u64) -> Outcome;
    fn probe_write_u64(address: u64, value: u64) -> Outcome;
    fn probe_exec(address: u64) -> Outcome;
    fn probe_registers(address: u64) -> u64;
    pub(crate) fn probe_semihosting(operation: u64, parameter: u64) -> Outcome;
    fn probe_smc(function: u64, a1: u64, a2: u64, a3: u64, a4: u64) -> Outcome;
    fn probe_hvc(function: u64, a1: u64, a2: u64, a3: u64, a4: u64) -> Outcome;

    // Addresses, not functions.
    static probe_read_u8_at: [u8; 0];
    static probe_read_u32_at: [u8; 0];
    static probe_read_u64_at: [u8; 0];
    static probe_write_u64_at: [u8; 0];
    static probe_exec_called: [u8; 0];
    static probe_exec_return: [u8; 0];
    static probe_registers_at: [u8; 0];
    static probe_registers_return: [u8; 0];
    static probe_semihosting_at: [u8; 0];
    static probe_smc_at: [u8; 0];
    static probe_hvc_at: [u8; 0];
    static probe_return: [u8; 0];
}

/// Panics if `va` is Device memory, where a read may change a register.
fn refuse_device(va: u64) {
    /// PAR_EL1: the translation fails.
    const F: u64 = 1 << 0;
    /// PAR_EL1.ATTR: not zero for Normal memory.
    const NORMAL: u64 = 0xf0 << 56;
    let par = interrupts::without(|| {
        let par: u64;
        // SAFETY: AT only translates. PAR_EL1 is used nowhere else, and nothing else on this CPU
        // runs before it is read.
        unsafe {
            asm!("at s1e1r, {va}", "isb", "mrs {par}, par_el1", va = in(reg) va, par = out(reg) par,
                 options(nostack, preserves_flags));
        }
        par
    });
    assert!(
        par & F != 0 || par & NORMAL != 0,
        "{va:#x} is Device memory, which is not probed: a register may change by being read"
    );
}

/// Reads a byte.
///
/// # Errors
///
/// The fault that the load took.
///
/// # Panics
///
/// If `va` is mapped as Device memory.
pub fn try_read_u8(va: u64) -> Result<u8, Fault> {
    refuse_device(va);
    // SAFETY: a fault is caught, and a load of Normal memory changes nothing, even if it belongs to
    // other code. The value is plain bytes, read by an instruction that the compiler cannot see.
    unsafe { probe_read_u8(va) }
        .into_result()
        .map(|value| value as u8)
}

/// Reads eight bytes. On Normal memory `va` may be unaligned. Otherwise as [`try_read_u8`].
///
/// # Errors
///
/// The fault that the load took.
///
/// # Panics
///
/// If `va` is mapped as Device memory.
pub fn try_read_u64(va: u64) -> Result<u64, Fault> {
    refuse_device(va);
    // SAFETY: as in `try_read_u8`.
    unsafe { probe_read_u64(va) }.into_result()
}

/// Reads eight bytes by the load alone. [`try_read_u64`] translates `va` first, and its `AT` and
/// `ISB` would spoil a litmus test.
///
/// # Errors
///
/// The fault that the load took.
///
/// # Safety
///
/// Reading at `va` changes nothing there.
pub unsafe fn try_read_unasked(va: u64) -> Result<u64, Fault> {
    // SAFETY: a fault is caught; the caller vouches for the rest.
    unsafe { probe_read_u64(va) }.into_result()
}

/// Reads a 32-bit register of a device that may not exist.
///
/// # Errors
///
/// The fault that the load took.
///
/// # Safety
///
/// If there is a device at `va`, reading the register changes nothing.
pub unsafe fn try_read_register(va: u64) -> Result<u32, Fault> {
    // SAFETY: a fault is caught; the caller vouches for the device.
    unsafe { probe_read_u32(va) }
        .into_result()
        .map(|value| value as u32)
}

/// Whether eight bytes at `va` can be read.
///
/// # Safety
///
/// As [`try_read_unasked`].
pub unsafe fn is_readable(va: u64) -> bool {
    // SAFETY: this function's contract.
    unsafe { try_read_unasked(va) }.is_ok()
}

/// Whether the eight bytes at `va` keep what is written to them. Their old value is restored.
///
/// # Safety
///
/// `va` is a multiple of 8, and nothing else accesses these bytes.
pub unsafe fn is_memory(va: u64) -> bool {
    // SAFETY: if it is memory, the read changes nothing.
    let Ok(value) = (unsafe { try_read_unasked(va) }) else {
        return false;
    };
    let keeps = |value| {
        // SAFETY: the caller vouches that nothing else sees the value.
        let written = unsafe { try_write_u64(va, value) };
        // SAFETY: as above.
        written.is_ok() && unsafe { try_read_unasked(va) } == Ok(value)
    };
    keeps(!value) && keeps(value)
}

/// Writes eight bytes. On Normal memory `va` may be unaligned.
///
/// # Errors
///
/// The fault that the store took; then nothing was written.
///
/// # Safety
///
/// If `va` is mapped writable, no other code relies on its contents.
pub unsafe fn try_write_u64(va: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: a fault is caught; the caller vouches for the memory.
    unsafe { probe_write_u64(va, value) }
        .into_result()
        .map(|_| ())
}

/// Calls `va` as a function without arguments that returns a number.
///
/// # Errors
///
/// The fault of the first fetch. A fault further inside is not caught.
///
/// # Safety
///
/// If `va` is executable, it is the address of a function of the C calling convention.
pub unsafe fn try_exec(va: u64) -> Result<u64, Fault> {
    // SAFETY: a fault is caught; the caller vouches for the function.
    unsafe { probe_exec(va) }.into_result()
}

/// Calls `function` of the firmware at EL3 (DEN 0028) with up to four arguments, and returns its
/// result.
///
/// # Errors
///
/// The instruction is undefined here, because there is no EL3 that handles it.
///
/// # Safety
///
/// The function breaks nothing that the kernel relies on.
pub unsafe fn try_smc(function: u32, [a1, a2, a3, a4]: [u64; 4]) -> Result<u64, Fault> {
    // SAFETY: an undefined instruction is caught; the caller vouches for the function.
    unsafe { probe_smc(function.into(), a1, a2, a3, a4) }.into_result()
}

/// Calls a function of the hypervisor at EL2; otherwise as [`try_smc`].
///
/// # Errors
///
/// The instruction is undefined here, because there is no EL2 that handles it.
///
/// # Safety
///
/// As for [`try_smc`].
pub unsafe fn try_hvc(function: u32, [a1, a2, a3, a4]: [u64; 4]) -> Result<u64, Fault> {
    // SAFETY: as in `try_smc`.
    unsafe { probe_hvc(function.into(), a1, a2, a3, a4) }.into_result()
}

/// Returns which registers a fault does not restore: reads `va`, which must fault, with known
/// values in x2 to x28 and the flags. Bit n is for xn, bit 0 for the flags.
///
/// # Panics
///
/// If `va` is mapped as Device memory.
#[must_use]
pub fn registers_changed_by_fault(va: u64) -> u64 {
    refuse_device(va);
    // SAFETY: as in `try_read_u8`; the function saves and restores the registers that the C calling
    // convention preserves.
    unsafe { probe_registers(va) }
}

/// Checks whether an exception belongs to a probe; if it does, makes the probe return the fault.
/// Called for synchronous exceptions from EL1 only.
pub(crate) fn fix_up(frame: &mut TrapFrame) -> bool {
    let esr = Esr::new(frame.esr);
    let at = |symbol: *const [u8; 0]| frame.elr == symbol as u64;
    let landing = match esr.class() {
        Class::DataAbortSame
            if at(&raw const probe_read_u8_at)
                || at(&raw const probe_read_u32_at)
                || at(&raw const probe_read_u64_at)
                || at(&raw const probe_write_u64_at)
                || litmus::is_load(frame.elr) =>
        {
            &raw const probe_return
        }
        Class::DataAbortSame if at(&raw const probe_registers_at) => {
            &raw const probe_registers_return
        }
        Class::InstructionAbortSame | Class::PcAlignment
            if frame.elr == frame.far && frame.x[30] == &raw const probe_exec_called as u64 =>
        {
            &raw const probe_exec_return
        }
        Class::Unknown
            if at(&raw const probe_semihosting_at)
                || at(&raw const probe_smc_at)
                || at(&raw const probe_hvc_at) =>
        {
            &raw const probe_return
        }
        _ => return false,
    };
    frame.x[0] = frame.esr;
    frame.x[1] = frame.far;
    frame.elr = landing as u64;
    true
}
