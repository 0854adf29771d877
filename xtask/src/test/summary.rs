// SPDX-License-Identifier: MIT OR Apache-2.0

//! Results of all test sets, and how they are shown.

use crate::failure::Failure;
use anyhow::Error;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;

/// Lines of detail shown for one failure; the log has the rest.
const DETAIL: usize = 40;
/// Failures that are shown in full.
const SHOWN: usize = 20;

/// A failed test and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its name.
    pub name: String,
    /// What it said.
    pub detail: Vec<String>,
    /// How to run it again, empty if there is no such command.
    pub again: String,
}

impl Failed {
    /// A failure that no single command repeats.
    pub fn new(name: &str, detail: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            detail,
            again: String::new(),
        }
    }

    /// Adds what a boot has ended with.
    pub fn explain(&mut self, failure: Failure) {
        let report = failure.report.lines().map(str::to_owned);
        self.detail.extend(report);
        self.again = failure.next;
    }
}

/// The result of one set of tests: a host crate, or one boot.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What ran.
    pub name: String,
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests that were skipped.
    pub skipped: usize,
    /// One word, or why nothing ran.
    pub status: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The failures.
    pub failures: Vec<Failed>,
}

impl Row {
    /// A set in which nothing has run yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            status: "ok".to_owned(),
            ..Self::default()
        }
    }

    /// A set that cannot run here.
    pub fn left_out(name: &str, why: &str) -> Self {
        Self {
            skipped: 1,
            status: format!("left out: {why}"),
            ..Self::new(name)
        }
    }

    /// A set that could not be run as a whole.
    pub fn broken(name: &str, error: &Error) -> Self {
        let mut row = Self::new(name);
        row.fail(Failed::new(name, lines(error)));
        row
    }

    /// Counts a test by its problems; it is run again by its name.
    pub fn settle(&mut self, name: &str, problems: Vec<String>) {
        if problems.is_empty() {
            self.passed += 1;
        } else {
            self.fail(Failed {
                again: format!("again: cargo xtask test --filter '{name}'"),
                ..Failed::new(name, problems)
            });
        }
    }

    /// Counts a failure.
    pub fn fail(&mut self, failed: Failed) {
        self.failed += 1;
        self.failures.push(failed);
        if self.status == "ok" {
            self.status = "failed".to_owned();
        }
    }

    /// The line that is printed when the set has ended.
    pub fn line(&self) -> String {
        let counts = counts(self.passed, self.failed, self.skipped);
        format!(
            "{}: {counts} ({:.1} s) {}",
            self.name, self.seconds, self.status
        )
    }
}

/// An error, as the detail of a failure.
pub fn lines(error: &Error) -> Vec<String> {
    format!("{error:#}").lines().map(str::to_owned).collect()
}

fn counts(passed: usize, failed: usize, skipped: usize) -> String {
    match skipped {
        0 => format!("{passed} passed, {failed} failed"),
        _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
}

/// All results.
#[derive(Debug, Default)]
pub struct Summary {
    rows: Vec<Row>,
}

impl Summary {
    /// Adds a result and prints its line.
    pub fn add(&mut self, row: Row, progress: &ProgressBar) {
        progress.suspend(|| println!("{}", row.line()));
        self.rows.push(row);
    }

    /// Adds a result whose line was printed before.
    pub fn add_silently(&mut self, row: Row) {
        self.rows.push(row);
    }

    fn total(&self, count: impl Fn(&Row) -> usize) -> usize {
        self.rows.iter().map(count).sum()
    }

    /// Tells whether something ran and nothing failed.
    pub fn is_success(&self) -> bool {
        self.total(|row| row.failed) == 0 && self.total(|row| row.passed) > 0
    }

    /// Prints the table, the failures and the totals, which are the last line.
    pub fn print(&self) {
        println!("\n{}", self.table());
        let groups = self.failures();
        groups
            .iter()
            .take(SHOWN)
            .for_each(|(failed, places)| print_failure(failed, places));
        if groups.len() > SHOWN {
            println!("\n({} more failures)", groups.len() - SHOWN);
        }
        let (passed, failed) = (self.total(|row| row.passed), self.total(|row| row.failed));
        if passed + failed == 0 {
            println!("no test was run; `--filter` matches nothing");
        }
        println!(
            "\n{}",
            counts(passed, failed, self.total(|row| row.skipped))
        );
    }

    /// Failures and where they happened; one that says the same in many places comes once.
    fn failures(&self) -> Vec<(&Failed, Vec<&str>)> {
        let mut groups: Vec<(&Failed, Vec<&str>)> = Vec::new();
        for row in &self.rows {
            for failed in &row.failures {
                let same = |group: &&mut (&Failed, Vec<&str>)| {
                    group.0.name == failed.name && group.0.detail == failed.detail
                };
                match groups.iter_mut().find(same) {
                    Some((_, places)) => places.push(&row.name),
                    None => groups.push((failed, vec![&row.name])),
                }
            }
        }
        groups
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["machine", "passed", "failed", "skipped", "status"]);
        for row in &self.rows {
            table.add_row([
                row.name.clone(),
                row.passed.to_string(),
                row.failed.to_string(),
                row.skipped.to_string(),
                row.status.clone(),
            ]);
        }
        for column in table.column_iter_mut().skip(1).take(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

fn print_failure(failed: &Failed, places: &[&str]) {
    println!("\nFAILED {}", failed.name);
    for place in places {
        println!("  on {place}");
    }
    let skipped = failed.detail.len().saturating_sub(DETAIL);
    if skipped > 0 {
        println!("    ({skipped} lines before)");
    }
    for line in &failed.detail[skipped..] {
        println!("    {line}");
    }
    for line in failed.again.lines() {
        println!("    {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(name: &str, test: &str, detail: &str) -> Row {
        let mut row = Row::new(name);
        row.passed = 2;
        row.fail(Failed::new(test, vec![detail.to_owned()]));
        row
    }

    #[test]
    fn same_failure_on_many_machines_is_one() {
        let rows = vec![
            failing("a", "lazy.pause", "1"),
            failing("b", "lazy.pause", "1"),
            failing("c", "lazy.pause", "2"),
        ];
        let summary = Summary { rows };
        let places: Vec<Vec<&str>> = summary
            .failures()
            .into_iter()
            .map(|(_, places)| places)
            .collect();
        assert_eq!(places, [vec!["a", "b"], vec!["c"]]);
        assert_eq!(summary.total(|row| row.failed), 3);
    }

    #[test]
    fn success_needs_a_test_that_passed() {
        assert!(!Summary::default().is_success());
        let mut row = Row::new("a");
        row.skipped = 1;
        assert!(
            !Summary {
                rows: vec![row.clone()]
            }
            .is_success()
        );
        let left_out = Row::left_out("b", "why");
        assert!(left_out.line().ends_with("1 skipped (0.0 s) left out: why"));
        assert!(
            !Summary {
                rows: vec![left_out]
            }
            .is_success()
        );
        row.passed = 1;
        assert!(Summary { rows: vec![row] }.is_success());
        assert!(
            !Summary {
                rows: vec![failing("a", "t", "")]
            }
            .is_success()
        );
    }

    #[test]
    fn counts_are_the_last_line() {
        assert_eq!(counts(12, 0, 0), "12 passed, 0 failed");
        assert_eq!(counts(12, 1, 3), "12 passed, 1 failed, 3 skipped");
    }
}
