// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads what [`ktap`](super::ktap) writes, line by line, on the host: `cargo xtask` follows a
//! console with it, and the tests of the writer read their logs with it.
//!
//! A test counts once, at the innermost level; the result line and the summary of a suite have to
//! agree with its tests. Other text between these lines belongs to the log and is kept as the
//! diagnostics of the next result at its level.
//!
//! A breach of the protocol is a problem, and a log with a problem has not passed: a plan that is
//! missing or not kept, a number out of order, a name that is there twice, an end in the middle.
//! Linux's parser does not read indentation, so a line of free text must not look like protocol
//! at any indentation. A log may lack suites and totals.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;

use super::ktap::Tally;

/// Diagnostic lines kept for one result.
const DIAGNOSTICS: usize = 60;

/// Outcome of one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It did not run, for the reason in [`Case::reason`].
    Skipped,
}

/// One test or group, and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Names of its suites and its own, joined by dots.
    pub name: String,
    /// Outcome.
    pub status: Status,
    /// Why it was skipped.
    pub reason: String,
    /// Lines printed since the result before, of a failed test only.
    pub diagnostics: Vec<String>,
}

/// Everything that a log reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All tests in the order of their results.
    pub cases: Vec<Case>,
    /// All suites and groups in the order of their results.
    pub groups: Vec<Case>,
    /// What the log says at its end, if it says so.
    pub totals: Option<Tally>,
    /// Breaches of the protocol; empty if the log is complete and consistent.
    pub problems: Vec<String>,
}

/// One open `KTAP version` block.
#[derive(Debug, Default)]
struct Level {
    indent: usize,
    name: Option<String>,
    plan: Option<usize>,
    /// Names of its results.
    results: Vec<String>,
    tally: Tally,
    /// The test that has begun: its attribute line (`# name.tag: ...`) comes first.
    begun: Option<String>,
    diagnostics: Vec<String>,
}

/// A line that Linux's parser takes for protocol.
enum Line<'a> {
    Version,
    Plan(usize),
    Subtest(&'a str),
    Result(ResultLine<'a>),
    Totals(&'a str),
    Malformed,
}

struct ResultLine<'a> {
    status: Status,
    number: usize,
    name: &'a str,
    reason: &'a str,
}

/// Reads a log line by line.
#[derive(Debug, Default)]
pub struct Parser {
    levels: Vec<Level>,
    report: Report,
}

impl Parser {
    /// Takes the next line of the console.
    pub fn line(&mut self, line: &str) {
        let text = line.trim_start_matches(' ');
        let indent = line.len() - text.len();
        let text = text.trim_end();
        let parsed = parse(text);
        let Some(level) = self.levels.last_mut() else {
            // What an emulator or firmware prints before the log is not looked at.
            if let Some(Line::Version) = parsed {
                self.open(indent);
            }
            return;
        };
        let top = level.indent;
        match parsed {
            None => level.diagnostic(text),
            Some(Line::Version) if indent > top => self.open(indent),
            Some(Line::Plan(plan)) if indent == top => {
                if level.plan.replace(plan).is_some() {
                    let place = self.place();
                    self.problem(format!("a second plan: {place}"));
                }
            }
            Some(Line::Subtest(name)) if indent == top => level.name = Some(name.to_owned()),
            Some(Line::Result(result)) if indent <= top => self.result(indent, &result),
            Some(Line::Totals(totals)) if self.levels.len() == 1 => self.totals(totals),
            Some(_) => {
                let place = self.place();
                self.problem(format!("`{text}` does not belong there: {place}"));
            }
        }
    }

    /// Number of tests that have reported so far.
    #[must_use]
    pub fn reported(&self) -> usize {
        self.report.cases.len()
    }

    /// The test that has reported last.
    #[must_use]
    pub fn last(&self) -> Option<&Case> {
        self.report.cases.last()
    }

    /// Tells whether a KTAP log has begun.
    #[must_use]
    pub fn has_started(&self) -> bool {
        !self.levels.is_empty()
    }

    /// Ends the log and returns what it reported.
    #[must_use]
    pub fn finish(mut self) -> Report {
        match self.levels.len() {
            0 => self.problem("there is no KTAP log".to_owned()),
            1 => drop(self.close()),
            _ => {
                let place = self.place();
                self.problem(format!("the log ends in the middle: {place}"));
            }
        }
        self.report
    }

    fn problem(&mut self, text: String) {
        self.report.problems.push(text);
    }

    fn open(&mut self, indent: usize) {
        // What came before belongs to the first test of the new block.
        let before = self.levels.last_mut();
        let diagnostics = before.map(|level| mem::take(&mut level.diagnostics));
        self.levels.push(Level {
            indent,
            diagnostics: diagnostics.unwrap_or_default(),
            ..Level::default()
        });
    }

    fn totals(&mut self, totals: &str) {
        let tally = self.levels[0].tally;
        if totals == tally.to_string() {
            self.report.totals = Some(tally);
        } else {
            self.problem(format!("the totals are {totals}, and the results {tally}"));
        }
    }

    /// Takes a result line, and closes the blocks that it is outside of.
    fn result(&mut self, indent: usize, line: &ResultLine<'_>) {
        let mut child = None;
        while self.levels.len() > 1 && self.levels.last().is_some_and(|it| it.indent > indent) {
            child = self.close();
        }
        let name = self.full_name(line.name);
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        if level.indent != indent {
            self.problem(format!(
                "the result of {name} is indented like no open block"
            ));
            return;
        }
        let is_new = level.name.as_deref() != Some(line.name)
            && level.results.iter().all(|other| other != line.name);
        level.results.push(line.name.to_owned());
        level.begun = None;
        let mut diagnostics = mem::take(&mut level.diagnostics);
        let expected = level.results.len();
        match (&child, line.status) {
            (Some(child), _) => level.tally.add(child.tally),
            (None, Status::Passed) => level.tally.pass += 1,
            (None, Status::Failed) => level.tally.fail += 1,
            (None, Status::Skipped) => level.tally.skip += 1,
        }
        if line.number != expected {
            let number = line.number;
            self.problem(format!("{name} has number {number}, {expected} was next"));
        }
        if !is_new {
            self.problem(format!("{name} is called as another test or its parent"));
        }
        if line.status != Status::Failed {
            diagnostics.clear();
        }
        let case = Case {
            name,
            status: line.status,
            reason: line.reason.to_owned(),
            diagnostics,
        };
        match child {
            None => self.report.cases.push(case),
            Some(child) => {
                self.check_group(&case.name, line, &child);
                self.report.groups.push(case);
            }
        }
    }

    /// A group's result must say what its children say.
    fn check_group(&mut self, name: &str, line: &ResultLine<'_>, child: &Level) {
        let tally = child.tally;
        let agrees = match line.status {
            Status::Failed => tally.fail > 0,
            Status::Skipped => tally.skip == tally.total(),
            Status::Passed => tally.fail == 0 && tally.pass > 0,
        };
        if !agrees {
            self.problem(format!(
                "the result of {name} does not fit its tests, {tally}"
            ));
        }
        if child.name.as_deref() != Some(line.name) {
            let header = child.name.as_deref().unwrap_or("without a name");
            self.problem(format!("the subtest {header} ends as {name}"));
        }
        let begins = format!("# {}: pass:", line.name);
        let mut lines = child.diagnostics.iter();
        if let Some(summary) = lines.find(|text| text.starts_with(&begins))
            && *summary != format!("# {}: {tally}", line.name)
        {
            self.problem(format!(
                "the summary of {name} does not fit its tests, {tally}"
            ));
        }
    }

    /// Closes the innermost block and checks that it kept its plan.
    fn close(&mut self) -> Option<Level> {
        let place = self.place();
        let level = self.levels.pop()?;
        let reported = level.results.len();
        match level.plan {
            Some(plan) if plan == reported => {}
            Some(plan) => self.problem(format!(
                "{plan} tests were planned, {reported} reported: {place}"
            )),
            None => self.problem(format!("the plan (`1..N`) is missing: {place}")),
        }
        Some(level)
    }

    /// Says where the log is, for problems.
    fn place(&self) -> String {
        let names: Vec<&str> = self.suites().collect();
        let suite = if names.is_empty() {
            "at the top".to_owned()
        } else {
            format!("in {}", names.join("."))
        };
        let level = self.levels.last();
        match level.map(|level| (&level.begun, level.results.last())) {
            Some((Some(begun), _)) => format!("{suite}, during {begun}"),
            Some((None, Some(last))) => format!("{suite}, after {last}"),
            _ => format!("{suite}, before its first result"),
        }
    }

    fn suites(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter_map(|level| level.name.as_deref())
    }

    /// The dotted name of a result at the innermost level.
    fn full_name(&self, name: &str) -> String {
        self.suites().chain([name]).collect::<Vec<_>>().join(".")
    }
}

impl Level {
    fn diagnostic(&mut self, text: &str) {
        let attribute = text.strip_prefix("# ");
        if let Some((name, _)) = attribute.and_then(|text| text.split_once(".tag: ")) {
            self.begun = Some(name.to_owned());
        }
        if self.diagnostics.len() == DIAGNOSTICS {
            self.diagnostics.remove(0);
        }
        self.diagnostics.push(text.to_owned());
    }
}

/// What of the protocol a line is; nothing if it is free text or a diagnostic.
fn parse(text: &str) -> Option<Line<'_>> {
    if text == "KTAP version 1" {
        return Some(Line::Version);
    }
    if text.starts_with("KTAP version ") || text.starts_with("TAP version ") {
        return Some(Line::Malformed);
    }
    if let Some(name) = text.strip_prefix("# Subtest: ") {
        return Some(Line::Subtest(name));
    }
    if let Some(totals) = text.strip_prefix("# Totals: ") {
        return Some(Line::Totals(totals));
    }
    let numbered = |rest: &&str| rest.starts_with(|first: char| first.is_ascii_digit());
    if let Some(plan) = text.strip_prefix("1..").filter(numbered) {
        return Some(plan.parse().map_or(Line::Malformed, Line::Plan));
    }
    let (ok, rest) = match (text.strip_prefix("ok "), text.strip_prefix("not ok ")) {
        (Some(rest), _) => (true, rest),
        (None, rest) => (false, rest?),
    };
    numbered(&rest).then(|| result(ok, rest).map_or(Line::Malformed, Line::Result))
}

/// Reads `1 name` or `1 name # SKIP reason`.
fn result(ok: bool, rest: &str) -> Option<ResultLine<'_>> {
    let (number, rest) = rest.split_once(' ')?;
    let (name, status, reason) = match (rest.split_once(" # SKIP "), ok) {
        (Some((name, reason)), true) => (name, Status::Skipped, reason),
        (Some(_), false) => return None,
        (None, true) => (rest, Status::Passed, ""),
        (None, false) => (rest, Status::Failed, ""),
    };
    let is_name = !name.is_empty() && !name.contains('#') && name.trim() == name;
    is_name.then_some(ResultLine {
        status,
        number: number.parse().ok()?,
        name,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
boot messages
KTAP version 1
1..3
    KTAP version 1
    # Subtest: tables
    1..2
    # map.tag: qemu-visible
some free text
    ok 1 map
        KTAP version 1
        # Subtest: fold
        1..1
        # one.tag: hw-only
        ok 1 one # SKIP no hardware
    # fold: pass:0 fail:0 skip:1 total:1
    ok 2 fold # SKIP all tests skipped
# tables: pass:1 fail:0 skip:1 total:2
ok 1 tables
    KTAP version 1
    # Subtest: lazy
    1..2
    # flush.tag: trace-only
    # flush: expected 1, found 2
    #   at kernel/src/x.rs:1
    not ok 1 flush
    # pause.tag: trace-only
    ok 2 pause
# lazy: pass:1 fail:1 skip:0 total:2
not ok 2 lazy
    KTAP version 1
    # Subtest: smp
    1..1
    ok 1 start
ok 3 smp
# Totals: pass:3 fail:1 skip:1 total:5
lazymmu: exit 1
";

    fn read(text: &str) -> Report {
        let mut parser = Parser::default();
        text.lines().for_each(|line| parser.line(line));
        parser.finish()
    }

    #[test]
    fn nested_results_are_counted_at_the_innermost_level() {
        let report = read(GOOD);
        assert_eq!(report.problems, [""; 0]);
        let outcomes = |cases: &[Case]| -> Vec<(String, Status)> {
            let outcomes = cases.iter().map(|case| (case.name.clone(), case.status));
            outcomes.collect()
        };
        let expected = [
            ("tables.map", Status::Passed),
            ("tables.fold.one", Status::Skipped),
            ("lazy.flush", Status::Failed),
            ("lazy.pause", Status::Passed),
            ("smp.start", Status::Passed),
        ];
        let owned = |(name, status): (&str, Status)| (name.to_owned(), status);
        assert_eq!(outcomes(&report.cases), expected.map(owned));
        let expected = [
            ("tables.fold", Status::Skipped),
            ("tables", Status::Passed),
            ("lazy", Status::Failed),
            ("smp", Status::Passed),
        ];
        assert_eq!(outcomes(&report.groups), expected.map(owned));
        assert_eq!(
            report.cases[2].diagnostics[1..],
            ["# flush: expected 1, found 2", "#   at kernel/src/x.rs:1"]
        );
        assert_eq!(report.cases[1].reason, "no hardware");
        let totals = report.totals.map(|totals| totals.to_string());
        assert_eq!(totals.as_deref(), Some("pass:3 fail:1 skip:1 total:5"));
    }

    #[test]
    fn a_log_needs_no_suites() {
        let report = read("KTAP version 1\n1..2\nok 1 a\nnot ok 2 b\n");
        assert_eq!(report.problems, [""; 0]);
        let statuses: Vec<_> = report.cases.iter().map(|case| case.status).collect();
        assert_eq!(statuses, [Status::Passed, Status::Failed]);
    }

    #[test]
    fn every_cut_of_a_log_is_noticed() {
        let lines: Vec<&str> = GOOD.lines().collect();
        // Up to the last result line; what follows it is not needed.
        for length in 0..lines.len() - 2 {
            let report = read(&lines[..length].join("\n"));
            assert!(!report.problems.is_empty(), "cut after line {length}");
        }
    }

    #[test]
    fn every_kind_of_damage_is_noticed() {
        let damages = [
            ("1..3\n    KTAP", "1..4\n    KTAP"),
            ("1..3\n    KTAP", "1..2\n    KTAP"),
            ("1..3\n    KTAP", "1..0\n    KTAP"),
            ("1..3\n    KTAP", "1..3\n1..3\n    KTAP"),
            ("    1..2\n", ""),
            ("    ok 1 map", "    ok 2 map"),
            ("    ok 1 map", "  ok 1 map"),
            ("    ok 1 map", "    ok 1 tables"),
            ("    ok 1 map", "    ok 1 fold"),
            ("    ok 1 map", "    ok 1 map # TODO later"),
            ("    ok 1 map", "    ok 1 m#ap"),
            ("    ok 1 map", "    ok 1  map"),
            ("    not ok 1 flush", "    not ok 1 flush # SKIP x"),
            ("some free text", "  ok 7 free text"),
            ("some free text", "1..5"),
            ("some free text", "KTAP version 1"),
            ("some free text", "TAP version 13"),
            ("    # Subtest: tables\n", ""),
            ("ok 1 tables", "ok 1 table"),
            ("ok 1 tables", "not ok 1 tables"),
            ("not ok 2 lazy", "ok 2 lazy"),
            ("not ok 2 lazy", "not ok 2 lazy # SKIP x"),
            ("not ok 2 lazy", "ok 2 lazy # SKIP x"),
            ("# tables: pass:1", "# tables: pass:2"),
            ("# Totals: pass:3", "# Totals: pass:2"),
            ("lazymmu: exit 1", "ok 4 late"),
            ("ok 2 fold # SKIP all tests skipped", "ok 2 fold"),
        ];
        for (from, to) in damages {
            assert!(GOOD.contains(from), "{from}");
            let report = read(&GOOD.replacen(from, to, 1));
            let accepted = report.problems.is_empty();
            assert!(!accepted, "{from:?} -> {to:?} was accepted");
        }
        let without = read(&GOOD.replace("# Totals", "# Sum"));
        assert_eq!((without.totals, without.problems.len()), (None, 0));
    }

    #[test]
    fn problems_name_the_place() {
        let problem = |from: &str, to: &str| read(&GOOD.replacen(from, to, 1)).problems.join("; ");
        assert_eq!(
            problem("ok 2 pause", "ok 3 pause"),
            "lazy.pause has number 3, 2 was next"
        );
        assert_eq!(
            problem("1..2\n    # flush", "1..3\n    # flush"),
            "3 tests were planned, 2 reported: in lazy, after pause"
        );
        assert_eq!(
            problem("not ok 2 lazy", "ok 2 lazy"),
            "the result of lazy does not fit its tests, pass:1 fail:1 skip:0 total:2"
        );
        assert_eq!(read("nothing\n").problems, ["there is no KTAP log"]);
        let (cut, _) = GOOD.split_once("    # pause.tag").expect("it is there");
        let problems = read(cut).problems;
        assert_eq!(
            problems,
            ["the log ends in the middle: in lazy, after flush"]
        );
        let problems = read(&format!("{cut}    # pause.tag: x\npanic: no memory")).problems;
        assert_eq!(
            problems,
            ["the log ends in the middle: in lazy, during pause"]
        );
    }
}
