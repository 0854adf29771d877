// SPDX-License-Identifier: MIT OR Apache-2.0

//! The run queues of all CPUs: who runs next, where, and how a task gets from one CPU to another.
//!
//! No hardware here: the same code runs under a checker of interleavings on the host
//! (`kernel/tests/scheduler_interleavings.rs`), with threads for CPUs.
//!
//! # The hand-over
//!
//! A task may run elsewhere as soon as another CPU finds it, so it must not be found before its registers are
//! saved and its stores are complete (R17). The lock of a CPU's queue is therefore *held across the context
//! switch*: [`Cpus::schedule`] takes it on the stack of the task that leaves, [`Cpus::finish`]
//! releases it on the stack of the one that comes. Whatever makes a task that was switched out run again
//! ([`Cpus::wake`], [`Cpus::steal`], [`Cpus::set_allowed`]) takes that lock first.
//!
//! A task that leaves for good, for a wait or for another CPU is kept by its queue (`leaving`) until
//! `finish`: it stands on its own stack until then.
//!
//! # Locks
//!
//! Interrupts are masked while a queue is locked (by the caller). A CPU that needs two queues takes them
//! in the order of their numbers. The lock of a [wait queue](super::WaitQueue) comes before that of a
//! run queue. Nothing is allocated, freed, logged or waited for under the lock of a run queue.
//!
//! # No CPU idles while another has two tasks
//!
//! Whoever makes a task ready, or lets a ready one run on more CPUs, looks for an idle CPU *behind* putting it on a
//! list; a CPU that is about to idle says so *before* it looks at all lists for the last time. Both are
//! sequentially consistent, so one of the two sees the other.
//!
//! Several may call the same idle CPU, each for another task, and it takes one of them. So a CPU that has found
//! something and does not idle any more calls the others if there is more ([`Cpus::schedule`]).

use crate::arch::relax::cpu_relax;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::entity::{CpuMask, Entity, List, State};
use super::stats::Stats;
pub use crate::platform::devicetree::MAX_CPUS;

/// What the queues need of the machine.
pub trait Port {
    /// The queue of `cpu` has something new, or its task is to be looked at again: that CPU is to
    /// [tick](Cpus::tick) soon. Called without any lock held, or with that of the caller's queue.
    fn kick(&self, cpu: usize);

    /// Another CPU may come in between here. Does nothing but in tests.
    #[inline(always)]
    fn race(&self) {}

    /// As [`Port::race`], where the caller waits for another CPU.
    #[inline(always)]
    fn wait(&self) {
        cpu_relax();
    }
}

/// One CPU's queue.
#[derive(Debug)]
pub struct Queue<T: Entity> {
    /// Who has the CPU; `None`: its idle task.
    current: Option<Arc<T>>,
    /// Who could have it, next first.
    ready: List<T>,
    /// Who waits for a time, earliest first.
    sleepers: List<T>,
    /// Who is on its way out.
    leaving: Option<Arc<T>>,
    /// When the current task is to make room, in ticks.
    slice_end: u64,
    stats: Stats,
}

/// What a tick found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Whether the current task is to make room.
    pub preempt: bool,
    /// When the next tick is needed, in ticks; `u64::MAX` for never.
    pub next: u64,
}

/// Who gets a CPU.
#[must_use = "the queue may be locked"]
pub enum Decision<'a, T: Entity> {
    /// Who has it.
    Stay,
    /// Who has it, because it must not leave.
    Refused,
    /// Somebody else.
    Switch(Switch<'a, T>),
}

/// A decision: `next` gets the CPU. The queue is locked until [`Cpus::finish`].
#[must_use = "the queue stays locked until `finish`"]
pub struct Switch<'a, T: Entity> {
    guard: SpinMutexGuard<'a, Queue<T>>,
}

impl<T: Entity> fmt::Debug for Decision<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stay => "Stay",
            Self::Refused => "Refused",
            Self::Switch(_) => "Switch",
        })
    }
}

impl<T: Entity> fmt::Debug for Switch<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Switch with {} ready", self.guard.ready.len())
    }
}

impl<T: Entity> Switch<'_, T> {
    /// The task that gets the CPU; `None`: the idle task.
    #[must_use]
    pub fn next(&self) -> Option<&Arc<T>> {
        self.guard.current.as_ref()
    }

    /// When the next tick is needed, in ticks; `u64::MAX` for never.
    #[must_use]
    pub fn next_tick(&self) -> u64 {
        self.guard.next_tick()
    }

    /// Takes note that [`Switch::next`] was on another CPU.
    pub fn count_arrival(&mut self) {
        bump(&mut self.guard.stats.arrivals);
    }

    /// Lets the lock outlive this value; [`Cpus::finish`] releases it.
    pub fn hold(self) {
        let _ = SpinMutexGuard::leak(self.guard);
    }
}

/// What a task that has left its CPU asks for.
#[derive(Debug)]
pub enum Left<T> {
    /// Nothing.
    Nothing,
    /// It has ended, and is off its stack.
    Dead(Arc<T>),
}

impl<T: Entity> Queue<T> {
    const fn new() -> Self {
        Self {
            current: None,
            ready: List::new(),
            sleepers: List::new(),
            leaving: None,
            slice_end: 0,
            stats: Stats::new(),
        }
    }

    fn next_tick(&self) -> u64 {
        let alarm = self
            .sleepers
            .first()
            .map_or(u64::MAX, |task| task.entry().deadline());
        if self.ready.is_empty() {
            alarm
        } else {
            alarm.min(self.slice_end)
        }
    }

    fn make_ready(&mut self, task: Arc<T>) {
        task.entry().set_state(State::Ready);
        // SAFETY: whoever calls this has just taken it from a list, or from where tasks are on none.
        unsafe { self.ready.push(task) };
    }
}

/// One more. It wraps, rather than ask whether it would: 2^64 events take centuries.
#[inline(always)]
const fn bump(count: &mut u64) {
    *count = count.wrapping_add(1);
}

/// All run queues.
pub struct Cpus<T: Entity, P> {
    queues: [SpinMutex<Queue<T>>; MAX_CPUS],
    /// Ready tasks of each CPU, for a look without the lock.
    ready: [AtomicU32; MAX_CPUS],
    online: AtomicU32,
    idle: AtomicU32,
    /// The length of a time slice, in ticks.
    slice: AtomicU32,
    port: P,
}

impl<T: Entity, P: Port> Cpus<T, P> {
    /// Queues of which none is in use.
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

    /// Says how long a time slice is, in ticks.
    pub fn set_slice(&self, ticks: u32) {
        self.slice.store(ticks, Ordering::Relaxed);
    }

    /// CPU number `cpu` takes part from now on. It runs `first`, or its idle task.
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

    /// What `cpu` has done so far.
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
    fn lock(&self, cpu: usize) -> SpinMutexGuard<'_, Queue<T>> {
        self.port.race();
        loop {
            if let Some(guard) = self.queues[cpu].try_lock() {
                return guard;
            }
            self.port.wait();
        }
    }

    /// Locks two queues, in the order of their numbers; returns them as asked for.
    fn lock_both(
        &self,
        one: usize,
        other: usize,
    ) -> (SpinMutexGuard<'_, Queue<T>>, SpinMutexGuard<'_, Queue<T>>) {
        if one < other {
            let first = self.lock(one);
            (first, self.lock(other))
        } else {
            let first = self.lock(other);
            (self.lock(one), first)
        }
    }

    /// Publishes how many tasks are ready on `cpu`.
    #[inline(always)]
    fn publish(&self, cpu: usize, queue: &Queue<T>) {
        self.ready[cpu].store(queue.ready.len() as u32, Ordering::Relaxed);
    }

    /// Decides who gets `cpu`, the caller's, whose interrupts are masked.
    ///
    /// A task that still [runs](State::Running) goes to the end of the ready list; one that said that it
    /// waits, sleeps or is dead leaves. The registers of `cpu` still are those of the task that leaves: they are to
    /// be saved, and [`Cpus::finish`] called by whoever runs then, before anything else is done with
    /// the queues.
    ///
    /// `leave` is what the task that has the CPU does before anybody else can run it. If it says no, nothing changes.
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

    /// Where a task goes that loses its CPU. Returns where it may run if it is ready, and nowhere if not.
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

    /// A task that may run on `allowed` has become ready on `cpu`: if one of those CPUs is idle, it is to come
    /// and take it.
    #[inline(always)]
    fn offer(&self, cpu: usize, allowed: CpuMask) {
        self.port.race();
        fence(Ordering::SeqCst);
        let idle = self.idle.load(Ordering::SeqCst) & allowed.0 & !(1 << cpu);
        if idle != 0 {
            self.port.kick(idle.trailing_zeros() as usize);
        }
    }

    /// `cpu` does not idle any more. What it leaves is for the other CPUs that do: it may have been called for more
    /// than one task, and for none that it has taken. Which of them may run what is left is theirs to find out, so
    /// all are called.
    fn pass_on(&self, cpu: usize) {
        self.port.race();
        fence(Ordering::SeqCst);
        let mut idle = self.idle.load(Ordering::SeqCst) & !(1 << cpu);
        if idle == 0 || !(0..MAX_CPUS).any(|other| self.has_ready(other)) {
            return;
        }
        while idle != 0 {
            self.port.kick(idle.trailing_zeros() as usize);
            idle &= idle - 1;
        }
    }

    /// Ends a switch: releases the queue of `cpu`, and sends a task that left for another CPU on its way.
    ///
    /// # Safety
    /// [`Cpus::schedule`] has decided on a switch on this CPU, the decision was [held](Switch::hold), and the
    /// task that left is off its stack, its registers saved.
    #[inline]
    #[must_use = "a dead task is to be dealt with"]
    pub unsafe fn finish(&self, cpu: usize) -> Left<T> {
        // SAFETY: the lock is this CPU's, since `hold`.
        let queue = unsafe { &mut *self.queues[cpu].as_mut_ptr() };
        let left = queue.leaving.take();
        // Before it is unlocked: from then on a task that blocks may be woken, and what it is then, moving or even
        // dead, is for others to deal with.
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

    /// Makes a task ready that is on no CPU and no list: `State::Moving`, or new.
    fn place(&self, task: Arc<T>) {
        loop {
            let cpu = self.choose(&task);
            let mut queue = self.lock(cpu);
            // `choose` has looked without a lock.
            if !task.entry().allowed().has(cpu) {
                drop(queue);
                self.port.wait();
                continue;
            }
            self.port.race();
            let allowed = task.entry().allowed();
            task.entry().set_cpu(cpu);
            queue.make_ready(task);
            self.publish(cpu, &queue);
            drop(queue);
            self.port.kick(cpu);
            // It was chosen before the task was on its list: it may be busy by now, and another one idle.
            fence(Ordering::SeqCst);
            if self.idle.load(Ordering::SeqCst) >> cpu & 1 == 0 {
                self.offer(cpu, allowed);
            }
            return;
        }
    }

    /// Lets a new task run.
    pub fn start(&self, task: Arc<T>) {
        task.entry().set_state(State::Moving);
        self.place(task);
    }

    /// The CPU for a task that becomes ready: its home if that is idle, any idle one else; if none is, its home,
    /// or the one with the fewest tasks if it may not stay.
    fn choose(&self, task: &T) -> usize {
        let home = task.entry().cpu();
        let allowed = task.entry().allowed().0 & self.online.load(Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = self.idle.load(Ordering::SeqCst) & allowed;
        if idle >> home & 1 != 0 {
            home
        } else if idle != 0 {
            idle.trailing_zeros() as usize
        } else if allowed >> home & 1 != 0 && self.ready[home].load(Ordering::Relaxed) == 0 {
            home
        } else {
            let least = (0..MAX_CPUS)
                .filter(|cpu| allowed >> cpu & 1 != 0)
                .min_by_key(|cpu| self.ready[*cpu].load(Ordering::Relaxed));
            least.unwrap_or(home)
        }
    }

    /// Wakes `task` if it is blocked; returns whether it was. Its home CPU's switch is over when it
    /// is made ready elsewhere.
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

    /// A tick of `cpu`, the caller's, at `now`: wakes sleepers, and says whether the current task has had
    /// its time.
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
                // SAFETY: it has just been taken from its list.
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

    /// Takes a task from another CPU's ready list, for `cpu`, the caller's, which has none. Returns whether
    /// there was one.
    pub fn steal(&self, cpu: usize) -> bool {
        self.port.race();
        for victim in (cpu + 1..MAX_CPUS).chain(0..cpu) {
            if !self.has_ready(victim) {
                continue;
            }
            let (mut mine, mut theirs) = self.lock_both(cpu, victim);
            let found = theirs.ready.take(|task| task.entry().allowed().has(cpu));
            if let Some(task) = &found {
                // Under the lock of both homes: who looks for the task finds it on the list of one of them.
                task.entry().set_cpu(cpu);
            }
            self.publish(victim, &theirs);
            drop(theirs);
            self.port.race();
            if let Some(task) = found {
                mine.make_ready(task);
                bump(&mut mine.stats.stolen);
                self.publish(cpu, &mine);
                return true;
            }
        }
        false
    }

    /// `cpu`, the caller's, has nothing to do, and says so until [`Cpus::end_idle`]. Returns whether
    /// it has found something after all.
    pub fn begin_idle(&self, cpu: usize) -> bool {
        self.idle.fetch_or(1 << cpu, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.port.race();
        self.has_ready(cpu) || self.steal(cpu)
    }

    /// `cpu` looks at its queue again.
    pub fn end_idle(&self, cpu: usize) {
        self.idle.fetch_and(!(1 << cpu), Ordering::SeqCst);
    }

    /// Changes where `task` may run. If it is somewhere else it moves: at once if it is not
    /// running, and as soon as it loses its CPU if it is.
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
                // Found a place for when it is woken. A sleeper wakes where it went to sleep, and moves then.
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

/// No CPU that a task may run on takes part.
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
