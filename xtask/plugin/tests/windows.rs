// SPDX-License-Identifier: GPL-2.0-or-later

//! Windows that nest, repeat, move and are forgotten, by counts that a test invents.

// The test needs not all of them.
#[allow(dead_code)]
#[path = "../src/decode.rs"]
mod decode;
#[path = "../src/windows.rs"]
mod windows;

use decode::{INSTRUCTIONS, ISB, SLOTS, slot};
use windows::{Counts, Windows};

/// Op 8 on 4 pages.
const ID: u64 = 8 << 24 | 4;
const DSB_ISHST: u32 = 0xd503_3a9f;
const TLBI_VAALE1IS: u32 = 0xd508_83e0;

/// Counts after so many instructions, a tenth of them ISB.
fn after(instructions: u64) -> Box<Counts> {
    let mut counts = Box::new([0; SLOTS]);
    counts[INSTRUCTIONS] = instructions;
    counts[ISB] = instructions / 10;
    counts
}

/// Instructions of each line, or its problem.
fn shown(report: &str) -> Vec<&str> {
    report
        .lines()
        .map(|line| match line.split_once("\"instructions\":") {
            Some((_, rest)) => rest.split(',').next().unwrap_or_default(),
            None => line
                .split_once("\"problem\":\"")
                .map_or(line, |(_, rest)| rest),
        })
        .collect()
}

#[test]
fn a_window_is_one_line_of_json() {
    let mut windows = Windows::NONE;
    assert_eq!(windows.begin(1, ID, after(100)), 1);
    let mut now = after(438);
    for (word, times) in [(DSB_ISHST, 1), (TLBI_VAALE1IS, 4)] {
        now[slot(word).expect("it is counted")] += times;
    }
    assert_eq!(windows.end(1, ID, &now), 0);
    assert_eq!(
        windows.take(),
        "{\"id\":134217732,\"op\":8,\"pages\":4,\"execution\":1,\"vcpu\":1,\"instructions\":338,\
         \"dsb\":{\"ishst\":1},\"dmb\":{},\"tlbi\":{\"vaale1is\":4},\
         \"isb\":33,\"eret\":0,\"exceptions\":0}\n"
    );
    assert_eq!(windows.finish(), "");
}

#[test]
fn windows_nest_and_overlap() {
    let mut windows = Windows::NONE;
    windows.begin(0, 1, after(0));
    assert_eq!(windows.begin(0, 2, after(1)), 2);
    windows.begin(0, 1, after(3));
    // The inner one of two with the same id.
    windows.end(0, 1, &after(10));
    assert_eq!(windows.end(0, 1, &after(20)), 1);
    windows.end(0, 2, &after(31));
    assert_eq!(shown(&windows.finish()), ["7", "20", "30"]);
}

#[test]
fn executions_are_numbered_until_they_are_forgotten() {
    let mut windows = Windows::NONE;
    let once = |windows: &mut Windows| {
        windows.begin(0, ID, after(0));
        windows.end(0, ID, &after(5));
        windows.take()
    };
    assert!(once(&mut windows).contains("\"execution\":1,"));
    assert!(once(&mut windows).contains("\"execution\":2,"));
    windows.begin(0, ID, after(0));
    windows.end(0, ID, &after(5));
    windows.begin(0, ID, after(6));
    windows.forget();
    assert_eq!(windows.take(), "");
    assert!(once(&mut windows).contains("\"execution\":1,"));
    assert_eq!(windows.finish(), "");
}

#[test]
fn a_window_that_ends_elsewhere_or_never_is_a_problem() {
    let mut windows = Windows::NONE;
    windows.begin(0, ID, after(0));
    assert_eq!(windows.end(1, ID, &after(9)), 0);
    assert_eq!(windows.end(0, ID + 1, &after(9)), 1);
    assert_eq!(
        shown(&windows.finish()),
        [
            "window 0x8000004 (op 8, 4 pages) ended here, where it had not begun\",\"vcpu\":1}",
            "window 0x8000005 (op 8, 5 pages) ended here, where it had not begun\",\"vcpu\":0}",
            "window 0x8000004 (op 8, 4 pages) began here and did not end\",\"vcpu\":0}",
        ]
    );
}
