// SPDX-License-Identifier: MIT OR Apache-2.0

//! The committed counts, and what is worse than they are. `cargo xtask test` asks (row `bench`).

use super::counted::Terms;
use super::json;
use super::results::Results;
use crate::counts::{Measured, problems};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// The file, from the workspace's root.
pub const FILE: &str = "xtask/src/bench/baseline.json";
/// What writes it.
const WRITE: &str = "`cargo xtask bench --write` writes it";
/// Pages of its largest windows.
pub const PAGES: u64 = 4096;

/// The committed counts.
///
/// # Errors
///
/// When there are none, or they are damaged.
pub fn read(workspace: &Workspace) -> Result<Results> {
    let text = fs::read_to_string(path(workspace))
        .with_context(|| format!("cannot read {FILE} ({WRITE})"))?;
    json::read(&text).with_context(|| format!("{FILE} is damaged ({WRITE} again)"))
}

/// Commits `results`, as far as a baseline keeps them.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(workspace: &Workspace, results: Results) -> Result<()> {
    let path = path(workspace);
    fs::write(&path, json::write(&results.baseline(PAGES)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What is worse in `measured` than the committed counts: 2 % more instructions, one barrier or TLBI more, a target
/// that is missed now.
pub fn worse(committed: &Results, terms: &Terms, measured: &Measured) -> Vec<String> {
    let Some(before) = committed.counted.get(terms) else {
        return vec![format!("{FILE} has no `{terms}` ({WRITE} again)")];
    };
    problems(before, measured)
        .into_iter()
        .map(|problem| format!("{}: {}", problem.subject, problem.what))
        .collect()
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.root().join(FILE)
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    fn worse_than_before(change: impl FnOnce(&mut Measured)) -> Vec<String> {
        let committed = results(&[512, 4096]);
        let terms = Terms::new("cortex-a72", "classic", "multicall");
        let mut measured = committed.counted[&terms].clone();
        change(&mut measured);
        worse(&committed, &terms, &measured)
    }

    #[test]
    fn the_same_and_less_are_not_worse() {
        assert_eq!(worse_than_before(|_| {}), [""; 0]);
        let less = worse_than_before(|measured| {
            measured.costs.values_mut().for_each(|cost| cost.dsb = 0);
        });
        assert_eq!(less, [""; 0]);
    }

    #[test]
    fn more_is() {
        let barrier = worse_than_before(|measured| {
            measured
                .costs
                .entry((8, 512))
                .and_modify(|cost| cost.dsb = 2);
        });
        assert_eq!(
            barrier,
            ["map_scattered: pages=512: 2 DSB, the report has 1"]
        );
        let event = worse_than_before(|measured| {
            measured
                .events
                .entry("yield")
                .and_modify(|cost| cost.instructions = 1000);
        });
        assert_eq!(event[0], "yield: 1000 instructions, the report has 132");
        let unknown = worse(
            &Results::default(),
            &Terms::new("a", "b", "c"),
            &Measured::default(),
        );
        assert!(unknown[0].contains("has no `a, b, c`"), "{unknown:?}");
    }

    #[test]
    fn the_committed_file_is_as_this_xtask_writes_it() {
        let workspace = Workspace::find();
        let text = fs::read_to_string(path(&workspace)).unwrap();
        let read = read(&workspace).unwrap();
        assert_eq!(json::write(&read), text);
        assert!(Terms::all().eq(Terms::all().filter(|terms| read.counted.contains_key(terms))));
    }
}
