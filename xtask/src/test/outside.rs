// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a plugin counts from outside: the plugin itself, then the kernel's own counts and the model's prediction
//! against it, and the committed baseline.

use super::agreement::{self, selftests};
use super::boots::Bench;
use super::plugin;
use super::summary::{Failed, Row};
use crate::guest;
use crate::qemu::Plugin;
use anyhow::Result;

/// All rows, or one that says why there is none: not every QEMU loads the plugin.
///
/// # Errors
///
/// When QEMU cannot be started, or a file cannot be written.
pub fn run(bench: &Bench<'_>, jobs: usize) -> Result<Vec<Row>> {
    if !plugin::selected(bench) && !agreement::selected(bench) && !selftests::selected(bench) {
        return Ok(Vec::new());
    }
    let plugin = match Plugin::build(bench.workspace) {
        Ok(plugin) => plugin,
        Err(error) => {
            let mut row = Row::new(plugin::ROW);
            let detail = format!("{error:#}").lines().map(str::to_owned).collect();
            row.fail(Failed::new(plugin::ROW, detail));
            return Ok(shown(bench, row));
        }
    };
    if let Some(why) = plugin.refused_by(bench.qemu)? {
        let names = [
            plugin::ROW,
            agreement::ROW,
            agreement::BASELINE,
            selftests::ROW,
        ];
        let name = names.join(", ");
        return Ok(shown(bench, Row::left_out(&name, &why)));
    }
    let mut rows = Vec::new();
    rows.extend(plugin::run(bench, &plugin)?);
    if !guest::interrupted() {
        rows.extend(agreement::run(bench, &plugin, jobs)?);
    }
    if !guest::interrupted() {
        rows.extend(selftests::run(bench, &plugin)?);
    }
    Ok(rows.into_iter().flat_map(|row| shown(bench, row)).collect())
}

fn shown(bench: &Bench<'_>, row: Row) -> Vec<Row> {
    bench.progress.suspend(|| println!("{}", row.line()));
    vec![row]
}
