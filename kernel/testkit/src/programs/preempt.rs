// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preemption inside the library's calls.
//!
//! A timer interrupt arrives at a moment of a step (the n-th call of the library to its kernel). If
//! the task may leave its CPU ([`lazymmu::Lazy::switch_out`]), the *intruder* runs there: a task
//! that is not part of the program and has a small user space of its own. It does what
//! [`Meanwhile`] says. Then the interrupted task continues on the same CPU, or changes places with
//! the task of another CPU.
//!
//! The contract promises the same with and without a preemption. The intruder records switches and
//! synchronizations in their order ([`Told`]) and passes them to the contract, and the CPU on which
//! the step ends settles what the step has written.

use super::contract::Contract;
use super::run::Failure;
use super::{Meanwhile, TASKS};
use crate::model::world::{frame, pages};
use crate::model::{Kind, Modelled, Outcome, RootId, Switch};
use lazymmu::{AddressSpace, Asid, Backing, Frame, Mmu, PAGE_SIZE, Prot, SpaceKind};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The number of the intruder's task.
const INTRUDER: usize = TASKS;
const KIND: SpaceKind = SpaceKind::User(Asid(3));
/// The address of the intruder's first page.
const AT: u64 = 5 << 30;
/// The number of the intruder's pages.
const PAGES: u64 = 4;

/// An event of a CPU during a preemption.
#[derive(Clone, Copy, Debug)]
enum Told {
    Synchronized(usize),
    /// The CPU, the task that left it, and the task that runs on it now.
    Switched(usize, usize, usize),
}

/// The task that runs when a timer interrupt preempts another one inside a call of the library. See
/// the module text.
pub struct Intruder<K: Modelled> {
    mmu: Rc<Mmu<K>>,
    switch: Switch,
    /// The root table of its space. An [`AddressSpace`] is made from it where one is needed.
    tree: Frame,
    root: RootId,
    meanwhile: Cell<Meanwhile>,
    /// The number of the first frame to which its pages are mapped; `None` while they are not
    /// mapped.
    mapped: Cell<Option<u64>>,
    next_frame: Cell<u64>,
    told: RefCell<Vec<Told>>,
    failure: RefCell<Option<Failure>>,
}

impl<K: Modelled> Intruder<K> {
    pub fn new(mmu: &Rc<Mmu<K>>, switch: Switch) -> Rc<Self> {
        let tree = AddressSpace::new(mmu, KIND).expect("the pool has free frames");
        let (sim, tree) = (mmu.kernel().sim(), tree.root());
        let root = sim.add_root(tree, KIND);
        sim.set_root(INTRUDER, root);
        Rc::new(Self {
            mmu: mmu.clone(),
            switch,
            tree,
            root,
            meanwhile: Cell::new(Meanwhile::Nothing),
            mapped: Cell::new(None),
            next_frame: Cell::new(0x8_0000),
            told: RefCell::default(),
            failure: RefCell::default(),
        })
    }

    /// Whether a task may move to another CPU inside a call. With the erratum (R34) the model
    /// requires that the CPU that has issued a TLBI also repeats it, and a task that moves would
    /// repeat it on another CPU.
    fn may_move(&self) -> bool {
        !self.mmu.features().tlb.repeat
    }

    /// Sets what happens during the next preemption.
    pub fn prepare(&self, meanwhile: Meanwhile) {
        self.meanwhile.set(meanwhile);
    }

    /// Passes the events since the last call to the contract. What the interrupted call has written
    /// counts as a later event, because it may have been written after them.
    pub fn tell(&self, contract: &mut Contract) {
        let told = self.told.take();
        for told in &told {
            match *told {
                Told::Synchronized(cpu) => contract.synchronized(cpu),
                Told::Switched(cpu, prev, next) => contract.switched(cpu, prev, next),
            }
        }
        if !told.is_empty() {
            contract.tick();
        }
    }

    pub fn take_failure(&self) -> Option<Failure> {
        self.failure.take()
    }

    /// An interrupt on the current CPU, which switches to `next` if the current task may leave.
    /// Returns whether it did.
    fn switch_to(&self, next: usize) -> bool {
        let (sim, lazy) = (self.mmu.kernel().sim(), self.mmu.lazy());
        let cpu = sim.cpu();
        let prev = sim.running(cpu);
        let mut told = self.told.borrow_mut();
        sim.enter_interrupt();
        told.push(Told::Synchronized(cpu));
        let left = match self.switch {
            Switch::DsbIsh => lazy.switch_out(),
            Switch::Bare => lazy.might_sleep(),
        };
        if left.is_ok() {
            sim.switch(cpu, next, self.switch);
            told.push(Told::Switched(cpu, prev, next));
        }
        sim.leave_interrupt();
        told.push(Told::Synchronized(cpu));
        left.is_ok()
    }

    /// Handles the interrupt.
    pub fn strike(&self) {
        let sim = self.mmu.kernel().sim();
        let cpu = sim.cpu();
        let task = sim.running(cpu);
        if !self.switch_to(INTRUDER) {
            return;
        }
        let failure = match self.meanwhile.get() {
            Meanwhile::Nothing => Ok(()),
            Meanwhile::Section => self.work(true),
            Meanwhile::OpenSection => self.work(!self.mmu.backend().is_preemptible()),
            Meanwhile::Elsewhere(to) => {
                let to = usize::from(to) % crate::model::CPUS;
                if to != cpu && self.may_move() && self.change_places(task, cpu, to) {
                    return;
                }
                Ok(())
            }
        };
        if let Err(what) = failure {
            *self.failure.borrow_mut() =
                Some(format!("the task that ran during the preemption: {what}"));
        }
        assert!(self.switch_to(task), "R38: the intruder may leave");
    }

    /// Moves `task`, which has left `cpu` to the intruder, to CPU `to`, and the task of that CPU to
    /// `cpu`, if that one may leave. Returns whether it did.
    fn change_places(&self, task: usize, cpu: usize, to: usize) -> bool {
        let sim = self.mmu.kernel().sim();
        let other = sim.running(to);
        sim.on(to);
        let moves = self.switch_to(task);
        if moves {
            sim.on(cpu);
            assert!(self.switch_to(other), "R38: the intruder may leave");
            sim.on(to);
        } else {
            sim.on(cpu);
        }
        moves
    }

    /// Maps the intruder's pages if they are not mapped, and unmaps them otherwise, in a section.
    /// If `closes` is false, the section stays open until the next preemption.
    fn work(&self, closes: bool) -> Result<(), Failure> {
        let (mmu, sim) = (&*self.mmu, self.mmu.kernel().sim());
        let lazy = mmu.lazy();
        // SAFETY: `new` has built the tree, and this is the only `AddressSpace` of it, which lives
        // during this call only.
        let mut space = unsafe { AddressSpace::from_counted_root(mmu, KIND, self.tree) };
        if lazy.state().enable_count() == 0 {
            lazy.enable().map_err(|error| error.to_string())?;
        }
        let range = pages(AT, PAGES);
        let done = match self.mapped.get() {
            None => {
                let first = self.next_frame.get();
                self.next_frame.set(first + PAGES);
                self.mapped.set(Some(first));
                space.map(range, Backing::Contiguous(frame(first)), Prot::USER)
            }
            Some(_) => {
                self.mapped.set(None);
                let give_back = |va: lazymmu::VirtAddr, frame: Frame| {
                    sim.reuse(self.root, va.as_u64(), frame.as_u64());
                };
                space.unmap_frames(range, give_back)
            }
        };
        done.map_err(|error| error.to_string())?;
        if closes {
            self.close();
        }
        for page in 0..PAGES {
            let va = AT + page * PAGE_SIZE;
            let expected = self.mapped.get().map(|first| frame(first + page));
            let found = lazymmu::VirtAddr::new(va).and_then(|va| space.query(va));
            let found = found.map(|found| found.entry.frame());
            if found != expected {
                return Err(format!(
                    "R20: page {page} is {found:?} instead of {expected:?}"
                ));
            }
            if closes {
                self.access(va, expected)?;
            }
        }
        space.into_root();
        Ok(())
    }

    /// Checks, after the section has ended, that the expected outcome is the only one at `va`.
    fn access(&self, va: u64, expected: Option<Frame>) -> Result<(), Failure> {
        let sim = self.mmu.kernel().sim();
        let out = sim.access(sim.cpu(), INTRUDER, va, Kind::Write);
        let good = match expected {
            None => out.only_faults(),
            Some(frame) => {
                let raw = frame.as_u64() | Prot::USER.as_u64();
                out.is_only_or_faults(Outcome::of_page(raw, Kind::Write, true))
            }
        };
        if good {
            return Ok(());
        }
        Err(format!("{out:?} at {va:#x} instead of {expected:?}"))
    }

    fn close(&self) {
        while self.mmu.lazy().state().enable_count() > 0 {
            self.mmu.lazy().disable().ok();
        }
    }

    /// Leaves the intruder's section, if one is open, and destroys its space. Runs on CPU 0.
    pub fn finish(&self) {
        let sim = self.mmu.kernel().sim();
        sim.on(0);
        let task = sim.running(0);
        if self.switch_to(INTRUDER) {
            self.close();
            assert!(self.switch_to(task), "R38: the intruder may leave");
        }
        sim.retire_root(self.root);
        // SAFETY: as in `work`.
        let space = unsafe { AddressSpace::from_counted_root(&self.mmu, KIND, self.tree) };
        // SAFETY: the root was taken out of use, no table is shared, and no section is open.
        unsafe { space.destroy() };
    }
}
