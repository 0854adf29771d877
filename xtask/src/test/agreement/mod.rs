// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's counts against the model's prediction and the plugin's counts, in every window of every backend,
//! policy and CPU: one test for each boot, and one for each CPU of the linear map that it boots with and of waking a
//! task. What the same boots say of the committed baseline is the row `bench`. What
//! self-tests count is in [`selftests`].

pub mod selftests;

use super::boots::Bench;
use super::parallel;
use super::summary::{Failed, Row};
use crate::bench::baseline;
use crate::bench::counted::{CPUS, Counted, Setup, Terms};
use crate::bench::prediction::Prediction;
use crate::bench::sides::{differences, differences_of_boot};
use crate::qemu::Plugin;
use anyhow::Result;
use std::collections::BTreeSet;
use std::time::Instant;

/// Name of the row, and first part of the names of its tests.
pub const ROW: &str = "agreement";
/// The same of what is compared with the baseline.
pub const BASELINE: &str = "bench";

/// What a test is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Planned {
    /// The windows of a boot under these terms.
    Windows(Terms),
    /// The boot of this CPU, and waking a task there.
    Boot(&'static str),
}

impl Planned {
    fn all() -> impl Iterator<Item = Self> {
        let boots = CPUS.into_iter().map(Self::Boot);
        Terms::all().map(Self::Windows).chain(boots)
    }

    /// As part of the test's name.
    fn name(&self) -> String {
        match self {
            Self::Windows(terms) => terms.name(),
            Self::Boot(cpu) => format!("{}.boot_and_wake_up", cpu.replace('-', "_")),
        }
    }

    fn count(&self, setup: &Setup<'_>) -> Result<Counted> {
        match self {
            Self::Windows(terms) => setup.count(terms, baseline::PAGES),
            Self::Boot(cpu) => setup.count_boot(cpu),
        }
    }
}

fn selected_test(bench: &Bench<'_>, row: &str, planned: &Planned) -> bool {
    bench.selects(&format!("{row}.{}", planned.name()))
}

/// Tells whether the filter selects any.
pub fn selected(bench: &Bench<'_>) -> bool {
    Planned::all().any(|planned| {
        [ROW, BASELINE]
            .iter()
            .any(|row| selected_test(bench, row, &planned))
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
    let wanted = |row: &'static str| {
        Planned::all().filter(move |planned| selected_test(bench, row, planned))
    };
    let all: BTreeSet<Planned> = wanted(ROW).chain(wanted(BASELINE)).collect();
    let all: Vec<Planned> = all.into_iter().collect();
    let counted = parallel::each(&all, jobs, |planned| {
        let name = planned.name();
        bench.progress.set_message(format!("{ROW}: {name}"));
        let counted = planned.count(&setup);
        let log = counted
            .as_ref()
            .map_or_else(|error| format!("{error:#}"), |counted| counted.log.clone());
        bench.keep(&format!("{ROW}.{name}"), &log)?;
        Ok(counted)
    })?;
    // After Ctrl-C there are fewer.
    let counted: Vec<(&Planned, &Result<Counted>)> = all.iter().zip(&counted).collect();
    let booted = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut agreement = Row::new(ROW);
    // It takes the model a while.
    let prediction = wanted(ROW)
        .next()
        .map(|_| Prediction::make(bench.workspace, baseline::PAGES))
        .transpose();
    judge(bench, &mut agreement, &counted, |planned, counted| {
        match (planned, &prediction) {
            (_, Err(error)) => lines(error),
            (Planned::Boot(cpu), Ok(known)) => differences_of_boot(cpu, counted, known.as_ref()),
            (Planned::Windows(terms), Ok(known)) => differences(terms, counted, known.as_ref()),
        }
    });
    agreement.seconds = booted + start.elapsed().as_secs_f64();

    let start = Instant::now();
    let mut kept = Row::new(BASELINE);
    let committed = baseline::read(bench.workspace);
    judge(bench, &mut kept, &counted, |planned, counted| {
        match (planned, &committed) {
            (Planned::Windows(terms), Ok(committed)) => {
                baseline::worse(committed, terms, &counted.outside)
            }
            (Planned::Boot(cpu), Ok(committed)) => {
                baseline::worse_boot(committed, cpu, &counted.outside)
            }
            (_, Err(error)) => lines(error),
        }
    });
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
    counted: &[(&Planned, &Result<Counted>)],
    problems: impl Fn(&Planned, &Counted) -> Vec<String>,
) {
    for (planned, counted) in counted {
        if !selected_test(bench, &row.name, planned) {
            continue;
        }
        let problems = match counted {
            Ok(counted) => problems(planned, counted),
            Err(error) => lines(error),
        };
        if problems.is_empty() {
            row.passed += 1;
            continue;
        }
        let name = format!("{}.{}", row.name, planned.name());
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
