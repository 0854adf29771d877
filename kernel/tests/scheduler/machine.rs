// SPDX-License-Identifier: MIT OR Apache-2.0

//! A machine whose CPUs are threads, and which does with the run queues what `sched/run.rs`, `sched/wait.rs` and
//! `sched/mutex.rs` do, in the same order.
//!
//! Interrupts come between two steps of a task only, as if they were masked within one. Time stands still until
//! nothing happens any more: each CPU waits for an interrupt, or runs a task that computes. At every such moment
//! the machine must be in order ([`Machine::check_rest`]); then the computing tasks go on, or, if
//! there is none, the next timer fires, or, if there is none, all tasks must have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kernel::sched::CpuMask;
use kernel::sched::cpus::{Cpus, Port};
use kernel::sched::entity::{Entity, List, State};
use shuttle::thread;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::cpu::Cpu;
use super::task::Task;

/// Ticks of a time slice.
const SLICE: u32 = 5;

/// Another thread may run here.
pub fn race() {
    // A thread that sleeps is not asked to give way for long, unlike one that yields.
    thread::sleep(Duration::ZERO);
}

/// The interrupts that CPUs send each other.
#[derive(Clone, Debug)]
pub struct Wires(Arc<Vec<AtomicBool>>);

impl Port for Wires {
    fn kick(&self, cpu: usize) {
        race();
        self.0[cpu].store(true, Ordering::SeqCst);
        race();
    }

    fn race(&self) {
        race();
    }

    fn wait(&self) {
        thread::yield_now();
    }
}

/// What tasks wait for.
#[derive(Debug)]
pub struct Thing {
    waiting: SpinMutex<List<Task>>,
    pub tokens: AtomicU32,
    pub open: AtomicBool,
    /// The mutex: its holder's number, plus 1.
    pub holder: AtomicUsize,
}

impl Thing {
    fn new() -> Self {
        Self {
            waiting: SpinMutex::new(List::new()),
            tokens: AtomicU32::new(0),
            open: AtomicBool::new(false),
            holder: AtomicUsize::new(0),
        }
    }

    pub fn lock(&self) -> SpinMutexGuard<'_, List<Task>> {
        race();
        loop {
            if let Some(guard) = self.waiting.try_lock() {
                return guard;
            }
            thread::yield_now();
        }
    }

    pub fn take(&self, task: &Task) -> bool {
        race();
        self.holder
            .compare_exchange(0, task.name + 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    pub fn take_token(&self) -> bool {
        let left = |tokens: u32| tokens.checked_sub(1);
        self.tokens
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, left)
            .is_ok()
    }
}

/// What a CPU waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: it has something to do.
    Not,
    /// An interrupt.
    Idle,
    /// It computes.
    Spins,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    pub cpus: Cpus<Task, Wires>,
    pub tasks: Vec<Arc<Task>>,
    pub things: Vec<Thing>,
    wires: Wires,
    now: AtomicU64,
    /// When each CPU's timer fires.
    armed: Vec<AtomicU64>,
    rest: Vec<SpinMutex<Rest>>,
    over: AtomicBool,
}

impl Machine {
    /// Runs `tasks` on `cpus` CPUs to their end; the first of `started` are started by CPU 0, the others by tasks.
    pub fn run(cpus: usize, tasks: Vec<Arc<Task>>, started: usize) {
        let wires = Wires(Arc::new(
            (0..cpus).map(|_| AtomicBool::new(false)).collect(),
        ));
        let machine = Arc::new(Self {
            cpus: Cpus::new(wires.clone()),
            tasks,
            things: (0..4).map(|_| Thing::new()).collect(),
            wires,
            now: AtomicU64::new(0),
            armed: (0..cpus).map(|_| AtomicU64::new(u64::MAX)).collect(),
            rest: (0..cpus).map(|_| SpinMutex::new(Rest::Not)).collect(),
            over: AtomicBool::new(false),
        });
        machine.cpus.set_slice(SLICE);
        for cpu in 0..cpus {
            machine.cpus.add_cpu(cpu, None);
        }
        let threads: Vec<_> = (1..cpus)
            .map(|cpu| {
                let machine = Arc::clone(&machine);
                thread::spawn(move || Cpu::new(&machine, cpu).run())
            })
            .collect();
        for task in &machine.tasks[..started] {
            machine.cpus.start(Arc::clone(task));
        }
        Cpu::new(&machine, 0).run();
        for thread in threads {
            assert!(thread.join().is_ok(), "a CPU's thread has panicked");
        }
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether all tasks have ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Takes the interrupt that somebody has sent to `cpu`; returns whether there was one.
    pub fn take_kick(&self, cpu: usize) -> bool {
        self.wires.0[cpu].swap(false, Ordering::SeqCst)
    }

    /// Whether the timer of `cpu` has fired.
    pub fn is_timer_due(&self, cpu: usize) -> bool {
        self.armed[cpu].load(Ordering::Relaxed) <= self.now()
    }

    /// As in `sched/run.rs`.
    pub fn arm_before(&self, cpu: usize, deadline: u64) {
        self.armed[cpu].fetch_min(deadline, Ordering::Relaxed);
    }

    /// Arms the timer of `cpu`; `u64::MAX` stops it.
    pub fn arm(&self, cpu: usize, deadline: u64) {
        self.armed[cpu].store(deadline, Ordering::Relaxed);
    }

    fn is_interrupted(&self, cpu: usize) -> bool {
        self.wires.0[cpu].load(Ordering::SeqCst) || self.is_timer_due(cpu)
    }

    /// `cpu` has nothing to do but `what`, until an interrupt, or until a computing task may go on.
    pub fn rest(&self, cpu: usize, what: Rest) {
        *self.rest[cpu].lock() = what;
        while *self.rest[cpu].lock() != Rest::Not && !self.is_interrupted(cpu) && !self.is_over() {
            self.go_on_if_all_rest();
            thread::yield_now();
        }
        *self.rest[cpu].lock() = Rest::Not;
    }

    /// No other thread runs meanwhile.
    fn go_on_if_all_rest(&self) {
        let online = 0..self.rest.len();
        let rests = |cpu: usize| *self.rest[cpu].lock() != Rest::Not && !self.is_interrupted(cpu);
        if !online.clone().all(rests) {
            return;
        }
        self.check_rest();
        let mut was_spinning = false;
        for rest in &self.rest {
            if *rest.lock() == Rest::Spins {
                *rest.lock() = Rest::Not;
                was_spinning = true;
            }
        }
        if was_spinning {
            return;
        }
        let alarm = online
            .map(|cpu| self.armed[cpu].load(Ordering::Relaxed))
            .min();
        match alarm {
            Some(alarm) if alarm < u64::MAX => self.now.store(alarm, Ordering::Relaxed),
            _ => self.end(),
        }
    }

    /// What must hold when nothing happens.
    fn check_rest(&self) {
        for task in &self.tasks {
            let (state, allowed) = (task.entry().state(), task.entry().allowed());
            assert_ne!(state, State::Moving, "task {} was lost", task.name);
            if state == State::Ready {
                for (cpu, rest) in self.rest.iter().enumerate() {
                    assert!(
                        !(allowed.has(cpu) && *rest.lock() == Rest::Idle),
                        "CPU {cpu} idles, and task {} waits for CPU {}",
                        task.name,
                        task.entry().cpu()
                    );
                }
            }
            if state == State::Running && !task.keeps_cpu() {
                let cpu = task.entry().cpu();
                // What was refused is due, and tried again.
                let is_due = task.resched.load(Ordering::Relaxed)
                    && self.armed[cpu].load(Ordering::Relaxed) < u64::MAX;
                assert!(
                    allowed.has(cpu) || is_due,
                    "task {} stays on CPU {cpu}, where it may not run",
                    task.name
                );
            }
        }
    }

    fn end(&self) {
        for task in &self.tasks {
            assert!(
                task.is_buried(),
                "task {} is for ever {:?}, before {:?}",
                task.name,
                task.entry(),
                task.step()
            );
        }
        let idle = CpuMask((1 << self.rest.len()) - 1);
        assert_eq!(self.cpus.idle(), idle, "who idles has not said so");
        self.over.store(true, Ordering::Relaxed);
    }
}
