// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's counts against the model's prediction and the plugin's counts, in every window of every backend,
//! policy and CPU: one test for each boot. What the same boots say of the committed baseline is the row `bench`.

use super::boots::Bench;
use super::parallel;
use super::summary::{Failed, Row};
use crate::bench::baseline;
use crate::bench::counted::{Counted, Setup, Terms};
use crate::bench::prediction::Prediction;
use crate::bench::sides::differences;
use crate::qemu::Plugin;
use anyhow::Result;
use std::collections::BTreeSet;
use std::time::Instant;

/// Name of the row, and first part of the names of its tests.
pub const ROW: &str = "agreement";
/// The same of what is compared with the baseline.
pub const BASELINE: &str = "bench";

fn selected_test(bench: &Bench<'_>, row: &str, terms: &Terms) -> bool {
    bench.selects(&format!("{row}.{}", terms.name()))
}

/// Tells whether the filter selects any.
pub fn selected(bench: &Bench<'_>) -> bool {
    Terms::all().any(|terms| {
        [ROW, BASELINE]
            .iter()
            .any(|row| selected_test(bench, row, &terms))
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
        plugin,
    };
    let wanted =
        |row: &'static str| Terms::all().filter(move |terms| selected_test(bench, row, terms));
    let all: BTreeSet<Terms> = wanted(ROW).chain(wanted(BASELINE)).collect();
    let all: Vec<Terms> = all.into_iter().collect();
    let counted = parallel::each(&all, jobs, |terms| {
        bench.progress.set_message(format!("{ROW}: {terms}"));
        let counted = setup.count(terms, baseline::PAGES);
        let log = counted
            .as_ref()
            .map_or_else(|error| format!("{error:#}"), |counted| counted.log.clone());
        bench.keep(&format!("{ROW}.{}", terms.name()), &log)?;
        Ok(counted)
    })?;
    // After Ctrl-C there are fewer.
    let counted: Vec<(&Terms, &Result<Counted>)> = all.iter().zip(&counted).collect();
    let booted = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut agreement = Row::new(ROW);
    if wanted(ROW).next().is_some() {
        let prediction = Prediction::make(bench.workspace, baseline::PAGES);
        judge(
            bench,
            &mut agreement,
            &counted,
            |terms, counted| match &prediction {
                Ok(prediction) => differences(terms, counted, Some(prediction)),
                Err(error) => lines(error),
            },
        );
    }
    agreement.seconds = booted + start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut kept = Row::new(BASELINE);
    let committed = baseline::read(bench.workspace);
    judge(
        bench,
        &mut kept,
        &counted,
        |terms, counted| match &committed {
            Ok(committed) => baseline::worse(committed, terms, &counted.outside),
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
    counted: &[(&Terms, &Result<Counted>)],
    problems: impl Fn(&Terms, &Counted) -> Vec<String>,
) {
    for (terms, counted) in counted {
        if !selected_test(bench, &row.name, terms) {
            continue;
        }
        let problems = match counted {
            Ok(counted) => problems(terms, counted),
            Err(error) => lines(error),
        };
        if problems.is_empty() {
            row.passed += 1;
            continue;
        }
        let name = format!("{}.{}", row.name, terms.name());
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
