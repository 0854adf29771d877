// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the runner, with suites and resources that exist only here.

use std::cell::Cell;
use std::fmt::Write;

use super::super::expect::TestResult;
use super::super::ktap_reader::{Case, Parser, Report, Status};
use super::super::registry::Suite;
use super::*;
use crate::{case, cases, expect, expect_eq, group, skip};

thread_local! {
    /// The free frames of the pretended kernel.
    static FRAMES: Cell<i32> = const { Cell::new(100) };
    /// Tests that ran, in order.
    static RAN: Cell<u32> = const { Cell::new(0) };
}

struct Frames;

impl LeakCheck for Frames {
    type Snapshot = i32;

    fn snapshot(&mut self) -> i32 {
        FRAMES.get()
    }

    fn difference(&mut self, before: &i32, after: &i32, report: &mut dyn Write) -> fmt::Result {
        if before != after {
            writeln!(report, "free frames: {before} before, {after} after")?;
        }
        Ok(())
    }

    fn restore(&mut self, before: &i32, report: &mut dyn Write) -> fmt::Result {
        // If more than one frame is lost, one of them is restored.
        let lost = before - FRAMES.get();
        if lost > 1 {
            FRAMES.set(FRAMES.get() + 1);
            writeln!(report, "one frame of {lost}")?;
        }
        Ok(())
    }
}

fn passes() -> TestResult {
    RAN.set(RAN.get() + 1);
    Ok(())
}

fn fails() -> TestResult {
    expect_eq!(1 + 1, 3, "after the first step");
    Ok(())
}

fn skips() -> TestResult {
    skip!("this CPU has no {}", "FEAT_ETS2")
}

fn leaks() -> TestResult {
    FRAMES.set(FRAMES.get() - 2);
    Ok(())
}

fn leaks_and_fails() -> TestResult {
    FRAMES.set(FRAMES.get() - 1);
    expect!(FRAMES.get() == 0);
    Ok(())
}

fn leaks_and_skips() -> TestResult {
    FRAMES.set(FRAMES.get() - 1);
    skip!("too late")
}

fn even(number: u32) -> TestResult {
    expect_eq!(number % 2, 0);
    Ok(())
}

static TABLES: Suite = Suite {
    name: "tables",
    order: 20,
    tests: &[
        case!(QemuVisible, passes),
        case!(TraceOnly, fails),
        case!(QemuVisible, skips),
        cases!(QemuVisible, even, { two: 2, three: 3, four: 4 }),
        group!("nested", [cases!(TraceOnly, even, { ten: 10 })]),
    ],
};
static LAZY: Suite = Suite {
    name: "lazy",
    order: 30,
    tests: &[
        case!(QemuVisible, leaks),
        case!(QemuVisible, leaks_and_fails),
        case!(QemuVisible, leaks_and_skips),
        case!(QemuVisible, passes),
    ],
};
static HARDWARE: Suite = Suite {
    name: "hardware",
    order: 10,
    tests: &[case!(HwOnly, passes)],
};

fn run_all(pattern: &str, machine: Kind) -> (String, Report, Tally) {
    let registry = Registry::new(&[&LAZY, &TABLES, &HARDWARE]).unwrap();
    let filter = Filter::parse(pattern).unwrap();
    let mut log = String::new();
    let tally = run(&registry, filter, machine, &mut Frames, &mut log).unwrap();
    let mut parser = Parser::default();
    log.lines().for_each(|line| parser.line(line));
    let report = parser.finish();
    assert!(report.problems.is_empty(), "{:?}\n{log}", report.problems);
    assert_eq!(report.totals, Some(tally));
    (log, report, tally)
}

fn find<'a>(report: &'a Report, path: &str) -> &'a Case {
    let mut all = report.cases.iter().chain(&report.groups);
    let found = all.find(|case| case.name == path);
    found.unwrap_or_else(|| panic!("no {path}"))
}

/// What is called `path` or below it, in the order of the results.
fn names<'a>(cases: &'a [Case], path: &str) -> Vec<&'a str> {
    let below = format!("{path}.");
    let names = cases.iter().map(|case| case.name.as_str());
    names
        .filter(|name| *name == path || name.starts_with(&below))
        .collect()
}

#[test]
fn the_log_is_written_as_kunit_would() {
    let (log, ..) = run_all("tables.*s*", Kind::Emulated);
    let place = log.lines().find_map(|line| {
        let (_, place) = line.split_once("# fails: EXPECTATION FAILED at ")?;
        Some(place.to_owned())
    });
    let place = place.unwrap();
    assert!(place.starts_with(concat!(file!(), ":")), "{place}");
    let expected = "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: tables
    1..4
    # passes.tag: qemu-visible
    ok 1 passes
    # fails.tag: trace-only
    # fails: EXPECTATION FAILED at PLACE
    #   expect_eq!(1 + 1, 3)
    #   left:  2
    #   right: 3
    #   after the first step
    not ok 2 fails
    # skips.tag: qemu-visible
    ok 3 skips # SKIP this CPU has no FEAT_ETS2
        KTAP version 1
        # Subtest: nested
        1..1
            KTAP version 1
            # Subtest: even
            1..1
            # ten.tag: trace-only
            ok 1 ten
        # even: pass:1 fail:0 skip:0 total:1
        ok 1 even
    # nested: pass:1 fail:0 skip:0 total:1
    ok 4 nested
# tables: pass:2 fail:1 skip:1 total:4
not ok 1 tables
# Totals: pass:2 fail:1 skip:1 total:4
";
    assert_eq!(log, expected.replace("PLACE", &place));
}

#[test]
fn suites_run_in_their_order_and_everything_is_counted() {
    let (_, report, tally) = run_all("*", Kind::Emulated);
    let suites = report.groups.iter().map(|group| group.name.as_str());
    let suites: Vec<_> = suites.filter(|name| !name.contains('.')).collect();
    assert_eq!(suites, ["hardware", "tables", "lazy"]);
    assert_eq!(tally.to_string(), "pass:5 fail:5 skip:2 total:12");
}

#[test]
fn a_failing_case_fails_its_groups() {
    let (_, report, _) = run_all("tables.even", Kind::Emulated);
    assert_eq!(find(&report, "tables.even.two").status, Status::Passed);
    assert_eq!(find(&report, "tables.even.three").status, Status::Failed);
    assert_eq!(find(&report, "tables.even.four").status, Status::Passed);
    assert_eq!(find(&report, "tables.even").status, Status::Failed);
    assert_eq!(find(&report, "tables").status, Status::Failed);
    assert_eq!(names(&report.groups, "tables"), ["tables.even", "tables"]);
}

#[test]
fn a_single_case_can_be_selected() {
    let (_, report, tally) = run_all("tables.even.t*", Kind::Emulated);
    let cases = names(&report.cases, "tables.even");
    assert_eq!(cases, ["tables.even.two", "tables.even.three"]);
    assert_eq!(tally.total(), 2);
}

#[test]
fn a_leak_fails_a_test_that_would_pass() {
    let before = FRAMES.get();
    let (_, report, _) = run_all("lazy", Kind::Emulated);
    for name in ["leaks", "leaks_and_fails", "leaks_and_skips"] {
        let test = find(&report, &format!("lazy.{name}"));
        assert_eq!(test.status, Status::Failed, "{name}");
        let at = test
            .diagnostics
            .iter()
            .position(|line| line == &format!("# {name}: LEAK"));
        let detail = &test.diagnostics[at.unwrap() + 1];
        assert!(detail.starts_with("#   free frames: "), "{detail}");
    }
    // What can be restored is restored once, and the log says so.
    let restored = &find(&report, "lazy.leaks").diagnostics[3..];
    assert_eq!(restored, ["# leaks: RESTORED", "#   one frame of 2"]);
    assert_eq!(FRAMES.get(), before - 3);
    let both = find(&report, "lazy.leaks_and_fails");
    assert!(
        !both
            .diagnostics
            .iter()
            .any(|line| line.contains("RESTORED"))
    );
    assert!(both.diagnostics[1].starts_with("# leaks_and_fails: EXPECTATION FAILED at "));
    // What a test leaves behind is not attributed to the next one.
    assert_eq!(find(&report, "lazy.passes").status, Status::Passed);
}

#[test]
fn what_only_hardware_shows_is_skipped_elsewhere() {
    RAN.set(0);
    let (_, report, _) = run_all("hardware", Kind::Emulated);
    assert_eq!(RAN.get(), 0);
    let reason = "hw-only: QEMU does not model what this shows";
    assert_eq!(find(&report, "hardware.passes").reason, reason);
    let suite = find(&report, "hardware");
    assert_eq!(
        (suite.status, suite.reason.as_str()),
        (Status::Skipped, "all tests skipped")
    );
    let (_, report, _) = run_all("hardware", Kind::Hardware);
    assert_eq!(RAN.get(), 1);
    assert_eq!(find(&report, "hardware").status, Status::Passed);
}

#[test]
fn a_filter_without_tests_is_an_error_and_writes_nothing() {
    let registry = Registry::new(&[&LAZY, &TABLES]).unwrap();
    for pattern in ["tabels", "*.absent", "tables.passes.deeper"] {
        let filter = Filter::parse(pattern).unwrap();
        let mut log = String::new();
        let error = run(&registry, filter, Kind::Emulated, &mut Frames, &mut log).unwrap_err();
        assert_eq!(log, "");
        assert_eq!(
            error.to_string(),
            format!(
                "no self-test matches filter={pattern}: use suite or suite.test, with * for any \
                 characters; the suites are tables lazy"
            )
        );
    }
    let empty = Registry::new(&[]).unwrap();
    let error = run(
        &empty,
        Filter::ALL,
        Kind::Emulated,
        &mut Frames,
        &mut String::new(),
    );
    assert!(error.unwrap_err().to_string().contains(".selftest"));
}

#[test]
fn a_broken_console_is_reported() {
    struct Broken;
    impl Write for Broken {
        fn write_str(&mut self, _: &str) -> fmt::Result {
            Err(fmt::Error)
        }
    }
    let registry = Registry::new(&[&TABLES]).unwrap();
    let result = run(
        &registry,
        Filter::ALL,
        Kind::Emulated,
        &mut Frames,
        &mut Broken,
    );
    assert!(matches!(result, Err(RunError::Output)));
}
