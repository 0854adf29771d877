// SPDX-License-Identifier: GPL-2.0-or-later

//! Windows: the counts of a CPU at their beginning taken from those at their end.
//!
//! Each CPU has its own counts and its own open windows, so a window must end on the CPU on which it
//! began. One that does not, or that never ends, becomes a line with a `problem` in the report.

use crate::decode::{self, ERET, EXCEPTIONS, INSTRUCTIONS, ISB, KINDS, SLOTS};
use std::collections::BTreeMap;

/// What a CPU has executed since it was switched on.
pub type Counts = [u64; SLOTS];

/// All windows of a guest.
#[derive(Debug)]
pub struct Windows {
    /// By CPU; the one that began last is the last.
    open: BTreeMap<usize, Vec<Open>>,
    /// How often each id has ended.
    executions: BTreeMap<u64, u64>,
    /// Lines that were not taken.
    report: String,
}

#[derive(Debug)]
struct Open {
    id: u64,
    before: Box<Counts>,
}

impl Windows {
    /// No window, on no CPU.
    pub const NONE: Self = Self {
        open: BTreeMap::new(),
        executions: BTreeMap::new(),
        report: String::new(),
    };

    /// Begins the window `id` on `cpu`. Tells how many are open there then.
    pub fn begin(&mut self, cpu: usize, id: u64, before: Box<Counts>) -> usize {
        let open = self.open.entry(cpu).or_default();
        open.push(Open { id, before });
        open.len()
    }

    /// Ends the window `id` of `cpu` that began last. Tells how many are open there then.
    pub fn end(&mut self, cpu: usize, id: u64, now: &Counts) -> usize {
        let open = self.open.entry(cpu).or_default();
        let Some(at) = open.iter().rposition(|open| open.id == id) else {
            let left = open.len();
            self.problem(cpu, id, "ended here, where it had not begun");
            return left;
        };
        let Open { before, .. } = open.remove(at);
        let left = open.len();
        let execution = self.executions.entry(id).or_default();
        *execution += 1;
        let count = |slot: usize| now[slot].wrapping_sub(before[slot]);
        self.report += &line(id, *execution, cpu, count);
        left
    }

    /// Takes the lines of what has ended since the last time.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.report)
    }

    /// Forgets what was not taken, what is open, and how often each id has ended.
    pub fn forget(&mut self) {
        *self = Self::NONE;
    }

    /// The guest has ended: takes the rest, with a problem for each window that is still open.
    pub fn finish(&mut self) -> String {
        let open = std::mem::take(&mut self.open);
        for (cpu, open) in open {
            for Open { id, .. } in open {
                self.problem(cpu, id, "began here and did not end");
            }
        }
        self.take()
    }

    fn problem(&mut self, cpu: usize, id: u64, what: &str) {
        let (op, pages) = (op(id), pages(id));
        self.report += &format!(
            "{{\"problem\":\"window {id:#x} (op {op}, {pages} pages) {what}\",\"vcpu\":{cpu}}}\n"
        );
    }
}

/// What a window measures.
const fn op(id: u64) -> u64 {
    id >> 24
}

/// On how many pages.
const fn pages(id: u64) -> u64 {
    id & ((1 << 24) - 1)
}

/// A window as one line of JSON. Of DSB, DMB and TLBI it names those that were executed.
fn line(id: u64, execution: u64, cpu: usize, count: impl Fn(usize) -> u64) -> String {
    let pair = |name: &str, value| format!("\"{name}\":{value}");
    let mut fields = vec![
        pair("id", id),
        pair("op", op(id)),
        pair("pages", pages(id)),
        pair("execution", execution),
        pair("vcpu", cpu as u64),
        pair("instructions", count(INSTRUCTIONS)),
    ];
    for (kind, slots) in KINDS {
        let executed = slots.filter(|slot| count(*slot) > 0);
        let executed = executed.map(|slot| pair(&decode::name(slot), count(slot)));
        let executed = Vec::from_iter(executed).join(",");
        fields.push(format!("\"{kind}\":{{{executed}}}"));
    }
    for (name, slot) in [("isb", ISB), ("eret", ERET), ("exceptions", EXCEPTIONS)] {
        fields.push(pair(name, count(slot)));
    }
    format!("{{{}}}\n", fields.join(","))
}
