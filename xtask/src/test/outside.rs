// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a plugin counts from outside: the plugin itself, then the kernel's own counts and the
//! model's prediction against it, and the committed baseline.

use super::agreement::{self, selftests};
use super::boots::Bench;
use super::host;
use super::summary::Row;
use crate::guest;
use crate::qemu::Plugin;
use anyhow::Result;

/// All rows, or one that says why there is none: not every QEMU loads the plugin.
///
/// # Errors
///
/// When QEMU cannot be started, or a file cannot be written.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let programs = host::Selected::of(bench.workspace, &host::PLUGIN, bench.filter)?;
    if programs.is_none() && !agreement::selected(bench) && !selftests::selected(bench) {
        return Ok(Vec::new());
    }
    let plugin = match Plugin::build(bench.workspace) {
        Ok(plugin) => plugin,
        Err(error) => return Ok(vec![Row::broken("plugin", &error)]),
    };
    if let Some(why) = plugin.refused_by(bench.qemu)? {
        let names = [
            "plugin",
            agreement::ROW,
            agreement::BASELINE,
            selftests::ROW,
        ];
        return Ok(vec![Row::left_out(&names.join(", "), &why)]);
    }
    let mut rows = Vec::new();
    if let Some(programs) = programs {
        rows.push(programs.run(bench.jobs)?);
    }
    if !guest::interrupted() {
        rows.extend(agreement::run(bench, &plugin, bench.jobs)?);
    }
    if !guest::interrupted() {
        rows.extend(selftests::run(bench, &plugin)?);
    }
    Ok(rows)
}
