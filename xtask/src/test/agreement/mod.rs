// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's counts against the model's prediction and the plugin's counts, in every window of every backend,
//! policy and CPU: one test for each boot, and one for each CPU of the linear map that it boots with and of waking a
//! task. What the same boots say of the committed baseline is the row `bench`. What
//! self-tests count is in [`selftests`].

pub mod selftests;

use super::boots::Bench;
use super::summary::{Failed, Row};
use crate::measure::agreement::differences;
use crate::measure::baseline;
use crate::measure::boots::{Counted, Measurement, Setup};
use crate::measure::prediction::Prediction;
use crate::parallel;
use crate::qemu::Plugin;
use anyhow::Result;
use std::time::Instant;

/// Name of the row, and first part of the names of its tests.
pub const ROW: &str = "agreement";
/// The same of what is compared with the baseline.
pub const BASELINE: &str = "bench";

fn selected_test(bench: &Bench<'_>, row: &str, measurement: &Measurement) -> bool {
    bench.selects(&format!("{row}.{}", measurement.name()))
}

/// Tells whether the filter selects any.
pub fn selected(bench: &Bench<'_>) -> bool {
    Measurement::all().any(|measurement| {
        [ROW, BASELINE]
            .iter()
            .any(|row| selected_test(bench, row, &measurement))
    })
}

/// Boots and compares, `jobs` at a time; rows in which the filter selects nothing do not come back.
///
/// # Errors
///
/// When a log cannot be written.
pub fn run(bench: &Bench<'_>, plugin: &Plugin, jobs: usize) -> Result<Vec<Row>> {
    let start = Instant::now();
    let setup = Setup {
        workspace: bench.workspace,
        qemu: bench.qemu,
        artifacts: bench.artifacts,
        plugin: Some(plugin),
    };
    let wanted = |row: &str, measurement: &Measurement| selected_test(bench, row, measurement);
    let all: Vec<Measurement> = Measurement::all()
        .filter(|measurement| wanted(ROW, measurement) || wanted(BASELINE, measurement))
        .collect();
    let counted = parallel::each(&all, jobs, |measurement| {
        let name = measurement.name();
        bench.progress.set_message(format!("{ROW}: {name}"));
        let counted = setup.count(measurement, baseline::PAGES);
        let log = counted
            .as_ref()
            .map_or_else(|error| format!("{error:#}"), |counted| counted.log.clone());
        bench.keep(&format!("{ROW}.{name}"), &log)?;
        Ok(counted)
    })?;
    // After Ctrl-C there are fewer.
    let counted: Vec<(&Measurement, &Result<Counted>)> = all.iter().zip(&counted).collect();
    let booted = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut agreement = Row::new(ROW);
    // It takes the model a while.
    let prediction = all
        .iter()
        .any(|measurement| wanted(ROW, measurement))
        .then(|| Prediction::make(bench.workspace, baseline::PAGES))
        .transpose();
    judge(
        bench,
        &mut agreement,
        &counted,
        |measurement, counted| match &prediction {
            Err(error) => lines(error),
            Ok(known) => differences(measurement, counted, known.as_ref()),
        },
    );
    agreement.seconds = booted + start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut kept = Row::new(BASELINE);
    let committed = baseline::read(bench.workspace);
    judge(
        bench,
        &mut kept,
        &counted,
        |measurement, counted| match &committed {
            Ok(committed) => baseline::worse(committed, measurement, &counted.outside),
            Err(error) => lines(error),
        },
    );
    kept.seconds = start.elapsed().as_secs_f64();
    let rows = [agreement, kept].into_iter();
    Ok(rows.filter(|row| row.passed + row.failed > 0).collect())
}

fn lines(error: &anyhow::Error) -> Vec<String> {
    format!("{error:#}").lines().map(str::to_owned).collect()
}

/// One test of `row` for each boot that its name selects.
fn judge(
    bench: &Bench<'_>,
    row: &mut Row,
    counted: &[(&Measurement, &Result<Counted>)],
    problems: impl Fn(&Measurement, &Counted) -> Vec<String>,
) {
    for (measurement, counted) in counted {
        if !selected_test(bench, &row.name, measurement) {
            continue;
        }
        let problems = match counted {
            Ok(counted) => problems(measurement, counted),
            Err(error) => lines(error),
        };
        if problems.is_empty() {
            row.passed += 1;
            continue;
        }
        let name = format!("{}.{}", row.name, measurement.name());
        let mut again = format!("again: cargo xtask test --filter '{name}'");
        if row.name == BASELINE {
            again.push_str("\nif that is meant to be so: cargo xtask bench --write");
        }
        row.fail(Failed {
            again,
            ..Failed::new(&name, problems)
        });
    }
}
