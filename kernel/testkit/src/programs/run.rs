// SPDX-License-Identifier: MIT OR Apache-2.0
//! Execution of a program on the machine model.
//!
//! [`Run::check`] follows each step. At the end every section is left, every invalidation executed
//! and every space destroyed, and no table may be left.
//!
//! Around the library the kernel keeps R43: a space is locked during a call, and a task does not
//! touch pages that another task has deferred or not invalidated yet. If a section continues after
//! the lock was released, its end or flush takes the lock again, because the next holder must learn
//! of it.

use super::calls::Caller;
use super::contract::{Contract, State, Value};
use super::frames::FrameSource;
use super::predict::{Debt, Pays, Terms, replay};
use super::preempt::Intruder;
use super::tasks::Suspended;
use super::universe::{self, Universe};
use super::{Frames, Op, Preemption, Program, Range, SPACES, Step, TASKS};
use crate::model::world::Setup;
use crate::model::{CPUS, Modelled, RootId, Sim, Switch, Token};
use lazymmu::{AddressSpace, Backend, BarrierPolicy, Mmu, PageRange, PendingInvalidation, Prot};
use std::collections::VecDeque;
use std::rc::Rc;

/// Why a program has failed: the step and the requirement.
pub type Failure = String;

const MODEL: Universe = Universe::MODEL;

/// Emptied pages that are not invalidated yet.
pub struct Pending<'m, K: Modelled> {
    pub task: usize,
    pub space: usize,
    pub token: u32,
    /// The address of each page, and of its frame.
    pub frames: Vec<(u64, u64)>,
    pub flush: PendingInvalidation<'m, K>,
}

/// The execution of a program.
pub struct Run<'m, K: Modelled> {
    pub mmu: &'m Mmu<K>,
    pub spaces: [AddressSpace<'m, K>; SPACES],
    pub roots: [RootId; SPACES],
    locks: [Token; SPACES],
    pub pending: VecDeque<Pending<'m, K>>,
    /// The suspensions of all tasks. The last one of a task ends first.
    pub(super) suspended: Vec<Suspended<'m, K>>,
    intruder: &'m Intruder<K>,
    pub contract: Contract,
    pub frames: FrameSource,
    pub next_token: u32,
    pub no_memory: bool,
    pub(super) switch: Switch,
    /// Whether the barriers of each step so far could be predicted.
    is_predictable: bool,
    /// The barriers that each task owes by the prediction.
    debts: [Debt; TASKS],
    terms: Terms,
    /// The numbers of barriers before links and of live tables at the last check.
    pub tables: (u64, usize),
}

pub fn prot(space: usize, index: u8) -> Prot {
    universe::prot(MODEL.spaces[space].1, index)
}

pub fn va(space: usize, page: usize) -> u64 {
    MODEL.va(space, page)
}

impl Range {
    pub(super) fn pages(self) -> std::ops::Range<usize> {
        MODEL.pages_of(self)
    }

    pub(super) fn of(self, space: usize) -> PageRange {
        MODEL.range_of(space, self)
    }
}

/// Runs a program of [`Universe::MODEL`] on a kernel that `make` builds around the machine.
///
/// # Errors
/// The first step after which a requirement fails, and the requirement.
pub fn run<K: Modelled + 'static>(
    setup: Setup,
    program: &Program,
    make: impl FnOnce(Sim) -> K,
) -> Result<(), Failure> {
    let mmu = Rc::new(setup.mmu(make(setup.sim_for(TASKS + 1))));
    let asked = Rc::downgrade(&mmu);
    mmu.kernel().sim().ask_activity(move || {
        asked.upgrade().is_some_and(|mmu| {
            let (kernel, sim) = (mmu.kernel(), mmu.kernel().sim());
            kernel.lazy_of(sim.running(sim.cpu())).read().is_active()
        })
    });
    let intruder = Intruder::new(&mmu, setup.switch);
    // Weak, because the intruder holds the library and with it the machine.
    let strikes = Rc::downgrade(&intruder);
    mmu.kernel().sim().on_strike(move || {
        if let Some(intruder) = strikes.upgrade() {
            intruder.strike();
        }
    });
    let mut run = Run::new(&mmu, setup.switch, &intruder);
    mmu.kernel().arm();
    for (i, step) in program.0.iter().enumerate() {
        let at = |what| format!("step {i}: {what}");
        run.step(*step).map_err(at)?;
        run.check().map_err(at)?;
    }
    run.finish()
}

impl<'m, K: Modelled> Run<'m, K> {
    fn new(mmu: &'m Mmu<K>, switch: Switch, intruder: &'m Intruder<K>) -> Self {
        let sim = mmu.kernel().sim();
        let kinds: [_; SPACES] = std::array::from_fn(|space| MODEL.spaces[space].1);
        let spaces =
            kinds.map(|kind| AddressSpace::new(mmu, kind).expect("the pool has free frames"));
        let roots = std::array::from_fn(|i| sim.add_root(spaces[i].root(), kinds[i]));
        for task in 0..TASKS {
            sim.set_root(task, roots[Self::user_space(task)]);
        }
        Self {
            mmu,
            spaces,
            roots,
            locks: [Token::EMPTY; SPACES],
            pending: VecDeque::new(),
            suspended: Vec::new(),
            intruder,
            contract: Contract::new(TASKS + 1, mmu.policy(), mmu.backend()),
            frames: FrameSource::new(0x100),
            next_token: 0,
            no_memory: false,
            switch,
            is_predictable: true,
            debts: [Debt::default(); TASKS],
            terms: Terms {
                eager: mmu.backend() == Backend::Eager,
                ets2: mmu.policy() == BarrierPolicy::Ets2,
                repeat: mmu.features().tlb.repeat,
            },
            tables: (0, 0),
        }
    }

    /// The user space of a task.
    pub const fn user_space(task: usize) -> usize {
        1 + task % (SPACES - 1)
    }

    pub fn sim(&self) -> &'m Sim {
        self.mmu.kernel().sim()
    }

    pub fn is_active(&self) -> bool {
        self.mmu.lazy().is_lazy_mmu_mode_active()
    }

    /// Whether `task` may touch the pages: no other task has deferred them or not invalidated them.
    pub fn is_free(&self, space: usize, range: Range, task: usize) -> bool {
        range
            .pages()
            .all(|page| match self.contract.page(space, page).state {
                State::Settled => true,
                State::Pending(owner) | State::Changing(owner) => owner == task,
                State::Stale(owner, _) => {
                    owner == task || self.mmu.kernel().lazy_of(owner).read().enable_count() == 0
                }
            })
    }

    pub fn value(&self, space: usize, page: usize) -> Value {
        self.contract.page(space, page).value
    }

    fn step(&mut self, step: Step) -> Result<(), Failure> {
        let cpu = step.cpu as usize % CPUS;
        let sim = self.sim();
        sim.on(cpu);
        let task = sim.running(cpu);
        let by = Caller { task, cpu };
        let pays = self.pays(step.op, task);
        sim.take_trace();
        self.act(step, by)?;
        let events = sim.take_trace();
        // A range that was refused has opened no section, so it must execute nothing.
        let refused = matches!(step.op, Op::Fast(..)) && events.is_empty();
        let pays = if refused { Pays::Nothing } else { pays };
        // A task that was preempted inside a call may owe barriers on two CPUs, which is not
        // predicted. The model still checks the outcomes.
        self.is_predictable &= step.preempted.is_none() && !self.mmu.kernel().is_spoiled();
        if self.is_predictable {
            // The debts of an interrupt's writes are separate from those of the task (R12).
            let in_interrupt = matches!(step.op, Op::InterruptMap(_) | Op::InterruptBoth(_));
            let debt = if in_interrupt {
                Debt::default()
            } else {
                self.debts[task]
            };
            let owed = replay(self.terms, &events, debt, pays)
                .map_err(|what| format!("{what}: {events:?}"))?;
            if !in_interrupt {
                self.debts[task] = owed;
            }
        }
        Ok(())
    }

    /// Whether the step must pay what the task's section owes, or must not.
    fn pays(&self, op: Op, task: usize) -> Pays {
        let state = self.mmu.kernel().lazy_of(task).read();
        let (enabled, paused) = (state.enable_count() > 0, state.pause_count() > 0);
        let is_all = match op {
            Op::Disable | Op::Pause => enabled && !paused,
            Op::Flush | Op::Suspend | Op::SuspendBegin => true,
            Op::Switch(_) | Op::Preempt(_) | Op::Drain => false,
            Op::Enable | Op::Resume | Op::SuspendEnd => false,
            // Its own section ends, which flushes at any depth.
            Op::Fast(..) => true,
            // Outside of an active section, an operation pays before it returns.
            _ => !state.is_active(),
        };
        if is_all { Pays::All } else { Pays::Nothing }
    }

    fn act(&mut self, step: Step, by: Caller) -> Result<(), Failure> {
        let sim = self.sim();
        let Caller { task, cpu } = by;
        match step.op {
            Op::NoMemory(tables) => {
                sim.set_budget(tables as usize);
                self.no_memory = true;
                return Ok(());
            }
            Op::EnableFast(space, range) => {
                let space = space as usize % SPACES;
                self.enable_fast(space, range);
            }
            Op::Enable
            | Op::Disable
            | Op::Pause
            | Op::Resume
            | Op::Flush
            | Op::Drain
            | Op::Suspend
            | Op::SuspendBegin
            | Op::SuspendEnd => {
                self.strike_in(step.preempted);
                self.move_lazy(step.op, by);
            }
            Op::Switch(next) => self.switch(cpu, next as usize),
            Op::Preempt(next) => self.preempt(cpu, next as usize),
            Op::Tell(to) => self.tell(cpu, to as usize % CPUS),
            Op::Publish(to) => {
                let to = to as usize % CPUS;
                sim.acquire(to, &sim.release(cpu));
                self.contract.acquired(cpu, to);
            }
            Op::FlushPending(_) => {
                self.strike_in(step.preempted);
                self.flush_pending(by);
            }
            Op::InterruptMap(range) | Op::InterruptBoth(range) => {
                // An interrupt must not change pages that a task has deferred or not invalidated.
                if self.is_free(0, range, TASKS) {
                    sim.enter_interrupt();
                    self.contract.synchronized(cpu);
                    let result = self.interrupt(step.op, range, by);
                    sim.leave_interrupt();
                    self.contract.synchronized(cpu);
                    result?;
                }
            }
            Op::Map(s, range, ..)
            | Op::MapEach(s, range, ..)
            | Op::Fold(s, range)
            | Op::Unmap(s, range)
            | Op::UnmapExisting(s, range)
            | Op::UnmapFrames(s, range)
            | Op::UnmapNoFlush(s, range)
            | Op::UnmapMerged(s, range)
            | Op::FlushRange(s, range)
            | Op::Protect(s, range, _)
            | Op::Remap(s, range, _)
            | Op::Apply(s, range, _)
            | Op::ApplyExisting(s, range, _)
            | Op::Fast(s, range, ..)
            | Op::Gather(s, range, _)
            | Op::GatherExisting(s, range, _)
            | Op::GatherTables(s, range, _)
            | Op::GatherEach(s, range, ..)
            | Op::Share(s, range)
            | Op::CrossTokens(s, range)
            | Op::FreeEmptyTables(s, range) => {
                let space = s as usize % SPACES;
                let frees = matches!(step.op, Op::FreeEmptyTables(..) | Op::GatherTables(..));
                if self.is_free(space, range, task) && !(frees && self.is_announced()) {
                    self.strike_in(step.preempted);
                    self.locked(space, cpu, |run| run.call(step.op, space, by))?;
                }
            }
        }
        sim.strike_at(0);
        self.intruder.tell(&mut self.contract);
        if self.no_memory {
            sim.set_budget(usize::MAX);
            self.no_memory = false;
        }
        self.contract.tick();
        self.intruder.take_failure().map_or(Ok(()), Err)
    }

    fn strike_in(&self, preempted: Option<Preemption>) {
        if let Some(Preemption { at, meanwhile }) = preempted {
            self.intruder.prepare(meanwhile);
            self.sim().strike_at(at.into());
        }
    }

    /// The caller after a call, which may have returned on another CPU.
    pub fn returned(&mut self, by: Caller) -> Caller {
        self.intruder.tell(&mut self.contract);
        let cpu = self.sim().cpu();
        Caller { cpu, ..by }
    }

    /// Executes the handler of an interrupt. What it does takes effect at once (R3), also if the
    /// task defers.
    fn interrupt(&mut self, op: Op, range: Range, by: Caller) -> Result<(), Failure> {
        let how = (0, Frames::Aligned);
        self.locked(0, by.cpu, |run| run.map(0, range, how, by))?;
        self.check()?;
        if matches!(op, Op::InterruptBoth(_)) {
            self.locked(0, by.cpu, |run| run.unmap(0, range, by))?;
            self.check()?;
        }
        Ok(())
    }

    /// Executes a call with the lock of the space held. If the library executes an ISB, the
    /// contract is told that the CPU has synchronized.
    pub fn locked<T>(&mut self, space: usize, cpu: usize, call: impl FnOnce(&mut Self) -> T) -> T {
        let sim = self.sim();
        self.lock(space, cpu);
        let isb = sim.executed().isb;
        let value = call(self);
        self.intruder.tell(&mut self.contract);
        let cpu = sim.cpu();
        if sim.executed().isb != isb {
            self.contract.synchronized(cpu);
        }
        self.unlock(space, cpu);
        value
    }

    pub fn lock(&mut self, space: usize, cpu: usize) {
        self.sim().lock(cpu, &self.locks[space]);
        self.contract.locked(space, cpu);
    }

    pub fn unlock(&mut self, space: usize, cpu: usize) {
        self.locks[space] = self.sim().release(cpu);
        self.contract.unlocked(space, cpu);
    }

    /// Ends the program: closes every section, executes every invalidation and destroys every
    /// space.
    fn finish(mut self) -> Result<(), Failure> {
        let sim = self.sim();
        for task in 0..TASKS {
            if sim.cpu_of(task).is_none() {
                let leaver = sim.running(0);
                self.leave(leaver, 0);
                self.preempt(0, task);
            }
            let cpu = sim.cpu_of(task).unwrap_or(0);
            self.leave(task, cpu);
        }
        self.check().map_err(|what| format!("at the end: {what}"))?;
        // The teardown is not tested, so no instruction is left out from here on.
        self.mmu.kernel().disarm();
        sim.on(0);
        for space in 0..SPACES {
            self.tell(1, 0);
            self.tell(2, 0);
            sim.retire_root(self.roots[space]);
        }
        self.intruder.finish();
        for space in self.spaces {
            // SAFETY: the root was taken out of use, and no table is shared.
            unsafe { space.destroy() };
        }
        match sim.take_hazards().first() {
            Some(hazard) => Err(format!("in the end: {hazard}")),
            None if sim.live_tables() != 0 => Err(format!("{} tables are lost", sim.live_tables())),
            None => Ok(()),
        }
    }

    /// `task` leaves every level and executes the invalidations that it has put off. Each is an
    /// event of its own, because a CPU that takes the lock after one of them has not learned of the
    /// next.
    fn leave(&mut self, task: usize, cpu: usize) {
        self.sim().on(cpu);
        let by = Caller { task, cpu };
        loop {
            while self.mmu.lazy().state().pause_count() > 0 {
                self.move_lazy(Op::Resume, by);
                self.contract.tick();
            }
            while self.mmu.lazy().state().enable_count() > 0 {
                self.move_lazy(Op::Disable, by);
                self.contract.tick();
            }
            if !self.suspended.iter().any(|s| s.task == task) {
                break;
            }
            self.move_lazy(Op::SuspendEnd, by);
            self.contract.tick();
        }
        while self.pending.iter().any(|p| p.task == task) {
            self.flush_pending(by);
            self.contract.tick();
        }
    }
}
