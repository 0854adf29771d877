// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tasks of the modeled machine: a list of steps, and flags for what a real one keeps on its stack.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use kernel::sched::CpuMask;
use kernel::sched::entity::{Entity, Entry, State};

/// No CPU.
const NOWHERE: usize = usize::MAX;

/// What a task does, one after the other; it ends behind the last one. Tasks and wait queues by their numbers.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// `yield_now()`.
    Yield,
    /// Computes until nothing else happens on the machine.
    Spin,
    /// `sleep_ticks()`.
    Sleep(u64),
    /// Waits for a token, and takes it.
    Wait(usize),
    /// Adds a token, and wakes one.
    Signal(usize),
    /// Waits until somebody opens.
    Pass(usize),
    /// Opens, and wakes all.
    Open(usize),
    /// `Mutex::lock()`.
    Lock(usize),
    /// Drops the guard.
    Unlock(usize),
    /// `set_allowed()` of any task.
    Allow(usize, CpuMask),
    /// `migrate()`.
    Migrate(usize),
    /// Blocks, known to nobody but to those who poke.
    Park,
    /// Wakes a task, whatever it does, until it is at its end.
    Poke(usize),
    /// Starts a task.
    Start(usize),
    /// `preempt::off()`.
    PreemptOff,
    /// Drops the guard.
    PreemptOn,
    /// Begins a section of a backend that keeps its CPU: a preemption is refused.
    Keep,
    /// Ends it.
    LetGo,
}

/// A task.
#[derive(Debug)]
pub struct Task {
    entry: Entry<Self>,
    /// Its number.
    pub name: usize,
    steps: Vec<Step>,
    next: AtomicUsize,
    /// The CPU whose registers are this task's.
    on: AtomicUsize,
    /// Its registers are in memory.
    saved: AtomicBool,
    /// Its stores are complete (R17).
    completed: AtomicBool,
    /// Times that it was reported dead.
    buried: AtomicU32,
    /// As the kernel's fields of that name.
    pub resched: AtomicBool,
    pub preempt_count: AtomicU32,
    /// In a section that keeps its CPU.
    pub keeps: AtomicBool,
}

impl Entity for Task {
    fn entry(&self) -> &Entry<Self> {
        &self.entry
    }
}

impl Task {
    /// Number `name`, which does `steps` on `allowed`.
    pub fn new(name: usize, allowed: CpuMask, steps: &[Step]) -> Arc<Self> {
        Arc::new(Self {
            entry: Entry::new(allowed),
            name,
            steps: steps.to_vec(),
            next: AtomicUsize::new(0),
            on: AtomicUsize::new(NOWHERE),
            saved: AtomicBool::new(true),
            completed: AtomicBool::new(true),
            buried: AtomicU32::new(0),
            resched: AtomicBool::new(false),
            preempt_count: AtomicU32::new(0),
            keeps: AtomicBool::new(false),
        })
    }

    /// What it does next.
    pub fn step(&self) -> Option<Step> {
        self.steps.get(self.next.load(Ordering::Relaxed)).copied()
    }

    /// That is done.
    pub fn advance(&self) {
        self.next.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.step().is_none()
    }

    /// Whether it has reached its end, and was reported.
    pub fn is_buried(&self) -> bool {
        self.buried.load(Ordering::Relaxed) == 1
    }

    /// Whether it cannot be preempted.
    pub fn keeps_cpu(&self) -> bool {
        self.keeps.load(Ordering::Relaxed) || self.preempt_count.load(Ordering::Relaxed) > 0
    }

    /// The `DSB` of the switch.
    pub fn complete_stores(&self) {
        self.completed.store(true, Ordering::Relaxed);
    }

    /// `cpu` saves its registers for it.
    pub fn save(&self, cpu: usize) {
        let on = self.on.swap(NOWHERE, Ordering::Relaxed);
        assert_eq!(on, cpu, "task {} was saved by another CPU", self.name);
        self.saved.store(true, Ordering::Relaxed);
    }

    /// `cpu` takes its registers.
    pub fn restore(&self, cpu: usize) {
        let on = self.on.swap(cpu, Ordering::Relaxed);
        assert_eq!(on, NOWHERE, "task {} runs on two CPUs", self.name);
        assert!(
            self.saved.swap(false, Ordering::Relaxed),
            "task {} runs on CPU {cpu} with registers that are not saved",
            self.name
        );
        assert!(
            self.completed.swap(false, Ordering::Relaxed),
            "task {} runs on CPU {cpu}, and its stores are not complete (R17)",
            self.name
        );
        assert!(
            self.entry.allowed().has(cpu),
            "task {} got CPU {cpu}, where it may not run",
            self.name
        );
        assert_eq!(self.entry.state(), State::Running);
        assert_eq!(self.buried.load(Ordering::Relaxed), 0, "a dead task runs");
    }

    /// It was reported dead.
    pub fn bury(&self) {
        assert_eq!(self.on.load(Ordering::Relaxed), NOWHERE);
        assert!(self.saved.load(Ordering::Relaxed), "its stack is in use");
        let before = self.buried.fetch_add(1, Ordering::Relaxed);
        assert_eq!(before, 0, "task {} was reported twice", self.name);
    }
}
