// SPDX-License-Identifier: MIT OR Apache-2.0

//! The committed counts, and what is worse than they are. `cargo xtask test` asks (row `bench`).

use super::counted::Terms;
use super::json;
use super::results::{BOOT, Results};
use crate::counts::{Measured, WAKES, problems, worse_event, worse_windows};
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

/// The same of the boot and of waking a task, which were counted on `cpu`.
///
/// Boots under `-icount` repeat to the instruction as long as QEMU is the same: another one, with another device tree
/// or a CPU `max` that has more, may ask for a new baseline. Waking needs the host's clock. The best of its
/// repetitions repeats, on a busy host too, because no slice ends meanwhile
/// (kernel/src/bench/scheduler.rs); so it is held to the same bounds.
pub fn worse_boot(committed: &Results, cpu: &str, measured: &Measured) -> Vec<String> {
    let Some(before) = committed.boots.get(cpu) else {
        return vec![format!("{FILE} has no boot of `{cpu}` ({WRITE} again)")];
    };
    let windows = BOOT.iter().flat_map(|(op, name, _)| {
        worse_windows(*op, before, measured).map(move |what| format!("{name}: {what}"))
    });
    let events = WAKES.iter().flat_map(|event| {
        let worse = worse_event(event, before, measured).into_iter();
        worse.map(|what| format!("{}: {what}", event.name))
    });
    windows.chain(events).collect()
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.root().join(FILE)
}

#[cfg(test)]
mod tests {
    use super::super::counted::CPUS;
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
    fn more_in_a_boot_is_worse() {
        let committed = results(&[512]);
        let said = |change: &dyn Fn(&mut Measured)| {
            let mut measured = committed.boots["max"].clone();
            change(&mut measured);
            worse_boot(&committed, "max", &measured)
        };
        assert_eq!(said(&|_| {}), [""; 0]);
        let linear = |instructions: u64| {
            said(&|measured| {
                let cost = measured.costs.entry((141, 262_144));
                cost.and_modify(|cost| cost.instructions = instructions);
            })
        };
        assert_eq!(linear(143_820), [""; 0], "2 % more");
        assert_eq!(
            linear(143_821),
            ["linear_map: pages=262144: 143821 instructions, the report has 141000"]
        );
        let barrier = said(&|measured| {
            let cost = measured.costs.entry((142, 0));
            cost.and_modify(|cost| cost.dmb = 1);
            let cost = measured.events.entry("woken");
            cost.and_modify(|cost| cost.isb = 1);
        });
        assert_eq!(
            barrier,
            [
                "to_self_test: pages=0: 1 DMB, the report has 0",
                "woken: 1 ISB, the report has 0"
            ]
        );
        let nothing = said(&|measured| *measured = Measured::default());
        assert_eq!(nothing.len(), BOOT.len() + WAKES.len());
        let unknown = worse_boot(&Results::default(), "max", &Measured::default());
        assert!(unknown[0].contains("has no boot of `max`"), "{unknown:?}");
    }

    #[test]
    fn the_committed_file_is_as_this_xtask_writes_it() {
        let workspace = Workspace::find();
        let text = fs::read_to_string(path(&workspace)).unwrap();
        let read = read(&workspace).unwrap();
        assert_eq!(json::write(&read), text);
        assert!(Terms::all().eq(Terms::all().filter(|terms| read.counted.contains_key(terms))));
        for cpu in CPUS {
            let boot = &read.boots[cpu];
            assert!(BOOT.iter().all(|(op, ..)| boot.of(*op).count() == 1));
            assert!(
                WAKES
                    .iter()
                    .all(|event| boot.events.contains_key(event.name))
            );
        }
    }
}
