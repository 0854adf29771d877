// SPDX-License-Identifier: MIT OR Apache-2.0

//! The operations that are measured, and what each may cost. What they cost Linux stands in bench/linux.json.

use self::Barriers::{NonePerPage, OnePair, PerTable};
use super::lines::Measured;
use std::fmt;

/// An operation.
#[derive(Debug)]
pub struct Operation {
    /// The number of its window, as in kernel/src/bench/windows.rs.
    pub op: u8,
    /// Its name in tests.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// What a page may cost.
    pub target: Option<Target>,
}

/// What a page may cost.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    instructions: f64,
    barriers: Barriers,
}

/// What an operation may cost in barriers and TLBIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barriers {
    /// One DSB and one ISB in a call, however many pages.
    OnePair,
    /// Nothing that grows with the pages.
    NonePerPage,
    /// No target: each table is a section of its own.
    PerTable,
}

const fn at_most(instructions: f64, barriers: Barriers) -> Option<Target> {
    Some(Target {
        instructions,
        barriers,
    })
}

/// All of them, in the order of the report.
#[rustfmt::skip]
pub const OPERATIONS: [Operation; 18] = [
    Operation { op: 1, name: "map_scattered_and_build_tables", title: "map scattered frames, tables built",
        target: at_most(4.0, OnePair) },
    Operation { op: 8, name: "map_scattered", title: "map scattered frames, tables there",
        target: at_most(4.0, OnePair) },
    Operation { op: 4, name: "map_contiguous_and_build_tables", title: "map contiguous frames, tables built",
        target: at_most(2.0, OnePair) },
    // Linux keeps the tables of its vmap area, and its figure is the best of five repetitions.
    Operation { op: 129, name: "map_contiguous", title: "map contiguous frames, tables there",
        target: at_most(2.0, OnePair) },
    Operation { op: 2, name: "unmap_scattered", title: "unmap what was scattered, with its tables just built",
        target: at_most(1.5, OnePair) },
    Operation { op: 5, name: "unmap_contiguous", title: "unmap what was contiguous, with its tables just built",
        target: at_most(1.5, OnePair) },
    Operation { op: 9, name: "unmap", title: "unmap, invalidation left to the caller",
        target: at_most(1.5, OnePair) },
    Operation { op: 10, name: "flush", title: "the invalidation that was left, one for the whole range",
        target: None },
    Operation { op: 13, name: "protect_read_only", title: "change protection to read-only",
        target: at_most(5.0, NonePerPage) },
    Operation { op: 14, name: "protect_read_write", title: "change protection to read-write",
        target: at_most(5.0, NonePerPage) },
    Operation { op: 11, name: "apply_set", title: "callback per page sets its entry",
        target: at_most(12.0, OnePair) },
    Operation { op: 12, name: "apply_clear", title: "callback per page clears its entry",
        target: None },
    Operation { op: 17, name: "set_slots_one_by_one", title: "set-PTE loop over known slots, while paused",
        target: None },
    Operation { op: 18, name: "set_slots", title: "set-PTE loop over known slots, in a section",
        target: at_most(5.0, PerTable) },
    Operation { op: 19, name: "clear_slots", title: "clear loop over known slots",
        target: None },
    Operation { op: 128, name: "map_each_in_a_section", title: "map, one call per page, in one section",
        target: at_most(80.0, OnePair) },
    Operation { op: 15, name: "map_each", title: "map, one call per page, no section",
        target: None },
    Operation { op: 16, name: "unmap_each", title: "unmap and invalidate, one call per page",
        target: None },
];

/// Whether a target is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// There is none.
    NoTarget,
}

impl Operation {
    /// How the operation stands; a target is missed by what was not measured, too.
    pub fn standing(&self, measured: &Measured) -> Standing {
        let Some(target) = self.target else {
            return Standing::NoTarget;
        };
        let met = measured.per_page(self.op).is_some_and(|page| {
            let barriers = match target.barriers {
                OnePair => measured
                    .of(self.op)
                    .all(|(_, cost)| cost.dsb <= 1 && cost.isb <= 1 && cost.tlbi == 0),
                NonePerPage => page.dsb <= 0.0 && page.isb <= 0.0 && page.tlbi <= 0.0,
                PerTable => true,
            };
            page.instructions <= target.instructions && barriers
        });
        if met { Standing::Met } else { Standing::Missed }
    }
}

impl Target {
    /// Instructions that a page may cost.
    pub const fn instructions(self) -> f64 {
        self.instructions
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<= {}", self.instructions)?;
        f.write_str(match self.barriers {
            OnePair => "; 1 DSB, 1 ISB per call",
            NonePerPage => " / 0 / 0 / 0",
            PerTable => "",
        })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::NoTarget => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(op: u8, few: &str, many: &str) -> Standing {
        let text = format!(
            "counts x\n\
             count op={op} pages=512 spread=0 ptes=512 ish=0 dmb=0 {few}\n\
             count op={op} pages=4096 spread=0 ptes=4096 ish=0 dmb=0 {many}\n"
        );
        let measured = Measured::parse(&text).unwrap();
        let operation = OPERATIONS.iter().find(|known| known.op == op).unwrap();
        operation.standing(&measured)
    }

    #[test]
    fn operations_have_numbers_and_names_of_their_own() {
        for (i, operation) in OPERATIONS.iter().enumerate() {
            for other in &OPERATIONS[i + 1..] {
                assert!(
                    operation.op != other.op && operation.name != other.name,
                    "{}",
                    other.name
                );
            }
        }
    }

    #[test]
    fn instructions_decide() {
        let few = "instructions=1000 dsb=1 isb=1 tlbi=0";
        let met = format!("instructions={} dsb=1 isb=1 tlbi=0", 1000 + 4 * 3584);
        let missed = format!("instructions={} dsb=1 isb=1 tlbi=0", 1001 + 4 * 3584);
        assert_eq!(standing(8, few, &met), Standing::Met);
        assert_eq!(standing(8, few, &missed), Standing::Missed);
        assert_eq!(standing(15, few, &missed), Standing::NoTarget);
        // What one size alone says is no cost per page.
        let alone = Measured::parse(&format!(
            "counts x\ncount op=8 pages=512 spread=0 ptes=512 ish=0 dmb=0 {few}\n"
        ));
        assert_eq!(OPERATIONS[1].standing(&alone.unwrap()), Standing::Missed);
    }

    #[test]
    fn so_do_barriers() {
        let pair = "instructions=0 dsb=1 isb=1 tlbi=0";
        for more in [
            "dsb=2 isb=1 tlbi=0",
            "dsb=1 isb=2 tlbi=0",
            "dsb=1 isb=1 tlbi=1",
        ] {
            let more = format!("instructions=0 {more}");
            assert_eq!(standing(8, pair, &more), Standing::Missed, "{more}");
            assert_eq!(standing(8, &more, pair), Standing::Missed, "{more}");
            // An invalidation is a part of changing protection, but not of each page.
            assert_eq!(standing(13, pair, &more), Standing::Missed, "{more}");
            assert_eq!(standing(13, &more, &more), Standing::Met, "{more}");
            assert_eq!(standing(18, pair, &more), Standing::Met, "{more}");
        }
    }
}
