// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Sim`]: a kernel that runs on the machine model.
//!
//! A `Sim` has [`CPUS`] CPUs and any number of tasks. One CPU at a time is the *current* one; calls
//! of the library are calls of the task that runs on it. Each instruction that the library executes
//! goes to the model. Entries are in real memory as well, so that the library reads what it wrote.
//!
//! The methods do what a kernel does around the library: context switch, exception entry and
//! return, publication to another CPU, locks, and giving frames back. When a frame is given back,
//! the model computes whether a CPU may still use it.

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
    /// Nothing: the switch of a broken kernel.
    Bare,
}

/// The numbers of instructions that the library has executed.
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
    /// TLBI of any kind.
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

/// Adds up what several tasks and CPUs have executed.
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
    /// What the library has executed by its own counters.
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
    /// The user tree in which it runs.
    root: Cell<Option<RootId>>,
    /// What it has released when it left its last CPU.
    left_with: Cell<Token>,
    /// The CPU that it left last; `None` before it has left one.
    left_from: Cell<Option<usize>>,
    /// The CPU on which it runs, if it runs.
    cpu: Cell<Option<usize>>,
}

/// The handler of an interrupt inside the library (see [`Sim::strike_at`]).
type Strike = Box<dyn FnMut()>;

/// Returns whether lazy MMU mode is active for the task that runs on the current CPU.
type Activity = Box<dyn Fn() -> bool>;

/// A kernel on the machine model, and the machine for other kernels
/// ([`Modelled`](super::Modelled)): [`CPUS`] CPUs, any number of tasks, and the memory of the
/// tables. See the module text.
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
    /// Boxed for Miri, which visits each cell behind a reference to the machine.
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
            // SAFETY: `batch` returns each only for the CPU of its number, and one flow of control
            // uses the machine.
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

    /// Makes `cpu` the current one.
    pub fn on(&self, cpu: usize) {
        self.current.set(cpu);
    }

    /// The number of tasks.
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

    /// The CPU on which `task` runs, if it runs.
    pub fn cpu_of(&self, task: usize) -> Option<usize> {
        self.tasks[task].cpu.get()
    }

    /// The lazy state of a task.
    pub fn lazy_of(&self, task: usize) -> &LazyMmuState {
        &self.tasks[task].lazy
    }

    /// `cpu` switches to `task`, which runs on no CPU. First `cpu` acquires what `task` has
    /// released when it left its last CPU; then comes the barrier; then the leaving task releases.
    /// So the barrier completes the stores of the leaving task, and those that the arriving task
    /// has released. The switch does not synchronize the context.
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

    /// Whether `task`, which runs on no CPU, has left another CPU than `cpu`. The context must be
    /// synchronized then, when `cpu` switches to it.
    pub fn has_moved(&self, task: usize, cpu: usize) -> bool {
        let left_from = self.tasks[task].left_from.get();
        left_from.is_some_and(|from| from != cpu)
    }

    /// `cpu` takes the lock of the run queue in which `task` waits.
    pub fn pick(&self, cpu: usize, task: usize) {
        self.lock(cpu, &self.tasks[task].left_with.get());
    }

    /// Whether nothing waits on `cpu`.
    pub fn is_batch_empty(&self, cpu: usize) -> bool {
        self.batches[cpu].is_empty()
    }

    /// `cpu` takes or returns from an exception, or the kernel executes an ISB on it.
    pub fn synchronize(&self, cpu: usize) {
        self.machine.borrow_mut().cse(cpu);
    }

    /// The current CPU takes an interrupt.
    pub fn enter_interrupt(&self) {
        self.synchronize(self.cpu());
        self.interrupt.set(true);
    }

    /// Sets the handler of interrupts inside the library.
    pub fn on_strike(&self, strike: impl FnMut() + 'static) {
        *self.strike.borrow_mut() = Some(Box::new(strike));
    }

    /// Sets the function that returns whether lazy MMU mode is active for the current task. For a
    /// kernel with lazy states of its own.
    pub fn ask_activity(&self, activity: impl Fn() -> bool + 'static) {
        *self.activity.borrow_mut() = Some(Box::new(activity));
    }

    /// Arms an interrupt at the `n`-th call of the library to its kernel from now on, counted from
    /// 1. With 0 no interrupt arrives.
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
        // Only the interrupted call is short of memory, not the interrupt handler.
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

    /// What a CPU learns that reads a store-release of `cpu`.
    pub fn release(&self, cpu: usize) -> Token {
        self.machine.borrow().cpus[cpu].released()
    }

    /// `cpu` reads a flag that carries `token`, with a load-acquire.
    pub fn acquire(&self, cpu: usize, token: &Token) {
        self.machine.borrow_mut().cpus[cpu].acquire(token);
    }

    /// `cpu` takes the lock that was released with `token`.
    pub fn lock(&self, cpu: usize, token: &Token) {
        self.machine.borrow_mut().cpus[cpu].lock(token);
    }

    /// `cpu` executes a `DSB ISH` of the kernel, which is not counted.
    pub fn dsb(&self, cpu: usize) {
        self.machine.borrow_mut().dsb(cpu, Barrier::Full);
    }

    /// CPU `to` learns what `from` has done: release, acquire, `DSB ISH`, `ISB` (row X3).
    pub fn synchronize_with(&self, from: usize, to: usize) {
        let token = self.release(from);
        self.acquire(to, &token);
        self.dsb(to);
        self.synchronize(to);
    }

    /// Makes everything that was done so far old (see [`Machine::settle`]).
    pub fn settle(&self) {
        self.machine.borrow_mut().settle();
    }

    /// Adds the root of a space of `kind`. A kernel root is in TTBR1 from now on; a user root may
    /// be given to tasks with [`Sim::set_root`].
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

    /// Takes `root` out of use: no task runs in it any more.
    pub fn retire_root(&self, root: RootId) {
        for task in &self.tasks {
            if task.root.get() == Some(root) {
                task.root.set(None);
            }
        }
        self.machine.borrow_mut().retire_root(root);
    }

    /// Makes `task` run in the user tree `root`.
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

    /// The possible outcomes of an access by `task` on `cpu`. An access to a user address is made
    /// from EL0, after an exception return that has no later effect.
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

    /// The possible outcomes of an access by `cpu` to the kernel half if the address depends on a
    /// load that read `token`: a pointer that another CPU has published.
    pub fn access_through(&self, cpu: usize, token: &Token, va: u64, kind: Kind) -> Outcomes {
        let mut machine = self.machine.borrow_mut();
        let before = machine.cpus[cpu];
        machine.cpus[cpu].observe(token);
        let outcomes = machine.access(cpu, self.kernel_root(), va, kind, Some(token));
        machine.cpus[cpu] = before;
        outcomes
    }

    /// Notes that the page `frame`, which was mapped at `va` of `root`, is given back. If a CPU may
    /// still access it, that is a hazard ([`Sim::take_hazards`]).
    pub fn reuse(&self, root: RootId, va: u64, frame: u64) {
        let user = self.machine.borrow().user_of_frame(root, va, frame);
        if let Some(cpu) = user {
            let hazard = Hazard::Frame { frame, va, cpu };
            self.hazards.borrow_mut().push(hazard);
        }
    }

    /// The root of the kernel half.
    pub fn kernel_root(&self) -> RootId {
        self.kernel_root.get().expect("a kernel space was added")
    }

    /// From now on `tables` more allocations succeed, and further ones fail.
    pub fn set_budget(&self, tables: usize) {
        self.budget.set(tables);
    }

    /// The number of tables that were allocated and not freed.
    pub fn live_tables(&self) -> usize {
        self.tables.len() - self.free.borrow().len()
    }

    /// The memory that was given back too early since the last call.
    pub fn take_hazards(&self) -> Vec<Hazard> {
        self.hazards.take()
    }

    /// The errors that the library has reported since the last call.
    pub fn take_reports(&self) -> Vec<LazyMmuError> {
        self.reports.take()
    }

    /// What the library has executed so far, as the machine has counted it.
    pub fn executed(&self) -> Executed {
        self.executed.get()
    }

    /// What the library has executed so far by its own counters.
    pub fn counted(&self) -> Executed {
        self.counters.read().into()
    }

    /// The trace since the last call.
    pub fn take_trace(&self) -> Vec<Event> {
        self.trace.take()
    }

    /// Adds an effect of the current task to the trace.
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

    /// A TLBI for the current CPU alone, which only a [`Saboteur`](super::Saboteur) issues.
    pub fn tlbi_local(&self, op: TlbiOp, operand: u64) {
        self.count(|e| e.tlbi += 1);
        let cpu = self.cpu();
        self.machine.borrow_mut().tlbi(cpu, op, operand, false);
    }

    /// The index of a table's frame in the pool.
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
