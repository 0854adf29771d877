// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: CPUs, tables and roots, and the instructions that change them.

use super::cpu::{Barrier, Cpu};
use super::memory::{Location, Memory, Place, TableId, VersionId};
use super::tlbi::Tlbi;
use super::view::{CPUS, Stamp, View};
use lazymmu::{PAGE_SHIFT, TlbiOp};

/// The properties of a machine's CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Whether all CPUs have FEAT_ETS2.
    pub ets2: bool,
    /// Whether the CPUs have the repeat erratum: after one TLBI and DSB other CPUs may still write
    /// through the old translation (R34).
    pub repeat_tlbi: bool,
}

/// A tree that a TTBR may point to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub table: TableId,
    /// `None` for the kernel half.
    pub asid: Option<u16>,
    /// The number of TLBIs that had been issued when the last TTBR stopped using it; `None` while
    /// one uses it.
    pub retired: Option<u32>,
    /// Whether nothing of it can be cached any more.
    pub gone: bool,
}

/// The number of a root of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootId(pub(super) u16);

/// What another CPU learns when it reads a flag, or takes a lock.
pub type Token = View;

/// A machine of [`CPUS`] CPUs. Its methods are the instructions that matter for translation; their
/// first argument is the CPU that executes the instruction.
pub struct Machine {
    pub(super) model: Model,
    pub(super) cpus: [Cpu; CPUS],
    pub(super) memory: Memory,
    pub(super) tlbis: Vec<Tlbi>,
    pub(super) roots: Vec<Root>,
    /// The view under which the last store was made, with its CPU.
    last_view: Option<(usize, View, u32)>,
    first_frame: u64,
}

impl Machine {
    /// A machine without tables. Its pool for tables begins at the physical address `first_frame`
    /// and has `frames` frames.
    pub fn new(model: Model, first_frame: u64, frames: usize) -> Self {
        Self {
            model,
            cpus: std::array::from_fn(Cpu::new),
            memory: Memory::new(frames),
            tlbis: Vec::new(),
            roots: Vec::new(),
            last_view: None,
            first_frame,
        }
    }

    fn stamp(&mut self, cpu: usize) -> Stamp {
        Stamp::new(cpu, self.cpus[cpu].store())
    }

    /// Makes frame number `frame` of the pool a zeroed table.
    pub fn alloc(&mut self, cpu: usize, frame: usize) -> TableId {
        let zeroed = self.stamp(cpu);
        self.memory.alloc(frame, zeroed)
    }

    /// Makes the table in `frame` a root. The context synchronization that loading a TTBR needs
    /// makes its zeroes visible, so they count as old.
    pub fn add_root(&mut self, frame: usize, base: u64, asid: Option<u16>) -> RootId {
        let table = self.memory.living(frame).expect("the root is a live table");
        let id = self.roots.len() as u16;
        self.roots.push(Root {
            table,
            asid,
            retired: None,
            gone: false,
        });
        let record = self.memory.table_mut(table);
        record.zeroed = Stamp::GENESIS;
        record.place = Some(Place {
            root: id,
            level: 0,
            page: base >> PAGE_SHIFT,
        });
        RootId(id)
    }

    /// Notes that no TTBR points to the root any more. What was cached under its ASID stays cached.
    pub fn retire_root(&mut self, root: RootId) {
        let now = self.tlbis.len() as u32;
        self.roots[root.0 as usize].retired = Some(now);
    }

    /// `cpu` writes an entry.
    pub fn store(&mut self, cpu: usize, at: Location, raw: u64) {
        let stamp = self.stamp(cpu);
        let view = self.cpus[cpu].published();
        let view = match self.last_view {
            Some((of, last, id)) if of == cpu && last == view => id,
            _ => {
                let id = self.memory.add_view(view);
                self.last_view = Some((cpu, view, id));
                id
            }
        };
        let first = self.first_frame;
        let child = |address: u64| {
            let frame = address.checked_sub(first)? >> PAGE_SHIFT;
            usize::try_from(frame).ok()
        };
        self.memory.store(at, raw, stamp, view, child);
    }

    /// A software load of an entry by `cpu`. It reads the newest value, because callers hold locks,
    /// and observes what the store of that value published.
    pub fn load(&mut self, cpu: usize, at: Location) {
        let newest = self.memory.newest(at);
        if newest != VersionId::ZEROES {
            let version = self.memory.version(newest);
            let view = *self.memory.view_of(version);
            self.cpus[cpu].observe(&view);
        }
    }

    /// Notes that a walk on `cpu` has read the newest value of an entry (rows X4, C1).
    pub fn walk_observed(&mut self, cpu: usize, at: Location) {
        if let Some((_, version)) = self.memory.versions(at).next() {
            let view = self.memory.view_of(version).including(version.stamp);
            self.cpus[cpu].observe(&view);
        }
    }

    /// `cpu` executes a `DMB`.
    pub fn dmb(&mut self, cpu: usize, kind: Barrier) {
        self.cpus[cpu].dmb(kind);
    }

    /// `cpu` executes a `DSB`.
    pub fn dsb(&mut self, cpu: usize, kind: Barrier) {
        self.cpus[cpu].dsb(kind);
    }

    /// `cpu` executes a context synchronization event: ISB, exception entry or exception return,
    /// which do not differ without FEAT_ExS.
    pub fn cse(&mut self, cpu: usize) {
        self.cpus[cpu].cse();
    }

    /// `cpu` issues a TLBI, for every CPU if `broadcast` and otherwise for itself.
    pub fn tlbi(&mut self, cpu: usize, op: TlbiOp, operand: u64, broadcast: bool) {
        let done = self.cpus[cpu].done;
        if let Some(last) = self.tlbis.last_mut()
            && last.cpu == cpu
            && self.roots.iter().all(|root| root.retired.is_none())
            && last.extend(&done, broadcast, op, operand)
        {
            return;
        }
        let number = self.cpus[cpu].tlbi(broadcast);
        self.tlbis
            .push(Tlbi::new(cpu, number, broadcast, done, op, operand));
    }

    /// Makes everything that was done so far visible to every CPU, and removes old entries from
    /// every TLB.
    pub fn settle(&mut self) {
        let mut all = View::EMPTY;
        for cpu in &self.cpus {
            (all.stores[cpu.id()], all.tlbis[cpu.id()]) = cpu.issued();
        }
        for cpu in &mut self.cpus {
            cpu.settle(all);
        }
        self.memory.settle();
        self.tlbis.clear();
        self.last_view = None;
        for root in &mut self.roots {
            root.gone = root.retired.is_some();
        }
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Machine({:?}, {} TLBIs)", self.model, self.tlbis.len())
    }
}
