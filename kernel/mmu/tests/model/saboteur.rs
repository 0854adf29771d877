// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that leaves out, or weakens, an instruction.
//!
//! [`Saboteur`] passes everything on to a [`Sim`] except the n-th instruction of a kind, or all of
//! a kind, counted from [`Saboteur::arm`] on. The library does not know, and its counters say that all is well.
//!
//! Each call but those for tables is also a moment at which an interrupt may arrive ([`Sim::strike_at`]).

use super::sim::{Executed, Sim};
use lazymmu::{
    Batch, Context, Counters, Desc, Frame, Hardware, LazyMmuError, LazyMmuState, Pte, Table,
    TableFrames, TlbiOp,
};
use std::cell::Cell;
use std::ptr::NonNull;

/// What is done to an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    SkipDmb,
    SkipDsbIshst,
    SkipDsbIsh,
    SkipIsb,
    SkipTlbi,
    /// `DSB ISH` becomes `DSB ISHST`.
    WeakenDsb,
    /// A broadcast TLBI stays on its CPU.
    LocalTlbi,
}

impl Sabotage {
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

/// Which instructions suffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    Nothing,
    /// The one of this number, from 0.
    Nth(Sabotage, u32),
    Every(Sabotage),
}

pub struct Saboteur {
    pub sim: Sim,
    plan: Plan,
    armed: Cell<bool>,
    seen: Cell<u32>,
    /// What had been executed when the window opened, and in the window.
    before: Cell<Executed>,
    window: Cell<Executed>,
}

impl Saboteur {
    /// Does nothing until [`Saboteur::arm`].
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

    /// Instructions count from now on.
    pub fn arm(&self) {
        self.before.set(self.sim.executed());
        self.armed.set(true);
    }

    pub fn disarm(&self) {
        self.armed.set(false);
        self.window.set(self.sim.executed() - self.before.get());
    }

    /// How many instructions `what` could be done to, in the window that was closed.
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

    /// Whether the instruction at hand is the one.
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

// SAFETY: the machine is one of memory and bookkeeping; what a method says is what it does to them.
unsafe impl Hardware for Saboteur {
    fn load(&self, pte: &Pte) -> Desc {
        self.sim.moment();
        self.sim.load(pte)
    }

    fn store(&self, pte: &Pte, desc: Desc) {
        self.sim.moment();
        self.sim.store(pte, desc);
    }

    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        self.sim.moment();
        self.sim.swap(pte, desc)
    }

    fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
        self.sim.moment();
        self.sim.compare_exchange(pte, old, new)
    }

    fn dmb_ishst(&self) {
        self.sim.moment();
        if !self.strikes(Sabotage::SkipDmb) {
            self.sim.dmb_ishst();
        }
    }

    fn dsb_ishst(&self) {
        self.sim.moment();
        if !self.strikes(Sabotage::SkipDsbIshst) {
            self.sim.dsb_ishst();
        }
    }

    fn dsb_ish(&self) {
        self.sim.moment();
        if self.strikes(Sabotage::WeakenDsb) {
            self.sim.dsb_ishst();
        } else if !self.strikes(Sabotage::SkipDsbIsh) {
            self.sim.dsb_ish();
        }
    }

    fn isb(&self) {
        self.sim.moment();
        if !self.strikes(Sabotage::SkipIsb) {
            self.sim.isb();
        }
    }

    fn tlbi(&self, op: TlbiOp, operand: u64) {
        self.sim.moment();
        if self.strikes(Sabotage::LocalTlbi) {
            self.sim.tlbi_local(op, operand);
        } else if !self.strikes(Sabotage::SkipTlbi) {
            self.sim.tlbi(op, operand);
        }
    }
}

// SAFETY: everything is the `Sim`'s, which keeps these promises.
unsafe impl TableFrames for Saboteur {
    fn alloc_table(&self) -> Option<Frame> {
        self.sim.alloc_table()
    }

    unsafe fn free_table(&self, frame: Frame) {
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { self.sim.free_table(frame) };
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        self.sim.table_ptr(frame)
    }
}

// SAFETY: the machine is one of memory and bookkeeping; what a method says is what it does to them.
unsafe impl Context for Saboteur {
    fn lazy(&self) -> &LazyMmuState {
        self.sim.moment();
        self.sim.lazy()
    }

    fn in_interrupt(&self) -> bool {
        self.sim.moment();
        self.sim.in_interrupt()
    }

    fn counters(&self) -> &Counters {
        self.sim.moment();
        self.sim.counters()
    }

    fn batch(&self) -> Option<&Batch> {
        self.sim.moment();
        self.sim.batch()
    }

    fn report(&self, error: LazyMmuError) {
        self.sim.report(error);
    }
}
