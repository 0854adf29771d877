// SPDX-License-Identifier: MIT OR Apache-2.0

//! Context switches, preemption, the timer and idling: this module carries out on this CPU what the
//! run queues decide.
//!
//! # A switch
//!
//! With interrupts masked, on the stack of the task that leaves:
//!
//! 1. [`Cpus::schedule`](super::Cpus::schedule) locks the queue of this CPU.
//! 2. While it holds the lock, it calls [`Lazy::switch_out`](lazymmu::Lazy::switch_out), which
//!    drains the CPU's batch and executes `DSB ISH` (R17). If the call refuses, the task keeps its
//!    CPU until the library calls
//!    [`Context::preemption_point`](lazymmu::Context::preemption_point).
//! 3. The queue puts the leaving task away and picks the next one.
//! 4. If the next task ran on another CPU last, or has not run yet, this CPU executes an `ISB`.
//!    What it fetched or translated early may not know of mappings whose barriers were executed on
//!    another CPU, the mapping of the task's stack among them (rows X2 and M3 of the verdict
//!    table). The `ISB` comes before the first access to that stack, so the `ERET` at the end of a
//!    preemption would be too late.
//! 5. [`switch::switch`] exchanges registers, stack and current task.
//!
//! On the stack of the task that arrives, [`Cpus::finish`](super::Cpus::finish) unlocks the queue.
//!
//! A switch touches the lazy state of the two tasks in step 2 alone, and there it changes no
//! counter (R11).
//!
//! # Why the barrier is executed while the queue is locked
//!
//! The lock is taken first, then the barrier is executed, then the task is put away, then the next
//! one is picked. The barrier serves both tasks.
//!
//! It completes the stores of the task that leaves before another CPU can find that task:
//!
//! ```text
//! CPU 0, task A: store entry
//! CPU 0:         lock queue 0, DSB ISH, put A away, pick B, switch, unlock
//! CPU 1:                                                            lock queue 0, take A, run it
//! ```
//!
//! It also orders what the arriving task has stored on another CPU before a TLBI that the task
//! issues on this one. The head of `lazy/switch.rs` in the `lazymmu` crate shows that interleaving,
//! and why a barrier before the lock is taken would be too early.

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

/// The state that this module keeps for each CPU.
struct Local {
    /// The task that runs when no other task can. Its reference count is never decremented.
    idle: AtomicPtr<Task>,
    /// When the timer will fire, in ticks; `u64::MAX` for never.
    armed: AtomicU64,
}

static LOCALS: [Local; MAX_CPUS] = [const {
    Local {
        idle: AtomicPtr::new(core::ptr::null_mut()),
        armed: AtomicU64::new(u64::MAX),
    }
}; MAX_CPUS];

/// Masks interrupts until it is dropped. The drop then performs a preemption that became due in the
/// meantime. The mask belongs to the task, unlike a lock's mask, and stays with it through a
/// switch.
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

    /// Interrupts are masked already, and the caller unmasks them later.
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
    /// The task lets other tasks run.
    Yields,
    /// The task waits, sleeps, or is dead: it must leave the CPU.
    Waits,
    /// Its time slice is over, or another task asked for the CPU.
    Preempted,
}

/// Lets the run queue decide which task gets this CPU, and switches to it. Interrupts are masked.
#[inline]
pub(super) fn schedule(why: Why, _masked: &Masked) {
    let task = current();
    let cpu = percpu::current();
    let index = cpu.index() as usize;
    task.set_resched(false);
    let leave = || MMU.lazy().switch_out().is_ok();
    let mut decision = match CPUS.schedule(index, timer::ticks(), leave) {
        Decision::Switch(decision) => decision,
        // The task that was to get the CPU is gone; another CPU may have stolen it. The timer was
        // left to the switch, which does not happen, and there may be sleepers.
        Decision::Stay => return arm_before(index, CPUS.next_tick(index)),
        Decision::Refused => return refused(why, task, index),
    };
    arm_before(index, decision.next_tick());
    let next: *const Task = match decision.next() {
        Some(task) => Arc::as_ptr(task),
        None => LOCALS[index].idle.load(Ordering::Relaxed),
    };
    // SAFETY: the task is current from here on, so its queue keeps it alive. An idle task lives
    // forever.
    let next = unsafe { &*next };
    if next.arrive(index as u32) {
        // Rule: rows X2, X3 (R37). The `ISB` comes after the acquisition of the queue's lock, and a
        // branch has depended on its outcome. Witness: the machine model (`model::scheduler` of
        // `lazymmu`). QEMU shows nothing, and `arrivals` only counts the barrier.
        barrier::isb();
        decision.count_arrival();
    }
    decision.hold();
    cpu.set_stack(next.bounds());
    let address = core::ptr::from_ref(next).expose_provenance() as u64;
    // SAFETY: interrupts are masked. The queue's lock has been held since the decision, so `next`
    // is switched out and no other CPU runs it. The bounds of its stack are set.
    unsafe { switch::switch(task.context(), next.context(), address) };
    arrived();
}

/// The rest of a switch, on the stack of the task that has arrived; see the module documentation. A
/// new task executes this first.
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
        "task {} waits in a section with a backend that keeps it on its CPU: call might_sleep() first",
        task.name()
    );
    // The switch happens at the end of the section, or when the library has finished its work on
    // the batch. There may be sleepers until then.
    task.set_resched(true);
    arm_before(cpu, timer::ticks() + timer::frequency() / SLICE_PER_SECOND);
}

/// Switches to another task if a preemption is due and allowed.
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
    // If interrupts are masked, the caller that masked them checks again when it unmasks them.
    if !interrupts::are_masked() {
        interrupts::mask_irq();
        preempt(&Masked::already());
        // This is not the drop of a `Masked`, which would check again: the preemption may have been
        // refused.
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

/// Runs the handler of an interrupt. Its work is not accounted to the interrupted task. At the end
/// the task is preempted if that is due. Interrupts are masked.
#[inline(always)]
pub fn interrupt(handler: impl FnOnce()) {
    let task = current();
    task.count_up(INTERRUPT);
    handler();
    task.count_down(INTERRUPT);
    if task.needs_resched() && task.preempt_count() == 0 {
        // The exception vectors unmask interrupts when they restore PSTATE.
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

/// Switches to the next task and does nothing else. The measured windows use it. The caller has
/// masked interrupts and holds nothing that forbids the task to leave.
#[inline]
pub fn switch_now() {
    schedule(Why::Yields, &Masked::already());
}

/// Sleeps until the timer's count is at least `deadline`.
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

/// Preempts the task that runs on this CPU, or was interrupted on it, as soon as that is allowed,
/// as at the end of its time slice. This is for interrupt handlers; elsewhere [`yield_now`] is
/// simpler.
pub fn preempt_soon() {
    current().set_resched(true);
}

/// Makes the timer of this CPU fire at `deadline` at the latest.
#[inline(always)]
fn arm_before(cpu: usize, deadline: u64) {
    if deadline < LOCALS[cpu].armed.load(Ordering::Relaxed) {
        LOCALS[cpu].armed.store(deadline, Ordering::Relaxed);
        timer::arm_at(deadline);
    }
}

/// Handles the timer's interrupt.
pub(super) fn timer_fired(_: controller::IntId) {
    let cpu = percpu::current().index() as usize;
    let tick = CPUS.tick(cpu, timer::ticks());
    if tick.preempt {
        current().set_resched(true);
    }
    let next = if !current().needs_resched() {
        tick.next
    } else if current().preempt_count() == INTERRUPT {
        // The preemption happens at the end of the interrupt. If it is refused, `refused` asks for
        // a tick.
        u64::MAX
    } else {
        // The code that turns preemption on again checks whether one is due, unless interrupts are
        // masked there. There may be sleepers, too.
        timer::ticks() + timer::frequency() / SLICE_PER_SECOND
    };
    LOCALS[cpu].armed.store(next, Ordering::Relaxed);
    if next == u64::MAX {
        timer::disarm();
    } else {
        timer::arm_at(next);
    }
}

/// Handles the interrupt that another CPU sends after it has put a task on this CPU's queue.
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

/// Lets the run queues reach other CPUs, by a software-generated interrupt.
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

/// Makes `task` the one that runs on `cpu` whenever no other task can.
pub(super) fn set_idle(cpu: usize, task: Arc<Task>) {
    LOCALS[cpu]
        .idle
        .store(Arc::into_raw(task).cast_mut(), Ordering::Release);
}

/// The loop of an idle task. Only the idle task of a CPU calls it, on that CPU.
pub fn idle() -> ! {
    loop {
        let masked = Masked::new();
        let cpu = percpu::current().index() as usize;
        let found = CPUS.has_ready(cpu) || CPUS.steal(cpu) || CPUS.begin_idle(cpu);
        if !found {
            let since = timer::ticks();
            // Interrupts are masked: a pending one ends the wait, and it is taken after
            // `drop(masked)`.
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

/// Ends the calling task.
pub(super) fn exit() -> ! {
    let masked = Masked::new();
    current().entry().die();
    schedule(Why::Waits, &masked);
    unreachable!("a dead task was given a CPU")
}
