// SPDX-License-Identifier: MIT OR Apache-2.0
//! The traits of the library, implemented for [`Sim`].
//!
//! Every store goes to real memory, where the library reads it, and to the model. Every barrier and
//! TLBI is counted and goes to the model as one of the current CPU.
//!
//! Each call except those of [`TableFrames`] is also a moment at which an interrupt may arrive
//! ([`Sim::strike_at`]).

use super::cpu::Barrier;
use super::sim::{POOL, Sim};
use super::trace::{self, Effect};
use lazymmu::{
    Batch, Context, Counters, Desc, Frame, Hardware, LazyMmuError, LazyMmuState, PAGE_SIZE, Pte,
    Table, TableFrames, TlbiOp,
};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

fn cell(pte: &Pte) -> &AtomicU64 {
    // SAFETY: a `Pte` is a live, aligned, atomically accessed 64-bit cell.
    unsafe { AtomicU64::from_ptr(pte.as_ptr()) }
}

fn held(pte: &Pte) -> Desc {
    Desc::from_u64(cell(pte).load(Ordering::Relaxed))
}

impl Sim {
    /// Stores `desc` to the entry, in memory and in the model. Returns the old value.
    fn write(&self, pte: &Pte, desc: Desc) -> Desc {
        let old = cell(pte).swap(desc.as_u64(), Ordering::Relaxed);
        let at = self.location(pte);
        let cpu = self.cpu();
        let place = self.machine.borrow().memory.table(at.table).place;
        if let Some(place) = place
            && let Some(effect) = trace::listed(place.level, old, desc.as_u64())
        {
            self.note(effect);
        }
        self.machine.borrow_mut().store(cpu, at, desc.as_u64());
        Desc::from_u64(old)
    }
}

// SAFETY: each access has its documented effect on the entry. Barriers and TLBI take effect in the
// model, which is enough because no CPU walks these tables.
unsafe impl Hardware for Sim {
    fn load(&self, pte: &Pte) -> Desc {
        self.moment();
        held(pte)
    }

    fn store(&self, pte: &Pte, desc: Desc) {
        self.swap(pte, desc);
    }

    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        self.moment();
        self.write(pte, desc)
    }

    fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
        self.moment();
        match held(pte) {
            held if held == old => Ok(self.write(pte, new)),
            held => Err(held),
        }
    }

    fn dmb_ishst(&self) {
        self.moment();
        self.count(|e| e.dmb_ishst += 1);
        self.machine.borrow_mut().dmb(self.cpu(), Barrier::St);
    }

    fn dsb_ishst(&self) {
        self.moment();
        self.count(|e| e.dsb_ishst += 1);
        self.note(Effect::DsbIshst);
        self.machine.borrow_mut().dsb(self.cpu(), Barrier::St);
    }

    fn dsb_ish(&self) {
        self.moment();
        self.count(|e| e.dsb_ish += 1);
        self.note(Effect::DsbIsh);
        self.machine.borrow_mut().dsb(self.cpu(), Barrier::Full);
    }

    fn isb(&self) {
        self.moment();
        self.count(|e| e.isb += 1);
        self.note(Effect::Isb);
        self.machine.borrow_mut().cse(self.cpu());
    }

    fn tlbi(&self, op: TlbiOp, operand: u64) {
        self.moment();
        self.count(|e| e.tlbi += 1);
        self.note(trace::tlbi(op));
        let cpu = self.cpu();
        self.machine.borrow_mut().tlbi(cpu, op, operand, true);
    }
}

// SAFETY: from `alloc_table` to `free_table`, each frame stands for one table of the pool, zeroed
// at first. The pool lives as long as the `Sim` and does not move.
unsafe impl TableFrames for Sim {
    fn alloc_table(&self) -> Option<Frame> {
        let left = self.budget.get().checked_sub(1)?;
        let slot = self.free.borrow_mut().pop()?;
        self.budget.set(left);
        for pte in self.tables[slot].entries() {
            cell(pte).store(0, Ordering::Relaxed);
        }
        let id = self.machine.borrow_mut().alloc(self.cpu(), slot);
        self.ids.borrow_mut()[slot] = Some(id);
        Frame::from_u64(POOL + slot as u64 * PAGE_SIZE)
    }

    unsafe fn free_table(&self, frame: Frame) {
        let slot = self.slot(frame);
        let Some(id) = self.ids.borrow_mut()[slot].take() else {
            panic!("table {frame:?} is freed twice, or was never a table");
        };
        let hazard = self.machine.borrow_mut().free(id, frame.as_u64());
        self.hazards.borrow_mut().extend(hazard);
        self.free.borrow_mut().push(slot);
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        NonNull::from(&self.tables[self.slot(frame)])
    }
}

// SAFETY: one CPU at a time is the current one, and each method answers for it and its task.
unsafe impl Context for Sim {
    unsafe fn lazy(&self) -> &LazyMmuState {
        self.moment();
        &self.tasks[self.running(self.cpu())].lazy
    }

    fn in_interrupt(&self) -> bool {
        self.moment();
        self.interrupt.get()
    }

    unsafe fn counters(&self) -> &Counters {
        self.moment();
        &self.counters
    }

    fn batch(&self) -> Option<&Batch> {
        self.moment();
        Some(&self.batches[self.cpu()])
    }

    fn report(&self, error: LazyMmuError) {
        // A scenario ends with spaces whose roots are in use. Their tables are freed with the
        // machine.
        if error != LazyMmuError::TablesLeaked {
            self.reports.borrow_mut().push(error);
        }
    }
}
