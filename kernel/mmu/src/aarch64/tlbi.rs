// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLB maintenance: one function per instruction.
//!
//! [`crate::tlbi`] computes the operand: it masks the address, and sets ASID and TTL (R33: an
//! unmasked address of the upper half reaches into the TTL field, and the instruction may then
//! invalidate nothing). Each function here starts an invalidation. The invalidation is *complete*
//! only after a [`dsb_ish`](super::barrier::dsb_ish), and it covers only those stores to entries
//! that a [`dsb_ishst`](super::barrier::dsb_ishst) before it has completed.
//!
//! The witnesses are those of [`barrier`](super::barrier). In addition, "QEMU" means that a
//! self-test fails under QEMU, which models a TLB per CPU.

use crate::tlbi::TlbiOp;
use core::arch::asm;

macro_rules! tlbi {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            // SAFETY: invalidating cached translations changes no memory. Later accesses are
            // translated by the tables.
            unsafe { asm!($instruction, options(nostack, preserves_flags)) };
        }
    };
    ($(#[$doc:meta])* $name:ident, $instruction:literal, $operand:ident) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($operand: u64) {
            // SAFETY: as above, with any operand: a wrong one invalidates other cached entries.
            unsafe {
                asm!($instruction, in(reg) $operand, options(nostack, preserves_flags))
            };
        }
    };
}

tlbi! {
    /// All entries of EL1&0, every ASID, on all PEs of the inner shareable domain.
    ///
    /// Rule: R27: valid to invalid needs a TLBI that covers address, ASID, domain and level.
    /// Witness: count; order; model; QEMU (stale entry).
    vmalle1is, "tlbi vmalle1is"
}

tlbi! {
    /// All non-global entries of one ASID; operand: ASID in bits 63:48.
    ///
    /// Rule: R33; Witness: count; order; model; QEMU.
    aside1is, "tlbi aside1is, {}", operand
}

tlbi! {
    /// One page of one ASID: the leaf and the entries of tables on the way to it.
    ///
    /// Rule: R32: before a table is freed, the cached entries that lead to it must be invalidated.
    /// Witness: count; order; model (the last-level form leaves entries in the walk cache). QEMU
    /// has no walk cache and does not show it.
    vae1is, "tlbi vae1is, {}", operand
}

tlbi! {
    /// One page of one ASID, last level only.
    ///
    /// Rule: R27; Witness: count; order; model; QEMU.
    vale1is, "tlbi vale1is, {}", operand
}

tlbi! {
    /// One page of all ASIDs and global: the leaf and the entries of tables on the way to it.
    ///
    /// Rule: R32, R33; Witness: count; order; model.
    vaae1is, "tlbi vaae1is, {}", operand
}

tlbi! {
    /// One page of all ASIDs and global, last level only: the form for kernel mappings.
    ///
    /// Rule: R27, R33; Witness: count; order; model; QEMU (stale entry).
    vaale1is, "tlbi vaale1is, {}", operand
}

tlbi! {
    /// [`vaale1is`] on this CPU alone. [`dsb_nsh`](super::barrier::dsb_nsh) completes it.
    ///
    /// Rule: R27: not enough for a mapping that another CPU may have used.
    /// Witness: none: `mode=litmus` measures it, nothing else uses it.
    vaale1, "tlbi vaale1, {}", operand
}

// FEAT_TLBIRANGE. The instructions are written as SYS, because the assembler accepts the mnemonics
// only if the extension is enabled, and the target is Armv8.0. Without the feature they are
// UNDEFINED.

tlbi! {
    /// `TLBI RVAE1IS`: a range of one ASID, all levels.
    ///
    /// Rule: R33: (NUM + 1) * 2^(5 * SCALE + 1) pages must cover the range.
    /// Witness: count; order; model; QEMU with `-cpu max`.
    rvae1is, "sys #0, c8, c2, #1, {}", operand
}

tlbi! {
    /// `TLBI RVAAE1IS`: a range of all ASIDs and global, all levels.
    ///
    /// Rule: R32, R33; Witness: count; order; model.
    rvaae1is, "sys #0, c8, c2, #3, {}", operand
}

tlbi! {
    /// `TLBI RVALE1IS`: a range of one ASID, last level only.
    ///
    /// Rule: R27, R33; Witness: count; order; model; QEMU with `-cpu max`.
    rvale1is, "sys #0, c8, c2, #5, {}", operand
}

tlbi! {
    /// `TLBI RVAALE1IS`: a range of all ASIDs and global, last level only.
    ///
    /// Rule: R27, R33; Witness: count; order; model; QEMU with `-cpu max`.
    rvaale1is, "sys #0, c8, c2, #7, {}", operand
}

/// Issues `op` with an operand that [`crate::tlbi`] has computed. The forms without an operand
/// ignore it.
#[inline(always)]
pub fn issue(op: TlbiOp, operand: u64) {
    match op {
        TlbiOp::Vmalle1is => vmalle1is(),
        TlbiOp::Aside1is => aside1is(operand),
        TlbiOp::Vae1is => vae1is(operand),
        TlbiOp::Vale1is => vale1is(operand),
        TlbiOp::Vaae1is => vaae1is(operand),
        TlbiOp::Vaale1is => vaale1is(operand),
        TlbiOp::Rvae1is => rvae1is(operand),
        TlbiOp::Rvale1is => rvale1is(operand),
        TlbiOp::Rvaae1is => rvaae1is(operand),
        TlbiOp::Rvaale1is => rvaale1is(operand),
    }
}
