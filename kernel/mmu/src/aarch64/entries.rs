// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores to runs of table entries.
//!
//! An `STP` stores two entries. Each aligned 8-byte half of an `STP` is single-copy atomic by
//! itself (Arm ARM B2.2.1), and entries are always 8-byte aligned, so a walker never reads a part
//! of an entry.
//!
//! The loops are unrolled by blocks of eight entries, or of 32 in [`store_linear`]. What is left
//! after the last whole block is stored in smaller steps. Instructions in whole blocks:
//!
//! | run | instructions for a block | per entry |
//! |---|---|---:|
//! | [`store_linear`] | 16 STP, 32 ADD, SUBS, B.NE | 1.56 |
//! | [`store_frames`] | 4 LDP, 8 ORR, 4 STP, SUBS, B.NE | 2.25 |
//! | [`update_run`] | 4 LDP, 8 AND, 8 ORR, 4 STP, ADD, SUBS, B.NE | 3.4 |
//! | [`store_zero`] | 4 STP, SUBS, B.NE | 0.75 |

use crate::addr::Frame;
use crate::desc::Desc;
use crate::table::Pte;
use core::arch::asm;

/// The number of entries that one turn of an unrolled loop stores.
const BLOCK: usize = 8;
/// The number of entries that one turn of [`store_linear`] stores, which takes few instructions per
/// entry.
const LINEAR_BLOCK: usize = 32;

/// Stores `first`, `first + step`, `first + 2 * step`, ... to the entries of `run`.
#[inline(always)]
pub fn store_linear(run: &[Pte], first: Desc, step: u64) {
    // SAFETY: writes `run.len()` entries from the start of `run`. They are atomics, so writing
    // through a shared reference is allowed, and `stp` and `str` write each of them as a whole. The
    // option `nomem` is not set, so the compiler knows that memory changes.
    unsafe {
        asm!(
            "cbz {blocks}, 3f",
            "2:",
            ".rept 16",
            "stp {a}, {b}, [{entry}], #16",
            "add {a}, {a}, {double}",
            "add {b}, {b}, {double}",
            ".endr",
            "subs {blocks}, {blocks}, #1",
            "b.ne 2b",
            "3:",
            "tbz {rest}, #4, 8f",
            ".rept 8",
            "stp {a}, {b}, [{entry}], #16",
            "add {a}, {a}, {double}",
            "add {b}, {b}, {double}",
            ".endr",
            "8:",
            "tbz {rest}, #3, 4f",
            ".rept 4",
            "stp {a}, {b}, [{entry}], #16",
            "add {a}, {a}, {double}",
            "add {b}, {b}, {double}",
            ".endr",
            "4:",
            "tbz {rest}, #2, 5f",
            ".rept 2",
            "stp {a}, {b}, [{entry}], #16",
            "add {a}, {a}, {double}",
            "add {b}, {b}, {double}",
            ".endr",
            "5:",
            "tbz {rest}, #1, 6f",
            "stp {a}, {b}, [{entry}], #16",
            "add {a}, {a}, {double}",
            "6:",
            "tbz {rest}, #0, 7f",
            "str {a}, [{entry}]",
            "7:",
            entry = inout(reg) run.as_ptr() => _,
            blocks = inout(reg) run.len() / LINEAR_BLOCK => _,
            rest = in(reg) run.len() % LINEAR_BLOCK,
            a = inout(reg) first.as_u64() => _,
            b = inout(reg) first.as_u64().wrapping_add(step) => _,
            double = in(reg) step.wrapping_mul(2),
            options(nostack),
        );
    }
}

/// Stores `frames[i] | template` to `run[i]`.
///
/// # Panics
/// If the two slices differ in length.
#[inline(always)]
pub fn store_frames(run: &[Pte], frames: &[Frame], template: Desc) {
    assert_eq!(
        run.len(),
        frames.len(),
        "store_frames: one frame for each entry"
    );
    // SAFETY: as in `store_linear`. Also reads `run.len()` frames, each a transparent u64, from the
    // start of `frames`, which has the same length.
    unsafe {
        asm!(
            "cbz {blocks}, 3f",
            "2:",
            "ldp {a}, {b}, [{frame}], #64",
            "ldp {c}, {d}, [{frame}, #-48]",
            "orr {a}, {a}, {template}",
            "orr {b}, {b}, {template}",
            "orr {c}, {c}, {template}",
            "orr {d}, {d}, {template}",
            "stp {a}, {b}, [{entry}], #64",
            "stp {c}, {d}, [{entry}, #-48]",
            "ldp {a}, {b}, [{frame}, #-32]",
            "ldp {c}, {d}, [{frame}, #-16]",
            "orr {a}, {a}, {template}",
            "orr {b}, {b}, {template}",
            "orr {c}, {c}, {template}",
            "orr {d}, {d}, {template}",
            "stp {a}, {b}, [{entry}, #-32]",
            "stp {c}, {d}, [{entry}, #-16]",
            "subs {blocks}, {blocks}, #1",
            "b.ne 2b",
            "3:",
            "cbz {rest}, 5f",
            "4:",
            "ldr {a}, [{frame}], #8",
            "orr {a}, {a}, {template}",
            "str {a}, [{entry}], #8",
            "subs {rest}, {rest}, #1",
            "b.ne 4b",
            "5:",
            entry = inout(reg) run.as_ptr() => _,
            frame = inout(reg) frames.as_ptr() => _,
            blocks = inout(reg) run.len() / BLOCK => _,
            rest = inout(reg) run.len() % BLOCK => _,
            template = in(reg) template.as_u64(),
            a = out(reg) _,
            b = out(reg) _,
            c = out(reg) _,
            d = out(reg) _,
            options(nostack),
        );
    }
}

/// Replaces each entry `e` of `run` by `e & keep | set`. The load and the store of an entry are two
/// steps. Nothing may write the entry in between: the caller holds the table, and TCR_EL1.HA and HD
/// are 0.
#[inline(always)]
pub fn update_run(run: &[Pte], keep: u64, set: u64) {
    // SAFETY: as in `store_linear`. Each entry is read and written as a whole.
    unsafe {
        asm!(
            "cbz {blocks}, 3f",
            "2:",
            "ldp {a}, {b}, [{entry}]",
            "ldp {c}, {d}, [{entry}, #16]",
            "and {a}, {a}, {keep}",
            "and {b}, {b}, {keep}",
            "and {c}, {c}, {keep}",
            "and {d}, {d}, {keep}",
            "orr {a}, {a}, {set}",
            "orr {b}, {b}, {set}",
            "orr {c}, {c}, {set}",
            "orr {d}, {d}, {set}",
            "stp {a}, {b}, [{entry}]",
            "stp {c}, {d}, [{entry}, #16]",
            "ldp {a}, {b}, [{entry}, #32]",
            "ldp {c}, {d}, [{entry}, #48]",
            "and {a}, {a}, {keep}",
            "and {b}, {b}, {keep}",
            "and {c}, {c}, {keep}",
            "and {d}, {d}, {keep}",
            "orr {a}, {a}, {set}",
            "orr {b}, {b}, {set}",
            "orr {c}, {c}, {set}",
            "orr {d}, {d}, {set}",
            "stp {a}, {b}, [{entry}, #32]",
            "stp {c}, {d}, [{entry}, #48]",
            "add {entry}, {entry}, #64",
            "subs {blocks}, {blocks}, #1",
            "b.ne 2b",
            "3:",
            "cbz {rest}, 5f",
            "4:",
            "ldr {a}, [{entry}]",
            "and {a}, {a}, {keep}",
            "orr {a}, {a}, {set}",
            "str {a}, [{entry}], #8",
            "subs {rest}, {rest}, #1",
            "b.ne 4b",
            "5:",
            entry = inout(reg) run.as_ptr() => _,
            blocks = inout(reg) run.len() / BLOCK => _,
            rest = inout(reg) run.len() % BLOCK => _,
            keep = in(reg) keep,
            set = in(reg) set,
            a = out(reg) _,
            b = out(reg) _,
            c = out(reg) _,
            d = out(reg) _,
            options(nostack),
        );
    }
}

/// Stores 0 to the entries of `run`.
#[inline(always)]
pub fn store_zero(run: &[Pte]) {
    // SAFETY: as in `store_linear`.
    unsafe {
        asm!(
            "cbz {blocks}, 3f",
            "2:",
            "stp xzr, xzr, [{entry}], #64",
            "stp xzr, xzr, [{entry}, #-48]",
            "stp xzr, xzr, [{entry}, #-32]",
            "stp xzr, xzr, [{entry}, #-16]",
            "subs {blocks}, {blocks}, #1",
            "b.ne 2b",
            "3:",
            "tbz {rest}, #2, 4f",
            "stp xzr, xzr, [{entry}], #32",
            "stp xzr, xzr, [{entry}, #-16]",
            "4:",
            "tbz {rest}, #1, 5f",
            "stp xzr, xzr, [{entry}], #16",
            "5:",
            "tbz {rest}, #0, 6f",
            "str xzr, [{entry}]",
            "6:",
            entry = inout(reg) run.as_ptr() => _,
            blocks = inout(reg) run.len() / BLOCK => _,
            rest = in(reg) run.len() % BLOCK,
            options(nostack),
        );
    }
}
