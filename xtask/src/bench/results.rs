// SPDX-License-Identifier: MIT OR Apache-2.0

//! Everything that was counted, by what was booted.

use super::counted::{self, Terms};
use crate::counts::{Cost, Measured, OPERATIONS};
use std::collections::BTreeMap;

/// The windows of a boot: number, name, title.
pub const BOOT: [(u8, &str, &str); 3] = [
    (
        counted::TO_KERNEL_MAIN,
        "to_kernel_main",
        "first instruction to kernel_main",
    ),
    (
        counted::LINEAR_MAP,
        "linear_map",
        "linear map of all memory",
    ),
    (
        counted::TO_SELF_TEST,
        "to_self_test",
        "first instruction to what it is for, such as the first self-test",
    ),
];

/// The terms under which targets are meant, and with which Linux is compared: what Linux was measured on.
pub const HEADLINE: [&str; 3] = ["cortex-a72", "classic", "defer-barriers"];

/// Everything that was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// QEMU's version.
    pub qemu: String,
    /// The operations and the scheduler.
    pub counted: BTreeMap<Terms, Measured>,
    /// By CPU: the boot's windows, and to wake a task on another CPU.
    pub boots: BTreeMap<String, Measured>,
}

/// What an entry of [`Results`] is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An operation on so many pages.
    Window(Terms, u8, u64),
    /// An event of the scheduler.
    Event(Terms, &'static str),
    /// A window of the boot on this CPU.
    Boot(String, u8, u64),
    /// To wake a task, with this CPU model.
    Wake(String, &'static str),
}

/// Counts by their names; what does not apply is not there.
pub type Numbers = Vec<(&'static str, u64)>;

impl Results {
    /// Adds what was counted under `terms`.
    pub fn add(&mut self, terms: &Terms, mut measured: Measured) {
        // Each boot has passed the boot's windows; those of `boots` are counted without arguments.
        measured
            .costs
            .retain(|(op, _), _| OPERATIONS.iter().any(|known| known.op == *op));
        self.counted.insert(terms.clone(), measured);
    }

    /// What a baseline keeps: no windows of more than `pages` pages, but all of the boot.
    pub fn baseline(mut self, pages: u64) -> Self {
        for measured in self.counted.values_mut() {
            measured.costs.retain(|(_, of), _| *of <= pages);
        }
        self
    }

    /// What was counted under the terms of the targets, if it was.
    pub fn headline(&self) -> Option<(&Terms, &Measured)> {
        let [cpu, policy, backend] = HEADLINE;
        self.counted
            .get_key_value(&Terms::new(cpu, policy, backend))
    }

    /// Every count with its name, in an order that does not change.
    pub fn entries(&self) -> BTreeMap<Subject, Numbers> {
        let mut entries = BTreeMap::new();
        for (terms, measured) in &self.counted {
            for ((op, pages), cost) in &measured.costs {
                let mut numbers = numbers(cost);
                numbers.insert(1, ("spread", cost.spread));
                entries.insert(Subject::Window(terms.clone(), *op, *pages), numbers);
            }
            for (name, numbers) in events(measured) {
                entries.insert(Subject::Event(terms.clone(), name), numbers);
            }
        }
        for (cpu, measured) in &self.boots {
            for ((op, pages), cost) in &measured.costs {
                entries.insert(Subject::Boot(cpu.clone(), *op, *pages), numbers(cost));
            }
            for (name, numbers) in events(measured) {
                entries.insert(Subject::Wake(cpu.clone(), name), numbers);
            }
        }
        entries
    }
}

fn numbers(cost: &Cost) -> Numbers {
    vec![
        ("instructions", cost.instructions),
        ("dsb", cost.dsb),
        ("isb", cost.isb),
        ("tlbi", cost.tlbi),
        ("ish", cost.ish),
        ("dmb", cost.dmb),
    ]
}

fn events(measured: &Measured) -> impl Iterator<Item = (&'static str, Numbers)> {
    measured.events.iter().map(|(name, cost)| {
        let numbers = vec![
            ("instructions", cost.instructions),
            ("dsb", cost.dsb),
            ("isb", cost.isb),
        ];
        (*name, numbers)
    })
}

/// The name of a window.
pub fn name_of(op: u8) -> &'static str {
    let operation = OPERATIONS.iter().find(|operation| operation.op == op);
    let boot = BOOT.iter().find(|(known, ..)| *known == op);
    match (operation, boot) {
        (Some(operation), _) => operation.name,
        (None, Some((_, name, _))) => name,
        (None, None) => "unknown",
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::counts::{Cost, EVENTS, EventCost, WAKES};

    /// Every operation and event under every terms, for windows of these sizes, with 1 + `op` instructions a page,
    /// and a pair of barriers for each page with `eager` and for each call otherwise.
    pub fn results(sizes: &[u64]) -> Results {
        let mut results = Results {
            qemu: "10.0".to_owned(),
            ..Results::default()
        };
        for terms in Terms::all() {
            let mut measured = Measured {
                terms: terms.said(),
                ..Measured::default()
            };
            for operation in &OPERATIONS {
                for pages in sizes {
                    let pair = match (terms.policy.as_str(), terms.backend.as_str()) {
                        ("ets2", _) => 0,
                        (_, "eager") => *pages,
                        _ => 1,
                    };
                    let cost = Cost {
                        instructions: 100 + (u64::from(operation.op) + 1) * pages,
                        spread: 0,
                        ptes: *pages,
                        dsb: pair,
                        isb: pair,
                        tlbi: 0,
                        ish: 0,
                        dmb: 0,
                    };
                    measured.costs.insert((operation.op, *pages), cost);
                }
            }
            for event in &EVENTS {
                measured.events.insert(event.name, event_cost(event.op));
            }
            results.add(&terms, measured);
        }
        for cpu in counted::CPUS {
            let mut measured = Measured {
                terms: "boot".to_owned(),
                ..Measured::default()
            };
            for (op, pages) in [(140, 0), (141, 262_144), (142, 0)] {
                let cost = Cost {
                    instructions: u64::from(op) * 1000,
                    spread: 0,
                    ptes: pages,
                    dsb: 5,
                    isb: 7,
                    tlbi: 1,
                    ish: 0,
                    dmb: 0,
                };
                measured.costs.insert((op, pages), cost);
            }
            for event in &WAKES {
                measured.events.insert(event.name, event_cost(event.op));
            }
            results.boots.insert(cpu.to_owned(), measured);
        }
        results
    }

    fn event_cost(op: u8) -> EventCost {
        EventCost {
            instructions: op.into(),
            spread: 0,
            dsb: 1,
            isb: 0,
        }
    }

    #[test]
    fn every_count_is_an_entry() {
        let results = results(&[512, 4096]);
        let entries = results.entries();
        let of_terms = 15 * (2 * OPERATIONS.len() + EVENTS.len());
        assert_eq!(entries.len(), of_terms + 2 * (BOOT.len() + WAKES.len()));
        let terms = Terms::new("max", "classic", "eager");
        let numbers = &entries[&Subject::Window(terms, 8, 512)];
        assert_eq!(numbers[0], ("instructions", 100 + 9 * 512));
        assert_eq!(numbers[2], ("dsb", 512));
    }

    #[test]
    fn a_baseline_is_small() {
        let kept = results(&[512, 4096, 65_536]).baseline(4096);
        assert_eq!(kept, results(&[512, 4096]).baseline(4096));
        assert_eq!(kept.boots, results(&[512]).boots);
    }

    #[test]
    fn windows_have_names() {
        assert_eq!(
            [8, 141, 99].map(name_of),
            ["map_scattered", "linear_map", "unknown"]
        );
    }
}
