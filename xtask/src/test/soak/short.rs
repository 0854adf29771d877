// SPDX-License-Identifier: MIT OR Apache-2.0

//! What every `cargo xtask test` runs of the soak in the kernel: a few seconds of random tasks,
//! with a backend that defers barriers and with two that queue, on 4 and 8 CPUs.

use super::tasks::{Scene, soak};
use crate::qemu::machine::Gic::{self, V2, V3};
use crate::test::boots::Bench;
use crate::test::summary::Row;
use anyhow::Result;

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

/// Boots what the filter selects.
///
/// # Errors
///
/// When QEMU cannot be started at all, or a log cannot be written.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let name = |short: &Short| short.name.to_owned();
    let row = bench.row(ROW, &SHORT, name, |name, short| {
        let scene = Scene::new(short.smp, (short.cpu, short.gic), short.lazy);
        let round = soak(bench, name, &scene, SECONDS, SEED)?;
        Ok(round.map(|round| {
            round
                .failures
                .into_iter()
                .flat_map(|it| it.detail)
                .collect()
        }))
    })?;
    Ok(row.into_iter().collect())
}
