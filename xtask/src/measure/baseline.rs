// SPDX-License-Identifier: MIT OR Apache-2.0

//! The committed counts, and what is worse than they are. `cargo xtask test` asks (rows `bench` and `counts`).
//!
//! Boots under `-icount` repeat to the instruction as long as QEMU is the same: another one, with another device tree
//! or a CPU `max` that has more, may ask for a new baseline. Waking needs the host's clock. The best of its
//! repetitions repeats, on a busy host too, because no slice ends meanwhile (kernel/src/bench/scheduler.rs); so it is
//! held to the same bounds.

use super::boots::Measurement;
use super::compare;
use super::costs::Costs;
use super::results::Results;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;

/// The file, from the workspace's root.
pub const FILE: &str = "xtask/src/measure/baseline.json";
/// What writes it.
pub const WRITE: &str = "`cargo xtask bench --write` writes it";
/// Pages of its largest windows.
pub const PAGES: u64 = 4096;

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

/// What is worse in `measured` than the committed counts ([`compare::worse`]), of all subjects of `measurement`.
pub fn worse(committed: &Results, measurement: &Measurement, measured: &Costs) -> Vec<String> {
    match of(committed, measurement) {
        Err(error) => vec![error.to_string()],
        Ok(before) => {
            let worse = measurement.subjects().flat_map(|subject| {
                let found = compare::worse(subject, before, measured).into_iter();
                found.map(|what| format!("{}: {what}", subject.name))
            });
            worse.collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::boots::Terms;
    use super::super::results::tests::{cost, results};
    use super::*;

    const TERMS: [&str; 3] = ["cortex-a72", "classic", "multicall"];
    const BOOT: [&str; 3] = ["max", "", ""];

    fn worse_than_before(of: [&str; 3], change: impl FnOnce(&mut Results)) -> Vec<String> {
        let committed = results(&[512, 4096]);
        let mut measured = committed.clone();
        change(&mut measured);
        let [cpu, policy, backend] = of;
        let measurement = match of {
            BOOT => Measurement::Boot(cpu.to_owned()),
            _ => Measurement::Windows(Terms::new(cpu, policy, backend)),
        };
        worse(&committed, &measurement, &measured.measured[&measurement])
    }

    #[test]
    fn the_same_and_less_are_not_worse() {
        for of in [TERMS, BOOT] {
            assert_eq!(worse_than_before(of, |_| {}), [""; 0]);
        }
        let less = worse_than_before(TERMS, |results| {
            cost(results, TERMS, "map_scattered", 512).dsb = 0;
        });
        assert_eq!(less, [""; 0]);
    }

    #[test]
    fn more_is() {
        let barrier = worse_than_before(TERMS, |results| {
            cost(results, TERMS, "map_scattered", 512).dsb = 2;
        });
        assert_eq!(
            barrier,
            ["map_scattered: pages=512: 2 DSB, the baseline has 1"]
        );
        let event = worse_than_before(TERMS, |results| {
            cost(results, TERMS, "yield", 0).instructions = 1000;
        });
        assert_eq!(event[0], "yield: 1000 instructions, the baseline has 132");
        let boot = worse_than_before(BOOT, |results| {
            cost(results, BOOT, "to_self_test", 0).dmb = 1;
            cost(results, BOOT, "woken", 0).isb = 1;
        });
        assert_eq!(
            boot,
            [
                "to_self_test: pages=0: 1 DMB, the baseline has 0",
                "woken: 1 ISB, the baseline has 0"
            ]
        );
    }

    #[test]
    fn the_linear_map_may_grow_by_two_percent() {
        let linear = |instructions| {
            worse_than_before(BOOT, |results| {
                cost(results, BOOT, "linear_map", 262_144).instructions = instructions;
            })
        };
        assert_eq!(linear(143_820), [""; 0]);
        assert_eq!(
            linear(143_821),
            ["linear_map: pages=262144: 143821 instructions, the baseline has 141000"]
        );
    }

    #[test]
    fn what_is_on_one_side_only_is_worse() {
        let boot = Measurement::Boot("max".to_owned());
        let committed = results(&[512]);
        let nothing = worse(&committed, &boot, &Costs::default());
        assert_eq!(nothing.len(), boot.subjects().count());
        let unknown = worse(&Results::default(), &boot, &Costs::default());
        assert!(unknown[0].contains("has no `max, boot`"), "{unknown:?}");
    }

    #[test]
    fn the_committed_file_is_as_this_xtask_writes_it() {
        let workspace = Workspace::find();
        let text = fs::read_to_string(workspace.root().join(FILE)).unwrap();
        let read = read(&workspace).unwrap();
        assert_eq!(read.to_json().unwrap(), text);
        for measurement in Measurement::all() {
            let costs = &read.measured[&measurement];
            for subject in measurement.subjects() {
                let name = subject.name;
                assert!(
                    costs.of(subject.op).next().is_some(),
                    "{measurement}: {name}"
                );
            }
        }
    }
}
