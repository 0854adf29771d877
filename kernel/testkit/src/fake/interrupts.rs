// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts at chosen moments, and the task that they let run.
//!
//! A *moment* is a call of the library to its kernel: the only points inside the library that a
//! test can name. After [`Watched::strike_when`] the fake asks at each moment whether the interrupt
//! arrives. [`preempt_when`] uses this for a timer interrupt: its handler calls
//! [`lazymmu::Lazy::switch_out`], and if the call does not refuse, another task runs for a while.
//!
//! No interrupt arrives while one is handled, nor while the other task runs.

use super::{Arrival, Fake, Watched};
use lazymmu::{LazyMmuError, Mmu, TableFrames};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The kind of a call to the kernel. [`lazymmu::Context::report`] and allocations are not moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// An entry is read and not written.
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

/// The interrupt that is armed, and whether one has arrived.
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
    /// Arms an interrupt: from now on, `ask` is called at each moment. When the interrupt arrives,
    /// `ask` handles it and returns [`Arrival::Now`], and is not called again.
    pub fn strike_when(&self, ask: impl FnMut(&Self, Moment) -> Arrival + 'static) {
        *self.interrupts.next.borrow_mut() = Some(Box::new(ask));
    }

    /// For a handler that stays armed: notes that it has let another task run, so that the fake
    /// does not check what each barrier was for.
    pub fn was_preempted(&self) {
        self.interrupts.struck.set(true);
    }

    /// Disarms the interrupt if it has not arrived.
    pub fn strike_no_more(&self) {
        self.interrupts.next.take();
    }

    /// How often the library has called [`lazymmu::Context::preemption_point`] since the last call.
    pub fn take_offers(&self) -> u32 {
        self.interrupts.offers.take()
    }

    pub(super) fn offer(&self) {
        assert!(
            !self.interrupt.get(),
            "preemption_point() is called in interrupt context, where no task can be preempted"
        );
        self.interrupts.offers.set(self.interrupts.offers.get() + 1);
    }

    pub(super) fn moment(&self, moment: Moment) {
        // Taken out, so that the handler's calls to the kernel are no moments.
        let Some(mut ask) = self.interrupts.next.take() else {
            return;
        };
        match ask(self, moment) {
            Arrival::NotYet => *self.interrupts.next.borrow_mut() = Some(ask),
            Arrival::Now => self.interrupts.struck.set(true),
        }
    }
}

/// The result of a preemption: `None` if its moment has not come, and otherwise the result of
/// [`lazymmu::Lazy::switch_out`] for the interrupted task.
pub type Outcome = Rc<Cell<Option<Result<(), LazyMmuError>>>>;

/// Arms a timer interrupt at the first moment for which `when` returns true. If the task may leave
/// its CPU, task 1 executes `other` there and is switched out again.
pub fn preempt_when(
    mmu: &Rc<Mmu<Fake>>,
    mut when: impl FnMut(&Fake, Moment) -> bool + 'static,
    other: impl FnOnce(&Mmu<Fake>) + 'static,
) -> Outcome {
    let outcome = Outcome::default();
    // Weak, because the fake holds the handler, and would otherwise keep itself alive.
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

/// Calls `visit` at each moment of `work`.
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

/// A choice for [`preempt_when`]: the moment of this number, from 0.
pub fn nth(n: usize) -> impl FnMut(&Fake, Moment) -> bool + 'static {
    let mut left = n;
    move |_, _| {
        let is_it = left == 0;
        left = left.wrapping_sub(1);
        is_it
    }
}
