// SPDX-License-Identifier: MIT OR Apache-2.0

//! System registers whose accesses are ordered with memory.
//!
//! The accessors of crate `aarch64-cpu` are `nomem`: the compiler may move a store across them or
//! drop it. That is fine for reading an ID register and wrong for everything here: a new TTBR must
//! not overtake the tables' stores. So these are written out, without `nomem`, one instruction
//! each; the caller adds the ISB where the effect is needed at once.

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
    /// Affinity of this CPU.
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
/// `value` is the address of a [`Task`](crate::sched::Task) that lives as long as it stays there, and is no other
/// CPU's current one.
pub unsafe fn set_sp_el0(value: u64) {
    // SAFETY: the caller vouches for the task. SP_EL1 is selected, so this is no stack pointer.
    unsafe { asm!("msr sp_el0, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Sets the per-CPU block's address: for reads of the register itself, which are all that there are, from the next
/// instruction on.
///
/// # Safety
///
/// `value` is the address of a [`PerCpu`](super::percpu::PerCpu) that lives for ever and belongs to
/// this CPU alone.
pub unsafe fn set_tpidr(value: u64) {
    // SAFETY: the caller vouches for the block, which is all that the register is used for.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Sets the exception vectors; takes effect with the next context synchronization event.
///
/// # Safety
///
/// `address` is that of a vector table (2 KiB aligned) that stays mapped and executable.
pub unsafe fn set_vbar(address: u64) {
    // SAFETY: the caller vouches for the table.
    unsafe { asm!("msr vbar_el1, {}", in(reg) address, options(nostack, preserves_flags)) };
}

/// Sets ICC_CTLR_EL1 to 0: the priority mask is no hint for distribution, and the end of an
/// interrupt deactivates it, too. Takes effect with the next context synchronization event.
///
/// UNDEFINED before ICC_SRE_EL1.SRE is 1 and has taken effect.
pub fn clear_icc_ctlr() {
    // SAFETY: the values of reset on most machines; how interrupts are delivered is no invariant of
    // memory.
    unsafe { asm!("msr s3_0_c12_c12_4, xzr", options(nostack, preserves_flags)) };
}
