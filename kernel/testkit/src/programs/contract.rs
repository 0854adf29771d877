// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the contract promises: to whom, about which page, from when on.
//!
//! A second opinion, in the contract's words: it knows nothing of barriers, views or
//! TLBs. For each page it keeps the value and who may rely on it:
//!
//! * **pending**: written in a section of a task that has not ended, paused or flushed since (R5,
//!   R19); nobody may touch the page;
//! * **changing**: the same where something was mapped, and the backend invalidates with the section;
//! * **stale**: emptied, and the caller has not invalidated yet; nobody may rely on anything;
//! * **settled** by a CPU at some event.
//!
//! The CPU that settled a page may rely on it. Another may when it has learned of it: what was
//! invalidated takes a context synchronization after that (rows U8, B3, P4); what was made takes
//! one, too (R37), or with the ETS2 policy and for data, merely an acquire (R36).
//!
//! [`Knowledge`] counts events per CPU. A lock hands knowledge on as an acquire does, and its
//! loop makes the next synchronization count.

use super::{PAGES, SPACES};
use crate::model::CPUS;
use lazymmu::{Backend, BarrierPolicy};

/// A mapped page: number of the frame, index of the protection.
pub type Value = Option<(u64, u8)>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Settled,
    /// Written in an unfinished section of this task.
    Pending(usize),
    /// The same, and what was there before is invalidated when that section ends.
    Changing(usize),
    /// Emptied by this task; the token that settles it, if there is one.
    Stale(usize, Option<u32>),
}

/// An event: which CPU's, and when.
#[derive(Clone, Copy, Debug)]
struct Event {
    cpu: usize,
    at: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub value: Value,
    pub state: State,
    /// Whether a call ever changed it.
    pub touched: bool,
    made: Event,
    /// When a stale page was invalidated by the backend, if it may have been.
    invalidated_at: Option<Event>,
    /// What must have been learned for the last invalidation to count, per CPU.
    invalidated: Horizon,
}

/// Up to which event a CPU knows of each CPU's.
type Horizon = [u32; CPUS];

/// What a CPU has learned.
#[derive(Clone, Copy, Debug, Default)]
struct Knowledge {
    /// Observed.
    seen: Horizon,
    /// Observed, and the next context synchronization comes after it.
    ordered: Horizon,
    /// Before the last context synchronization.
    synced: Horizon,
}

/// What an access is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    Data,
    /// Instruction fetch, of which ETS2 does not speak (R35).
    Text,
}

/// How a call left a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Made {
    /// Where nothing was mapped, or nothing is any more to be invalidated.
    Fresh,
    /// After an invalidation in the same call.
    Invalidated,
    /// After an invalidation in this call or in an earlier one of any CPU: with a stale page, only
    /// the library knows. With ETS2 the CPU that maps it need not have synchronized since, so
    /// this promises nothing that would take row U9.
    Emptied,
}

#[derive(Debug)]
pub struct Contract {
    pages: [[Page; PAGES]; SPACES],
    cpus: [Knowledge; CPUS],
    locks: [Horizon; SPACES],
    tasks: Vec<Horizon>,
    now: u32,
    ets2: bool,
    /// The strategy itself invalidates, with the section.
    batches: bool,
    /// A value that waits may be overtaken before it reaches memory.
    coalesces: bool,
}

fn join(into: &mut Horizon, other: &Horizon) {
    for (mine, theirs) in into.iter_mut().zip(other) {
        *mine = (*mine).max(*theirs);
    }
}

impl Contract {
    /// Nothing is mapped.
    pub fn new(tasks: usize, policy: BarrierPolicy, backend: Backend) -> Self {
        let start = Event { cpu: 0, at: 0 };
        let page = Page {
            value: None,
            state: State::Settled,
            touched: false,
            made: start,
            invalidated_at: None,
            invalidated: [0; CPUS],
        };
        Self {
            pages: [[page; PAGES]; SPACES],
            cpus: [Knowledge::default(); CPUS],
            locks: [[0; CPUS]; SPACES],
            tasks: vec![[0; CPUS]; tasks],
            now: 1,
            ets2: policy == BarrierPolicy::Ets2,
            batches: backend.invalidates(),
            coalesces: backend == Backend::DeferStores,
        }
    }

    pub const fn page(&self, space: usize, page: usize) -> &Page {
        &self.pages[space][page]
    }

    /// A call of `cpu` has changed a page. `task` is the one whose section defers it, if any.
    pub fn changed(
        &mut self,
        (space, page): (usize, usize),
        value: Value,
        cpu: usize,
        made: Made,
        deferred_by: Option<usize>,
    ) {
        let event = Event { cpu, at: self.now };
        let former = self.locks[space];
        let page = &mut self.pages[space][page];
        // The value before may never have reached memory. Then the call had nothing to invalidate, executed nothing (R28),
        // and did not synchronize this CPU with the last invalidation of the page, which may be another CPU's.
        let overtaken = self.coalesces && matches!(page.state, State::Pending(_));
        let made = match made {
            Made::Invalidated if overtaken => Made::Emptied,
            other => other,
        };
        page.value = value;
        page.touched = true;
        page.made = event;
        if made != Made::Fresh {
            page.invalidated = if made == Made::Emptied {
                former
            } else {
                [0; CPUS]
            };
            page.invalidated[cpu] = self.now;
        }
        page.state = match deferred_by {
            None => State::Settled,
            Some(task) if made == Made::Fresh || !self.batches => State::Pending(task),
            Some(task) => State::Changing(task),
        };
    }

    /// A page was emptied on `cpu`, and its invalidation is the caller's. A backend that invalidates by itself
    /// may have done it, unless `deferred_by` says until whose section's end it waits.
    pub fn emptied(
        &mut self,
        (space, page): (usize, usize),
        (task, cpu): (usize, usize),
        token: Option<u32>,
        deferred_by: Option<usize>,
    ) {
        let done = self.batches && deferred_by.is_none();
        let event = Event { cpu, at: self.now };
        let page = &mut self.pages[space][page];
        page.value = None;
        page.state = State::Stale(task, token);
        page.invalidated_at = done.then_some(event);
    }

    /// The spaces in which `task` has something deferred, or emptied and not invalidated.
    pub fn spaces_of(&self, task: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let is_its = |page: &Page| match page.state {
            State::Settled => false,
            State::Pending(of) | State::Changing(of) | State::Stale(of, _) => of == task,
        };
        let has: [bool; SPACES] = std::array::from_fn(|i| self.pages[i].iter().any(is_its));
        (0..SPACES).filter(move |space| has[*space])
    }

    /// Everything that `task` deferred has taken effect, on `cpu`.
    pub fn section_paid(&mut self, task: usize, cpu: usize) {
        let made = Event { cpu, at: self.now };
        for page in self.pages.iter_mut().flatten() {
            if matches!(page.state, State::Stale(of, _) if of == task) && self.batches {
                page.invalidated_at.get_or_insert(made);
            }
            if page.state == State::Changing(task) {
                page.invalidated[cpu] = self.now;
            } else if page.state != State::Pending(task) {
                continue;
            }
            page.state = State::Settled;
            page.made = made;
        }
    }

    /// `cpu` has invalidated what `which` chooses of the stale pages of a space.
    pub fn invalidated(
        &mut self,
        space: usize,
        cpu: usize,
        which: impl Fn(usize, Option<u32>) -> bool,
    ) {
        let event = Event { cpu, at: self.now };
        for (i, page) in self.pages[space].iter_mut().enumerate() {
            if let State::Stale(_, token) = page.state
                && which(i, token)
            {
                page.state = State::Settled;
                page.made = event;
                // Those of other CPUs stay: where a queue took the page in and out again nothing was executed here, and
                // this CPU has synchronized with none of them.
                page.invalidated[cpu] = self.now;
            }
        }
    }

    /// The flush that `token` stands for was executed on `cpu`. Where the backend had invalidated already,
    /// nothing was left to do, and a CPU must have learned of that, too.
    pub fn flushed(&mut self, space: usize, cpu: usize, token: u32) {
        let now = Event { cpu, at: self.now };
        for page in &mut self.pages[space] {
            if matches!(page.state, State::Stale(_, of) if of == Some(token)) {
                page.state = State::Settled;
                page.made = now;
                for event in page.invalidated_at.into_iter().chain([now]) {
                    page.invalidated[event.cpu] = event.at;
                }
            }
        }
    }

    /// An event ends.
    pub const fn tick(&mut self) {
        self.now += 1;
    }

    fn released(&self, cpu: usize) -> Horizon {
        let mut all = self.cpus[cpu].seen;
        all[cpu] = self.now;
        all
    }

    /// `to` acquires what `from` released.
    pub fn acquired(&mut self, from: usize, to: usize) {
        let all = self.released(from);
        join(&mut self.cpus[to].seen, &all);
    }

    pub fn locked(&mut self, space: usize, cpu: usize) {
        let all = self.locks[space];
        join(&mut self.cpus[cpu].seen, &all);
        join(&mut self.cpus[cpu].ordered, &all);
    }

    pub fn unlocked(&mut self, space: usize, cpu: usize) {
        self.locks[space] = self.released(cpu);
    }

    /// `cpu` executes a `DSB ISH`.
    pub fn completed(&mut self, cpu: usize) {
        self.cpus[cpu].ordered = self.cpus[cpu].seen;
    }

    /// `cpu` synchronizes its context.
    pub fn synchronized(&mut self, cpu: usize) {
        let ordered = self.cpus[cpu].ordered;
        join(&mut self.cpus[cpu].synced, &ordered);
    }

    /// `cpu` goes over from one task to another, with the barrier of the switch.
    pub fn switched(&mut self, cpu: usize, prev: usize, next: usize) {
        let all = self.tasks[next];
        join(&mut self.cpus[cpu].seen, &all);
        self.completed(cpu);
        self.tasks[prev] = self.released(cpu);
    }

    /// Whether `cpu` may rely on the page. A user's page is used behind an exception return.
    pub fn is_promised(&self, space: usize, page: usize, cpu: usize, why: Use) -> bool {
        let page = &self.pages[space][page];
        let knowledge = &self.cpus[cpu];
        let mut synced = knowledge.synced;
        if space != 0 {
            join(&mut synced, &knowledge.ordered);
        }
        // What it did itself it knows.
        synced[cpu] = u32::MAX;
        let mut seen = knowledge.seen;
        seen[cpu] = u32::MAX;
        let acquired_is_enough = self.ets2 && why == Use::Data;
        let made = if acquired_is_enough { &seen } else { &synced };
        page.state == State::Settled
            && page.made.at <= made[page.made.cpu]
            && (0..CPUS).all(|k| page.invalidated[k] <= synced[k])
    }
}
