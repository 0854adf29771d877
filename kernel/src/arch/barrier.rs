// SPDX-License-Identifier: MIT OR Apache-2.0

//! Barriers: one function, one instruction.
//!
//! None of them is `nomem`: each is a compiler barrier too, so a table entry written before stays
//! before. (Register writes of crate `aarch64-cpu` are not, see [`sysreg`](super::sysreg).)
//!
//! # Rules and witnesses
//!
//! Each function names the rule that makes callers need it and the witness that would notice its
//! loss. QEMU is none of them: it executes a barrier as a no-op, and every self-test passes
//! without. What it can do is count: "count" below means that the kernel's counters, the model's
//! prediction and the executed instructions counted by QEMU's plugin must agree, so a *lost* or a
//! *second* barrier shows, but not whether the right one stands there. That is shown by "model"
//! (the machine model that the `mmu` crate is tested on) and "herd" (a litmus test in Arm's own
//! model).

use core::arch::asm;

macro_rules! barrier {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            // SAFETY: a barrier changes nothing that Rust can observe; it only orders what the
            // program does anyway.
            unsafe { asm!($instruction, options(nostack, preserves_flags)) };
        }
    };
}

barrier! {
    /// Completes earlier stores before anything later except walks and fetches; inner shareable.
    ///
    /// Rule: R_SPVBD: an entry's store is guaranteed observable by walks only after a DSB by the
    /// same PE. Stores suffice: verdict M5 (`DSB ST; ISB; access` is forbidden to fault), U2
    /// before a TLBI.
    /// Witness: count; model; herd `I2V-W-DSB.ST-ISB-R`, `V2I-W-DSB.ST-TLBI-DSB.ISH-ISB-R`.
    dsb_ishst, "dsb ishst"
}

barrier! {
    /// Completes earlier accesses and TLB maintenance; inner shareable.
    ///
    /// Rule: R_YNJCP: a TLBI is complete only after a DSB, for loads and stores, by the PE that
    /// issued it; verdict U4: the store-only form is not enough.
    /// Witness: count; model; herd `V2I-W-DSB.ISH-TLBI-DSB.ST-ISB-R` (the weak form is allowed to
    /// fail).
    dsb_ish, "dsb ish"
}

barrier! {
    /// Completes earlier accesses and maintenance; full system.
    ///
    /// Rule: B2.10: maintenance to the point of coherency, and Device accesses that another agent
    /// must see before what follows (power-off, the write that starts a CPU).
    /// Witness: none here; hardware with an observer outside of the inner shareable domain.
    dsb_sy, "dsb sy"
}

barrier! {
    /// Completes earlier accesses and local TLB maintenance; this PE only.
    ///
    /// Rule: D8.17: a local TLBI is complete after a DSB of non-shareable scope.
    /// Witness: model, for the one use before other CPUs are up.
    dsb_nsh, "dsb nsh"
}

barrier! {
    /// Orders earlier stores before later stores; inner shareable.
    ///
    /// Rule: R18: a child table's entries are observed before the parent's entry that leads to
    /// them; verdicts T1 (without: a walker may read the old child), T2 (with: forbidden).
    /// Witness: count; model; herd/isla `ROT.inv+dmbst`.
    dmb_ishst, "dmb ishst"
}

barrier! {
    /// Orders earlier accesses before later accesses; inner shareable.
    ///
    /// Rule: B2.3.7 (Data Memory Barrier): publication to another PE through memory, where an
    /// acquire or release access does not fit.
    /// Witness: model (threads); never a substitute for a DSB towards walks (M2).
    dmb_ish, "dmb ish"
}

barrier! {
    /// Context synchronization: later instructions are fetched and translated anew.
    ///
    /// Rule: verdicts M3 (`DSB` alone: the access may still fault without FEAT_ETS2), M5 (with
    /// ISB: forbidden); R_BLDZX after a TLBI; register writes take effect.
    /// Witness: count; model; herd `D15347-load-DSB-ISB`; on a Cortex-A72, one fault in 6.5
    /// million runs without.
    isb, "isb"
}
