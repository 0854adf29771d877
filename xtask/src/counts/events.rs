// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the scheduler does beside the operations of the library: what is measured of it, and what each
//! may cost. An event is one way through the kernel; it has no pages.

use super::lines::Measured;
use super::operations::Standing;

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Its name, in the kernel's lines (kernel/src/bench/scheduler.rs) and in tests.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Instructions that it may cost.
    pub target: Option<u64>,
}

/// All of them, in the order of the report.
#[rustfmt::skip]
pub const EVENTS: [Event; 5] = [
    Event { name: "switch", title: "context switch, first register saved to last restored", target: Some(150) },
    Event { name: "schedule", title: "the same with the queue's decision and the hand-over", target: None },
    Event { name: "yield", title: "yield to the other task", target: Some(300) },
    Event { name: "tick", title: "timer interrupt without a switch", target: Some(250) },
    Event { name: "switch_out", title: "the library's part of a switch, nothing owed", target: None },
];

impl Event {
    /// How the event stands; a target is missed by what was not measured, too.
    pub fn standing(&self, measured: &Measured) -> Standing {
        let Some(target) = self.target else {
            return Standing::NoTarget;
        };
        match measured.events.get(self.name) {
            Some(cost) if cost.instructions <= target => Standing::Met,
            _ => Standing::Missed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::operations::OPERATIONS;
    use super::*;

    #[test]
    fn events_have_names_of_their_own() {
        for (i, event) in EVENTS.iter().enumerate() {
            let others = EVENTS[i + 1..].iter().map(|other| other.name);
            let operations = OPERATIONS.iter().map(|operation| operation.name);
            let same = others.chain(operations).find(|name| *name == event.name);
            assert_eq!(same, None);
        }
    }

    #[test]
    fn instructions_decide() {
        let standing = |instructions: u64| {
            let text = format!(
                "counts x\n\
                 count op=1 pages=1 instructions=1 spread=0 ptes=1 dsb=0 isb=0 tlbi=0\n\
                 event name=switch instructions={instructions} spread=0 dsb=1 isb=0\n"
            );
            let measured = Measured::parse(&text).unwrap();
            EVENTS.each_ref().map(|event| event.standing(&measured))
        };
        // What was not measured misses its target.
        let [met, rest @ ..] = standing(150);
        assert_eq!(met, Standing::Met);
        assert_eq!(
            rest,
            [
                Standing::NoTarget,
                Standing::Missed,
                Standing::Missed,
                Standing::NoTarget
            ]
        );
        assert_eq!(standing(151)[0], Standing::Missed);
    }
}
