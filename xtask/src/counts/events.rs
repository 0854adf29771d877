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
    /// The number of its windows.
    pub op: u8,
    /// The number of the windows of what surrounds it, which is subtracted; 0 with 0 pages is the empty turn.
    pub without: Option<u8>,
    /// What it is.
    pub title: &'static str,
    /// Instructions that it may cost.
    pub target: Option<u64>,
}

/// All of them, in the order of the report.
#[rustfmt::skip]
pub const EVENTS: [Event; 5] = [
    Event { name: "switch", op: 130, without: Some(0), title: "context switch, first register saved to last restored", target: Some(150) },
    Event { name: "schedule", op: 131, without: Some(0), title: "the same with the queue's decision and the hand-over", target: None },
    Event { name: "yield", op: 132, without: Some(0), title: "yield to the other task", target: Some(300) },
    Event { name: "tick", op: 133, without: Some(137), title: "timer interrupt without a switch", target: Some(250) },
    Event { name: "switch_out", op: 134, without: Some(138), title: "the library's part of a switch, nothing owed", target: None },
];

/// What needs a second CPU, and with it a counter outside: the kernel's own says nothing of who executes.
#[rustfmt::skip]
pub const WAKES: [Event; 2] = [
    Event { name: "wake", op: 135, without: None, title: "waking a task on another CPU that idles", target: None },
    Event { name: "woken", op: 136, without: None, title: "from the decision to sleep to the return from it", target: None },
];

impl Event {
    /// The event with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        EVENTS.iter().chain(&WAKES).find(|event| event.name == name)
    }

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
        let all: Vec<&Event> = EVENTS.iter().chain(&WAKES).collect();
        for (i, event) in all.iter().enumerate() {
            let others = all[i + 1..].iter().map(|other| (other.name, other.op));
            let operations = OPERATIONS
                .iter()
                .map(|operation| (operation.name, operation.op));
            let same = others
                .chain(operations)
                .find(|(name, op)| *name == event.name || *op == event.op);
            assert_eq!(same, None);
            assert!(Event::named(event.name).is_some_and(|found| found.op == event.op));
        }
        assert!(Event::named("tock").is_none());
    }

    #[test]
    fn instructions_decide() {
        let standing = |instructions: u64| {
            let text = format!(
                "counts x\n\
                 count op=1 pages=1 instructions=1 spread=0 ptes=1 dsb=0 isb=0 tlbi=0 ish=0 dmb=0\n\
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
