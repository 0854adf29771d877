// SPDX-License-Identifier: MIT OR Apache-2.0

//! The run queues' decisions, carried out on this CPU.
//!
//! # A switch
//!
//! With interrupts masked, on the stack of the task that leaves:
//!
//! 1. [`Cpus::schedule`](super::Cpus::schedule) locks the queue.
//! 2. [`Lazy::switch_out`](lazymmu::Lazy::switch_out): what waits in the CPU's batch is executed and `DSB ISH` completes the
//!    task's stores (R17), before anybody can find the task; and behind the lock, because the same barrier orders what the
//!    coming task has stored elsewhere before a TLBI that it issues here. It may refuse, and then the task keeps
//!    its CPU until [`Context::preemption_point`](lazymmu::Context::preemption_point) says that it need not. Then the
//!    queue decides.
//! 3. `ISB`, if the task that comes was on another CPU, or nowhere: mappings whose barriers were executed
//!    elsewhere, that of its stack among them, may be unknown to what this CPU has translated early (rows X2 and M3 of the verdict table).
//!    Before the stack is touched, so the `ERET` at the end of a preemption would be too late.
//! 4. [`switch::switch`]: registers, stack, current task.
//!
//! And on the stack of the one that comes, [`Cpus::finish`](super::Cpus::finish) unlocks the queue.
//!
//! The lazy state of neither task is touched (R11).

use alloc::sync::Arc;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::cpus::{Decision, Left, MAX_CPUS, Port};
use super::entity::Entity;
use super::might_sleep::might_sleep;
use super::preempt::INTERRUPT;
use super::spawn;
use super::task::{Task, current};
use super::{CPUS, RESCHEDULE, SLICE_PER_SECOND};
use crate::arch::{barrier, interrupts, percpu, switch, timer};
use crate::mm::MMU;
use crate::platform::interrupts as controller;

/// What this module keeps for each CPU.
struct Local {
    /// The task that runs when there is no other. Its count is never given back.
    idle: AtomicPtr<Task>,
    /// When the timer will fire, in ticks; `u64::MAX`: never.
    armed: AtomicU64,
}

static LOCALS: [Local; MAX_CPUS] = [const {
    Local {
        idle: AtomicPtr::new(core::ptr::null_mut()),
        armed: AtomicU64::new(u64::MAX),
    }
}; MAX_CPUS];

/// Interrupts are masked until this is dropped, and what they would have asked for meanwhile is done then. Unlike a
/// lock's mask this one is the task's, and goes with it through a switch.
pub(super) struct Masked {
    were_masked: bool,
    not_send: PhantomData<*const ()>,
}

impl Masked {
    #[inline(always)]
    pub(super) fn new() -> Self {
        let were_masked = interrupts::are_masked();
        interrupts::mask_irq();
        Self {
            were_masked,
            not_send: PhantomData,
        }
    }

    /// They are masked, and somebody else unmasks them.
    const fn already() -> Self {
        Self {
            were_masked: true,
            not_send: PhantomData,
        }
    }
}

impl Drop for Masked {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.were_masked {
            interrupts::unmask_irq();
            preempt_if_due();
        }
    }
}

/// Why a task asks for a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Others may run.
    Yields,
    /// It waits, sleeps, or is dead: it must leave.
    Waits,
    /// Its time is over.
    Preempted,
}

/// Lets the run queue decide who has this CPU. Interrupts are masked.
#[inline]
pub(super) fn schedule(why: Why, _masked: &Masked) {
    let task = current();
    let cpu = percpu::current();
    let index = cpu.index() as usize;
    task.set_resched(false);
    let leave = || MMU.lazy().switch_out().is_ok();
    let mut decision = match CPUS.schedule(index, timer::ticks(), leave) {
        Decision::Switch(decision) => decision,
        // Who was to have the CPU is gone, stolen perhaps. The timer was left to the switch that does not
        // happen, and there may be sleepers.
        Decision::Stay => return arm_before(index, CPUS.next_tick(index)),
        Decision::Refused => return refused(why, task, index),
    };
    arm_before(index, decision.next_tick());
    let next: *const Task = match decision.next() {
        Some(task) => Arc::as_ptr(task),
        None => LOCALS[index].idle.load(Ordering::Relaxed),
    };
    // SAFETY: current from here on, so its queue keeps it alive; an idle task lives for ever.
    let next = unsafe { &*next };
    if next.arrive(index as u32) {
        // Rule: rows X2, X3 (R37). Behind the acquisition of the queue's lock, on whose outcome there has been a branch.
        // Witness: the model (`model::scheduler` of `lazymmu`); QEMU shows nothing, and `arrivals` counts it only.
        barrier::isb();
        decision.count_arrival();
    }
    decision.hold();
    cpu.set_stack(next.bounds());
    let address = core::ptr::from_ref(next).expose_provenance() as u64;
    // SAFETY: masked; the queue's lock, held since the decision, says that `next` is switched out and nobody
    // else's; its stack's bounds were set.
    unsafe { switch::switch(task.context(), next.context(), address) };
    arrived();
}

/// The rest of a switch, on the stack of the task that has come: see the module text. Also the first thing a new
/// task does.
#[inline]
pub(super) fn arrived() {
    let cpu = percpu::current().index();
    // SAFETY: `schedule` held its decision on this CPU and has switched.
    let left = unsafe { CPUS.finish(cpu as usize) };
    if let Left::Dead(task) = left {
        spawn::bury(task);
    }
}

#[cold]
fn refused(why: Why, task: &Task, cpu: usize) {
    assert!(
        why != Why::Waits,
        "task {} waits in a section that its backend keeps on the CPU: might_sleep() looked before",
        task.name()
    );
    // Done at the section's end, or with the library's work on the batch. Meanwhile there may be sleepers.
    task.set_resched(true);
    arm_before(cpu, timer::ticks() + timer::frequency() / SLICE_PER_SECOND);
}

/// Makes room if that is due and allowed.
#[inline(always)]
pub(super) fn preempt_if_due() {
    let task = current();
    if task.needs_resched() && task.preempt_count() == 0 {
        preempt_here();
    }
}

#[cold]
#[inline(never)]
fn preempt_here() {
    // Somebody further up unmasks, and looks then.
    if !interrupts::are_masked() {
        interrupts::mask_irq();
        preempt(&Masked::already());
        // Not by a drop that looks again: it may have been refused.
        interrupts::unmask_irq();
    }
}

fn preempt(masked: &Masked) {
    let switches = current().switches();
    schedule(Why::Preempted, masked);
    if current().switches() != switches {
        CPUS.count(percpu::current().index() as usize, |stats| {
            stats.preemptions += 1
        });
    }
}

/// Runs the handler of an interrupt, on behalf of nobody, and lets the interrupted task make room at the end if its
/// time is over. Interrupts are masked.
#[inline(always)]
pub fn interrupt(handler: impl FnOnce()) {
    let task = current();
    task.count_up(INTERRUPT);
    handler();
    task.count_down(INTERRUPT);
    if task.needs_resched() && task.preempt_count() == 0 {
        // The vectors unmask, by restoring PSTATE.
        preempt(&Masked::already());
    }
}

/// Lets other tasks of this CPU run first. Linux: `cond_resched()`, `schedule()`.
///
/// # Panics
/// Where the caller must not sleep; see [`might_sleep`].
#[track_caller]
#[inline]
pub fn yield_now() {
    might_sleep();
    let masked = Masked::new();
    if CPUS.has_ready(percpu::current().index() as usize) {
        schedule(Why::Yields, &masked);
    }
}

/// A switch to the next task and nothing else, for the measured windows: interrupts are masked, and nothing forbids
/// the task to leave.
#[inline]
pub fn switch_now() {
    schedule(Why::Yields, &Masked::already());
}

/// Sleeps until the timer's count is `deadline` at least.
///
/// # Panics
/// Where the caller must not sleep; see [`might_sleep`].
#[track_caller]
pub fn sleep_until(deadline: u64) {
    might_sleep();
    let masked = Masked::new();
    current().entry().sleep_until(deadline);
    schedule(Why::Waits, &masked);
}

/// Lets the task that runs on this CPU, or was interrupted, make room as soon as it may, as at the end of its time
/// slice. For interrupt handlers; elsewhere [`yield_now`] is simpler.
pub fn preempt_soon() {
    current().set_resched(true);
}

/// Lets the timer of this CPU fire at `deadline` at the latest.
#[inline(always)]
fn arm_before(cpu: usize, deadline: u64) {
    if deadline < LOCALS[cpu].armed.load(Ordering::Relaxed) {
        LOCALS[cpu].armed.store(deadline, Ordering::Relaxed);
        timer::arm_at(deadline);
    }
}

/// The timer's interrupt.
pub(super) fn timer_fired(_: controller::IntId) {
    let cpu = percpu::current().index() as usize;
    let tick = CPUS.tick(cpu, timer::ticks());
    if tick.preempt {
        current().set_resched(true);
    }
    let next = if !current().needs_resched() {
        tick.next
    } else if current().preempt_count() == INTERRUPT {
        // The interrupt's end makes room. If that is refused, `refused` asks for a tick.
        u64::MAX
    } else {
        // Where preemption is turned on again it is looked for, unless interrupts are masked there; and there
        // may be sleepers.
        timer::ticks() + timer::frequency() / SLICE_PER_SECOND
    };
    LOCALS[cpu].armed.store(next, Ordering::Relaxed);
    if next == u64::MAX {
        timer::disarm();
    } else {
        timer::arm_at(next);
    }
}

/// Another CPU has put something on this one's queue.
pub(super) fn kicked(_: controller::IntId) {
    look();
}

fn look() {
    let cpu = percpu::current().index() as usize;
    let tick = CPUS.tick(cpu, timer::ticks());
    if tick.preempt {
        current().set_resched(true);
    }
    arm_before(cpu, tick.next);
}

/// How the run queues reach other CPUs.
#[derive(Debug)]
pub struct Kicks;

impl Port for Kicks {
    fn kick(&self, cpu: usize) {
        if cpu == percpu::current().index() as usize {
            look();
        } else if let Err(error) = controller::send(RESCHEDULE, cpu as u32) {
            unreachable!("CPU {cpu} is online, so it can be sent an interrupt: {error}");
        }
    }
}

/// Makes `task` the one that runs on `cpu` when nobody else can, for ever.
pub(super) fn set_idle(cpu: usize, task: Arc<Task>) {
    LOCALS[cpu]
        .idle
        .store(Arc::into_raw(task).cast_mut(), Ordering::Release);
}

/// What an idle task does, for ever. Only its own CPU's calls it.
pub fn idle() -> ! {
    loop {
        let masked = Masked::new();
        let cpu = percpu::current().index() as usize;
        let found = CPUS.has_ready(cpu) || CPUS.steal(cpu) || CPUS.begin_idle(cpu);
        if !found {
            let since = timer::ticks();
            // Masked: an interrupt that is pending ends it, and is taken below.
            interrupts::wait_for_interrupt();
            let now = timer::ticks();
            CPUS.count(cpu, |stats| stats.idle += now - since);
        }
        CPUS.end_idle(cpu);
        if found {
            schedule(Why::Yields, &masked);
        }
        drop(masked);
    }
}

/// The end of the calling task.
pub(super) fn exit() -> ! {
    let masked = Masked::new();
    current().entry().die();
    schedule(Why::Waits, &masked);
    unreachable!("a dead task was given a CPU")
}
