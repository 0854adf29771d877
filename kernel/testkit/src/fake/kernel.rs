// SPDX-License-Identifier: MIT OR Apache-2.0
//! The traits of the library, implemented for [`Watched`].
//!
//! Each call except those of [`TableFrames`] is a moment at which an interrupt may arrive
//! ([`super::interrupts`]).

use super::interrupts::Moment;
use super::{Effect, Watched, cell};
use lazymmu::{
    Batch, Context, Counters, Desc, Frame, Half, Hardware, Hypervisor, LazyMmuError, LazyMmuState,
    Pte, Table, TableFrames, TlbiOp, bits,
};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

// SAFETY: each access has its documented effect on the entry. Barriers and TLBI are only recorded
// and checked, which is enough because no CPU walks these tables.
unsafe impl<F: TableFrames> Hardware for Watched<F> {
    fn load(&self, pte: &Pte) -> Desc {
        self.moment(Moment::Load);
        Desc::from_u64(cell(pte).load(Ordering::Relaxed))
    }

    fn store(&self, pte: &Pte, desc: Desc) {
        self.swap(pte, desc);
    }

    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        self.moment(Moment::Store);
        self.let_walker_race(pte);
        self.swap_now(pte, desc)
    }

    fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
        self.moment(Moment::Store);
        self.let_walker_race(pte);
        match Desc::from_u64(cell(pte).load(Ordering::Relaxed)) {
            held if held == old => Ok(self.swap_now(pte, new)),
            held => Err(held),
        }
    }

    fn dmb_ishst(&self) {
        self.moment(Moment::Maintenance);
        self.order.borrow_mut().dmb_ishst();
        self.record(Effect::DmbIshst);
    }

    fn dsb_ishst(&self) {
        self.moment(Moment::Maintenance);
        self.order.borrow_mut().dsb_ishst();
        let state = self.tasks[self.current.get()].read();
        self.depth_at_dsb
            .set((state.enable_count(), state.pause_count()));
        self.record(Effect::DsbIshst);
    }

    fn dsb_ish(&self) {
        self.moment(Moment::Maintenance);
        self.complete();
        self.record(Effect::DsbIsh);
    }

    fn isb(&self) {
        self.moment(Moment::Maintenance);
        self.record(Effect::Isb);
    }

    fn tlbi(&self, op: TlbiOp, operand: u64) {
        self.moment(Moment::Maintenance);
        self.order.borrow_mut().tlbi(op, operand);
        self.record(Effect::Tlbi(op, operand));
    }
}

// SAFETY: each method calls that of `F`, which has made the same promise.
unsafe impl<F: TableFrames> TableFrames for Watched<F> {
    fn alloc_table(&self) -> Option<Frame> {
        let left = self.budget.get().checked_sub(1)?;
        let frame = self.frames.alloc_table()?;
        self.budget.set(left);
        let (number, table) = (frame.as_u64(), self.frames.table_ptr(frame));
        let twice = self.tables.borrow_mut().insert(number, table);
        assert_eq!(twice, None, "frame {number:#x} is handed out twice");
        let address = table.addr().get();
        let twice = self.frame_at.borrow_mut().insert(address, number);
        assert_eq!(twice, None, "two tables are at {address:#x}");
        let used = self.raw(number).iter().position(|entry| *entry != 0);
        assert_eq!(used, None, "frame {number:#x} is not zeroed");
        let mut order = self.order.borrow_mut();
        if self.root_is_next.replace(false) {
            order.add_root(number, Half::Upper.start(), None);
        } else {
            order.alloc(number);
        }
        drop(order);
        self.record(Effect::Alloc(number));
        Some(frame)
    }

    unsafe fn free_table(&self, frame: Frame) {
        let number = frame.as_u64();
        let Some(table) = self.tables.borrow_mut().remove(&number) else {
            panic!("frame {number:#x} is freed twice, or was never a table");
        };
        if self.teardown.get() {
            self.order.borrow_mut().forget(number);
        } else {
            let linked = self.image().into_values().flatten().any(|e| {
                e & (bits::VALID | bits::TABLE_OR_PAGE) == bits::VALID | bits::TABLE_OR_PAGE
                    && e & bits::ADDRESS == number
            });
            assert!(
                !linked,
                "table {number:#x} is freed while an entry links it"
            );
            self.order.borrow_mut().free(number);
        }
        self.groups.borrow_mut().forget(number);
        self.frame_at.borrow_mut().remove(&table.addr().get());
        self.record(Effect::Free(number));
        // SAFETY: this function has the contract of the one that it calls.
        unsafe { self.frames.free_table(frame) };
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        NonNull::from(self.table(frame.as_u64()))
    }
}

// SAFETY: one flow of control uses a fake, so state, counters and batch are those of the current
// task and CPU, which is the caller.
unsafe impl<F: TableFrames> Context for Watched<F> {
    unsafe fn lazy(&self) -> &LazyMmuState {
        self.moment(Moment::Lazy);
        &self.tasks[self.current.get()]
    }

    fn in_interrupt(&self) -> bool {
        self.moment(Moment::InInterrupt);
        self.interrupt.get()
    }

    unsafe fn counters(&self) -> &Counters {
        self.moment(Moment::Counters);
        &self.counters
    }

    fn batch(&self) -> Option<&Batch> {
        self.moment(Moment::Batch);
        let batch = &self.batches[self.cpu.get()];
        self.has_batch.get().then_some(batch)
    }

    fn hypervisor(&self) -> Option<&dyn Hypervisor> {
        self.has_hypervisor.get().then_some(self)
    }

    fn preemption_point(&self) {
        self.offer();
    }

    fn report(&self, error: LazyMmuError) {
        self.reports.borrow_mut().push(error);
    }
}
