// SPDX-License-Identifier: MIT OR Apache-2.0
//! Litmus tests: straight-line programs for a few CPUs, and their possible outcomes.
//!
//! A test has one kernel space. [`Slot::X`] is the last-level entry of one page. [`Slot::CHILD`] is
//! the first entry of a table that is not linked until a program writes [`Slot::PARENT`]. At the
//! beginning every CPU sees every store, and a TLB may hold what is valid and nothing older.
//!
//! Instructions are executed in the order in which they are listed. Between CPUs this order matters
//! only for the flag: a CPU that reads it learns what the writer has ordered before it.

use super::cpu::Barrier;
use super::machine::{Machine, Model, RootId, Token};
use super::memory::{Location, TableId};
use super::outcome::{Kind, Outcome, Outcomes};
use lazymmu::{Frame, PAGE_SHIFT, Prot, TlbiOp, bits};

/// An entry that a program writes.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    table: usize,
    index: u16,
    /// An address that it translates.
    pub va: u64,
}

/// Index 0 at every level.
const BASE: u64 = lazymmu::Half::Upper.start();
const POOL: u64 = 0x4000_0000;

impl Slot {
    /// The last-level entry of one page.
    pub const X: Self = Self::at(3, 0, BASE);
    /// The entry that may link the table of [`Slot::CHILD`].
    pub const PARENT: Self = Self::at(2, 1, BASE + (1 << 21));
    /// The first entry of a table that nothing links at the beginning.
    pub const CHILD: Self = Self::at(4, 0, BASE + (1 << 21));

    const fn at(table: usize, index: u16, va: u64) -> Self {
        Self { table, index, va }
    }
}

/// The value of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// The empty entry.
    Invalid,
    /// Page 1, read and write.
    One,
    /// Page 1, read only.
    OneRo,
    /// Page 2, read and write.
    Two,
    /// Page 2 without the access flag.
    TwoNoAf,
    /// A link to the table of [`Slot::CHILD`].
    Table,
}

impl Value {
    fn raw(self) -> u64 {
        let page = |n: u64, prot: Prot| n << PAGE_SHIFT | prot.as_u64() | bits::TABLE_OR_PAGE;
        match self {
            Self::Invalid => 0,
            Self::One => page(1, Prot::KERNEL),
            Self::OneRo => page(1, Prot::KERNEL_RO),
            Self::Two => page(2, Prot::KERNEL),
            Self::TwoNoAf => page(2, Prot::KERNEL) & !bits::AF,
            Self::Table => (POOL + (4 << PAGE_SHIFT)) | bits::TABLE_OR_PAGE | bits::VALID,
        }
    }

    /// The outcome of a read through the value.
    pub fn read(self) -> Outcome {
        Outcome::of_page(self.raw(), Kind::Read, false)
    }
}

/// One instruction, or an event that replaces a few.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// `STR` to an entry.
    Pte(Slot, Value),
    /// `LDR` from an entry, which returns the newest value.
    LdrPte(Slot),
    /// A `DMB` of the inner shareable domain.
    Dmb(Barrier),
    /// A `DSB` of the inner shareable domain.
    Dsb(Barrier),
    /// `ISB`.
    Isb,
    /// Exception return.
    Eret,
    /// Exception entry.
    Svc,
    /// `TLBI VAAE1IS`.
    Tlbi(Slot),
    /// `TLBI VAAE1`: this CPU only.
    TlbiLocal(Slot),
    /// `STR` of the flag.
    Flag,
    /// `STLR` of the flag.
    FlagRelease,
    /// `LDR` of the flag, which returns what was written.
    See,
    /// `LDAR` of the flag.
    SeeAcquire,
    /// `LDR` of the flag, from which the address of this CPU's access is computed.
    SeeAddress,
    /// An access that is known to have been translated by the newest value.
    Translated(Slot),
}

/// The state of the machine after the instructions so far.
#[derive(Debug)]
pub struct Litmus {
    machine: Machine,
    root: RootId,
    tables: Vec<TableId>,
    flag: Token,
    address: Option<Token>,
}

impl Litmus {
    /// A machine in which each slot of `start` holds its value, and every CPU sees that.
    pub fn new(model: Model, start: &[(Slot, Value)]) -> Self {
        let mut machine = Machine::new(model, POOL, 5);
        let tables: Vec<_> = (0..5).map(|frame| machine.alloc(0, frame)).collect();
        let root = machine.add_root(0, BASE, None);
        for (&table, next) in tables.iter().zip(1..4) {
            machine.dmb(0, Barrier::Full);
            let link = (POOL + (next << PAGE_SHIFT)) | bits::TABLE_OR_PAGE | bits::VALID;
            machine.store(0, Location { table, index: 0 }, link);
        }
        machine.settle();
        let mut litmus = Self {
            machine,
            root,
            tables,
            flag: Token::EMPTY,
            address: None,
        };
        for (slot, value) in start {
            litmus.run(0, Op::Pte(*slot, *value));
        }
        litmus.machine.settle();
        litmus
    }

    fn location(&self, slot: Slot) -> Location {
        Location {
            table: self.tables[slot.table],
            index: slot.index,
        }
    }

    /// `cpu` executes an instruction.
    pub fn run(&mut self, cpu: usize, op: Op) {
        let machine = &mut self.machine;
        let operand = |slot: Slot| slot.va >> PAGE_SHIFT & ((1 << 44) - 1);
        match op {
            Op::Pte(slot, value) => {
                let at = self.location(slot);
                self.machine.store(cpu, at, value.raw());
            }
            Op::LdrPte(slot) => {
                let at = self.location(slot);
                self.machine.load(cpu, at);
            }
            Op::Dmb(kind) => machine.dmb(cpu, kind),
            Op::Dsb(kind) => machine.dsb(cpu, kind),
            Op::Isb | Op::Eret | Op::Svc => machine.cse(cpu),
            Op::Tlbi(slot) => machine.tlbi(cpu, TlbiOp::Vaae1is, operand(slot), true),
            Op::TlbiLocal(slot) => machine.tlbi(cpu, TlbiOp::Vaae1is, operand(slot), false),
            Op::Flag => self.flag = machine.cpus[cpu].published(),
            Op::FlagRelease => self.flag = machine.cpus[cpu].released(),
            Op::See => machine.cpus[cpu].observe(&self.flag),
            Op::SeeAcquire => machine.cpus[cpu].acquire(&self.flag),
            Op::SeeAddress => {
                machine.cpus[cpu].observe(&self.flag);
                self.address = Some(self.flag);
            }
            Op::Translated(slot) => {
                let at = self.location(slot);
                self.machine.walk_observed(cpu, at);
            }
        }
    }

    /// The possible outcomes of an access by `cpu` to the page of `slot` now.
    pub fn access(&self, cpu: usize, slot: Slot, kind: Kind) -> Outcomes {
        let address = self.address.as_ref();
        self.machine.access(cpu, self.root, slot.va, kind, address)
    }

    /// Whether `cpu` may still access the page that `value` maps, through `slot`.
    pub fn may_use(&self, cpu: usize, slot: Slot, value: Value) -> bool {
        let frame = Frame::from_u64(value.raw() & bits::ADDRESS).map_or(0, Frame::as_u64);
        let user = self.machine.user_of_frame(self.root, slot.va, frame);
        user == Some(cpu)
    }
}
