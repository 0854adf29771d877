// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries are touched by the holder of their address space, and by the drain of what the holder has let wait.
//!
//! A task may drain, unlock the space, and end its section later. Another task then changes the space at any moment of
//! that end, on another CPU:
//!
//! ```text
//! task 0: announce a range, map 16 pages that could be a contiguous group, drain, unlock
//! task 0: begin to end its section
//! task 1:                              lock, unmap page 10, unlock
//! task 0: go on
//! ```

use lazymmu::{Backend, Mmu, PAGE_SIZE, Prot};
use lazymmu_testkit::fake::{
    self, Arrival, Fake, USER, close, contiguous, enable_fast, frame, new_mmu_with,
    new_space_with_tables, pages, va,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const AT: u64 = 1 << 30;

type End = (&'static str, fn(&Mmu<Fake>));

/// The ways in which a task leaves a section, for good or for a while.
const ENDS: [End; 6] = [
    ("disable", |mmu| mmu.lazy().disable().unwrap()),
    ("nested disable", |mmu| {
        mmu.lazy().enable().unwrap();
        mmu.lazy().disable().unwrap();
    }),
    ("pause", |mmu| mmu.lazy().pause().unwrap()),
    ("suspend", |mmu| drop(mmu.lazy().suspend_all())),
    ("switch", |mmu| {
        // Refused with a strategy that keeps the task on its CPU.
        let _ = mmu.lazy().switch_out();
    }),
    ("exit", |mmu| {
        let _ = mmu.lazy().exit();
    }),
];

/// Task 1 unmaps page 10 at moment `n` of `end`. Returns whether there was such a moment.
fn unmapped_at(backend: Backend, (name, end): End, n: usize) -> bool {
    let mmu: &'static Mmu<Fake> = Box::leak(Box::new(new_mmu_with(backend)));
    let page = |i: u64| pages(AT + i * PAGE_SIZE, 1);
    let space = new_space_with_tables(mmu, USER, pages(AT, 64));
    let space = Rc::new(RefCell::new(space));
    enable_fast(&space.borrow(), pages(AT, 16));
    for i in 0..16 {
        let mut held = space.borrow_mut();
        held.map(page(i), contiguous(i), Prot::USER).unwrap();
    }
    mmu.lazy().drain();

    let struck = Rc::new(Cell::new(false));
    let (other, told) = (Rc::clone(&space), Rc::clone(&struck));
    let mut left = n;
    mmu.kernel().strike_when(move |kernel, _| {
        if left > 0 {
            left -= 1;
            return Arrival::NotYet;
        }
        told.set(true);
        kernel.go_to(1);
        other.borrow_mut().unmap(page(10)).unwrap();
        kernel.go_to(0);
        Arrival::Now
    });
    end(mmu);
    mmu.kernel().strike_no_more();
    close(mmu);

    let mut held = space.borrow_mut();
    if struck.get() {
        assert_eq!(
            held.query(va(AT + 10 * PAGE_SIZE)),
            None,
            "{backend}, {name}, {n}"
        );
        held.map(page(10), contiguous(90), Prot::USER)
            .unwrap_or_else(|error| panic!("{backend}, {name}, {n}: {error}"));
    }
    for i in (0..16).filter(|i| *i != 10) {
        let entry = held.query(va(AT + i * PAGE_SIZE)).unwrap().entry;
        assert_eq!(entry.frame(), frame(i), "{backend}, {name}, {n}");
    }
    drop(held);
    let space = Rc::into_inner(space).expect("the interrupt is over");
    fake::destroy(space.into_inner());
    // SAFETY: it was leaked above, and the space, which borrowed it, is gone.
    drop(unsafe { Box::from_raw(std::ptr::from_ref(mmu).cast_mut()) });
    struck.get()
}

#[test]
fn r43_the_end_of_a_section_leaves_alone_what_its_task_does_not_hold() {
    for backend in fake::backends() {
        for end in ENDS {
            let mut moments = 0;
            while unmapped_at(backend, end, moments) {
                moments += fake::stride(7);
            }
            assert!(moments > 0, "{backend}, {}: nothing happened", end.0);
        }
    }
}
