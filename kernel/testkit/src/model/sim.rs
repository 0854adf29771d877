// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel whose machine is the model: what the library executes, the model is told.
//!
//! [`Sim`] has [`CPUS`] CPUs and as many tasks as asked for; one CPU at a time is the *current*
//! one, and what runs on it is what the library's calls belong to. Entries live in real
//! memory as well, so that the library reads what it wrote; the model keeps the rest.
//!
//! What a kernel does around the library is done by methods here: context switch, exception
//! entry and return, publication to another CPU, locks, and giving frames back, at which
//! moment the model is asked who may still use them.

use super::cpu::Barrier;
use super::machine::{Machine, Model, RootId, Token};
use super::memory::{Location, TableId};
use super::outcome::{Kind, Outcomes};
use super::reuse::Hazard;
use super::trace::{Effect, Event};
use super::view::CPUS;
use lazymmu::{
    Batch, Counters, Counts, Frame, Half, LazyMmuError, LazyMmuState, PAGE_SIZE, Pte, SpaceKind,
    Table, TlbiOp,
};
use std::cell::{Cell, RefCell};
use std::fmt;

/// Physical address of the pool of table frames.
pub const POOL: u64 = 0x4000_0000;

/// What the context switch executes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// `DSB ISH`, as Linux's `__switch_to()` does (R17).
    DsbIsh,
    /// Nothing: a broken kernel.
    Bare,
}

/// Instructions that the library executed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Executed {
    /// `DMB ISHST`.
    pub dmb_ishst: u64,
    /// `DSB ISHST`.
    pub dsb_ishst: u64,
    /// `DSB ISH`.
    pub dsb_ish: u64,
    /// `ISB`.
    pub isb: u64,
    /// TLBI, of whatever kind.
    pub tlbi: u64,
}

impl std::ops::Add for Executed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            dmb_ishst: self.dmb_ishst + other.dmb_ishst,
            dsb_ishst: self.dsb_ishst + other.dsb_ishst,
            dsb_ish: self.dsb_ish + other.dsb_ish,
            isb: self.isb + other.isb,
            tlbi: self.tlbi + other.tlbi,
        }
    }
}

/// What several tasks and CPUs executed as one.
impl std::iter::Sum for Executed {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}

impl std::ops::Sub for Executed {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            dmb_ishst: self.dmb_ishst - before.dmb_ishst,
            dsb_ishst: self.dsb_ishst - before.dsb_ishst,
            dsb_ish: self.dsb_ish - before.dsb_ish,
            isb: self.isb - before.isb,
            tlbi: self.tlbi - before.tlbi,
        }
    }
}

impl From<Counts> for Executed {
    /// What the library says that it executed.
    fn from(counts: Counts) -> Self {
        Self {
            dmb_ishst: counts.dmb_ishst,
            dsb_ishst: counts.dsb_ishst,
            dsb_ish: counts.dsb_ish,
            isb: counts.isb,
            tlbi: counts.tlbi,
        }
    }
}

#[derive(Default)]
pub(super) struct Task {
    pub(super) lazy: LazyMmuState,
    /// The user tree it runs in.
    root: Cell<Option<RootId>>,
    /// What the CPU that it left had done.
    left_with: Cell<Token>,
    /// Where it ran last; `None` before it has left a CPU.
    left_from: Cell<Option<usize>>,
    /// Where it runs.
    cpu: Cell<Option<usize>>,
}

/// What happens at a moment inside the library (see [`Sim::strike_at`]).
type Strike = Box<dyn FnMut()>;

/// Says whether lazy MMU mode is active for the task that runs on the current CPU.
type Activity = Box<dyn Fn() -> bool>;

/// A machine that a kernel runs on, and a kernel itself: [`CPUS`] CPUs, any number of tasks, and
/// the memory of the tables. What the library executes, it tells to the model, which computes what
/// each access may see.
pub struct Sim {
    pub(super) machine: RefCell<Machine>,
    pub(super) tables: Box<[Table]>,
    pub(super) ids: RefCell<Vec<Option<TableId>>>,
    pub(super) free: RefCell<Vec<usize>>,
    pub(super) budget: Cell<usize>,
    pub(super) tasks: Box<[Task]>,
    running: [Cell<usize>; CPUS],
    current: Cell<usize>,
    pub(super) interrupt: Cell<bool>,
    /// Calls to the kernel until the interrupt; 0 if there is none.
    moments: Cell<u32>,
    strike: RefCell<Option<Strike>>,
    activity: RefCell<Option<Activity>>,
    kernel_root: Cell<Option<RootId>>,
    pub(super) counters: Counters,
    /// Boxed for Miri, which takes note of each cell that a reference to the machine reaches.
    pub(super) batches: [Box<Batch>; CPUS],
    executed: Cell<Executed>,
    trace: RefCell<Vec<Event>>,
    pub(super) hazards: RefCell<Vec<Hazard>>,
    pub(super) reports: RefCell<Vec<LazyMmuError>>,
}

impl Sim {
    /// A machine with `frames` frames for tables and `tasks` tasks, of which the first
    /// [`CPUS`] run, each on the CPU of its number.
    pub fn new(model: Model, frames: usize, tasks: usize) -> Self {
        assert!(tasks >= CPUS, "every CPU runs a task");
        let sim = Self {
            machine: RefCell::new(Machine::new(model, POOL, frames)),
            tables: (0..frames).map(|_| Table::new()).collect(),
            ids: RefCell::new(vec![None; frames]),
            free: RefCell::new((0..frames).rev().collect()),
            budget: Cell::new(usize::MAX),
            tasks: (0..tasks).map(|_| Task::default()).collect(),
            running: std::array::from_fn(Cell::new),
            current: Cell::new(0),
            interrupt: Cell::new(false),
            moments: Cell::new(0),
            strike: RefCell::default(),
            activity: RefCell::default(),
            kernel_root: Cell::new(None),
            counters: Counters::new(),
            // SAFETY: each is handed out to the CPU of its number, and one CPU at a time is at
            // work.
            batches: std::array::from_fn(|_| Box::new(unsafe { Batch::new() })),
            executed: Cell::default(),
            trace: RefCell::default(),
            hazards: RefCell::default(),
            reports: RefCell::default(),
        };
        for cpu in 0..CPUS {
            sim.tasks[cpu].cpu.set(Some(cpu));
        }
        sim
    }

    /// From now on `cpu` is the current one.
    pub fn on(&self, cpu: usize) {
        self.current.set(cpu);
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// The current CPU.
    pub fn cpu(&self) -> usize {
        self.current.get()
    }

    /// The task that runs on `cpu`.
    pub fn running(&self, cpu: usize) -> usize {
        self.running[cpu].get()
    }

    /// Where `task` runs.
    pub fn cpu_of(&self, task: usize) -> Option<usize> {
        self.tasks[task].cpu.get()
    }

    /// Lazy state of a task.
    pub fn lazy_of(&self, task: usize) -> &LazyMmuState {
        &self.tasks[task].lazy
    }

    /// `cpu` switches to `task`, which runs nowhere. The handover is a release and an acquire;
    /// the barrier stands between both, so it completes what the leaving task did and what the
    /// coming one is known to have done. There is no context synchronization.
    pub fn switch(&self, cpu: usize, task: usize, how: Switch) {
        let mut machine = self.machine.borrow_mut();
        let (next, prev) = (&self.tasks[task], &self.tasks[self.running[cpu].get()]);
        assert_eq!(next.cpu.get(), None, "task {task} runs already");
        machine.cpus[cpu].acquire(&next.left_with.get());
        if how == Switch::DsbIsh {
            machine.dsb(cpu, Barrier::Full);
        }
        prev.left_with.set(machine.cpus[cpu].released());
        prev.left_from.set(prev.cpu.take());
        next.cpu.set(Some(cpu));
        self.running[cpu].set(task);
    }

    /// Whether `task`, which runs nowhere, has left another CPU than `cpu`: whoever switches to it
    /// there synchronizes.
    pub fn has_moved(&self, task: usize, cpu: usize) -> bool {
        let left_from = self.tasks[task].left_from.get();
        left_from.is_some_and(|from| from != cpu)
    }

    /// The lock of the run queue in which `task` waits, as `cpu` takes it.
    pub fn pick(&self, cpu: usize, task: usize) {
        self.lock(cpu, &self.tasks[task].left_with.get());
    }

    /// Whether nothing waits on `cpu`.
    pub fn is_batch_empty(&self, cpu: usize) -> bool {
        self.batches[cpu].is_empty()
    }

    /// Exception entry or return, or an ISB of the kernel's own.
    pub fn synchronize(&self, cpu: usize) {
        self.machine.borrow_mut().cse(cpu);
    }

    /// The current CPU takes an interrupt.
    pub fn enter_interrupt(&self) {
        self.synchronize(self.cpu());
        self.interrupt.set(true);
    }

    /// What an interrupt inside the library does.
    pub fn on_strike(&self, strike: impl FnMut() + 'static) {
        *self.strike.borrow_mut() = Some(Box::new(strike));
    }

    /// A kernel that keeps the lazy states of its tasks itself says here for which of them lazy MMU
    /// mode is active.
    pub fn ask_activity(&self, activity: impl Fn() -> bool + 'static) {
        *self.activity.borrow_mut() = Some(Box::new(activity));
    }

    /// It arrives at the `n`-th call of the library to its kernel from now on, counted from 1. With
    /// 0 it does not.
    pub fn strike_at(&self, n: u32) {
        self.moments.set(n);
    }

    /// A call of the library to its kernel.
    #[inline]
    pub(super) fn moment(&self) {
        let left = self.moments.get();
        if left > 0 {
            self.moments.set(left - 1);
            if left == 1 {
                self.strike();
            }
        }
    }

    #[cold]
    fn strike(&self) {
        // Memory is short for the call that was interrupted, not for the interrupt.
        let budget = self.budget.replace(usize::MAX);
        if let Some(strike) = self.strike.borrow_mut().as_mut() {
            strike();
        }
        self.budget.set(budget);
    }

    /// The current CPU returns from its interrupt.
    pub fn leave_interrupt(&self) {
        self.interrupt.set(false);
        self.synchronize(self.cpu());
    }

    /// What a store-release of `cpu` hands to its reader.
    pub fn release(&self, cpu: usize) -> Token {
        self.machine.borrow().cpus[cpu].released()
    }

    /// `cpu` reads it with a load-acquire.
    pub fn acquire(&self, cpu: usize, token: &Token) {
        self.machine.borrow_mut().cpus[cpu].acquire(token);
    }

    /// `cpu` takes the lock that was released with `token`.
    pub fn lock(&self, cpu: usize, token: &Token) {
        self.machine.borrow_mut().cpus[cpu].lock(token);
    }

    /// A `DSB ISH` of the kernel's own.
    pub fn dsb(&self, cpu: usize) {
        self.machine.borrow_mut().dsb(cpu, Barrier::Full);
    }

    /// What `from` has done reaches `to`: release, acquire, `DSB ISH`, `ISB` (row X3).
    pub fn synchronize_with(&self, from: usize, to: usize) {
        let token = self.release(from);
        self.acquire(to, &token);
        self.dsb(to);
        self.synchronize(to);
    }

    /// Everything done so far is old (see [`Machine::settle`]).
    pub fn settle(&self) {
        self.machine.borrow_mut().settle();
    }

    /// `root`, the root of a space of `kind`, goes into TTBR1 for good, or may go into the
    /// TTBR0 of tasks.
    pub fn add_root(&self, root: Frame, kind: SpaceKind) -> RootId {
        let (base, asid) = match kind {
            SpaceKind::Kernel => (Half::Upper.start(), None),
            SpaceKind::User(asid) => (Half::Lower.start(), Some(asid.0)),
        };
        let frame = self.slot(root);
        let id = self.machine.borrow_mut().add_root(frame, base, asid);
        if kind == SpaceKind::Kernel {
            self.kernel_root.set(Some(id));
        }
        id
    }

    /// No task uses `root` any more.
    pub fn retire_root(&self, root: RootId) {
        for task in &self.tasks {
            if task.root.get() == Some(root) {
                task.root.set(None);
            }
        }
        self.machine.borrow_mut().retire_root(root);
    }

    /// `task` runs in the tree `root`.
    pub fn set_root(&self, task: usize, root: RootId) {
        self.tasks[task].root.set(Some(root));
    }

    fn root_for(&self, task: usize, va: u64) -> Option<RootId> {
        if va >> 63 == 1 {
            self.kernel_root.get()
        } else {
            self.tasks[task].root.get()
        }
    }

    /// What an access of `task` on `cpu` may do. To a user address it is one from EL0, behind an
    /// exception return of its own that leaves no trace.
    pub fn access(&self, cpu: usize, task: usize, va: u64, kind: Kind) -> Outcomes {
        let root = self.root_for(task, va).expect("the task has such a half");
        let mut machine = self.machine.borrow_mut();
        let before = machine.cpus[cpu];
        if va >> 63 == 0 {
            machine.cse(cpu);
        }
        let outcomes = machine.access(cpu, root, va, kind, None);
        machine.cpus[cpu] = before;
        outcomes
    }

    /// What an access by `cpu` to the kernel's half may do whose address was computed from what it
    /// read with `token`: a pointer that was handed over.
    pub fn access_through(&self, cpu: usize, token: &Token, va: u64, kind: Kind) -> Outcomes {
        let mut machine = self.machine.borrow_mut();
        let before = machine.cpus[cpu];
        machine.cpus[cpu].observe(token);
        let outcomes = machine.access(cpu, self.kernel_root(), va, kind, Some(token));
        machine.cpus[cpu] = before;
        outcomes
    }

    /// Page `frame`, which was mapped at `va` of `root`, is given back.
    pub fn reuse(&self, root: RootId, va: u64, frame: u64) {
        let user = self.machine.borrow().user_of_frame(root, va, frame);
        if let Some(cpu) = user {
            let hazard = Hazard::Frame { frame, va, cpu };
            self.hazards.borrow_mut().push(hazard);
        }
    }

    /// The root of the kernel's half.
    pub fn kernel_root(&self) -> RootId {
        self.kernel_root.get().expect("a kernel space was added")
    }

    /// Allocation succeeds `tables` times more.
    pub fn set_budget(&self, tables: usize) {
        self.budget.set(tables);
    }

    /// Tables allocated and not freed.
    pub fn live_tables(&self) -> usize {
        self.tables.len() - self.free.borrow().len()
    }

    /// Memory that was given back too early since the last call.
    pub fn take_hazards(&self) -> Vec<Hazard> {
        self.hazards.take()
    }

    /// What the library has reported since the last call.
    pub fn take_reports(&self) -> Vec<LazyMmuError> {
        self.reports.take()
    }

    /// What the library has executed since the machine began.
    pub fn executed(&self) -> Executed {
        self.executed.get()
    }

    /// What the library says that it executed.
    pub fn counted(&self) -> Executed {
        self.counters.read().into()
    }

    /// What was executed since the last call.
    pub fn take_trace(&self) -> Vec<Event> {
        self.trace.take()
    }

    /// Something was executed by whoever runs.
    pub(super) fn note(&self, what: Effect) {
        let active = !self.interrupt.get()
            && match &*self.activity.borrow() {
                Some(activity) => activity(),
                None => self.lazy_of(self.running(self.cpu())).read().is_active(),
            };
        self.trace.borrow_mut().push(Event { what, active });
    }

    pub(super) fn count(&self, what: impl Fn(&mut Executed)) {
        let mut executed = self.executed.get();
        what(&mut executed);
        self.executed.set(executed);
    }

    /// A TLBI of the current CPU alone, which no kernel of ours issues.
    pub fn tlbi_local(&self, op: TlbiOp, operand: u64) {
        self.count(|e| e.tlbi += 1);
        let cpu = self.cpu();
        self.machine.borrow_mut().tlbi(cpu, op, operand, false);
    }

    /// Index in the pool of a table's frame.
    pub(super) fn slot(&self, frame: Frame) -> usize {
        ((frame.as_u64() - POOL) / PAGE_SIZE) as usize
    }

    pub(super) fn location(&self, pte: &Pte) -> Location {
        let offset = pte.as_ptr() as usize - self.tables.as_ptr() as usize;
        let slot = offset / PAGE_SIZE as usize;
        let id = self.ids.borrow()[slot];
        let Some(table) = id else {
            panic!("entry {offset:#x} of the pool belongs to no live table");
        };
        Location {
            table,
            index: (offset % PAGE_SIZE as usize / 8) as u16,
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.machine.borrow();
        write!(f, "Sim({machine:?}, {} tables)", self.live_tables())
    }
}
