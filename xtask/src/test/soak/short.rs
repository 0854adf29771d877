// SPDX-License-Identifier: MIT OR Apache-2.0

//! What every `cargo xtask test` runs of the soak in the kernel: a few seconds of random tasks, with a
//! backend that defers barriers and with two that queue, on 4 and 8 CPUs.

use super::tasks::{Scene, Soaked, soak};
use crate::glob;
use crate::parallel;
use crate::qemu::machine::Gic::{self, V2, V3};
use crate::test::boots::Bench;
use crate::test::summary::{Failed, Row};
use anyhow::Result;
use std::time::Instant;

/// Name of the row, and first part of the names of its tests.
const ROW: &str = "soak";
/// Seconds of each boot.
const SECONDS: u32 = 5;
/// The same each time: what fails once is to fail again as far as several CPUs allow it.
const SEED: u32 = 1;

/// A test.
struct Short {
    name: &'static str,
    smp: u32,
    cpu: &'static str,
    gic: Gic,
    lazy: &'static str,
}

#[rustfmt::skip]
const SHORT: [Short; 4] = [
    Short { name: "defer_barriers_on_4_cpus", smp: 4, cpu: "cortex-a72", gic: V2, lazy: "defer-barriers" },
    Short { name: "defer_barriers_on_8_cpus", smp: 8, cpu: "cortex-a72", gic: V3, lazy: "defer-barriers" },
    Short { name: "multicall_on_4_cpus",      smp: 4, cpu: "max",        gic: V3, lazy: "multicall" },
    Short { name: "defer_stores_on_8_cpus",   smp: 8, cpu: "cortex-a72", gic: V2, lazy: "defer-stores" },
];

/// Boots them, `jobs` at a time; nothing comes back when the filter selects none.
///
/// # Errors
///
/// When QEMU cannot be started at all, or a log cannot be written.
pub fn run(bench: &Bench<'_>, jobs: usize) -> Result<Option<Row>> {
    let name = |short: &Short| format!("{ROW}.{}", short.name);
    let selected = |short: &&Short| {
        bench
            .filter
            .is_none_or(|filter| glob::matches(filter, &name(short)))
    };
    let selected: Vec<&Short> = SHORT.iter().filter(selected).collect();
    if selected.is_empty() {
        return Ok(None);
    }
    let start = Instant::now();
    let ends = parallel::each(&selected, jobs, |short| {
        let scene = Scene::new(short.smp, (short.cpu, short.gic), short.lazy);
        Ok((name(short), soak(bench, &scene, SECONDS, SEED)?))
    })?;
    let mut row = Row::new(ROW);
    for (name, end) in ends {
        match end {
            Soaked::Passed { .. } => row.passed += 1,
            Soaked::Failed { detail, again } => row.fail(Failed {
                again,
                ..Failed::new(&name, detail)
            }),
            Soaked::Interrupted => {}
        }
    }
    row.seconds = start.elapsed().as_secs_f64();
    bench.progress.suspend(|| println!("{}", row.line()));
    Ok(Some(row))
}
