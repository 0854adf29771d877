// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the library's operations and the scheduler execute on the CPU max, as the kernel counts it alone, against the
//! committed baseline: one test each. It needs no QEMU that loads plugins; what a plugin counts of the same windows, and
//! of all others, is the row `bench`.

use super::boots::Bench;
use super::summary::{Failed, Row};
use crate::measure::baseline::{self, worse_subject};
use crate::measure::boots::{CLASSIC, DEFER_BARRIERS, MAX, Measurement, Setup, Terms};
use crate::measure::subjects::Subject;
use anyhow::Result;
use std::time::Instant;

/// Name of the row, and first part of the names of its tests.
const ROW: &str = "counts";

/// Measures and compares; nothing comes back when the filter selects nothing that is measured.
///
/// # Errors
///
/// When the log cannot be written.
pub fn run(bench: &Bench<'_>) -> Result<Option<Row>> {
    let measurement = Measurement::Windows(Terms::new(MAX, CLASSIC, DEFER_BARRIERS));
    let name = |subject: &Subject| format!("{ROW}.{}", subject.name);
    let selected: Vec<&Subject> = measurement
        .subjects()
        .filter(|subject| bench.selects(&name(subject)))
        .collect();
    if selected.is_empty() {
        return Ok(None);
    }
    let mut row = Row::new(ROW);
    let start = Instant::now();
    let setup = Setup {
        workspace: bench.workspace,
        qemu: bench.qemu,
        artifacts: bench.artifacts,
        plugin: None,
    };
    let counted = setup.count(&measurement, baseline::PAGES);
    let log = counted
        .as_ref()
        .map_or_else(|error| format!("{error:#}"), |counted| counted.log.clone());
    bench.keep(ROW, &log)?;
    let found = counted.and_then(|counted| {
        let committed = baseline::read(bench.workspace)?;
        let before = baseline::of(&committed, &measurement)?;
        let worse = |subject: &&Subject| worse_subject(subject, before, &counted.inside);
        let all = selected.iter();
        Ok(all.map(|it| (name(it), worse(it))).collect::<Vec<_>>())
    });
    let found = found.unwrap_or_else(|error| {
        let detail = format!("{error:#}").lines().map(str::to_owned).collect();
        vec![(ROW.to_owned(), detail)]
    });
    for (name, detail) in found {
        if detail.is_empty() {
            row.passed += 1;
        } else {
            row.fail(failed(&name, detail));
        }
    }
    row.seconds = start.elapsed().as_secs_f64();
    Ok(Some(row))
}

fn failed(name: &str, detail: Vec<String>) -> Failed {
    Failed {
        again: "again: cargo xtask counts --check\nif that is meant to be so: cargo xtask bench --write"
            .to_owned(),
        ..Failed::new(name, detail)
    }
}
