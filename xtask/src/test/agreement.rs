// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's counts against the plugin's, in every window of `mode=counts`: one test for each
//! backend and policy.
//!
//! The two have nothing in common. Inside, instructions are ticks of a timer, and barriers are what the
//! library says that it executes; outside, QEMU looks at each instruction. What surrounds the
//! window's body is the same in the empty window, and is subtracted on both sides.

use super::boots::Bench;
use super::soak::tasks::BACKENDS;
use super::summary::{Failed, Row};
use crate::counts::{self, Cost, Measured};
use crate::glob;
use crate::guest;
use crate::qemu::Plugin;
use crate::windows::{Window, Windows};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

/// Name of the row, and first part of the names of its tests.
pub const ROW: &str = "agreement";
/// `policy=` of the kernel; the CPU `max` has FEAT_ETS2.
const POLICIES: [&str; 2] = ["classic", "ets2"];
/// The window of nothing.
const EMPTY: u64 = 0;
/// From here on are the marks of the scheduler and of the boot, which have no pages.
const FIRST_EVENT: u64 = 130;

/// A boot, by what the kernel is told.
#[derive(Clone, Copy)]
struct Terms {
    backend: &'static str,
    policy: &'static str,
}

impl Terms {
    fn all() -> impl Iterator<Item = Self> {
        BACKENDS
            .into_iter()
            .flat_map(|backend| POLICIES.map(|policy| Self { backend, policy }))
    }

    fn name(self) -> String {
        let backend = self.backend.replace('-', "_");
        format!("{ROW}.{backend}.{}", self.policy)
    }

    fn selected(self, bench: &Bench<'_>) -> bool {
        bench
            .filter
            .is_none_or(|filter| glob::matches(filter, &self.name()))
    }
}

/// Tells whether the filter selects any.
pub fn selected(bench: &Bench<'_>) -> bool {
    Terms::all().any(|terms| terms.selected(bench))
}

/// Boots and compares, one after the other; nothing comes back when the filter selects none.
///
/// # Errors
///
/// When QEMU cannot be started, or a log cannot be written.
pub fn run(bench: &Bench<'_>, plugin: &Plugin) -> Result<Option<Row>> {
    let mut row = Row::new(ROW);
    let start = Instant::now();
    for terms in Terms::all().filter(|terms| terms.selected(bench)) {
        if guest::interrupted() {
            break;
        }
        let scratch = tempfile::Builder::new().prefix("lazymmu-").tempdir()?;
        let out = scratch.path().join("windows");
        let mut log = String::new();
        let told = [("lazy", terms.backend), ("policy", terms.policy)];
        let told = told.map(|(key, value)| format!("{key}={value}"));
        let qemu = plugin.given_to(bench.qemu, &out);
        let measured = counts::measure(bench.workspace, &qemu, bench.artifacts, &told, |line| {
            let _ = writeln!(log, "{line}");
        });
        bench.keep(&terms.name(), &log)?;
        let problems = measured
            .and_then(|measured| Ok(differences(&measured, &Windows::read(&out)?)))
            .unwrap_or_else(|error| format!("{error:#}").lines().map(str::to_owned).collect());
        if problems.is_empty() {
            row.passed += 1;
        } else {
            row.fail(Failed {
                again: format!("again: cargo xtask test --filter '{}'", terms.name()),
                ..Failed::new(&terms.name(), problems)
            });
        }
    }
    row.seconds = start.elapsed().as_secs_f64();
    Ok((row.passed + row.failed > 0).then_some(row))
}

/// One line for each window in which they differ, with what differs: the kernel's count, then the plugin's.
fn differences(inside: &Measured, outside: &Windows) -> Vec<String> {
    let mut problems = outside.problems.clone();
    let mut executions: BTreeMap<(u64, u64), Vec<&Window>> = BTreeMap::new();
    for window in &outside.windows {
        let of_this = executions.entry((window.op, window.pages));
        of_this.or_default().push(window);
    }
    for ((op, pages), cost) in &inside.costs {
        let name = format!("window op={op} pages={pages}");
        let (Some(empty), Some(counted)) = (
            executions.get(&(EMPTY, *pages)),
            executions.get(&((*op).into(), *pages)),
        ) else {
            problems.push(format!(
                "{name}: the plugin has not seen it, or no empty one"
            ));
            continue;
        };
        let numbers = inside_numbers(cost).into_iter();
        let differing: Vec<String> = numbers
            .zip(outside_numbers(counted, empty))
            .filter(|((_, inside), outside)| inside != outside)
            .map(|((what, inside), outside)| format!("{what} {inside} and {outside}"))
            .collect();
        if !differing.is_empty() {
            let differing = differing.join(", ");
            problems.push(format!("{name}: kernel and plugin count {differing}"));
        }
    }
    let said = |(op, pages): (u64, u64)| {
        u8::try_from(op).is_ok_and(|op| inside.costs.contains_key(&(op, pages)))
    };
    let unknown = executions
        .keys()
        .filter(|(op, pages)| *op != EMPTY && *op < FIRST_EVENT && !said((*op, *pages)));
    problems.extend(unknown.map(|(op, pages)| {
        format!("window op={op} pages={pages}: the kernel does not say what it has counted")
    }));
    problems
}

/// What the kernel says of a window.
fn inside_numbers(cost: &Cost) -> [(&'static str, u64); 5] {
    [
        ("instructions", cost.instructions),
        ("spread", cost.spread),
        ("DSB", cost.dsb),
        ("ISB", cost.isb),
        ("TLBI", cost.tlbi),
    ]
}

/// The same of the executions that the plugin has seen: the first of the cheapest, as the kernel takes it.
fn outside_numbers(counted: &[&Window], empty: &[&Window]) -> [u64; 5] {
    let instructions = |windows: &[&Window]| {
        let all = || windows.iter().map(|window| window.instructions);
        (all().min().unwrap_or(0), all().max().unwrap_or(0))
    };
    let ((least, most), (nothing, _)) = (instructions(counted), instructions(empty));
    let best = counted.iter().find(|window| window.instructions == least);
    let of = |count: fn(&Window) -> u64| best.map_or(0, |window| count(window));
    [
        least.saturating_sub(nothing),
        most - least,
        of(Window::all_dsb),
        of(|window| window.isb),
        of(Window::all_tlbi),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
counts backend=eager policy=classic
count op=8 pages=4 instructions=90 spread=2 ptes=4 dsb=4 isb=4 tlbi=0
";

    fn window(op: u64, instructions: u64, dsb: u64) -> Window {
        let dsb = [
            ("ish".to_owned(), dsb / 2),
            ("ishst".to_owned(), dsb - dsb / 2),
        ];
        Window {
            op,
            pages: 4,
            instructions,
            isb: 4,
            dsb: dsb.into(),
            ..Window::default()
        }
    }

    fn compared(windows: &[Window]) -> Vec<String> {
        let outside = Windows {
            windows: windows.to_vec(),
            problems: Vec::new(),
        };
        differences(&Measured::parse(SAID).unwrap(), &outside)
    }

    #[test]
    fn the_cheapest_execution_without_the_empty_window_is_compared() {
        let agreeing = [window(0, 10, 0), window(8, 102, 6), window(8, 100, 4)];
        assert_eq!(compared(&agreeing), [""; 0]);
    }

    #[test]
    fn a_difference_names_the_window_and_both_counts() {
        let more = [window(0, 10, 0), window(8, 103, 4), window(8, 100, 5)];
        assert_eq!(
            compared(&more),
            ["window op=8 pages=4: kernel and plugin count spread 2 and 3, DSB 4 and 5"]
        );
    }

    #[test]
    fn a_window_that_only_one_has_seen_is_a_difference() {
        let missing = "window op=8 pages=4: the plugin has not seen it, or no empty one";
        assert_eq!(compared(&[]), [missing]);
        assert_eq!(compared(&[window(8, 90, 4)]), [missing]);
        let more = [
            window(0, 0, 0),
            window(8, 90, 4),
            window(8, 92, 4),
            window(9, 1, 0),
        ];
        let unsaid = "window op=9 pages=4: the kernel does not say what it has counted";
        assert_eq!(compared(&more), [unsaid]);
    }
}
