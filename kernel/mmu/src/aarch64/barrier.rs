// SPDX-License-Identifier: MIT OR Apache-2.0
//! Barriers: one function, one instruction.
//!
//! # Rules and witnesses
//!
//! The comment at each function names the rule for which callers need the barrier, and the
//! witnesses: the tests that notice if it is missing. QEMU is not a witness: it executes a barrier
//! as a no-op, so every test in the target passes without barriers. The witnesses are:
//!
//! - *count*: the self-test suites `lazy-counts` and `interrupts` of the kernel compare the
//!   counters with what the contract says. They notice a missing and an additional barrier, but not
//!   a barrier in the wrong place;
//! - *order*: the host tests of this crate record every effect and check its kind and order. They
//!   see the calls that the library makes, not this file. Only a reader can check that a function
//!   of this file executes the instruction after which it is named;
//! - *model*: the library runs on a machine model that computes what Arm's rules allow each access
//!   to see, and so finds a barrier that was left out (`tests/model`);
//! - *verdict*: the outcome of the named litmus test in Arm's model (published in herd7's
//!   catalogue). It says why the barrier is needed. The machine model is checked against these
//!   verdicts (`model/verdicts.rs`); herd7 itself is not run here.

use core::arch::asm;

macro_rules! barrier {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            // SAFETY: a barrier changes no memory and no register. It orders the accesses of the
            // program.
            unsafe { asm!($instruction, options(nostack, preserves_flags)) };
        }
    };
}

barrier! {
    /// Completes earlier stores before later instructions, but not before later walks and fetches;
    /// inner shareable.
    ///
    /// Rule: R_SPVBD: an entry's store is guaranteed observable by walks only after a DSB by the
    /// same PE. The store-only form suffices: verdict M5 (after `DSB ST; ISB` the access cannot
    /// fault), U2 before a TLBI.
    /// Witness: count; order; model (`r15_*`, `r16_*`, `r27_*`); verdicts `I2V-W-DSB.ST-ISB-R`,
    /// `V2I-W-DSB.ST-TLBI-DSB.ISH-ISB-R`.
    dsb_ishst, "dsb ishst"
}

barrier! {
    /// Completes earlier accesses and TLB maintenance; inner shareable.
    ///
    /// Rule: R_YNJCP: a TLBI is complete only after a DSB, for loads and stores, by the PE that
    /// issued it; verdict U4: the store-only form is not enough.
    /// Witness: count; order; model (`r25_*`, `r27_*`, `r32_*`); verdict
    /// `V2I-W-DSB.ISH-TLBI-DSB.ST-ISB-R` (the weak form is allowed to fail).
    dsb_ish, "dsb ish"
}

barrier! {
    /// Completes earlier accesses and maintenance; full system.
    ///
    /// Rule: H12, H17, H18: maintenance to the point of coherency, and Device accesses that another
    /// agent must see before what follows (power-off, the write that starts a CPU).
    /// Witness: none here; hardware with an observer outside of the inner shareable domain.
    dsb_sy, "dsb sy"
}

barrier! {
    /// Completes earlier accesses and maintenance of this CPU alone; non-shareable.
    ///
    /// Rule: R_YNJCP: completes a TLBI without IS, which affects only this CPU. It is too weak for
    /// entries that another CPU or a shared TLB may hold.
    /// Witness: none: `mode=litmus` measures it, nothing else uses it.
    dsb_nsh, "dsb nsh"
}

barrier! {
    /// Orders earlier stores before later stores; inner shareable.
    ///
    /// Rule: R18: a child table's entries are observed before the parent's entry that leads to
    /// them; verdicts T1 (without: a walker may read the old child), T2 (with: forbidden).
    /// Witness: count; order; model (`r18_*`); verdict `ROT.inv+dmbst`.
    dmb_ishst, "dmb ishst"
}

barrier! {
    /// Synchronizes the context: later instructions are fetched and translated again, and earlier
    /// writes to system registers take effect.
    ///
    /// Rule: verdicts M3 (after `DSB` alone the access may still fault without FEAT_ETS2), M5 (with
    /// ISB it cannot); R_BLDZX after a TLBI.
    /// Witness: count; order; model (`r15_*`, `r27_*`); verdict `D15347-load-DSB-ISB`.
    isb, "isb"
}
