// SPDX-License-Identifier: MIT OR Apache-2.0

use super::super::boots::Terms;
use super::super::results::tests::{cost, results};
use super::*;

const TERMS: [&str; 3] = ["cortex-a72", "classic", "multicall"];
const BOOT: [&str; 3] = ["max", "", ""];

fn worse_than_before(of: [&str; 3], change: impl FnOnce(&mut Results)) -> Vec<String> {
    let committed = results(&[512, 4096]);
    let mut measured = committed.clone();
    change(&mut measured);
    let [cpu, policy, backend] = of;
    let measurement = match of {
        BOOT => Measurement::boot(cpu),
        _ => Measurement::Windows(Terms::new(cpu, policy, backend)),
    };
    worse(&committed, &measurement, &measured.measured[&measurement])
}

#[test]
fn the_same_and_less_are_not_worse() {
    for of in [TERMS, BOOT] {
        assert_eq!(worse_than_before(of, |_| {}), [""; 0]);
    }
    let less = worse_than_before(TERMS, |results| {
        cost(results, TERMS, "map_scattered", 512).dsb = 0;
    });
    assert_eq!(less, [""; 0]);
}

#[test]
fn more_is() {
    let barrier = worse_than_before(TERMS, |results| {
        cost(results, TERMS, "map_scattered", 512).dsb = 2;
    });
    assert_eq!(
        barrier,
        ["map_scattered: pages=512: 2 DSB, the baseline has 1"]
    );
    let event = worse_than_before(TERMS, |results| {
        cost(results, TERMS, "yield", 0).instructions = 1000;
    });
    assert_eq!(event[0], "yield: 1000 instructions, the baseline has 132");
    let boot = worse_than_before(BOOT, |results| {
        cost(results, BOOT, "to_self_test", 0).dmb = 1;
        cost(results, BOOT, "woken", 0).isb = 1;
    });
    assert_eq!(
        boot,
        [
            "to_self_test: pages=0: 1 DMB, the baseline has 0",
            "woken: 1 ISB, the baseline has 0"
        ]
    );
}

#[test]
fn the_linear_map_may_grow_by_two_percent() {
    let linear = |instructions| {
        worse_than_before(BOOT, |results| {
            cost(results, BOOT, "linear_map", 262_144).instructions = instructions;
        })
    };
    assert_eq!(linear(143_820), [""; 0]);
    assert_eq!(
        linear(143_821),
        ["linear_map: pages=262144: 143821 instructions, the baseline has 141000"]
    );
}

#[test]
fn what_is_on_one_side_only_is_worse() {
    let boot = Measurement::boot("max");
    let committed = results(&[512]);
    let nothing = worse(&committed, &boot, &Costs::default());
    assert_eq!(nothing.len(), boot.subjects().count());
    let unknown = worse(&Results::default(), &boot, &Costs::default());
    assert!(unknown[0].contains("has no `max, boot`"), "{unknown:?}");
}

#[test]
fn the_committed_file_is_as_this_xtask_writes_it() {
    let workspace = Workspace::find();
    let text = fs::read_to_string(workspace.root().join(FILE)).unwrap();
    let read = read(&workspace).unwrap();
    assert_eq!(read.to_json().unwrap(), text);
    for measurement in Measurement::all() {
        let costs = &read.measured[&measurement];
        for subject in measurement.subjects() {
            let name = subject.name;
            assert!(
                costs.of(subject.op).next().is_some(),
                "{measurement}: {name}"
            );
        }
    }
}

const MISSED: &str = "the target that the baseline meets is missed";

fn of(instructions: u64) -> Cost {
    Cost {
        instructions,
        dsb: 1,
        isb: 1,
        ..Cost::default()
    }
}

/// What is said of a subject's windows, by pages.
fn said(name: &str, committed: &[(u64, Cost)], measured: &[(u64, Cost)]) -> Vec<String> {
    let subject = Subject::named(name).unwrap();
    let [committed, measured] = [committed, measured].map(|side| {
        let windows = side.iter();
        Costs(
            windows
                .map(|(pages, cost)| ((subject.op, *pages), *cost))
                .collect(),
        )
    });
    worse_subject(subject, &committed, &measured)
}

#[test]
fn the_same_and_less_and_two_percent_are_no_problem() {
    let against = |now| said("map_each", &[(1, of(300))], &[(1, of(now))]);
    for count in [300, 100, 306] {
        assert_eq!(against(count), [""; 0], "{count}");
    }
    assert_eq!(
        against(307),
        ["pages=1: 307 instructions, the baseline has 300"]
    );
}

#[test]
fn one_barrier_more_is() {
    type Count = fn(&mut Cost) -> &mut u64;
    let counts: [(&str, Count); 5] = [
        ("DSB", |cost| &mut cost.dsb),
        ("ISB", |cost| &mut cost.isb),
        ("TLBI", |cost| &mut cost.tlbi),
        ("DSB ISH", |cost| &mut cost.ish),
        ("DMB", |cost| &mut cost.dmb),
    ];
    for (name, count) in counts {
        let mut now = of(300);
        let before = *count(&mut now);
        *count(&mut now) += 1;
        assert_eq!(
            said("map_each", &[(1, of(300))], &[(1, now)]),
            [format!(
                "pages=1: {} {name}, the baseline has {before}",
                before + 1
            )]
        );
        let fewer = said("map_each", &[(1, now)], &[(1, of(300))]);
        assert_eq!(fewer, [""; 0]);
    }
    let dearer = Cost {
        spread: 9,
        ..of(300)
    };
    let repetitions = said("map_each", &[(1, of(300))], &[(1, dearer)]);
    assert_eq!(repetitions, [""; 0]);
}

#[test]
fn so_is_a_target_that_was_met() {
    // One instruction more than 4 for each of 3584 pages, far below 2 %.
    let windows = |most| [(512, of(10_000)), (4096, of(most))];
    let now = windows(24_337);
    assert_eq!(said("map_scattered", &windows(24_336), &now), [MISSED]);
    assert_eq!(said("map_scattered", &now, &now), [""; 0]);
}

#[test]
fn so_is_a_window_on_one_side_only() {
    let (one, two) = ([(1, of(300))], [(1, of(300)), (16, of(400))]);
    assert_eq!(
        said("map_each", &two, &one),
        ["pages=16: in the baseline, and not measured"]
    );
    assert_eq!(
        said("map_each", &one, &two),
        ["pages=16: measured, and not in the baseline"]
    );
    assert_eq!(
        said("map_each", &[], &[]),
        ["neither in the baseline nor measured"]
    );
}

#[test]
fn events_are_compared_like_operations() {
    let against = |name, before, now| said(name, &[(0, of(before))], &[(0, of(now))]);
    assert_eq!(against("yield", 200, 204), [""; 0]);
    assert_eq!(
        against("yield", 200, 205),
        ["205 instructions, the baseline has 200"]
    );
    assert_eq!(against("switch", 150, 151), [MISSED], "below 2 %");
    let gone = said("switch", &[(0, of(150))], &[]);
    assert_eq!(gone, ["in the baseline, and not measured", MISSED]);
}
