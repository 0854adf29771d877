// SPDX-License-Identifier: MIT OR Apache-2.0

//! The committed counts, and the comparison that finds what is worse. `cargo xtask test` runs it
//! (rows `bench` and `counts`).
//!
//! Boots under `-icount` repeat to the instruction as long as QEMU is the same. Another QEMU, with
//! another device tree or a CPU `max` with more features, may need a new baseline. Waking needs the
//! host's clock. The best of its repetitions repeats even on a busy host, because no time slice
//! ends meanwhile (kernel/src/bench/scheduler.rs), so the same bounds hold for it.

use super::boots::Measurement;
use super::costs::{Cost, Costs};
use super::results::Results;
use super::subjects::{Group, Subject};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;

/// The file, from the workspace's root.
pub const FILE: &str = "xtask/src/measure/baseline.json";
/// What writes it.
pub const WRITE: &str = "`cargo xtask bench --write` writes it";
/// Pages of its largest windows.
pub const PAGES: u64 = 4096;
/// Percent that a count of instructions may grow: an edit elsewhere may move the compiler's choices.
pub const TOLERANCE: u64 = 2;

/// The committed counts.
///
/// # Errors
///
/// When there are none, or they are damaged.
pub fn read(workspace: &Workspace) -> Result<Results> {
    let text = fs::read_to_string(workspace.root().join(FILE))
        .with_context(|| format!("cannot read {FILE} ({WRITE})"))?;
    Results::from_json(&text).with_context(|| format!("{FILE} is damaged ({WRITE} again)"))
}

/// What the committed counts say of `measurement`.
///
/// # Errors
///
/// When they say nothing.
pub fn of<'a>(committed: &'a Results, measurement: &Measurement) -> Result<&'a Costs> {
    let costs = committed.measured.get(measurement);
    costs.with_context(|| format!("{FILE} has no `{measurement}` ({WRITE} again)"))
}

/// What is worse in `measured` than the committed counts ([`worse_subject`]), of all subjects of `measurement`.
pub fn worse(committed: &Results, measurement: &Measurement, measured: &Costs) -> Vec<String> {
    match of(committed, measurement) {
        Err(error) => vec![error.to_string()],
        Ok(before) => {
            let worse = measurement.subjects().flat_map(|subject| {
                let found = worse_subject(subject, before, measured).into_iter();
                found.map(|what| format!("{}: {what}", subject.name))
            });
            worse.collect()
        }
    }
}

/// Everything in which `subject` got worse from `committed` to `measured`: [`TOLERANCE`] percent more instructions, one
/// barrier or TLBI more, a target that was met and is missed, or a window that only one side has.
pub fn worse_subject(subject: &Subject, committed: &Costs, measured: &Costs) -> Vec<String> {
    let windows = committed.of(subject.op).chain(measured.of(subject.op));
    let sizes: BTreeSet<u64> = windows.map(|(pages, _)| pages).collect();
    let mut found = Vec::new();
    if sizes.is_empty() {
        found.push("neither in the baseline nor measured".to_owned());
    }
    for pages in sizes {
        let [before, now] = [committed, measured].map(|side| side.get(subject.op, pages));
        let what = match (before, now) {
            (Some(before), Some(now)) => more(before, now),
            (Some(_), None) => vec!["in the baseline, and not measured".to_owned()],
            (None, _) => vec!["measured, and not in the baseline".to_owned()],
        };
        found.extend(what.into_iter().map(|what| match subject.group {
            Group::Operation | Group::Boot => format!("pages={pages}: {what}"),
            Group::Scheduler | Group::WakeUp => what,
        }));
    }
    if [committed, measured].map(|side| subject.met(side)) == [Some(true), Some(false)] {
        found.push("the target that the baseline meets is missed".to_owned());
    }
    found
}

/// Which counts are worse.
fn more(before: &Cost, now: &Cost) -> Vec<String> {
    let both = before.counts().into_iter().zip(now.counts());
    both.filter(|((name, before), (_, now))| match *name {
        "instructions" => now * 100 > before * (100 + TOLERANCE),
        "spread" => false,
        _ => now > before,
    })
    .map(|((name, before), (_, now))| format!("{now} {name}, the baseline has {before}"))
    .collect()
}

#[cfg(test)]
mod tests;
