// SPDX-License-Identifier: MIT OR Apache-2.0

//! The subjects of the measurements: operations of the library, events of the scheduler, and the boot. Each has windows
//! with a number of its own, and some have a target.

use self::Barriers::{Any, NonePerPage, OnePair};
use self::Group::{Boot, Operation, Scheduler, WakeUp};
use super::costs::Costs;
use std::fmt;

/// The number of the empty windows.
pub const EMPTY: u8 = 0;
/// The number of the window of the linear map; its pages are the map's.
pub const LINEAR_MAP: u8 = 141;
/// Windows that only [`Subject::around`] refers to.
pub const SURROUNDINGS: [u8; 3] = [EMPTY, 137, 138];

/// What belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Operations of the library, on pages.
    Operation,
    /// Events of the scheduler with one CPU.
    Scheduler,
    /// Events that need two CPUs, and therefore a counter outside: the kernel's cannot tell CPUs apart.
    WakeUp,
    /// Windows of the boot.
    Boot,
}

/// A subject.
#[derive(Debug)]
pub struct Subject {
    /// The number of its windows (kernel/src/bench/windows.rs, kernel/src/bench/scheduler.rs, kernel/src/start.rs).
    pub op: u8,
    /// Its name, in tests and in the kernel's lines.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// What it may cost: an operation per page, an event as a whole.
    pub target: Option<Target>,
    /// The number of the windows whose cost is subtracted.
    pub around: Option<u8>,
    /// DSB and ISB that drivers execute in it; neither the library's counters nor the model know of them.
    pub drivers: [u64; 2],
    /// DSB and ISB that another task executes in it, which the kernel's counters of the measuring task do not have.
    pub other_task: [u64; 2],
}

/// What a subject may cost.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Instructions.
    pub instructions: f64,
    barriers: Barriers,
}

/// What a subject may cost in barriers and TLBIs.
#[derive(Clone, Copy, Debug)]
enum Barriers {
    /// One DSB and one ISB in a call, however many pages.
    OnePair,
    /// None that grows with the pages.
    NonePerPage,
    /// No target.
    Any,
}

const fn at_most(instructions: f64, barriers: Barriers) -> Option<Target> {
    Some(Target {
        instructions,
        barriers,
    })
}

const fn operation(
    op: u8,
    name: &'static str,
    title: &'static str,
    target: Option<Target>,
) -> Subject {
    Subject {
        op,
        name,
        title,
        group: Operation,
        target,
        around: Some(EMPTY),
        drivers: [0, 0],
        other_task: [0, 0],
    }
}

const fn of(group: Group, op: u8, name: &'static str, title: &'static str) -> Subject {
    Subject {
        group,
        around: None,
        ..operation(op, name, title, None)
    }
}

/// All of them, in the order of the reports.
#[rustfmt::skip]
pub const SUBJECTS: [Subject; 28] = [
    operation(1, "map_scattered_and_build_tables", "map scattered frames, tables built", at_most(4.0, OnePair)),
    operation(8, "map_scattered", "map scattered frames, tables there", at_most(4.0, OnePair)),
    operation(4, "map_contiguous_and_build_tables", "map contiguous frames, tables built", at_most(2.0, OnePair)),
    // Linux keeps the tables of its vmap area, and its figure is the best of five repetitions.
    operation(129, "map_contiguous", "map contiguous frames, tables there", at_most(2.0, OnePair)),
    operation(2, "unmap_scattered", "unmap what was scattered, with its tables just built", at_most(1.5, OnePair)),
    operation(5, "unmap_contiguous", "unmap what was contiguous, with its tables just built", at_most(1.5, OnePair)),
    operation(9, "unmap", "unmap, invalidation left to the caller", at_most(1.5, OnePair)),
    operation(10, "flush", "the invalidation that was left, one for the whole range", None),
    operation(13, "protect_read_only", "change protection to read-only", at_most(5.0, NonePerPage)),
    operation(14, "protect_read_write", "change protection to read-write", at_most(5.0, NonePerPage)),
    operation(11, "apply_set", "callback per page sets its entry", at_most(12.0, OnePair)),
    operation(12, "apply_clear", "callback per page clears its entry", None),
    operation(17, "set_slots_one_by_one", "set-PTE loop over known slots, while paused", None),
    // Each table is a section of its own.
    operation(18, "set_slots", "set-PTE loop over known slots, in a section", at_most(5.0, Any)),
    operation(19, "clear_slots", "clear loop over known slots", None),
    operation(128, "map_each_in_a_section", "map, one call per page, in one section", at_most(80.0, OnePair)),
    operation(15, "map_each", "map, one call per page, no section", None),
    operation(16, "unmap_each", "unmap and invalidate, one call per page", None),
    Subject { around: Some(EMPTY), target: at_most(150.0, Any),
        ..of(Scheduler, 130, "switch", "context switch, first register saved to last restored") },
    Subject { around: Some(EMPTY),
        ..of(Scheduler, 131, "schedule", "the same with the queue's decision and the hand-over") },
    Subject { around: Some(EMPTY), target: at_most(300.0, Any),
        ..of(Scheduler, 132, "yield", "yield to the other task") },
    // The timer's driver synchronizes what it has set.
    Subject { around: Some(137), target: at_most(250.0, Any), drivers: [0, 1],
        ..of(Scheduler, 133, "tick", "timer interrupt without a switch") },
    Subject { around: Some(138),
        ..of(Scheduler, 134, "switch_out", "the library's part of a switch, nothing owed") },
    // The interrupt controller's driver lets the other CPU see what was stored before it interrupts it.
    Subject { drivers: [1, 0], ..of(WakeUp, 135, "wake", "waking a task on another CPU that idles") },
    // The switch back is executed by the task that idles.
    Subject { other_task: [1, 0], ..of(WakeUp, 136, "woken", "from the decision to sleep to the return from it") },
    of(Boot, 140, "to_kernel_main", "first instruction to kernel_main"),
    of(Boot, LINEAR_MAP, "linear_map", "linear map of all memory"),
    of(Boot, 142, "to_self_test", "first instruction to what it is for, such as the first self-test"),
];

impl Subject {
    /// The subject whose windows have this number.
    pub fn of(op: u8) -> Option<&'static Self> {
        SUBJECTS.iter().find(|subject| subject.op == op)
    }

    /// The subject with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SUBJECTS.iter().find(|subject| subject.name == name)
    }

    /// The subjects of `group`.
    pub fn all(group: Group) -> impl Iterator<Item = &'static Self> {
        SUBJECTS
            .iter()
            .filter(move |subject| subject.group == group)
    }

    /// The instructions that a target is about, if they were measured.
    pub fn instructions(&self, costs: &Costs) -> Option<f64> {
        match self.group {
            Operation => costs.per_page(self.op).map(|page| page.instructions),
            _ => {
                let (_, cost) = costs.of(self.op).next()?;
                Some(cost.instructions as f64)
            }
        }
    }

    /// Whether the target is met, if there is one; a subject that was not measured misses it.
    pub fn met(&self, costs: &Costs) -> Option<bool> {
        let target = self.target?;
        let few = self
            .instructions(costs)
            .is_some_and(|measured| measured <= target.instructions);
        let barriers = match target.barriers {
            OnePair => costs
                .of(self.op)
                .all(|(_, cost)| cost.dsb <= 1 && cost.isb <= 1 && cost.tlbi == 0),
            NonePerPage => costs
                .per_page(self.op)
                .is_some_and(|page| page.barriers.iter().all(|count| *count <= 0.0)),
            Any => true,
        };
        Some(few && barriers)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<= {}", self.instructions)?;
        f.write_str(match self.barriers {
            OnePair => "; 1 DSB, 1 ISB per call",
            NonePerPage => " / 0 / 0 / 0",
            Any => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::costs::Cost;
    use super::*;

    fn cost(instructions: u64, [dsb, isb, tlbi]: [u64; 3]) -> Cost {
        Cost {
            instructions,
            dsb,
            isb,
            tlbi,
            ..Cost::default()
        }
    }

    fn met(op: u8, few: Cost, many: Cost) -> Option<bool> {
        let costs = Costs([((op, 512), few), ((op, 4096), many)].into());
        Subject::of(op).unwrap().met(&costs)
    }

    #[test]
    fn subjects_have_numbers_and_names_of_their_own() {
        for (i, subject) in SUBJECTS.iter().enumerate() {
            for other in &SUBJECTS[i + 1..] {
                assert!(
                    subject.op != other.op && subject.name != other.name,
                    "{}",
                    other.name
                );
            }
            assert!(!SURROUNDINGS.contains(&subject.op));
            assert!(subject.around.is_none_or(|op| SURROUNDINGS.contains(&op)));
            assert_eq!(Subject::named(subject.name).unwrap().op, subject.op);
        }
        assert!(Subject::named("tock").is_none() && Subject::of(99).is_none());
    }

    #[test]
    fn instructions_decide() {
        let pair = [1, 1, 0];
        let (few, enough) = (cost(1000, pair), cost(1000 + 4 * 3584, pair));
        let missed = cost(1001 + 4 * 3584, pair);
        assert_eq!(met(8, few, enough), Some(true));
        assert_eq!(met(8, few, missed), Some(false));
        assert_eq!(met(15, few, missed), None);
        // One size alone gives no cost per page.
        let alone = Costs([((8, 512), few)].into());
        assert_eq!(Subject::of(8).unwrap().met(&alone), Some(false));
        let switch = |instructions| {
            let costs = Costs([((130, 0), cost(instructions, pair))].into());
            ["switch", "schedule", "yield"].map(|name| {
                let subject = Subject::named(name);
                subject.unwrap().met(&costs)
            })
        };
        // What was not measured misses its target.
        let expected = [Some(true), None, Some(false)];
        assert_eq!(switch(150), expected);
        assert_eq!(switch(151)[0], Some(false));
    }

    #[test]
    fn so_do_barriers() {
        let pair = cost(0, [1, 1, 0]);
        for more in [[2, 1, 0], [1, 2, 0], [1, 1, 1]].map(|barriers| cost(0, barriers)) {
            assert_eq!(met(8, pair, more), Some(false), "{more}");
            assert_eq!(met(8, more, pair), Some(false), "{more}");
            // An invalidation is a part of changing protection, but not of each page.
            assert_eq!(met(13, pair, more), Some(false), "{more}");
            assert_eq!(met(13, more, more), Some(true), "{more}");
            assert_eq!(met(18, pair, more), Some(true), "{more}");
        }
    }
}
