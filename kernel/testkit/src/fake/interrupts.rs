// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts at exact moments, and the task that they let run.
//!
//! A moment is a call of the library to its kernel: the only place between two of its instructions that a
//! test can name. At each of them, while [`Watched::strike_when`] has armed it, the fake asks whether an
//! interrupt arrives now. [`preempt_when`] makes of that what a timer tick is to a kernel: it asks for the
//! task's CPU ([`lazymmu::Lazy::switch_out`]), and if it gets it, another task runs for a while.
//!
//! No interrupt arrives while one is being handled, nor in what the other task does.

use super::{Arrival, Fake, Watched};
use lazymmu::{LazyMmuError, Mmu, TableFrames};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A call to the kernel, by what it asks. [`lazymmu::Context::report`] and allocations are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// An entry is read, and only that.
    Load,
    /// An entry is written.
    Store,
    /// A barrier or TLBI.
    Maintenance,
    /// [`lazymmu::Context::lazy`].
    Lazy,
    /// [`lazymmu::Context::in_interrupt`].
    InInterrupt,
    /// [`lazymmu::Context::counters`].
    Counters,
    /// [`lazymmu::Context::batch`].
    Batch,
}

type Ask<F> = Box<dyn FnMut(&Watched<F>, Moment) -> Arrival>;

/// The interrupt that is to come, and whether one came.
pub(super) struct Interrupts<F: TableFrames> {
    next: RefCell<Option<Ask<F>>>,
    struck: Cell<bool>,
    offers: Cell<u32>,
}

impl<F: TableFrames> Default for Interrupts<F> {
    fn default() -> Self {
        Self {
            next: RefCell::default(),
            struck: Cell::default(),
            offers: Cell::default(),
        }
    }
}

impl<F: TableFrames> Interrupts<F> {
    pub(super) fn has_struck(&self) -> bool {
        self.struck.get()
    }
}

impl<F: TableFrames> Watched<F> {
    /// From now on `ask` is asked at each moment whether the interrupt arrives, and handles it there, until
    /// it says so.
    pub fn strike_when(&self, ask: impl FnMut(&Self, Moment) -> Arrival + 'static) {
        *self.interrupts.next.borrow_mut() = Some(Box::new(ask));
    }

    /// A handler that goes on watching has let another task run, so what barriers were for cannot be told.
    pub fn was_preempted(&self) {
        self.interrupts.struck.set(true);
    }

    /// The interrupt that did not arrive does not any more.
    pub fn strike_no_more(&self) {
        self.interrupts.next.take();
    }

    /// How often the library has called [`lazymmu::Context::preemption_point`] since the last call.
    pub fn take_offers(&self) -> u32 {
        self.interrupts.offers.take()
    }

    pub(super) fn offer(&self) {
        assert!(!self.interrupt.get(), "an interrupt is no task to preempt");
        self.interrupts.offers.set(self.interrupts.offers.get() + 1);
    }

    pub(super) fn moment(&self, moment: Moment) {
        // Taken out: what the handler asks of the kernel is no moment.
        let Some(mut ask) = self.interrupts.next.take() else {
            return;
        };
        match ask(self, moment) {
            Arrival::NotYet => *self.interrupts.next.borrow_mut() = Some(ask),
            Arrival::Now => self.interrupts.struck.set(true),
        }
    }
}

/// What came of a preemption: `None` if its moment never came, else what the task's
/// [`lazymmu::Lazy::switch_out`] said.
pub type Outcome = Rc<Cell<Option<Result<(), LazyMmuError>>>>;

/// A timer interrupt at the first moment that `when` chooses. If the task may leave its CPU, task 1 runs
/// `other` there, and leaves it again.
pub fn preempt_when(
    mmu: &Rc<Mmu<Fake>>,
    mut when: impl FnMut(&Fake, Moment) -> bool + 'static,
    other: impl FnOnce(&Mmu<Fake>) + 'static,
) -> Outcome {
    let outcome = Outcome::default();
    // Weak: the fake, which keeps the handler, would keep itself.
    let (at, told) = (Rc::downgrade(mmu), outcome.clone());
    let mut other = Some(other);
    mmu.kernel().strike_when(move |kernel, moment| {
        if !when(kernel, moment) {
            return Arrival::NotYet;
        }
        let mmu = at.upgrade().expect("the moment is one of its calls");
        let leave = || {
            kernel.set_interrupt(true);
            let left = mmu.lazy().switch_out();
            kernel.set_interrupt(false);
            left
        };
        let left = leave();
        told.set(Some(left));
        if let (Ok(()), Some(other)) = (left, other.take()) {
            kernel.switch_to(1);
            other(&mmu);
            assert_eq!(leave(), Ok(()), "the other task has left its sections");
            kernel.switch_to(0);
        }
        Arrival::Now
    });
    outcome
}

/// Calls `visit` at each moment that `work` comes by.
pub fn at_moments(
    mmu: &Rc<Mmu<Fake>>,
    visit: impl Fn(&Mmu<Fake>, Moment) + 'static,
    work: impl FnOnce(),
) {
    let at = Rc::downgrade(mmu);
    mmu.kernel().strike_when(move |_, moment| {
        visit(
            &at.upgrade().expect("the moment is one of its calls"),
            moment,
        );
        Arrival::NotYet
    });
    work();
    mmu.kernel().strike_no_more();
}

/// Chooses the moment of this number, from 0.
pub fn nth(n: usize) -> impl FnMut(&Fake, Moment) -> bool + 'static {
    let mut left = n;
    move |_, _| {
        let is_it = left == 0;
        left = left.wrapping_sub(1);
        is_it
    }
}
