// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: CPUs, tables, roots, and the instructions that move them.

use super::cpu::{Barrier, Cpu};
use super::memory::{Location, Memory, Place, TableId, VersionId};
use super::tlbi::Tlbi;
use super::view::{CPUS, Stamp, View};
use lazymmu::{PAGE_SHIFT, TlbiOp};

/// What the CPUs of a machine are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// All CPUs have FEAT_ETS2.
    pub ets2: bool,
    /// One TLBI and DSB do not end the writes of other CPUs through the old translation (R34).
    pub repeat_tlbi: bool,
}

/// A tree that a TTBR may point to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub table: TableId,
    /// `None` for the kernel's half.
    pub asid: Option<u16>,
    /// How many TLBIs had been issued when the last TTBR stopped using it.
    pub retired: Option<u32>,
    /// Nothing of it can be cached any more.
    pub gone: bool,
}

/// Names a root of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootId(pub(super) u16);

/// What another CPU learns when it reads a flag, or takes a lock.
pub type Token = View;

/// A machine of [`CPUS`] CPUs. Its methods are the instructions that matter; the CPU that executes one
/// is their first argument.
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
    /// A machine with no table, whose pool of table frames begins at `first_frame` (a
    /// physical address) and holds `frames` frames.
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

    /// A frame of the pool becomes a zeroed table.
    pub fn alloc(&mut self, cpu: usize, frame: usize) -> TableId {
        let zeroed = self.stamp(cpu);
        self.memory.alloc(frame, zeroed)
    }

    /// A table becomes a root. The context synchronization that loading a TTBR takes makes
    /// its zeroes visible, so they count as old.
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

    /// No TTBR points to the root any more. What was cached under its ASID stays cached.
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

    /// A software load of an entry. It reads the newest value (the callers hold locks); of
    /// another CPU's store it learns what that store published.
    pub fn load(&mut self, cpu: usize, at: Location) {
        let newest = self.memory.newest(at);
        if newest != VersionId::ZEROES {
            let version = self.memory.version(newest);
            let view = *self.memory.view_of(version);
            self.cpus[cpu].observe(&view);
        }
    }

    /// A walk on `cpu` is known to have read the newest value of an entry (rows X4, C1).
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

    /// ISB, exception entry or exception return: all the same here (FEAT_ExS off).
    pub fn cse(&mut self, cpu: usize) {
        self.cpus[cpu].cse();
    }

    /// `cpu` issues a TLBI, for itself or for every CPU.
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

    /// Everything that was done so far is visible everywhere, and no TLB holds anything old.
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
