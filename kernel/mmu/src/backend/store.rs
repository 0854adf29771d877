// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stores to leaf entries: no other module of this crate executes one.
//!
//! These functions do not decide whether a store is correct, or what it owes. Their callers do:
//! `space/write.rs` checks each write, and either stores it at once or passes it to a strategy;
//! `space/fold.rs` breaks and makes contiguous groups; the strategies store what they have let
//! wait. (Links of tables are stored in `space/links.rs`, and the chains of unlinked tables in
//! `space/spare.rs`.) Clippy refuses a store in any other module (`kernel/mmu/clippy.toml`).

#![expect(clippy::disallowed_methods, reason = "it stores leaves")]

use super::preserve::News;
use super::run::Fill;
use crate::addr::PAGE_SIZE;
use crate::desc::{Desc, bits};
use crate::hardware::Hardware;
use crate::table::Pte;

/// Stores one entry.
#[inline(always)]
pub(crate) fn store<H: Hardware>(hw: &H, pte: &Pte, desc: Desc) {
    hw.store(pte, desc);
}

/// Stores one entry and returns what it held, with the final access and dirty bits.
#[inline(always)]
pub(crate) fn swap<H: Hardware>(hw: &H, pte: &Pte, desc: Desc) -> Desc {
    hw.swap(pte, desc)
}

/// Stores a run, in one loop.
#[inline(always)]
pub(crate) fn store_run<H: Hardware>(hw: &H, run: &[Pte], fill: Fill<'_>) {
    match fill {
        Fill::Contiguous { first } => match run {
            // A call for one page is the most common one, and needs no loop.
            [pte] => store(hw, pte, first),
            _ => hw.store_linear(run, first, PAGE_SIZE),
        },
        Fill::Scattered { frames, template } => hw.store_frames(run, frames, template),
        Fill::Update { keep, set, .. } => hw.update_run(run, keep, set),
        Fill::Zero => hw.store_zero(run),
    }
}

/// Stores entry `i` of a run alone.
#[inline(always)]
pub(super) fn store_nth<H: Hardware>(hw: &H, run: &[Pte], fill: Fill<'_>, i: usize) {
    let Fill::Update { keep, set, .. } = fill else {
        return store(hw, &run[i], fill.value(i, Desc::INVALID));
    };
    update_nth(hw, &run[i..=i], keep, set);
}

/// Updates one entry. Out of line, so that the loops over runs that are set stay small.
#[inline(never)]
fn update_nth<H: Hardware>(hw: &H, pte: &[Pte], keep: u64, set: u64) {
    hw.update_run(pte, keep, set);
}

/// Replaces a live entry by `new`, which maps the same frame. `new` was computed when the entry
/// held `seen`. Access and dirty bits that hardware has set since then are kept (R24): the store is
/// a compare-and-swap, and is repeated if the entry has changed.
pub(crate) fn replace<H: Hardware>(hw: &H, pte: &Pte, seen: Desc, new: Desc) {
    let mut now = hw.load(pte);
    loop {
        let merged = News::between(seen, now).told_to(new);
        match hw.compare_exchange(pte, now, merged) {
            Ok(_) => return,
            Err(moved) => now = moved,
        }
    }
}

/// Makes a live entry invalid and keeps its other bits, including access and dirty bits that
/// hardware sets at the same time (R24).
pub(crate) fn make_invalid<H: Hardware>(hw: &H, pte: &Pte) {
    let mut now = hw.load(pte);
    while let Err(moved) = hw.compare_exchange(pte, now, invalid(now)) {
        now = moved;
    }
}

/// The same entry with the valid bit clear.
const fn invalid(entry: Desc) -> Desc {
    Desc::from_u64(entry.as_u64() & !bits::VALID)
}
