// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::measure::costs::Cost;
use crate::measure::results::tests::{cost, results, retain};

const CHANGED: [&str; 3] = ["max", "ets2", "multicall"];

const SIZES: [u64; 4] = [1, 512, 4096, 65_536];

fn changed(name: &str, pages: u64, change: impl Fn(&mut Cost)) -> Results {
    let mut results = results(&SIZES);
    change(cost(&mut results, CHANGED, name, pages));
    results
}

#[test]
fn nothing_is_claimed_of_what_was_not_measured() {
    let mut some = results(&SIZES);
    retain(&mut some, |terms| {
        terms.backend == NO_SECTION && terms.policy != ETS2
    });
    assert!(sections(&some).is_none());
    let mut some = results(&SIZES);
    retain(&mut some, |terms| terms.policy != ETS2);
    assert!(!sections(&some).unwrap().claim.contains("ets2"));
    for costs in some.measured.values_mut() {
        costs.0.retain(|(op, _), _| *op != 128);
    }
    assert!(sections(&some).unwrap().against[0].ends_with("was not measured"));
}

#[test]
fn results_that_are_as_they_should_be_hold() {
    let results = results(&SIZES);
    for statement in [
        repeats(&results, &results),
        sections(&results).unwrap(),
        flat(&results).unwrap(),
        agree(&results, 4096, Vec::new()),
    ] {
        assert!(statement.holds(), "{statement:?}");
        assert_eq!(statement.notes, [""; 0]);
    }
    assert!(
        sections(&results)
            .unwrap()
            .claim
            .contains("1 to 65536 pages")
    );
    assert!(flat(&results).unwrap().claim.contains("up to 65536 pages"));
    assert_eq!(flat(&self::results(&[512, 4096])), None);
}

#[test]
fn a_count_that_differs_in_the_second_round_is_named() {
    let mut other = changed("map_scattered", 512, |cost| cost.spread = 1);
    // With the host's clock it may.
    cost(&mut other, ["max", "", ""], "wake", 0).dsb = 9;
    assert_eq!(
        repeats(&results(&SIZES), &other).against,
        ["max, ets2, multicall: map_scattered pages=512: spread 0 -> 1"]
    );
}

#[test]
fn a_count_that_is_worse_than_the_baseline_is_named() {
    let worse = changed("unmap", 512, |cost| cost.tlbi = 1);
    assert!(not_worse(&worse, &results(&SIZES)).holds());
    assert_eq!(
        not_worse(&results(&SIZES), &worse).against,
        ["max, ets2, multicall: unmap: pages=512: 1 TLBI, the baseline has 0"]
    );
}

#[test]
fn a_barrier_in_a_section_is_named() {
    let statement = sections(&changed("map_each_in_a_section", 4096, |cost| cost.isb = 1)).unwrap();
    assert_eq!(
        statement.against,
        ["max, ets2, multicall: map_each_in_a_section pages=4096: 0 DSB, 1 ISB, 0 TLBI"]
    );
    assert!(
        sections(&changed("protect_read_only", 4096, |cost| cost.isb = 1))
            .unwrap()
            .holds(),
        "no section"
    );
}

#[test]
fn a_page_that_costs_more_in_a_large_window_is_named() {
    // 10 instructions a page, and half of one more.
    let dearer = flat(&changed("unmap", 65_536, |cost| {
        cost.instructions += 61_440 / 2 + 61_440 / 100
    }))
    .unwrap();
    assert_eq!(
        dearer.against,
        [
            "max, ets2, multicall: unmap up to pages=65536: 10.5 instead of 10.0 instructions per page (+5.1 %)"
        ]
    );
    assert!(
        flat(&changed("unmap", 65_536, |cost| cost.instructions += 61_440 / 2 - 1))
            .unwrap()
            .holds()
    );
    let range = dearer.claim.split_once("found: ").unwrap().1;
    assert_eq!(range, "from +0.0 % to +5.1 %");
    let cheaper = flat(&changed("unmap", 65_536, |cost| {
        cost.instructions -= 61_440
    }))
    .unwrap();
    assert!(cheaper.holds());
    let range = cheaper.claim.split_once("found: ").unwrap().1;
    assert_eq!(range, "from -10.0 % to +0.0 %");
    assert_eq!(cheaper.notes.len(), 1);
}

#[test]
fn a_page_costs_the_same_either_way_among_large_windows() {
    let sizes = [1, 512, 4096, 65_536, 1_048_576];
    let changed = |by: i64| {
        let mut results = results(&sizes);
        let cost = cost(&mut results, CHANGED, "unmap", 1_048_576);
        cost.instructions = cost.instructions.wrapping_add_signed(by);
        flat(&results).expect("there are several sizes")
    };
    let more = 1_048_576 - 65_536;
    let good = changed(0);
    assert!(good.holds());
    let said = "; from 4096 on within 5 % either way, found: from +0.0 % to +0.0 %";
    assert!(good.claim.ends_with(said), "{}", good.claim);
    for (by, percent) in [(-more, "-10.0 %"), (more, "+10.0 %")] {
        let bad = changed(by);
        let last = bad.against.last().expect("it contradicts");
        assert!(last.ends_with(&format!("({percent})")), "{last}");
    }
    // Downwards to the first difference is no contradiction, and is told.
    assert_eq!(
        (changed(-more).against.len(), changed(-more).notes.len()),
        (1, 1)
    );
    let little = flat(&results(&[1, 512, 4096, 65_536])).expect("there are several sizes");
    assert!(!little.claim.contains("either way"), "{}", little.claim);
}
