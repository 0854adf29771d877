// SPDX-License-Identifier: MIT OR Apache-2.0

//! The plugin's windows, many executions each, as costs.

use super::costs::{Cost, Costs};
use super::subjects::{EMPTY, Group, LINEAR_MAP, SURROUNDINGS, Subject};
use super::windows::{Window, Windows};
use std::collections::BTreeMap;

/// What the subjects cost, and what is wrong with the windows.
pub fn costs(windows: &Windows) -> (Costs, Vec<String>) {
    let mut problems = windows.problems.clone();
    let mut by_id: BTreeMap<(u8, u64), Vec<&Window>> = BTreeMap::new();
    for window in &windows.windows {
        let at = format!("window op={} pages={}", window.op, window.pages);
        let known = u8::try_from(window.op)
            .ok()
            .filter(|op| Subject::of(*op).is_some() || SURROUNDINGS.contains(op));
        let Some(op) = known else {
            problems.push(format!(
                "{at}: it is not known what it measures; describe it in xtask/src/measure/subjects.rs"
            ));
            continue;
        };
        if op == LINEAR_MAP || Subject::of(op).is_some_and(|it| it.group == Group::Operation) {
            problems.extend(window.strange().iter().map(|what| {
                format!("{at}: the plugin has seen {what}, which is not the library's")
            }));
        }
        by_id.entry((op, window.pages)).or_default().push(window);
    }
    let mut costs = Costs::default();
    for ((op, pages), executions) in &by_id {
        let Some(subject) = Subject::of(*op) else {
            continue;
        };
        // Surroundings have the same number of pages; those of events have none, as events have none.
        let surrounding = subject.around.map(|around| by_id.get(&(around, *pages)));
        let subtracted = match surrounding {
            None => Some(0),
            Some(surrounding) => surrounding.map(|executions| least(executions)),
        };
        match subtracted {
            Some(subtracted) => {
                costs
                    .0
                    .insert((*op, *pages), cost(subject.group, executions, subtracted));
            }
            None => problems.push(format!(
                "window op={op} pages={pages}: the plugin has not seen {}",
                match subject.around {
                    Some(EMPTY) => "an empty one",
                    _ => "what surrounds it",
                }
            )),
        }
    }
    (costs, problems)
}

fn least(executions: &[&Window]) -> u64 {
    let instructions = executions.iter().map(|window| window.instructions);
    instructions.min().unwrap_or(0)
}

/// The first of the cheapest executions, as the kernel takes it, without the instructions of its surroundings.
fn cost(group: Group, executions: &[&Window], subtracted: u64) -> Cost {
    let least = least(executions);
    let most = executions.iter().map(|window| window.instructions).max();
    let spread = match group {
        Group::Operation => most.unwrap_or(least) - least,
        // The first turns are a task's first steps, so how much dearer one was says nothing.
        _ => 0,
    };
    let best = executions
        .iter()
        .find(|window| window.instructions == least);
    let of = |count: fn(&Window) -> u64| best.map_or(0, |window| count(window));
    Cost {
        instructions: least.saturating_sub(subtracted),
        spread,
        dsb: of(Window::all_dsb),
        isb: of(|window| window.isb),
        tlbi: of(Window::all_tlbi),
        ish: of(Window::dsb_ish),
        dmb: of(Window::all_dmb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(op: u64, pages: u64, instructions: u64, dsb: u64) -> Window {
        Window {
            op,
            pages,
            instructions,
            isb: 4,
            dsb: [
                ("ish".to_owned(), dsb / 2),
                ("ishst".to_owned(), dsb - dsb / 2),
            ]
            .into(),
            ..Window::default()
        }
    }

    fn of(windows: &[Window], problems: &[&str]) -> (Costs, Vec<String>) {
        costs(&Windows {
            windows: windows.to_vec(),
            problems: problems.iter().map(|what| (*what).to_owned()).collect(),
        })
    }

    #[test]
    fn the_cheapest_execution_without_the_empty_window_is_taken() {
        let (costs, problems) = of(
            &[
                window(0, 4, 12, 0),
                window(0, 4, 10, 0),
                window(8, 4, 102, 6),
                window(8, 4, 100, 5),
            ],
            &[],
        );
        assert_eq!(problems, [""; 0]);
        let cost = costs.0[&(8, 4)];
        assert_eq!(
            (cost.instructions, cost.spread, cost.dsb, cost.isb, cost.ish),
            (90, 2, 5, 4, 2)
        );
        assert_eq!(costs.0.len(), 1);
    }

    #[test]
    fn an_event_is_without_what_surrounds_it() {
        let (costs, problems) = of(
            &[
                window(0, 0, 8, 0),
                window(130, 0, 31, 0),
                window(130, 0, 99, 0),
                window(133, 0, 4247, 0),
                window(137, 0, 4009, 0),
                window(135, 0, 290, 1),
                window(140, 0, 29_934, 5),
            ],
            &[],
        );
        assert_eq!(problems, [""; 0]);
        let cost = |op| {
            costs
                .0
                .get(&(op, 0))
                .map(|cost| (cost.instructions, cost.spread))
        };
        assert_eq!(
            [130, 133, 135, 140].map(cost),
            [23, 238, 290, 29_934].map(|instructions| Some((instructions, 0)))
        );
    }

    #[test]
    fn what_is_missing_strange_or_unknown_is_told() {
        let mut strange = window(141, 8, 9, 0);
        strange.dmb.insert("sy".to_owned(), 1);
        let (_, problems) = of(
            &[
                window(8, 4, 90, 4),
                window(133, 0, 5, 0),
                window(99, 1, 1, 0),
                strange,
            ],
            &["window 0x8000001 (op 8, 1 pages) began here and did not end"],
        );
        assert_eq!(
            problems,
            [
                "window 0x8000001 (op 8, 1 pages) began here and did not end",
                "window op=99 pages=1: it is not known what it measures; describe it in \
                 xtask/src/measure/subjects.rs",
                "window op=141 pages=8: the plugin has seen dmb sy, which is not the library's",
                "window op=8 pages=4: the plugin has not seen an empty one",
                "window op=133 pages=0: the plugin has not seen what surrounds it",
            ]
        );
    }
}
