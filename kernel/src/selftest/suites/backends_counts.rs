// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counts of what each strategy executes for the same requests.
//!
//! Each test makes its requests one by one, in one section and under one lock, in an announced
//! range, and states the figures of each strategy. The figures follow from what the strategy's
//! architecture does: barriers for each entry or each section; invalidations for each request, for
//! 192 ranges, or for a range of adjacent pages; and queues of 32.

use core::ops::Range;

use lazymmu::Backend;

use super::fixture::dsb_ish_of_a_flush;
use super::scene::Step::{self, *};
use super::scene::{SET, Scene, put};
use crate::mm::MMU;
use crate::selftest::prelude::*;

suite! {
    name: "backends-counts",
    order: 38,
    tests: [
        case!(TraceOnly, pages_mapped_one_by_one),
        case!(TraceOnly, neighbors_protected_one_by_one),
        case!(TraceOnly, pages_far_apart_protected_one_by_one),
        case!(TraceOnly, pages_outside_the_range_protected_one_by_one),
        case!(TraceOnly, pages_unmapped_one_by_one_and_flushed_once),
        case!(TraceOnly, r28_pages_set_and_cleared_again),
    ],
}

/// What a strategy executes, in this order:
/// * the pairs of `DSB ISHST` and `ISB` for makes;
/// * the invalidations, each `DSB ISHST`, some TLBI, `DSB ISH`, `ISB`;
/// * the TLBI of all invalidations, first without and then with range operations;
/// * the number of drains;
/// * the stores that waited, and the stores that a drain made.
type Figures = [u16; 7];

/// Plays `step` after `before`, in a section that announces the pages `range`, and compares what
/// the section executes with the figures of each strategy, in the order of [`Backend::ALL`].
fn counted(
    mapped: usize,
    before: &[Step],
    range: Range<usize>,
    step: Step,
    expected: &[Figures; 5],
) -> TestResult {
    let section = [Announce(range), step, Leave];
    for (backend, figures) in Backend::ALL.into_iter().zip(expected) {
        let mut scene = Scene::new(backend, mapped, 401)?;
        scene.play(before)?;
        let spent = scene.counted(&section)?;
        // The next scene maps there again.
        scene.play(&[Flush(0..401)])?;
        let [pairs, flushes, by_address, by_range, drains, deferred, late] = figures.map(u64::from);
        let features = MMU.features().tlb;
        let tlbi = if features.range { by_range } else { by_address };
        // If the CPU repeats TLBI, each invalidation ends with one more TLBI and its DSB (R34).
        let repeats = flushes * u64::from(features.repeat);
        let spent: &[u64] = &[
            spent.dsb_ishst,
            spent.isb,
            spent.dsb_ish,
            spent.tlbi,
            spent.drains,
            spent.deferred,
            spent.late_stores,
        ];
        let expected: &[u64] = &[
            pairs + flushes,
            pairs + flushes,
            flushes * dsb_ish_of_a_flush(),
            tlbi + repeats,
            drains,
            deferred,
            late,
        ];
        expect_eq!(spent, expected, "{backend}");
    }
    Ok(())
}

#[rustfmt::skip]
fn pages_mapped_one_by_one() -> TestResult {
    // Mapping the page after them first builds the table.
    counted(0, &[MapEach(100..101)], 0..100, MapEach(0..100), &[
        [100, 0, 0, 0, 0,   0,   0],
        [  1, 0, 0, 0, 0,   0,   0],
        [  1, 0, 0, 0, 1, 100, 100],
        [  1, 0, 0, 0, 0,   0,   0],
        // A queue holds 32 calls.
        [  1, 0, 0, 0, 4, 100, 100],
    ])
}

#[rustfmt::skip]
fn neighbors_protected_one_by_one() -> TestResult {
    counted(200, &[], 0..200, ProtectEach(0..200, 1), &[
        [200, 200, 200, 200,  0,   0,   0],
        [  0, 200, 200, 200,  0,   0,   0],
        [  0,   1, 200,   2,  1, 200, 200],
        [  0,   1, 200,   2,  1,   0,   0],
        // Stores and invalidations alternate, one of each for each page, so 16 pages fill the
        // queue. The invalidations in a queue share their barriers.
        [  0,  13, 200,  13, 13, 200, 200],
    ])
}

#[rustfmt::skip]
fn pages_far_apart_protected_one_by_one() -> TestResult {
    counted(400, &[], 0..400, ProtectEach(0..384, 2), &[
        [192, 192, 192, 192,  0,   0,   0],
        [  0, 192, 192, 192,  0,   0,   0],
        [  0,   1, 192, 192,  1, 192, 192],
        // 192 ranges fill the list.
        [  0,   1, 192, 192,  1,   0,   0],
        [  0,  12, 192, 192, 12, 192, 192],
    ])?;
    counted(400, &[], 0..400, ProtectEach(0..386, 2), &[
        [193, 193, 193, 193,  0,   0,   0],
        [  0, 193, 193, 193,  0,   0,   0],
        [  0,   1, 193, 193,  1, 193, 193],
        // One range more causes a drain.
        [  0,   2, 193, 193,  2,   0,   0],
        [  0,  13, 193, 193, 13, 193, 193],
    ])
}

#[rustfmt::skip]
fn pages_outside_the_range_protected_one_by_one() -> TestResult {
    counted(60, &[], 50..60, ProtectEach(0..40, 1), &[
        [ 40,  40,  40,  40,  0,   0,   0],
        [  0,  40,  40,  40,  0,   0,   0],
        // These pages were not announced, so only barriers wait.
        [  0,  40,  40,  40,  0,   0,   0],
        [  0,   1,  40,   1,  1,   0,   0],
        [  0,   3,  40,   3,  3,  40,  40],
    ])
}

#[rustfmt::skip]
fn pages_unmapped_one_by_one_and_flushed_once() -> TestResult {
    counted(100, &[], 0..100, UnmapEach(0..100), &[
        [0, 1, 100, 2, 0, 0, 0],
        [0, 1, 100, 2, 0, 0, 0],
        [0, 1, 100, 2, 1, 0, 0],
        [0, 1, 100, 2, 1, 0, 0],
        [0, 1, 100, 2, 1, 0, 0],
    ])
}

#[rustfmt::skip]
fn r28_pages_set_and_cleared_again() -> TestResult {
    let set_and_clear = Entries(0..10, |pages, i, pte| {
        put(pages, i, pte)?;
        pte.get_and_clear();
        Ok(())
    });
    counted(0, &[Entries(10..11, SET)], 0..10, set_and_clear, &[
        // The entries were cleared, so the caller must invalidate. That is not counted here.
        [10,  0,  0,  0,  0,  0,  0],
        [ 1,  0,  0,  0,  0,  0,  0],
        // No store reached memory, so there is nothing to invalidate (row V1).
        [ 0,  0,  0,  0,  1, 10,  0],
        [ 0,  1, 10,  1,  1,  0,  0],
        // An entry is cleared after what waits for it is drained, so no store waits long.
        [ 0, 10, 10, 10, 11, 10, 10],
    ])
}
