// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that leaves an instruction out, or weakens it.
//!
//! [`Saboteur`] calls a [`Sim`] for every instruction except the n-th one of a kind, or all of a
//! kind, counted from [`Saboteur::arm`] on. The library counts the instruction as executed.
//!
//! An instruction that is left out is still a moment at which an interrupt may arrive
//! ([`Sim::strike_at`]).

use super::sim::{Executed, Sim};
use lazymmu::{
    Batch, Context, Counters, Desc, Frame, Hardware, LazyMmuError, LazyMmuState, Pte, Table,
    TableFrames, TlbiOp,
};
use std::cell::Cell;
use std::ptr::NonNull;

/// The change of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// A `DMB ISHST` is left out.
    SkipDmb,
    /// A `DSB ISHST` is left out.
    SkipDsbIshst,
    /// A `DSB ISH` is left out.
    SkipDsbIsh,
    /// An `ISB` is left out.
    SkipIsb,
    /// A TLBI is left out.
    SkipTlbi,
    /// `DSB ISH` becomes `DSB ISHST`.
    WeakenDsb,
    /// A broadcast TLBI becomes one for its CPU alone.
    LocalTlbi,
}

impl Sabotage {
    /// All kinds of changes.
    pub const ALL: [Self; 7] = [
        Self::SkipDmb,
        Self::SkipDsbIshst,
        Self::SkipDsbIsh,
        Self::SkipIsb,
        Self::SkipTlbi,
        Self::WeakenDsb,
        Self::LocalTlbi,
    ];
}

/// The instructions that are changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// None.
    Nothing,
    /// The one of this number, from 0, among those to which the change applies.
    Nth(Sabotage, u32),
    /// All to which the change applies.
    Every(Sabotage),
}

/// A [`Sim`] on which the instructions of a [`Plan`] are left out or weakened, from
/// [`Saboteur::arm`] on.
#[derive(Debug)]
pub struct Saboteur {
    /// The machine, which executes the other instructions.
    pub sim: Sim,
    plan: Plan,
    armed: Cell<bool>,
    seen: Cell<u32>,
    /// What had been executed when the window opened.
    before: Cell<Executed>,
    /// What was executed in the last window.
    window: Cell<Executed>,
}

impl Saboteur {
    /// A saboteur that changes nothing until [`Saboteur::arm`].
    pub fn new(sim: Sim, plan: Plan) -> Self {
        Self {
            sim,
            plan,
            armed: Cell::new(false),
            seen: Cell::new(0),
            before: Cell::default(),
            window: Cell::default(),
        }
    }

    /// Whether the library's counters may be wrong.
    pub fn is_spoiled(&self) -> bool {
        self.plan != Plan::Nothing
    }

    /// Opens the window: instructions are changed from now on.
    pub fn arm(&self) {
        self.before.set(self.sim.executed());
        self.armed.set(true);
    }

    /// Closes the window: instructions are not changed any more.
    pub fn disarm(&self) {
        self.armed.set(false);
        self.window.set(self.sim.executed() - self.before.get());
    }

    /// The number of instructions in the last window to which the change `what` applies.
    pub fn targets(&self, what: Sabotage) -> u32 {
        let window = self.window.get();
        let n = match what {
            Sabotage::SkipDmb => window.dmb_ishst,
            Sabotage::SkipDsbIshst => window.dsb_ishst,
            Sabotage::SkipDsbIsh | Sabotage::WeakenDsb => window.dsb_ish,
            Sabotage::SkipIsb => window.isb,
            Sabotage::SkipTlbi | Sabotage::LocalTlbi => window.tlbi,
        };
        n as u32
    }

    /// Whether the present instruction, to which `what` applies, is to be changed.
    fn strikes(&self, what: Sabotage) -> bool {
        match self.plan {
            Plan::Nth(planned, n) if planned == what && self.armed.get() => {
                let seen = self.seen.get();
                self.seen.set(seen + 1);
                seen == n
            }
            Plan::Every(planned) => planned == what && self.armed.get(),
            _ => false,
        }
    }
}

// SAFETY: accesses are those of the `Sim`. Barriers and TLBI that are left out matter only to the
// model, because no CPU walks these tables.
unsafe impl Hardware for Saboteur {
    fn load(&self, pte: &Pte) -> Desc {
        self.sim.load(pte)
    }

    fn store(&self, pte: &Pte, desc: Desc) {
        self.sim.store(pte, desc);
    }

    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        self.sim.swap(pte, desc)
    }

    fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
        self.sim.compare_exchange(pte, old, new)
    }

    fn dmb_ishst(&self) {
        if self.strikes(Sabotage::SkipDmb) {
            self.sim.moment();
        } else {
            self.sim.dmb_ishst();
        }
    }

    fn dsb_ishst(&self) {
        if self.strikes(Sabotage::SkipDsbIshst) {
            self.sim.moment();
        } else {
            self.sim.dsb_ishst();
        }
    }

    fn dsb_ish(&self) {
        if self.strikes(Sabotage::WeakenDsb) {
            self.sim.dsb_ishst();
        } else if self.strikes(Sabotage::SkipDsbIsh) {
            self.sim.moment();
        } else {
            self.sim.dsb_ish();
        }
    }

    fn isb(&self) {
        if self.strikes(Sabotage::SkipIsb) {
            self.sim.moment();
        } else {
            self.sim.isb();
        }
    }

    fn tlbi(&self, op: TlbiOp, operand: u64) {
        if self.strikes(Sabotage::LocalTlbi) {
            self.sim.tlbi_local(op, operand);
        } else if self.strikes(Sabotage::SkipTlbi) {
            self.sim.moment();
        } else {
            self.sim.tlbi(op, operand);
        }
    }
}

// SAFETY: each method calls that of the `Sim`, which has made the same promise.
unsafe impl TableFrames for Saboteur {
    fn alloc_table(&self) -> Option<Frame> {
        self.sim.alloc_table()
    }

    unsafe fn free_table(&self, frame: Frame) {
        // SAFETY: this function has the contract of the one that it calls.
        unsafe { self.sim.free_table(frame) };
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        self.sim.table_ptr(frame)
    }
}

// SAFETY: each method calls that of the `Sim`, which has made the same promise.
unsafe impl Context for Saboteur {
    unsafe fn lazy(&self) -> &LazyMmuState {
        // SAFETY: this function has the contract of the one that it calls.
        unsafe { self.sim.lazy() }
    }

    fn in_interrupt(&self) -> bool {
        self.sim.in_interrupt()
    }

    unsafe fn counters(&self) -> &Counters {
        // SAFETY: this function has the contract of the one that it calls.
        unsafe { self.sim.counters() }
    }

    fn batch(&self) -> Option<&Batch> {
        self.sim.batch()
    }

    fn report(&self, error: LazyMmuError) {
        self.sim.report(error);
    }
}
