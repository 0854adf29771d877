// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whether a subject got worse than the baseline says.

use super::costs::{Cost, Costs};
use super::subjects::{Group, Standing, Subject};
use std::collections::BTreeSet;

/// Percent that a count of instructions may grow: an edit elsewhere may move the compiler's choices.
pub const TOLERANCE: u64 = 2;

/// Everything in which `subject` got worse from `committed` to `measured`: [`TOLERANCE`] percent more instructions, one
/// barrier or TLBI more, a target that was met and is missed, or a window that only one side has.
pub fn worse(subject: &Subject, committed: &Costs, measured: &Costs) -> Vec<String> {
    let windows = committed.of(subject.op).chain(measured.of(subject.op));
    let sizes: BTreeSet<u64> = windows.map(|(pages, _)| pages).collect();
    let mut found = Vec::new();
    if sizes.is_empty() {
        found.push("neither in the baseline nor measured".to_owned());
    }
    for pages in sizes {
        let [before, now] = [committed, measured].map(|side| side.get(subject.op, pages));
        let what = match (before, now) {
            (Some(before), Some(now)) => more(before, now),
            (Some(_), None) => vec!["in the baseline, and not measured".to_owned()],
            (None, _) => vec!["measured, and not in the baseline".to_owned()],
        };
        found.extend(what.into_iter().map(|what| match subject.group {
            Group::Operation | Group::Boot => format!("pages={pages}: {what}"),
            Group::Scheduler | Group::WakeUp => what,
        }));
    }
    let standing = [committed, measured].map(|side| subject.standing(side));
    if standing == [Standing::Met, Standing::Missed] {
        found.push("the target that the baseline meets is missed".to_owned());
    }
    found
}

/// Which counts are worse.
fn more(before: &Cost, now: &Cost) -> Vec<String> {
    let both = before.counts().into_iter().zip(now.counts());
    both.filter(|((name, before), (_, now))| match *name {
        "instructions" => now * 100 > before * (100 + TOLERANCE),
        "spread" => false,
        _ => now > before,
    })
    .map(|((name, before), (_, now))| format!("{now} {name}, the baseline has {before}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSED: &str = "the target that the baseline meets is missed";

    fn cost(instructions: u64) -> Cost {
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
        worse(subject, &committed, &measured)
    }

    #[test]
    fn the_same_and_less_and_two_percent_are_no_problem() {
        let against = |now| said("map_each", &[(1, cost(300))], &[(1, cost(now))]);
        for now in [300, 100, 306] {
            assert_eq!(against(now), [""; 0], "{now}");
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
            let mut now = cost(300);
            let before = *count(&mut now);
            *count(&mut now) += 1;
            assert_eq!(
                said("map_each", &[(1, cost(300))], &[(1, now)]),
                [format!(
                    "pages=1: {} {name}, the baseline has {before}",
                    before + 1
                )]
            );
            let fewer = said("map_each", &[(1, now)], &[(1, cost(300))]);
            assert_eq!(fewer, [""; 0]);
        }
        let dearer = Cost {
            spread: 9,
            ..cost(300)
        };
        let repetitions = said("map_each", &[(1, cost(300))], &[(1, dearer)]);
        assert_eq!(repetitions, [""; 0]);
    }

    #[test]
    fn so_is_a_target_that_was_met() {
        // One instruction more than 4 for each of 3584 pages, far below 2 %.
        let windows = |most| [(512, cost(10_000)), (4096, cost(most))];
        let now = windows(24_337);
        assert_eq!(said("map_scattered", &windows(24_336), &now), [MISSED]);
        assert_eq!(said("map_scattered", &now, &now), [""; 0]);
    }

    #[test]
    fn so_is_a_window_on_one_side_only() {
        let (one, two) = ([(1, cost(300))], [(1, cost(300)), (16, cost(400))]);
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
        let against = |name, before, now| said(name, &[(0, cost(before))], &[(0, cost(now))]);
        assert_eq!(against("yield", 200, 204), [""; 0]);
        assert_eq!(
            against("yield", 200, 205),
            ["205 instructions, the baseline has 200"]
        );
        assert_eq!(against("switch", 150, 151), [MISSED], "below 2 %");
        let gone = said("switch", &[(0, cost(150))], &[]);
        assert_eq!(gone, ["in the baseline, and not measured", MISSED]);
    }
}
