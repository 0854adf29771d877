// SPDX-License-Identifier: GPL-2.0-or-later

//! Windows: the counts of a CPU at their beginning taken from those at their end.
//!
//! Each CPU has its own counts and its own open windows, so a window must end on the CPU on which it
//! began. One that does not, or that never ends, becomes a line with a `problem` in the report.

use crate::decode::{self, ERET, EXCEPTIONS, INSTRUCTIONS, ISB, Kind, SLOTS};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a CPU has executed since it was switched on.
pub type Counts = [u64; SLOTS];

/// All windows of a guest.
#[derive(Debug)]
pub struct Windows {
    /// By CPU; the one that began last is the last.
    open: Vec<Vec<Open>>,
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
        open: Vec::new(),
        executions: BTreeMap::new(),
        report: String::new(),
    };

    /// Begins the window `id` on `cpu`. Tells how many are open there then.
    pub fn begin(&mut self, cpu: usize, id: u64, before: Box<Counts>) -> usize {
        let open = self.of(cpu);
        open.push(Open { id, before });
        open.len()
    }

    /// Ends the window `id` of `cpu` that began last. Tells how many are open there then.
    pub fn end(&mut self, cpu: usize, id: u64, now: &Counts) -> usize {
        let open = self.of(cpu);
        let Some(at) = open.iter().rposition(|open| open.id == id) else {
            let left = open.len();
            self.problem(cpu, id, "ended here, where it had not begun");
            return left;
        };
        let Open { before, .. } = open.remove(at);
        let left = open.len();
        let execution = self.executions.entry(id).or_default();
        *execution += 1;
        line(&mut self.report, id, *execution, cpu, |slot| {
            now[slot].wrapping_sub(before[slot])
        });
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
        for (cpu, open) in open.iter().enumerate() {
            for Open { id, .. } in open {
                self.problem(cpu, *id, "began here and did not end");
            }
        }
        self.take()
    }

    fn of(&mut self, cpu: usize) -> &mut Vec<Open> {
        if self.open.len() <= cpu {
            self.open.resize_with(cpu + 1, Vec::new);
        }
        &mut self.open[cpu]
    }

    fn problem(&mut self, cpu: usize, id: u64, what: &str) {
        add(
            &mut self.report,
            format_args!(
                "{{\"problem\":\"window {id:#x} (op {}, {} pages) {what}\",\"vcpu\":{cpu}}}\n",
                op(id),
                pages(id)
            ),
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

/// Writes a window as one line of JSON. Of DSB, DMB and TLBI it names those that were executed.
fn line(out: &mut String, id: u64, execution: u64, cpu: usize, count: impl Fn(usize) -> u64) {
    add(
        out,
        format_args!(
            "{{\"id\":{id},\"op\":{},\"pages\":{},\"execution\":{execution},\"vcpu\":{cpu},\
             \"instructions\":{}",
            op(id),
            pages(id),
            count(INSTRUCTIONS)
        ),
    );
    for kind in Kind::ALL {
        add(out, format_args!(",\"{}\":{{", kind.name()));
        let executed = kind.slots().filter(|slot| count(*slot) > 0);
        for (i, slot) in executed.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let name = decode::name(slot);
            add(out, format_args!("{comma}\"{name}\":{}", count(slot)));
        }
        out.push('}');
    }
    add(
        out,
        format_args!(
            ",\"isb\":{},\"eret\":{},\"exceptions\":{}}}\n",
            count(ISB),
            count(ERET),
            count(EXCEPTIONS)
        ),
    );
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes any text");
}
