// SPDX-License-Identifier: MIT OR Apache-2.0

//! The litmus test of invalid-to-valid: a table entry is made valid and its page is read at once,
//! with a chosen barrier between the two, or none. Every barrier of a mapping rests on this test.
//!
//! The rest of the kernel never does this: the entry is stored without the library and without the
//! barriers that the store owes. The load that may fault is at a known address, as in
//! [`probe`](super::probe). The store is not, so a fault of the store is fatal.

use super::fault::{Fault, Outcome};
use core::arch::global_asm;
use lazymmu::{Desc, Pte};

/// The barriers between the store and the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Nothing: verdict M1, the load may fault.
    Nothing,
    /// `DMB ISH`: orders the store with the load, not with the load's walk; it may fault.
    Dmb,
    /// `DSB ISHST` alone: verdict M3, it may fault without FEAT_ETS2.
    Dsb,
    /// `DSB ISHST; ISB`: verdict M5, it must not.
    DsbIsb,
}

// x0 = entry, x1 = descriptor, x2 = address; returns as the probes do. Between the store and the
// load there is nothing but the barriers of the variant, not even a branch.
global_asm!(
    ".pushsection .text.probe, \"ax\"",
    ".macro litmus_function name, first=, second=",
    ".balign 4",
    ".globl litmus_\\name",
    ".type litmus_\\name, @function",
    "litmus_\\name:",
    "str x1, [x0]",
    "\\first",
    "\\second",
    ".globl litmus_\\name\\()_at",
    "litmus_\\name\\()_at:",
    "ldr x1, [x2]",
    "mov x0, xzr",
    "ret",
    ".size litmus_\\name, . - litmus_\\name",
    ".endm",
    "litmus_function nothing",
    "litmus_function dmb, \"dmb ish\"",
    "litmus_function dsb, \"dsb ishst\"",
    "litmus_function dsb_isb, \"dsb ishst\", \"isb\"",
    ".popsection",
);

unsafe extern "C" {
    fn litmus_nothing(entry: *mut u64, desc: u64, address: u64) -> Outcome;
    fn litmus_dmb(entry: *mut u64, desc: u64, address: u64) -> Outcome;
    fn litmus_dsb(entry: *mut u64, desc: u64, address: u64) -> Outcome;
    fn litmus_dsb_isb(entry: *mut u64, desc: u64, address: u64) -> Outcome;

    // Addresses, not functions.
    static litmus_nothing_at: [u8; 0];
    static litmus_dmb_at: [u8; 0];
    static litmus_dsb_at: [u8; 0];
    static litmus_dsb_isb_at: [u8; 0];
}

/// Stores `desc` to `entry`, executes `between`, and reads eight bytes at `va`.
///
/// # Errors
///
/// The fault that the load took.
///
/// # Safety
///
/// - `entry` is the last-level entry of `va`; it is mapped writable, invalid, and belongs to the
///   caller alone;
/// - `desc` is invalid, or maps the caller's Normal memory as the kernel's data; `va` is 8-byte
///   aligned;
/// - the caller clears the entry and invalidates `va` before other code uses either.
pub unsafe fn make_and_read(
    between: Between,
    entry: &Pte,
    desc: Desc,
    va: u64,
) -> Result<u64, Fault> {
    let run = match between {
        Between::Nothing => litmus_nothing,
        Between::Dmb => litmus_dmb,
        Between::Dsb => litmus_dsb,
        Between::DsbIsb => litmus_dsb_isb,
    };
    // SAFETY: the caller vouches for entry and descriptor; a fault of the load is caught.
    unsafe { run(entry.as_ptr(), desc.as_u64(), va) }.into_result()
}

/// Whether `elr` is a load of this module.
pub(super) fn is_load(elr: u64) -> bool {
    [
        &raw const litmus_nothing_at,
        &raw const litmus_dmb_at,
        &raw const litmus_dsb_at,
        &raw const litmus_dsb_isb_at,
    ]
    .iter()
    .any(|load| *load as u64 == elr)
}
