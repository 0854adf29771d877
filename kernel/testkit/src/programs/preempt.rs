// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preemption inside the library's calls.
//!
//! At a moment of a step (a call of the library to its kernel, by number) a timer interrupt
//! arrives. If the task may leave its CPU ([`lazymmu::Lazy::switch_out`]), the *intruder* runs
//! there: a task that belongs to no program and has a small user space of its own. It does what
//! [`Meanwhile`] says, and the interrupted task goes on: on the same CPU, or on another one, with
//! whose task it changes places.
//!
//! The contract is as strict as without. What a step promises, it promises wherever its task
//! was meanwhile: switches and synchronizations are told to the contract, in their order
//! ([`Told`]), and what the step wrote is settled by the CPU on which it ends.

use super::contract::Contract;
use super::run::Failure;
use super::{Meanwhile, TASKS};
use crate::model::world::{frame, pages};
use crate::model::{Kind, Modelled, Outcome, RootId, Switch};
use lazymmu::{AddressSpace, Asid, Backing, Frame, Mmu, PAGE_SIZE, Prot, SpaceKind};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The intruder, as a task.
const INTRUDER: usize = TASKS;
const KIND: SpaceKind = SpaceKind::User(Asid(3));
/// Where it has its pages, and how many.
const AT: u64 = 5 << 30;
const PAGES: u64 = 4;

/// What happened to CPUs and tasks meanwhile.
#[derive(Clone, Copy, Debug)]
enum Told {
    Synchronized(usize),
    /// The CPU, and the tasks that left and came.
    Switched(usize, usize, usize),
}

/// The task that runs when a timer interrupt preempts another one inside of a call of the library.
/// It belongs to no program and has a small user space of its own.
pub struct Intruder<K: Modelled> {
    mmu: Rc<Mmu<K>>,
    switch: Switch,
    /// Its tree. A handle of it is made where it is needed.
    tree: Frame,
    root: RootId,
    meanwhile: Cell<Meanwhile>,
    /// Its pages are mapped to frames from this number on, if they are.
    mapped: Cell<Option<u64>>,
    next_frame: Cell<u64>,
    told: RefCell<Vec<Told>>,
    failure: RefCell<Option<Failure>>,
}

impl<K: Modelled> Intruder<K> {
    pub fn new(mmu: &Rc<Mmu<K>>, switch: Switch) -> Rc<Self> {
        let tree = AddressSpace::new(mmu, KIND).expect("the pool is full");
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

    /// Whether a task may go on elsewhere in the middle of a call. With the erratum (R34) the model
    /// asks that one CPU repeats what it has issued, and a task that moves repeats it on another.
    fn may_move(&self) -> bool {
        !self.mmu.features().tlb.repeat
    }

    /// What the next interrupt inside the library leads to.
    pub fn prepare(&self, meanwhile: Meanwhile) {
        self.meanwhile.set(meanwhile);
    }

    /// Tells the contract what happened since the last time. What the interrupted call has written
    /// is an event after that: it may have been written later.
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

    /// An interrupt on the CPU at hand, at whose end the CPU is `next`'s if its task may leave.
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

    /// The interrupt arrives.
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
            *self.failure.borrow_mut() = Some(format!("the task in between: {what}"));
        }
        assert!(self.switch_to(task), "R38: the intruder may leave");
    }

    /// `task`, which left `cpu` to the intruder, goes on at `to`, and the task from there here, if
    /// it may leave.
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

    /// Maps what is not mapped and unmaps what is, in a section, which it may leave open until the
    /// next time.
    fn work(&self, closes: bool) -> Result<(), Failure> {
        let (mmu, sim) = (&*self.mmu, self.mmu.kernel().sim());
        let lazy = mmu.lazy();
        // SAFETY: the tree is the one that `new` made, and a handle of it lives in this call only.
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

    /// Its section has ended: nothing else may be seen at `va`.
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

    /// It leaves its section, if it has one, and its space is destroyed. On CPU 0.
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
