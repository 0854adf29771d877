// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whether anything got worse than the committed report says.

use super::lines::{Cost, Measured};
use super::operations::{OPERATIONS, Operation, Standing};

/// Percent that a count of instructions may grow: an edit elsewhere may move the compiler's choices.
pub const TOLERANCE: u64 = 2;

/// Something that got worse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The operation's name; empty if it concerns all of them.
    pub operation: &'static str,
    /// What is worse.
    pub what: String,
}

/// Everything that got worse from `committed` to `measured`.
pub fn problems(committed: &Measured, measured: &Measured) -> Vec<Problem> {
    let mut problems = Vec::new();
    for operation in &OPERATIONS {
        let mut add = |what| {
            problems.push(Problem {
                operation: operation.name,
                what,
            });
        };
        if committed.terms != measured.terms {
            add(format!(
                "measured with {}, reported with {}",
                measured.terms, committed.terms
            ));
        }
        windows(operation, committed, measured).for_each(&mut add);
        if operation.standing(committed) == Standing::Met
            && operation.standing(measured) == Standing::Missed
        {
            add("the target that the report calls met is missed".to_owned());
        }
    }
    problems
}

fn windows(
    operation: &Operation,
    committed: &Measured,
    measured: &Measured,
) -> impl Iterator<Item = String> {
    let op = operation.op;
    let gone = committed
        .of(op)
        .filter(move |(pages, _)| !measured.costs.contains_key(&(op, *pages)))
        .map(|(pages, _)| format!("pages={pages}: in the report, and not measured"));
    let worse = measured.of(op).flat_map(move |(pages, now)| {
        let found = match committed.costs.get(&(op, pages)) {
            Some(before) => worse(before, now),
            None => vec!["measured, and not in the report".to_owned()],
        };
        found
            .into_iter()
            .map(move |what| format!("pages={pages}: {what}"))
    });
    gone.chain(worse)
}

fn worse(before: &Cost, now: &Cost) -> Vec<String> {
    let instructions = now.instructions * 100 > before.instructions * (100 + TOLERANCE);
    let pairs = [
        (
            "instructions",
            instructions,
            before.instructions,
            now.instructions,
        ),
        ("DSB", now.dsb > before.dsb, before.dsb, now.dsb),
        ("ISB", now.isb > before.isb, before.isb, now.isb),
        ("TLBI", now.tlbi > before.tlbi, before.tlbi, now.tlbi),
    ];
    pairs
        .into_iter()
        .filter(|(_, is_worse, _, _)| *is_worse)
        .map(|(unit, _, before, now)| format!("{now} {unit}, the report has {before}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
counts backend=defer-barriers policy=classic
count op=8 pages=512 instructions=10000 spread=0 ptes=512 dsb=1 isb=1 tlbi=0
count op=8 pages=4096 instructions=24336 spread=0 ptes=4096 dsb=1 isb=1 tlbi=0
count op=15 pages=1 instructions=300 spread=0 ptes=1 dsb=1 isb=1 tlbi=0
";

    /// What is said when `from` in the report has become `to`.
    fn said(from: &str, to: &str) -> Vec<String> {
        let committed = Measured::parse(REPORT).unwrap();
        let measured = Measured::parse(&REPORT.replace(from, to)).unwrap();
        problems(&committed, &measured)
            .into_iter()
            .filter(|problem| {
                problem.operation == "map_scattered" || problem.operation == "map_each"
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
        let gone = REPORT.lines().last().unwrap();
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
        assert_eq!(said("classic", "ets2"), [told, told]);
    }
}
