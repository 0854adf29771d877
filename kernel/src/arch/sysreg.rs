// SPDX-License-Identifier: MIT OR Apache-2.0

//! System registers whose accesses are ordered with memory accesses.
//!
//! The accessors of crate `aarch64-cpu` are `nomem`: the compiler may move a store across them.
//! That is fine for reading an ID register, but wrong for every register here. A write of TTBR, for
//! example, must not overtake the stores to its tables. These accessors are therefore written
//! without `nomem`. Each is one instruction; the caller adds an ISB where the effect is needed at
//! once.

use core::arch::asm;

macro_rules! read {
    ($(#[$doc:meta])* $name:ident, $register:literal) => {
        $(#[$doc])*
        #[must_use]
        #[inline(always)]
        pub fn $name() -> u64 {
            let value: u64;
            // SAFETY: reading the register has no effect.
            unsafe {
                asm!(concat!("mrs {}, ", $register), out(reg) value,
                     options(nostack, preserves_flags));
            }
            value
        }
    };
}

read! {
    /// MPIDR_EL1, with the affinity of this CPU.
    mpidr, "mpidr_el1"
}
read! {
    /// The per-CPU block's address, 0 before it is set; see [`percpu`](super::percpu).
    tpidr, "tpidr_el1"
}

read! {
    /// The current task's address; see [`sched`](crate::sched).
    sp_el0, "sp_el0"
}

/// Sets the current task's address. Later reads see it, without a context synchronization event.
///
/// # Safety
///
/// `value` is the address of a [`Task`](crate::sched::Task) that lives as long as the register
/// holds it, and that is not the current task of another CPU.
pub unsafe fn set_sp_el0(value: u64) {
    // SAFETY: the caller vouches for the task. SP_EL1 is selected, so this is no stack pointer.
    unsafe { asm!("msr sp_el0, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Sets the per-CPU block's address. Reads of the register see it from the next instruction on, and
/// the register has no other use.
///
/// # Safety
///
/// `value` is the address of a [`PerCpu`](super::percpu::PerCpu) that lives forever and belongs to
/// this CPU alone.
pub unsafe fn set_tpidr(value: u64) {
    // SAFETY: the caller vouches for the block; the register has no other use.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Sets the exception vectors; the next context synchronization event makes the write take effect.
///
/// # Safety
///
/// `address` is that of a vector table (2 KiB aligned) that stays mapped and executable.
pub unsafe fn set_vbar(address: u64) {
    // SAFETY: the caller vouches for the table.
    unsafe { asm!("msr vbar_el1, {}", in(reg) address, options(nostack, preserves_flags)) };
}

/// Sets ICC_CTLR_EL1 to 0: the priority mask is not a hint for distribution, and the end of an
/// interrupt also deactivates it. The next context synchronization event makes it take effect.
///
/// UNDEFINED before ICC_SRE_EL1.SRE is 1 and has taken effect.
pub fn clear_icc_ctlr() {
    // SAFETY: 0 is the reset value on most machines, and the delivery of interrupts is not an
    // invariant of memory.
    unsafe { asm!("msr s3_0_c12_c12_4, xzr", options(nostack, preserves_flags)) };
}
