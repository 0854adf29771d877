// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whether anything got worse than the committed report says.

use super::events::{EVENTS, Event};
use super::lines::Measured;
use super::operations::{OPERATIONS, Standing};

/// Percent that a count of instructions may grow: an edit elsewhere may move the compiler's choices.
pub const TOLERANCE: u64 = 2;

const NOT_MEASURED: &str = "in the report, and not measured";
const NOT_REPORTED: &str = "measured, and not in the report";

/// Something that got worse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The name of the operation or event.
    pub subject: &'static str,
    /// What is worse.
    pub what: String,
}

/// Everything that got worse from `committed` to `measured`.
pub fn problems(committed: &Measured, measured: &Measured) -> Vec<Problem> {
    let operations = OPERATIONS.iter().map(|operation| {
        let standing = |of| operation.standing(of);
        let windows: Vec<String> = worse_windows(operation.op, committed, measured).collect();
        (
            operation.name,
            windows,
            standing(committed),
            standing(measured),
        )
    });
    let events = EVENTS.iter().map(|event| {
        let standing = |of| event.standing(of);
        let costs = worse_event(event, committed, measured);
        (event.name, costs, standing(committed), standing(measured))
    });
    let mut problems = Vec::new();
    for (subject, found, before, now) in operations.chain(events) {
        let mut add = |what| problems.push(Problem { subject, what });
        if committed.terms != measured.terms {
            add(format!(
                "measured with {}, reported with {}",
                measured.terms, committed.terms
            ));
        }
        found.into_iter().for_each(&mut add);
        if before == Standing::Met && now == Standing::Missed {
            add("the target that the report calls met is missed".to_owned());
        }
    }
    problems
}

/// Everything that got worse in the windows with the number `op`.
pub fn worse_windows(
    op: u8,
    committed: &Measured,
    measured: &Measured,
) -> impl Iterator<Item = String> {
    let gone = committed
        .of(op)
        .filter(move |(pages, _)| !measured.costs.contains_key(&(op, *pages)))
        .map(|(pages, _)| format!("pages={pages}: {NOT_MEASURED}"));
    let worse = measured.of(op).flat_map(move |(pages, now)| {
        let found = match committed.costs.get(&(op, pages)) {
            Some(before) => worse(&[
                ("instructions", before.instructions, now.instructions),
                ("DSB", before.dsb, now.dsb),
                ("ISB", before.isb, now.isb),
                ("TLBI", before.tlbi, now.tlbi),
                ("DSB ISH", before.ish, now.ish),
                ("DMB", before.dmb, now.dmb),
            ]),
            None => vec![NOT_REPORTED.to_owned()],
        };
        found
            .into_iter()
            .map(move |what| format!("pages={pages}: {what}"))
    });
    gone.chain(worse)
}

/// Everything that got worse in `event`.
pub fn worse_event(event: &Event, committed: &Measured, measured: &Measured) -> Vec<String> {
    let [before, now] = [committed, measured].map(|side| side.events.get(event.name));
    match (before, now) {
        (None, None) => vec!["neither in the report nor measured".to_owned()],
        (Some(_), None) => vec![NOT_MEASURED.to_owned()],
        (None, Some(_)) => vec![NOT_REPORTED.to_owned()],
        (Some(before), Some(now)) => worse(&[
            ("instructions", before.instructions, now.instructions),
            ("DSB", before.dsb, now.dsb),
            ("ISB", before.isb, now.isb),
        ]),
    }
}

/// Which of these, a unit with its count before and now, are worse.
fn worse(counts: &[(&str, u64, u64)]) -> Vec<String> {
    counts
        .iter()
        .filter(|(unit, before, now)| match *unit {
            "instructions" => now * 100 > before * (100 + TOLERANCE),
            _ => now > before,
        })
        .map(|(unit, before, now)| format!("{now} {unit}, the report has {before}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
counts backend=defer-barriers policy=classic
count op=8 pages=512 instructions=10000 spread=0 ptes=512 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
count op=8 pages=4096 instructions=24336 spread=0 ptes=4096 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
count op=15 pages=1 instructions=300 spread=0 ptes=1 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
event name=switch instructions=150 spread=0 dsb=1 isb=0
event name=schedule instructions=190 spread=0 dsb=1 isb=0
event name=yield instructions=200 spread=0 dsb=1 isb=0
event name=tick instructions=200 spread=0 dsb=0 isb=0
event name=switch_out instructions=10 spread=0 dsb=1 isb=0
";

    /// What is said of what `REPORT` has when `from` in it has become `to`.
    fn said(from: &str, to: &str) -> Vec<String> {
        let committed = Measured::parse(REPORT).unwrap();
        let measured = Measured::parse(&REPORT.replace(from, to)).unwrap();
        problems(&committed, &measured)
            .into_iter()
            .filter(|problem| {
                let subject = problem.subject;
                ["map_scattered", "map_each"].contains(&subject)
                    || EVENTS.iter().any(|event| event.name == subject)
            })
            .map(|problem| problem.what)
            .collect()
    }

    #[test]
    fn the_same_and_less_and_two_percent_are_no_problem() {
        for to in ["300", "100", "306"] {
            assert!(said("=300", &format!("={to}")).is_empty(), "{to}");
        }
        assert_eq!(
            said("=300", "=307"),
            ["pages=1: 307 instructions, the report has 300"]
        );
    }

    #[test]
    fn one_barrier_more_is() {
        for (unit, name, before) in [("dsb", "DSB", 1), ("isb", "ISB", 1), ("tlbi", "TLBI", 0)] {
            let from = "pages=1 instructions=300 spread=0 ptes=1 dsb=1 isb=1 tlbi=0";
            let to = from.replace(
                &format!("{unit}={before}"),
                &format!("{unit}={}", before + 1),
            );
            assert_eq!(
                said(from, &to),
                [format!(
                    "pages=1: {} {name}, the report has {before}",
                    before + 1
                )]
            );
        }
    }

    #[test]
    fn so_is_a_target_that_was_met() {
        // One instruction more than 4 for each of 3584 pages, far below 2 %.
        assert_eq!(
            said("=24336", "=24337"),
            ["the target that the report calls met is missed"]
        );
    }

    #[test]
    fn so_is_a_window_on_one_side_only() {
        let gone = REPORT.lines().find(|line| line.contains("op=15")).unwrap();
        assert_eq!(said(gone, ""), ["pages=1: in the report, and not measured"]);
        let more = format!(
            "{gone}\n{}",
            gone.replace("=1 ", "=16 ")
                .replace("=16 isb=16", "=1 isb=1")
        );
        assert_eq!(
            said(gone, &more),
            ["pages=16: measured, and not in the report"]
        );
    }

    #[test]
    fn so_are_other_terms() {
        let told = "measured with backend=defer-barriers policy=ets2, reported with \
                    backend=defer-barriers policy=classic";
        assert_eq!(said("classic", "ets2"), [told; 2 + EVENTS.len()]);
    }

    #[test]
    fn events_are_compared_like_operations() {
        let switch = "switch instructions=150 spread=0 dsb=1 isb=0";
        let missed = "the target that the report calls met is missed";
        assert!(said("yield instructions=200", "yield instructions=204").is_empty());
        assert_eq!(
            said("yield instructions=200", "yield instructions=205"),
            ["205 instructions, the report has 200"]
        );
        assert_eq!(
            said(switch, &switch.replace("150", "151")),
            [missed],
            "below 2 %"
        );
        assert_eq!(
            said(switch, &switch.replace("dsb=1 isb=0", "dsb=2 isb=1")),
            ["2 DSB, the report has 1", "1 ISB, the report has 0"]
        );
        let line = format!("event name={switch}\n");
        assert_eq!(said(&line, ""), [NOT_MEASURED, missed]);
    }

    #[test]
    fn an_event_on_one_side_only_is_a_problem() {
        let line = "event name=switch_out instructions=10 spread=0 dsb=1 isb=0\n";
        let with = Measured::parse(REPORT).unwrap();
        let without = Measured::parse(&REPORT.replace(line, "")).unwrap();
        let said = |committed, measured| -> Vec<String> {
            problems(committed, measured)
                .into_iter()
                .filter(|problem| problem.subject == "switch_out")
                .map(|problem| problem.what)
                .collect()
        };
        assert_eq!(said(&with, &without), [NOT_MEASURED]);
        assert_eq!(said(&without, &with), [NOT_REPORTED]);
        assert_eq!(
            said(&without, &without),
            ["neither in the report nor measured"]
        );
        assert!(said(&with, &with).is_empty());
    }
}
