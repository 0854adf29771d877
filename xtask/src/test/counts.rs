// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the library's operations and the scheduler execute, against docs/instruction-counts.md: one
//! test each.

use super::boots::Bench;
use super::summary::{Failed, Row};
use crate::counts::{committed, measure, names, problems};
use anyhow::Result;
use std::fmt::Write;
use std::time::Instant;

/// Name of the row, and first part of the names of its tests.
const ROW: &str = "counts";

/// Measures and compares; nothing comes back when the filter selects nothing that is measured.
///
/// # Errors
///
/// When the log cannot be written.
pub fn run(bench: &Bench<'_>) -> Result<Option<Row>> {
    let selected = |name: &str| bench.selects(&format!("{ROW}.{name}"));
    if !names().any(selected) {
        return Ok(None);
    }
    let mut row = Row::new(ROW);
    let start = Instant::now();
    let mut log = String::new();
    let measured = measure(bench.workspace, bench.qemu, bench.artifacts, &[], |line| {
        let _ = writeln!(log, "{line}");
    });
    bench.keep(ROW, &log)?;
    match measured.and_then(|measured| Ok(problems(&committed(bench.workspace)?, &measured))) {
        Ok(problems) => {
            for name in names().filter(|name| selected(name)) {
                let mine = problems.iter().filter(|problem| problem.subject == name);
                let detail: Vec<String> = mine.map(|problem| problem.what.clone()).collect();
                if detail.is_empty() {
                    row.passed += 1;
                } else {
                    row.fail(failed(&format!("{ROW}.{name}"), detail));
                }
            }
        }
        Err(error) => {
            let detail = format!("{error:#}").lines().map(str::to_owned).collect();
            row.fail(failed(ROW, detail));
        }
    }
    row.seconds = start.elapsed().as_secs_f64();
    bench.progress.suspend(|| println!("{}", row.line()));
    Ok(Some(row))
}

fn failed(name: &str, detail: Vec<String>) -> Failed {
    Failed {
        again: "again: cargo xtask counts --check\nif that is meant to be so: cargo xtask counts --write"
            .to_owned(),
        ..Failed::new(name, detail)
    }
}
