// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the self-tests count, against the plugin: one test for each boot.
//!
//! A self-test that counts barriers states how many the contract asks for, and fails if the
//! kernel's counters say anything else (kernel/src/selftest/suites/fixture.rs). Here a third number
//! is added: what QEMU has seen. So the three agree for each of these windows: contract, counters,
//! machine.

use crate::ktap::Parser;
use crate::measure::boots::BACKENDS;
use crate::measure::windows::{Window, Windows};
use crate::qemu::machine::Clock;
use crate::qemu::{Boot, Machine, Plugin};
use crate::scratch;
use crate::test::boots::Bench;
use crate::test::summary::Row;
use anyhow::Result;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// Name of the row, and first part of the names of its tests.
pub const ROW: &str = "agreement-selftests";
/// Number of the self-tests' windows.
const OP: u64 = 200;
/// What counts barriers, as boot arguments. Of the suite `sched-lazy` the tests that count: another
/// one takes many seconds.
const SUITES: [&str; 5] = [
    "lazy*",
    "backends*",
    "interrupts*",
    "tables*",
    "sched-lazy.*_switch*",
];
const CPUS: [&str; 2] = ["cortex-a72", "max"];
/// Time that a boot may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// An interrupt of the timer, the only one in a window, sets it anew, which is synchronized
/// by an ISB (kernel/src/arch/timer.rs) that the library neither executes nor counts.
const ISB_OF_AN_INTERRUPT: u64 = 1;
/// And a DMB of the interrupt controller's driver (kernel/src/platform/interrupts/gicv2.rs).
const DMB_OF_AN_INTERRUPT: u64 = 1;

/// DSB, ISB, TLBI, the `DSB ISH` among the DSB, DMB, and the `DMB ISH` among those, which are the
/// scheduler's.
type Counts = [u64; 6];

/// A boot.
#[derive(Clone, Copy)]
struct Planned {
    cpu: &'static str,
    backend: &'static str,
    suites: &'static str,
}

impl Planned {
    fn all() -> impl Iterator<Item = Self> {
        CPUS.into_iter().flat_map(|cpu| {
            BACKENDS.into_iter().flat_map(move |backend| {
                SUITES.map(|suites| Self {
                    cpu,
                    backend,
                    suites,
                })
            })
        })
    }

    fn name(&self) -> String {
        let suite = self.suites.split(['.', '*']).next().unwrap_or_default();
        format!("{}.{}.{suite}", self.cpu, self.backend)
    }

    /// Boots and compares.
    fn problems(&self, name: &str, bench: &Bench<'_>, plugin: &Plugin) -> Result<Vec<String>> {
        let machine = Machine {
            cpu: self.cpu.to_owned(),
            smp: NonZeroU32::MIN,
            clock: Clock::Instructions,
            ..Machine::default()
        };
        let (backend, suites) = (self.backend, self.suites);
        let bootargs = format!("mode=selftest filter={suites} lazy={backend} log=debug");
        let boot = Boot::new(&machine, &bootargs, bench.artifacts, TIMEOUT);
        let scratch = scratch::folder(bench.workspace)?;
        let out = scratch.path().join("windows");
        let booted = bench.boot(name, &boot, &plugin.given_to(bench.qemu, &out), |_| ())?;
        match booted.outcome.verdict.failure() {
            Some(failure) => Ok(failure.to_string().lines().map(str::to_owned).collect()),
            None => Ok(differences(&booted.log, &Windows::read(&out)?)),
        }
    }
}

/// Tells whether the filter selects any.
pub fn selected(bench: &Bench<'_>) -> bool {
    Planned::all().any(|planned| bench.selects(&format!("{ROW}.{}", planned.name())))
}

/// Boots what the filter selects.
///
/// # Errors
///
/// When QEMU cannot be started, or a file cannot be written.
pub fn run(bench: &Bench<'_>, plugin: &Plugin) -> Result<Option<Row>> {
    let all: Vec<Planned> = Planned::all().collect();
    bench.row(ROW, &all, Planned::name, |name, planned| {
        planned.problems(name, bench, plugin).map(Some)
    })
}

/// One line for each window in which they differ.
fn differences(log: &str, outside: &Windows) -> Vec<String> {
    let mut problems = outside.problems.clone();
    let mut inside = of_tests(log);
    if inside.is_empty() {
        problems.push("no self-test has counted anything".to_owned());
    }
    for window in outside.windows.iter().filter(|window| window.op == OP) {
        let number = window.pages;
        let Some((test, inside)) = inside.remove(&number) else {
            // And has named no test.
            problems.push(format!("window {number}: the kernel has not counted it"));
            continue;
        };
        let at = at(number, &test);
        if window.exceptions == 0 {
            let mut strange = window.strange();
            // Compared below.
            strange.retain(|what| what != "dmb ish");
            problems.extend(strange.iter().map(|what| {
                format!("{at}: the plugin has seen {what}, which is not the library's")
            }));
        }
        let outside = seen(window);
        if inside != outside {
            problems.push(format!(
                "{at}: the kernel has counted {}, the plugin {}",
                shown(inside),
                shown(outside)
            ));
        }
    }
    let unseen = inside.iter();
    problems.extend(
        unseen.map(|(number, (test, _))| {
            format!("{}: the plugin has not seen it", at(*number, test))
        }),
    );
    problems
}

fn at(number: u64, test: &str) -> String {
    format!("window {number} ({test})")
}

/// What the log says of each window, with the test that it was in. A test's lines come before its
/// result.
fn of_tests(log: &str) -> BTreeMap<u64, (String, Counts)> {
    let mut parser = Parser::default();
    let mut pending = Vec::new();
    let mut all = BTreeMap::new();
    for line in log.lines() {
        let reported = parser.reported();
        parser.line(line);
        pending.extend(counted(line));
        if let Some(test) = parser.last().filter(|_| parser.reported() > reported) {
            let done = pending.drain(..);
            all.extend(done.map(|(number, counts)| (number, (test.name.clone(), counts))));
        }
    }
    let unfinished = "a test without a result";
    all.extend(
        pending
            .into_iter()
            .map(|(number, counts)| (number, (unfinished.to_owned(), counts))),
    );
    all
}

/// What the plugin has seen of the library.
fn seen(window: &Window) -> Counts {
    let of_interrupts = |each: u64| window.exceptions * each;
    [
        window.all_dsb(),
        window
            .isb
            .saturating_sub(of_interrupts(ISB_OF_AN_INTERRUPT)),
        window.all_tlbi(),
        window.dsb_ish(),
        window
            .all_dmb()
            .saturating_sub(of_interrupts(DMB_OF_AN_INTERRUPT)),
        window.dmb.get("ish").copied().unwrap_or(0),
    ]
}

fn shown([dsb, isb, tlbi, ish, dmb, dmb_ish]: Counts) -> String {
    format!("{dsb} DSB ({ish} ISH), {isb} ISB, {tlbi} TLBI, {dmb} DMB ({dmb_ish} ISH)")
}

/// Reads `... debug: counted op=200 pages=7 dsb=1 isb=1 tlbi=0 ish=0 dmb=0 dmb_ish=0`, or nothing.
fn counted(line: &str) -> Option<(u64, Counts)> {
    const NAMES: [&str; 7] = [
        "pages=", "dsb=", "isb=", "tlbi=", "ish=", "dmb=", "dmb_ish=",
    ];
    let (_, words) = line.split_once(" counted op=200 ")?;
    let words = NAMES.iter().zip(words.split_whitespace());
    let values: Option<Vec<u64>> = words
        .map(|(name, word)| word.strip_prefix(name)?.parse().ok())
        .collect();
    let [number, counts @ ..] = <[u64; 7]>::try_from(values?).ok()?;
    Some((number, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: lazy-counts
    1..3
    # r16_one_pair_per_section.tag: trace-only
[    0.3] debug: counted op=200 pages=1 dsb=2 isb=1 tlbi=3 ish=0 dmb=2 dmb_ish=1
    ok 1 r16_one_pair_per_section
    not ok 2 r17_which_counts_nothing
[    0.4] debug: counted op=200 pages=2 dsb=0 isb=0 tlbi=0 ish=0 dmb=0 dmb_ish=0
[    0.4] debug: counted op=200 pages=many dsb=0 isb=0 tlbi=0
    not ok 3 r18_none
not ok 1 lazy-counts
";

    fn window(pages: u64, dsb: u64, isb: u64, exceptions: u64) -> Window {
        let dmb = [("ishst", dsb / 2), ("ish", dsb / 2), ("ishld", exceptions)];
        let dmb = dmb.into_iter().filter(|(_, count)| *count > 0);
        Window {
            op: OP,
            pages,
            isb,
            exceptions,
            dsb: [("ishst".to_owned(), dsb)].into(),
            dmb: dmb.map(|(name, count)| (name.to_owned(), count)).collect(),
            tlbi: [("vaale1is".to_owned(), dsb + dsb / 2)].into(),
            ..Window::default()
        }
    }

    fn compared(windows: Vec<Window>) -> Vec<String> {
        let problems = Vec::new();
        differences(LOG, &Windows { windows, problems })
    }

    #[test]
    fn windows_agree_with_and_without_interrupts() {
        let others = Window {
            op: 8,
            ..window(9, 1, 1, 0)
        };
        let agreeing = [window(1, 2, 6, 5), window(2, 0, 0, 0), others];
        assert_eq!(compared(agreeing.into()), [""; 0]);
    }

    #[test]
    fn a_difference_names_the_window_its_test_and_both_counts() {
        assert_eq!(
            compared([window(1, 2, 2, 0), window(2, 0, 0, 0)].into()),
            [
                "window 1 (lazy-counts.r16_one_pair_per_section): the kernel has counted 2 DSB (0 ISH), 1 ISB, 3 TLBI, 2 DMB (1 ISH), the plugin 2 DSB (0 ISH), 2 ISB, 3 TLBI, 2 DMB (1 ISH)"
            ]
        );
    }

    #[test]
    fn a_window_of_one_side_is_a_difference() {
        assert_eq!(
            compared([window(1, 2, 1, 0), window(3, 0, 0, 0)].into()),
            [
                "window 3: the kernel has not counted it",
                "window 2 (lazy-counts.r18_none): the plugin has not seen it"
            ]
        );
        let nothing = differences(
            "",
            &Windows {
                windows: Vec::new(),
                problems: Vec::new(),
            },
        );
        assert_eq!(nothing, ["no self-test has counted anything"]);
    }

    #[test]
    fn a_test_that_did_not_end_has_no_name() {
        let (cut, _) = LOG.split_once("    not ok 3").unwrap();
        let tests: Vec<String> = of_tests(cut).into_values().map(|(test, _)| test).collect();
        assert_eq!(
            tests,
            [
                "lazy-counts.r16_one_pair_per_section",
                "a test without a result"
            ]
        );
    }
}
