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

/// Sets the per-CPU block's address.
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
