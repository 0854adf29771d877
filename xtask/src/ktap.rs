// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads KTAP, the kernel's test protocol, line by line from the console.
//!
//! The dialect is the one that Linux's KUnit prints and its `kunit.py parse`
//! accepts (Documentation/dev-tools/ktap.rst): `KTAP version 1`, a plan `1..N`,
//! results `ok 1 name` or `not ok 2 name # SKIP reason`, diagnostics `# ...`,
//! sub-tests indented. Text between these lines belongs to the log and is kept
//! as the diagnostics of the next result at its level.
//!
//! A test counts once, at the innermost level; the result line of a suite only
//! has to agree with its tests. What breaks the protocol (a plan that is missing
//! or not kept, numbers out of order, an end in the middle) is a problem, and a
//! log with a problem has not passed.

use std::mem;

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

/// One test and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Names of its suites and its own, joined by dots.
    pub name: String,
    /// Outcome.
    pub status: Status,
    /// Why it was skipped, or how it failed, as far as the result line says.
    pub reason: String,
    /// Lines printed since the result before, of a failed test only.
    pub diagnostics: Vec<String>,
}

/// Everything that a log reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All tests in the order of their results.
    pub cases: Vec<Case>,
    /// Breaches of the protocol; empty if the log is complete and consistent.
    pub problems: Vec<String>,
}

/// One open `KTAP version` block.
#[derive(Debug)]
struct Level {
    indent: usize,
    name: Option<String>,
    plan: Option<u32>,
    results: u32,
    failed: bool,
    last: Option<String>,
    /// The test that has begun: its attribute line (`# name.tag: ...`) comes first.
    begun: Option<String>,
    diagnostics: Vec<String>,
}

/// A line that means something.
enum Line<'a> {
    Version,
    Plan(u32),
    Subtest(&'a str),
    Result(ResultLine<'a>),
    BailOut(&'a str),
}

struct ResultLine<'a> {
    status: Status,
    number: Option<u32>,
    name: &'a str,
    reason: &'a str,
}

/// Reads a log line by line.
#[derive(Debug, Default)]
pub struct Parser {
    levels: Vec<Level>,
    started: bool,
    report: Report,
}

impl Parser {
    /// Takes the next line of the console.
    pub fn line(&mut self, line: &str) {
        let text = line.trim_start_matches(' ');
        let indent = line.len() - text.len();
        let text = text.trim_end();
        match (parse(text), self.levels.last().map(|level| level.indent)) {
            (Some(Line::Version), None) if self.started => {
                self.problem("a second KTAP log follows the first");
            }
            (Some(Line::Version), top) if top.is_none_or(|top| indent > top) => self.open(indent),
            (Some(Line::Version), _) => {
                self.problem("a `KTAP version` line is not indented below its parent")
            }
            (Some(Line::Plan(plan)), Some(top)) if indent == top => self.plan(plan),
            (Some(Line::Subtest(name)), Some(top)) if indent == top => {
                if let Some(level) = self.levels.last_mut() {
                    level.name = Some(name.to_owned());
                }
            }
            (Some(Line::Result(result)), Some(top)) if indent <= top => {
                self.result(indent, &result)
            }
            (Some(Line::BailOut(reason)), Some(_)) => {
                self.problem(&format!("the kernel bailed out: {reason}"))
            }
            _ => self.diagnostic(text),
        }
    }

    /// Number of tests that have reported so far.
    pub fn reported(&self) -> usize {
        self.report.cases.len()
    }

    /// The test that has reported last.
    pub fn last(&self) -> Option<&Case> {
        self.report.cases.last()
    }

    /// Tells whether a KTAP log has begun.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// Ends the log and returns what it reported.
    pub fn finish(mut self) -> Report {
        if !self.started {
            self.problem("there is no KTAP log");
        }
        if self.levels.len() > 1 {
            let place = self.place();
            self.problem(&format!("the log ends in the middle: {place}"));
        } else {
            self.close();
        }
        self.report
    }

    fn problem(&mut self, text: &str) {
        self.report.problems.push(text.to_owned());
    }

    fn open(&mut self, indent: usize) {
        self.started = true;
        // What came before belongs to the first test of the new block.
        let diagnostics = self
            .levels
            .last_mut()
            .map(|level| mem::take(&mut level.diagnostics));
        self.levels.push(Level {
            indent,
            name: None,
            plan: None,
            results: 0,
            failed: false,
            last: None,
            begun: None,
            diagnostics: diagnostics.unwrap_or_default(),
        });
    }

    fn plan(&mut self, plan: u32) {
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        if level.plan.replace(plan).is_some() {
            let place = self.place();
            self.problem(&format!("a second plan: {place}"));
        }
    }

    fn diagnostic(&mut self, text: &str) {
        if let Some(level) = self.levels.last_mut() {
            if let Some((name, _)) = text
                .strip_prefix("# ")
                .and_then(|text| text.split_once(".tag: "))
            {
                level.begun = Some(name.to_owned());
            }
            if level.diagnostics.len() == DIAGNOSTICS {
                level.diagnostics.remove(0);
            }
            level.diagnostics.push(text.to_owned());
        }
    }

    /// Takes a result line, closing the blocks that it stands outside of.
    fn result(&mut self, indent: usize, line: &ResultLine<'_>) {
        let mut child = None;
        while self
            .levels
            .last()
            .is_some_and(|level| level.indent > indent)
            && self.levels.len() > 1
        {
            child = self.close();
        }
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        if level.indent != indent {
            let name = line.name;
            self.problem(&format!(
                "the result of {name} is indented like no open block"
            ));
            return;
        }
        level.results += 1;
        level.failed |= line.status == Status::Failed;
        level.last = Some(line.name.to_owned());
        level.begun = None;
        let expected = level.results;
        let mut diagnostics = mem::take(&mut level.diagnostics);
        let name = self.full_name(line.name);
        if line.number.is_some_and(|number| number != expected) {
            self.problem(&format!(
                "{name} has number {}, {expected} was next",
                line.number.unwrap_or(0)
            ));
        }
        match child {
            None => {}
            Some(child) if child.results == 0 => {
                diagnostics.splice(0..0, child.diagnostics).for_each(drop)
            }
            Some(child) if child.failed && line.status != Status::Failed => {
                self.problem(&format!(
                    "{name} claims to have passed, but a test in it failed"
                ));
                return;
            }
            // It failed because of its tests, which are counted, or passed with them.
            Some(child) if child.failed || line.status != Status::Failed => return,
            Some(child) => diagnostics.splice(0..0, child.diagnostics).for_each(drop),
        }
        if line.status != Status::Failed {
            diagnostics.clear();
        }
        self.report.cases.push(Case {
            name,
            status: line.status,
            reason: line.reason.to_owned(),
            diagnostics,
        });
    }

    /// Closes the innermost block and checks that it kept its plan.
    fn close(&mut self) -> Option<Level> {
        let place = self.place();
        let level = self.levels.pop()?;
        match level.plan {
            Some(plan) if plan == level.results => {}
            Some(plan) => self.problem(&format!(
                "{plan} tests were planned, {} reported: {place}",
                level.results
            )),
            None => self.problem(&format!("the plan (`1..N`) is missing: {place}")),
        }
        Some(level)
    }

    /// Says where the log is, for problems.
    fn place(&self) -> String {
        let names: Vec<&str> = self
            .levels
            .iter()
            .filter_map(|level| level.name.as_deref())
            .collect();
        let suite = if names.is_empty() {
            "at the top".to_owned()
        } else {
            format!("in {}", names.join("."))
        };
        let level = self.levels.last();
        match level.map(|level| (level.begun.as_deref(), level.last.as_deref())) {
            Some((Some(begun), _)) => format!("{suite}, during {begun}"),
            Some((None, Some(last))) => format!("{suite}, after {last}"),
            _ => format!("{suite}, before its first result"),
        }
    }

    /// The dotted name of a result at the innermost level.
    fn full_name(&self, name: &str) -> String {
        let suites = self.levels.iter().filter_map(|level| level.name.as_deref());
        suites.chain([name]).collect::<Vec<_>>().join(".")
    }
}

fn parse(text: &str) -> Option<Line<'_>> {
    if matches!(text, "KTAP version 1" | "TAP version 13" | "TAP version 14") {
        return Some(Line::Version);
    }
    if let Some(plan) = text.strip_prefix("1..") {
        return Some(Line::Plan(plan.parse().ok()?));
    }
    if let Some(name) = text.strip_prefix("# Subtest: ") {
        return Some(Line::Subtest(name.trim()));
    }
    if let Some(reason) = text.strip_prefix("Bail out!") {
        return Some(Line::BailOut(reason.trim()));
    }
    let (ok, rest) = match text.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok")?),
    };
    let rest = rest.strip_prefix(' ')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let number = rest[..digits].parse().ok();
    let name = rest[digits..].trim_start();
    let name = name.strip_prefix("- ").unwrap_or(name);
    let (name, directive) = name.split_once('#').unwrap_or((name, ""));
    let (word, reason) = directive
        .trim()
        .split_once(' ')
        .unwrap_or((directive.trim(), ""));
    let status = match (word, ok) {
        ("SKIP", _) => Status::Skipped,
        ("TIMEOUT" | "ERROR", _) => Status::Failed,
        ("XFAIL", _) | (_, true) => Status::Passed,
        (_, false) => Status::Failed,
    };
    let reason = if word == "SKIP" { reason } else { directive };
    Some(Line::Result(ResultLine {
        status,
        number,
        name: name.trim(),
        reason: reason.trim(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
booting
KTAP version 1
1..2
    KTAP version 1
    # Subtest: lazy
    1..3
some text
    ok 1 nesting
    # expected 1, found 2
    # at kernel/src/x.rs:1
    not ok 2 pause
    ok 3 counters # SKIP no cycle counter
not ok 1 lazy
    KTAP version 1
    # Subtest: tables
    1..1
    ok 1 walk
ok 2 tables
lazymmu: exit 1
";

    fn read(text: &str) -> Report {
        let mut parser = Parser::default();
        text.lines().for_each(|line| parser.line(line));
        parser.finish()
    }

    fn outcomes(report: &Report) -> Vec<(&str, Status)> {
        report
            .cases
            .iter()
            .map(|case| (case.name.as_str(), case.status))
            .collect()
    }

    #[test]
    fn nested_results_are_counted_at_the_innermost_level() {
        let report = read(GOOD);
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(
            outcomes(&report),
            [
                ("lazy.nesting", Status::Passed),
                ("lazy.pause", Status::Failed),
                ("lazy.counters", Status::Skipped),
                ("tables.walk", Status::Passed),
            ]
        );
        assert_eq!(
            report.cases[1].diagnostics,
            ["# expected 1, found 2", "# at kernel/src/x.rs:1"]
        );
        assert_eq!(report.cases[2].reason, "no cycle counter");
    }

    #[test]
    fn every_cut_of_a_log_is_noticed() {
        let lines: Vec<&str> = GOOD.lines().collect();
        // Up to the last result line; what follows it is free text.
        for length in 0..lines.len() - 2 {
            let report = read(&lines[..length].join("\n"));
            assert!(!report.problems.is_empty(), "cut after line {length}");
        }
    }

    #[test]
    fn broken_off_log_names_the_place() {
        let cut = GOOD.split("    ok 3").next().unwrap_or_default();
        let problems = read(cut).problems;
        assert_eq!(
            problems[0],
            "the log ends in the middle: in lazy, after pause"
        );
        let problems = read(&format!(
            "{cut}    # counters.tag: trace-only\npanic: no memory"
        ))
        .problems;
        assert_eq!(
            problems[0],
            "the log ends in the middle: in lazy, during counters"
        );
    }

    #[test]
    fn numbers_plans_and_suite_results_are_checked() {
        let problem = |from: &str, to: &str| {
            let broken = GOOD.replace(from, to);
            assert_ne!(broken, GOOD);
            read(&broken).problems.join("; ")
        };
        assert_eq!(
            problem("ok 3 counters", "ok 4 counters"),
            "lazy.counters has number 4, 3 was next"
        );
        assert_eq!(
            problem("    1..3", "    1..4"),
            "4 tests were planned, 3 reported: in lazy, after counters"
        );
        assert_eq!(
            problem("not ok 1 lazy", "ok 1 lazy"),
            "lazy claims to have passed, but a test in it failed"
        );
        assert_eq!(
            problem("    1..1\n", ""),
            "the plan (`1..N`) is missing: in tables, after walk"
        );
        assert_eq!(
            problem("1..2\n", "1..3\n"),
            "3 tests were planned, 2 reported: at the top, after tables"
        );
        assert_eq!(read("nothing\n").problems, ["there is no KTAP log"]);
    }

    #[test]
    fn suite_that_fails_by_itself_is_a_failure() {
        let report = read(&GOOD.replace("ok 2 tables", "# a frame leaked\nnot ok 2 tables"));
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(
            report.cases.last().map(|case| case.name.as_str()),
            Some("tables")
        );
        assert_eq!(
            report.cases.last().map(|case| case.status),
            Some(Status::Failed)
        );
    }

    #[test]
    fn flat_logs_dashes_and_directives_are_understood() {
        let report = read(
            "KTAP version 1\n1..5\nok 1 - a\nnot ok 2 b # XFAIL known\nnot ok 3 c # TIMEOUT\nnot ok 4 d # SKIP why\nok 5 e",
        );
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(
            outcomes(&report),
            [
                ("a", Status::Passed),
                ("b", Status::Passed),
                ("c", Status::Failed),
                ("d", Status::Skipped),
                ("e", Status::Passed),
            ]
        );
    }
}
