// SPDX-License-Identifier: MIT OR Apache-2.0
//! The check that memory is not reused too early: a frame while a TLB may translate to it (R25),
//! and a table while a walker may hold a link to it (R32).
//!
//! A walker may use a link until a TLBI of all levels has named it after it was cleared, or after
//! the table that holds it became unreachable in the same way. So the check follows every entry
//! that has linked a table upwards to the root, which walkers no longer use when no TTBR points to
//! it.

use super::machine::Machine;
use super::memory::{SHIFT, TableId};
use super::tlbi::Entry;
use super::walk::{NEVER, Question};
use lazymmu::PAGE_SHIFT;
use std::fmt;

/// Memory was given back too early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hazard {
    /// R32: a table was freed while `cpu` could still walk to it.
    Table {
        /// The physical address of the table.
        frame: u64,
        /// The CPU that may use it.
        cpu: usize,
    },
    /// R25: a page was given back while `cpu` could still translate `va` to it.
    Frame {
        /// The physical address of the page.
        frame: u64,
        /// The virtual address at which it was mapped.
        va: u64,
        /// The CPU that may use it.
        cpu: usize,
    },
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Table { frame, cpu } => write!(
                f,
                "R32: table {frame:#x} is given back while CPU {cpu} may hold a link to it: invalidate all levels, and wait, first"
            ),
            Self::Frame { frame, va, cpu } => write!(
                f,
                "R25: page {frame:#x} is given back while CPU {cpu} may reach it through {va:#x}: invalidate, and wait, first"
            ),
        }
    }
}

impl Machine {
    /// A CPU whose walker may still reach `table`, if there is one.
    pub fn walker_of(&self, table: TableId) -> Option<usize> {
        self.memory.table(table).place?;
        (0..self.cpus.len()).find(|cpu| self.cut_off(*cpu, table) == NEVER)
    }

    /// The index of the TLBI after which a walker of `cpu` cannot reach the table any more;
    /// [`NEVER`] if there is none.
    fn cut_off(&self, cpu: usize, table: TableId) -> u32 {
        let record = self.memory.table(table);
        let Some(place) = record.place else { return 0 };
        let root = &self.roots[place.root as usize];
        if place.level == 0 {
            return root.retired.unwrap_or(NEVER);
        }
        let level = place.level - 1;
        let span = 1 << (SHIFT[level as usize] - PAGE_SHIFT);
        let entry = Entry {
            level,
            leaf: false,
            pages: (place.page, span),
            asid: root.asid,
        };
        let end = |link: &super::memory::Link| {
            let above = self.cut_off(cpu, link.at.table);
            let newest = self.memory.newest(link.at) == link.version;
            if newest && above == NEVER {
                return NEVER;
            }
            self.ended_by(cpu, Question::Reuse, &entry, |index, tlbi| {
                above <= index || !newest && self.is_superseded(link.at, link.version, &tlbi.done)
            })
        };
        record.links.iter().map(end).max().unwrap_or(0)
    }

    /// Frees a table at the physical address `frame`. Returns the hazard, if a walker may still
    /// reach it.
    pub fn free(&mut self, table: TableId, frame: u64) -> Option<Hazard> {
        let hazard = self.walker_of(table);
        self.memory.free(table, hazard.is_some());
        hazard.map(|cpu| Hazard::Table { frame, cpu })
    }
}
