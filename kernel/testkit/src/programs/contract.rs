// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contract: which CPU may rely on which value of which page.
//!
//! It is computed independently of the machine model, without barriers, views and TLBs. For each
//! page it keeps the value and one of these states:
//!
//! * **pending**: written in a section of a task that has not ended, paused or flushed since (R5,
//!   R19). No access to the page is promised anything.
//! * **changing**: the same for a page that was mapped before, with a strategy that invalidates
//!   with the section.
//! * **stale**: emptied, and not invalidated by the caller yet. No access is promised anything.
//! * **settled** by a CPU at some event.
//!
//! The CPU that has settled a page may rely on it. Another CPU may rely on it after it has learned
//! of that event: for an invalidated page it needs a context synchronization after learning of it
//! (rows U8, B3, P4). For a mapped page it needs one as well (R37), or, with the policy ETS2 and
//! for data, only an acquire (R36).
//!
//! [`Knowledge`] counts events per CPU. Taking a lock passes knowledge on as an acquire does; in
//! addition the next context synchronization comes after it.

use super::{PAGES, SPACES};
use crate::model::CPUS;
use lazymmu::{Backend, BarrierPolicy};

/// The value of a page: the address of its frame and the index of its protection; `None` if it is
/// not mapped.
pub type Value = Option<(u64, u8)>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Settled,
    /// Written in an unfinished section of this task.
    Pending(usize),
    /// The same, and the old entry is invalidated when that section ends.
    Changing(usize),
    /// Emptied by this task; the token that settles it, if there is one.
    Stale(usize, Option<u32>),
}

/// An event of a CPU, and its time.
#[derive(Clone, Copy, Debug)]
struct Event {
    cpu: usize,
    at: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub value: Value,
    pub state: State,
    /// Whether a call has changed it at some time.
    pub touched: bool,
    made: Event,
    /// The event at which the strategy may have invalidated a stale page.
    invalidated_at: Option<Event>,
    /// For each CPU, the last event of it that a CPU must know to rely on the last invalidation.
    invalidated: Horizon,
}

/// For each CPU, the time of its last event that is known.
type Horizon = [u32; CPUS];

/// The events that a CPU knows.
#[derive(Clone, Copy, Debug, Default)]
struct Knowledge {
    /// Events that it has observed.
    seen: Horizon,
    /// Observed events after which its next context synchronization comes.
    ordered: Horizon,
    /// Events before its last context synchronization.
    synced: Horizon,
}

/// The kind of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    Data,
    /// An instruction fetch, which ETS2 does not cover (R35).
    Text,
}

/// How a call has changed a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Made {
    /// Nothing was mapped before, or nothing had to be invalidated any more.
    Fresh,
    /// The call has invalidated the old entry.
    Invalidated,
    /// This call or an earlier one of any CPU has invalidated the old entry; for a stale page only
    /// the library knows which. With ETS2 the CPU that maps it need not have synchronized since
    /// then, so nothing is promised that would need row U9.
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
    /// Whether the strategy itself invalidates, with the section.
    batches: bool,
    /// Whether a value that waits may be overtaken before it reaches memory.
    coalesces: bool,
}

fn join(into: &mut Horizon, other: &Horizon) {
    for (mine, theirs) in into.iter_mut().zip(other) {
        *mine = (*mine).max(*theirs);
    }
}

impl Contract {
    /// A contract in which no page is mapped.
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

    /// Notes that a call on `cpu` has changed a page. `deferred_by` is the task whose section
    /// defers the change, if there is one.
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
        // The old value may never have reached memory. Then the call had nothing to invalidate and
        // executed nothing (R28), so it did not synchronize this CPU with the last invalidation of
        // the page, which another CPU may have executed.
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

    /// Notes that a page was emptied on `cpu`, and that the caller must invalidate it. A strategy
    /// that invalidates by itself may have done so already, unless the section of `deferred_by`
    /// defers it.
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

    /// Notes that everything that `task` has deferred has taken effect, on `cpu`.
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

    /// Notes that `cpu` has invalidated the stale pages of a space for which `which` is true.
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
                // The events of other CPUs stay: if a queue has taken the page in and out again,
                // nothing was executed here, and this CPU has not synchronized with the other CPUs.
                page.invalidated[cpu] = self.now;
            }
        }
    }

    /// Notes that the invalidation of `token` was executed on `cpu`. If the strategy had
    /// invalidated the page already, nothing was executed now, so a CPU must know that earlier
    /// event as well.
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

    /// Ends an event: later calls are new events.
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

    /// `cpu` switches from task `prev` to task `next`, with the barrier of the switch.
    pub fn switched(&mut self, cpu: usize, prev: usize, next: usize) {
        let all = self.tasks[next];
        join(&mut self.cpus[cpu].seen, &all);
        self.completed(cpu);
        self.tasks[prev] = self.released(cpu);
    }

    /// Whether `cpu` may rely on the page. A user page is used after an exception return.
    pub fn is_promised(&self, space: usize, page: usize, cpu: usize, why: Use) -> bool {
        let page = &self.pages[space][page];
        let knowledge = &self.cpus[cpu];
        let mut synced = knowledge.synced;
        if space != 0 {
            join(&mut synced, &knowledge.ordered);
        }
        // A CPU knows all of its own events.
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
