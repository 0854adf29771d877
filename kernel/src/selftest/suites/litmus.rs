// SPDX-License-Identifier: MIT OR Apache-2.0
//! A short run of the litmus tests of `mode=litmus`: the barriers of a mapping, where their effect
//! can be seen.

use crate::selftest::prelude::*;
use crate::spurious::{Ground, WAYS};

suite! {
    name: "litmus",
    order: 45,
    tests: [
        case!(QemuVisible, every_fault_is_counted),
        case!(HwOnly, safe_ways_never_fault),
    ],
}

/// The positive control of the other test, and of the long runs.
fn every_fault_is_counted() -> TestResult {
    let ground = expect_ok!(Ground::new());
    expect_eq!(expect_ok!(ground.faults_without_an_entry(100)), 100);
    // It is also the positive control of the reads: each finds the frame.
    count(&ground, 10)
}

fn safe_ways_never_fault() -> TestResult {
    count(&expect_ok!(Ground::new()), 200_000)
}

fn count(ground: &Ground, iterations: u32) -> TestResult {
    for way in WAYS.iter().filter(|way| way.is_safe) {
        expect_eq!(
            expect_ok!(ground.faults(way, iterations)),
            0,
            "{}",
            way.name
        );
    }
    Ok(())
}
