// SPDX-License-Identifier: MIT OR Apache-2.0

//! The run queues of all CPUs: which task runs next, on which CPU, and how a task gets from one CPU
//! to another.
//!
//! This code contains nothing of the hardware. On the host it runs under a checker of interleavings
//! (`kernel/tests/scheduler_interleavings.rs`), with threads in place of CPUs.
//!
//! # The hand-over
//!
//! Another CPU may run a task as soon as it finds the task, so the task must not be found before
//! its registers are saved and its stores are complete (R17). The lock of a CPU's queue is
//! therefore *held across the context switch*: [`Cpus::schedule`] takes it on the stack of the task
//! that leaves, and [`Cpus::finish`] releases it on the stack of the task that arrives. Every
//! function that makes a switched-out task run again ([`Cpus::wake`], [`Cpus::steal`],
//! [`Cpus::set_allowed`]) takes that lock first:
//!
//! ```text
//! CPU 0: lock queue 0, put A on the ready list, save A's registers, switch to B, unlock queue 0
//! CPU 1: steal: wait for queue 0 ............................................... lock, take A
//! ```
//!
//! A task that ends, waits for a wake-up or moves to another CPU is held by its queue (`leaving`)
//! until `finish`, because it still uses its own stack until then.
//!
//! # Locks
//!
//! The caller masks interrupts while a queue is locked. A CPU that needs two queues locks them in
//! the order of their numbers. The lock of a [wait queue](super::WaitQueue) is taken before that of
//! a run queue. Code that holds the lock of a run queue does not allocate, free, log or wait.

mod balance;
mod queue;

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::mutex::{SpinMutex, SpinMutexGuard};

use self::queue::bump;
pub use self::queue::{Decision, Left, Queue, Switch};
use super::entity::{CpuMask, Entity, List, State};
use super::stats::Stats;
use crate::arch::relax::{CpuRelax, cpu_relax};
pub use crate::machine::MAX_CPUS;

/// What the run queues need from the machine.
pub trait Port {
    /// Asks `cpu` to [tick](Cpus::tick) soon: its queue has something new, or its current task must
    /// be looked at again. The caller holds no lock, or only that of its own queue.
    fn kick(&self, cpu: usize);

    /// Marks a point at which another CPU may act. It does nothing except in tests.
    #[inline(always)]
    fn race(&self) {}

    /// The same as [`Port::race`], at a point where the caller waits for another CPU.
    #[inline(always)]
    fn wait(&self) {
        cpu_relax();
    }
}

/// The result of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Whether the current task must be preempted.
    pub preempt: bool,
    /// When the next tick is needed, in ticks; `u64::MAX` for never.
    pub next: u64,
}

/// All run queues.
pub struct Cpus<T: Entity, P> {
    queues: [SpinMutex<Queue<T>, CpuRelax>; MAX_CPUS],
    /// The number of ready tasks of each CPU, readable without the lock.
    ready: [AtomicU32; MAX_CPUS],
    online: AtomicU32,
    idle: AtomicU32,
    /// The length of a time slice, in ticks.
    slice: AtomicU32,
    port: P,
}

impl<T: Entity, P: Port> Cpus<T, P> {
    /// Creates the queues. No CPU takes part yet.
    #[must_use]
    pub const fn new(port: P) -> Self {
        Self {
            queues: [const { SpinMutex::new(Queue::new()) }; MAX_CPUS],
            ready: [const { AtomicU32::new(0) }; MAX_CPUS],
            online: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            slice: AtomicU32::new(u32::MAX),
            port,
        }
    }

    /// Sets the length of a time slice, in ticks.
    pub fn set_slice(&self, ticks: u32) {
        self.slice.store(ticks, Ordering::Relaxed);
    }

    /// Lets CPU number `cpu` take part from now on. It runs `first`, or its idle task.
    pub fn add_cpu(&self, cpu: usize, first: Option<Arc<T>>) {
        let mut queue = self.lock(cpu);
        if let Some(task) = &first {
            task.entry().set_cpu(cpu);
            task.entry().set_state(State::Running);
        }
        queue.current = first;
        drop(queue);
        self.online.fetch_or(1 << cpu, Ordering::SeqCst);
    }

    /// The CPUs that take part.
    #[must_use]
    pub fn online(&self) -> CpuMask {
        CpuMask(self.online.load(Ordering::Relaxed))
    }

    /// The CPUs that have nothing to do.
    #[must_use]
    pub fn idle(&self) -> CpuMask {
        CpuMask(self.idle.load(Ordering::Relaxed))
    }

    /// The statistics of `cpu`.
    #[must_use]
    pub fn stats(&self, cpu: usize) -> Stats {
        self.lock(cpu).stats
    }

    /// Changes the statistics of `cpu`.
    pub fn count(&self, cpu: usize, change: impl FnOnce(&mut Stats)) {
        change(&mut self.lock(cpu).stats);
    }

    /// When `cpu` needs its next tick, in ticks; `u64::MAX` for never.
    #[must_use]
    pub fn next_tick(&self, cpu: usize) -> u64 {
        self.lock(cpu).next_tick()
    }

    /// Whether a task is ready on `cpu`.
    #[inline(always)]
    #[must_use]
    pub fn has_ready(&self, cpu: usize) -> bool {
        self.ready[cpu].load(Ordering::Relaxed) != 0
    }

    #[inline(always)]
    fn lock(&self, cpu: usize) -> SpinMutexGuard<'_, Queue<T>, CpuRelax> {
        self.port.race();
        loop {
            if let Some(guard) = self.queues[cpu].try_lock() {
                return guard;
            }
            self.port.wait();
        }
    }

    /// Publishes how many tasks are ready on `cpu`.
    #[inline(always)]
    fn publish(&self, cpu: usize, queue: &Queue<T>) {
        self.ready[cpu].store(queue.ready.len() as u32, Ordering::Relaxed);
    }

    /// Decides which task gets `cpu`, which is the caller's. The caller has masked interrupts.
    ///
    /// A task that is still [running](State::Running) goes to the end of the ready list. One that
    /// has said that it waits, sleeps or is dead leaves. The registers of `cpu` are still those of
    /// the task that leaves. Before anything else is done with the queues, the caller must save
    /// them and switch, and the task that arrives must call [`Cpus::finish`].
    ///
    /// `leave` does what must be done before any other CPU can run the leaving task. It is called
    /// while the queue is locked. If it returns `false`, nothing changes.
    #[inline]
    pub fn schedule(&self, cpu: usize, now: u64, leave: impl FnOnce() -> bool) -> Decision<'_, T> {
        let mut guard = self.lock(cpu);
        let queue = &mut *guard;
        let stays = match &queue.current {
            None => queue.ready.is_empty(),
            Some(task) => {
                task.entry().state() == State::Running
                    && queue.ready.is_empty()
                    && task.entry().allowed().has(cpu)
            }
        };
        if stays {
            return Decision::Stay;
        }
        if !leave() {
            bump(&mut queue.stats.refused);
            return Decision::Refused;
        }
        let was_idle = queue.current.is_none();
        let mut offered = CpuMask(0);
        if let Some(task) = queue.current.take() {
            offered = self.put_away(cpu, queue, task);
        }
        queue.current = queue.ready.pop();
        if let Some(task) = &queue.current {
            task.entry().set_state(State::Running);
        }
        queue.slice_end = now + u64::from(self.slice.load(Ordering::Relaxed));
        bump(&mut queue.stats.switches);
        self.publish(cpu, queue);
        if was_idle {
            self.pass_on(cpu);
        } else if offered.0 != 0 {
            self.offer(cpu, offered);
        }
        Decision::Switch(Switch { guard })
    }

    /// Puts away a task that loses its CPU. Returns where it may run if it is ready, and an empty
    /// mask if it is not.
    #[inline(always)]
    fn put_away(&self, cpu: usize, queue: &mut Queue<T>, task: Arc<T>) -> CpuMask {
        match task.entry().state() {
            State::Running if task.entry().allowed().has(cpu) => {
                let allowed = task.entry().allowed();
                queue.make_ready(task);
                return allowed;
            }
            State::Running => {
                task.entry().set_state(State::Moving);
                queue.leaving = Some(task);
            }
            // SAFETY: a task that runs is on no list.
            State::Sleeping => unsafe { queue.sleepers.insert_by_deadline(task) },
            _ => queue.leaving = Some(task),
        }
        CpuMask(0)
    }

    /// Ends a switch: releases the queue of `cpu`, and places a task that has left for another CPU.
    ///
    /// # Safety
    /// [`Cpus::schedule`] has decided on a switch on this CPU, the decision was
    /// [held](Switch::hold), and the task that left no longer uses its stack and has its registers
    /// saved.
    #[inline]
    #[must_use = "a dead task is to be dealt with"]
    pub unsafe fn finish(&self, cpu: usize) -> Left<T> {
        // SAFETY: this CPU has held the lock since `hold`.
        let queue = unsafe { &mut *self.queues[cpu].as_mut_ptr() };
        let left = queue.leaving.take();
        // The state is read before the unlock. After it another CPU may wake a task that blocks,
        // and that CPU then deals with the task if it moves, or even ends.
        let state = left.as_ref().map(|task| task.entry().state());
        // SAFETY: `hold` left it locked for this.
        unsafe { self.queues[cpu].force_unlock() };
        self.port.race();
        match left.zip(state) {
            None => Left::Nothing,
            Some((task, state)) => self.after(task, state),
        }
    }

    #[inline(never)]
    fn after(&self, task: Arc<T>, state: State) -> Left<T> {
        match state {
            State::Dead => return Left::Dead(task),
            State::Moving => self.place(task),
            _ => {}
        }
        Left::Nothing
    }

    /// Lets a new task run.
    pub fn start(&self, task: Arc<T>) {
        task.entry().set_state(State::Moving);
        self.place(task);
    }

    /// Wakes `task` if it is blocked; returns whether it was. If another CPU makes the task ready,
    /// the task's switch on its home CPU is over by then, because this function takes the lock of
    /// that queue.
    pub fn wake(&self, task: &Arc<T>) -> bool {
        loop {
            let cpu = task.entry().cpu();
            let mut queue = self.lock(cpu);
            if task.entry().cpu() != cpu {
                drop(queue);
                self.port.wait();
                continue;
            }
            if task.entry().state() != State::Blocked {
                return false;
            }
            let is_current = queue
                .current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, task));
            bump(&mut queue.stats.wakes);
            if is_current {
                // It has not left yet, and need not.
                task.entry().set_state(State::Running);
            } else {
                task.entry().set_state(State::Moving);
                drop(queue);
                self.place(Arc::clone(task));
            }
            return true;
        }
    }

    /// Performs a tick of `cpu`, the caller's, at `now`: wakes sleepers, and returns whether the
    /// current task must be preempted.
    pub fn tick(&self, cpu: usize, now: u64) -> Tick {
        let mut guard = self.lock(cpu);
        let queue = &mut *guard;
        bump(&mut queue.stats.ticks);
        let mut movers = List::new();
        while let Some(task) = queue.sleepers.first()
            && task.entry().deadline() <= now
            && let Some(task) = queue.sleepers.pop()
        {
            let allowed = task.entry().allowed();
            if allowed.has(cpu) {
                queue.make_ready(task);
                self.publish(cpu, queue);
                if queue.current.is_some() {
                    self.offer(cpu, allowed);
                }
            } else {
                task.entry().set_state(State::Moving);
                // SAFETY: the task has just been taken from its list.
                unsafe { movers.push(task) };
            }
        }
        let is_waited_for = !queue.ready.is_empty();
        let preempt = match &queue.current {
            None => is_waited_for,
            Some(task) => {
                is_waited_for && now >= queue.slice_end || !task.entry().allowed().has(cpu)
            }
        };
        let tick = Tick {
            preempt,
            next: queue.next_tick(),
        };
        drop(guard);
        while let Some(task) = movers.pop() {
            self.place(task);
        }
        tick
    }

    /// Changes the CPUs that `task` may run on. A task that is on a CPU outside of them moves: a
    /// ready one at once, a running one as soon as it loses its CPU, a waiting one when it is
    /// woken.
    ///
    /// # Errors
    /// [`NoSuchCpu`] if no CPU of `allowed` takes part; nothing changes.
    pub fn set_allowed(&self, task: &Arc<T>, allowed: CpuMask) -> Result<(), NoSuchCpu> {
        if allowed.0 & self.online.load(Ordering::Relaxed) == 0 {
            return Err(NoSuchCpu { allowed });
        }
        loop {
            let cpu = task.entry().cpu();
            let mut queue = self.lock(cpu);
            if task.entry().cpu() != cpu || task.entry().state() == State::Moving {
                drop(queue);
                self.port.wait();
                continue;
            }
            task.entry().set_allowed(allowed);
            if allowed.has(cpu) {
                let is_ready = task.entry().state() == State::Ready;
                drop(queue);
                if is_ready {
                    self.offer(cpu, allowed);
                }
                return Ok(());
            }
            match task.entry().state() {
                State::Ready => {
                    let taken = queue
                        .ready
                        .take(|other| core::ptr::eq(other, &raw const **task));
                    self.publish(cpu, &queue);
                    if let Some(task) = taken {
                        task.entry().set_state(State::Moving);
                        drop(queue);
                        self.place(task);
                    }
                }
                State::Running => {
                    drop(queue);
                    self.port.kick(cpu);
                }
                // `place` chooses a CPU when a blocked task is woken. A sleeper wakes where it went
                // to sleep, and moves then.
                _ => {}
            }
            return Ok(());
        }
    }
}

impl<T: Entity, P> fmt::Debug for Cpus<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cpus {:#x}", self.online.load(Ordering::Relaxed))
    }
}

/// None of the CPUs that a task may run on takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchCpu {
    /// The CPUs asked for.
    pub allowed: CpuMask,
}

impl fmt::Display for NoSuchCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "none of the CPUs {:#x} is online: ask for one that is (sched::online())",
            self.allowed.0
        )
    }
}

impl core::error::Error for NoSuchCpu {}
