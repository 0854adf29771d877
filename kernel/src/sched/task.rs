// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tasks: threads of execution, each with its own lazy MMU state.
//!
//! SP_EL0 holds the address of the current task of a CPU; the kernel does not use it as a stack
//! pointer. Finding the current task takes one instruction, and the answer stays right if the task
//! moves to another CPU before it uses the answer.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use lazymmu::{Counters, Counts, LazyMmuState};

use super::entity::{CpuMask, Entity, Entry};
use super::stack::Stack;
use super::wait::WaitQueue;
use crate::arch::{switch, sysreg};
use crate::stack;

/// A thread of execution.
///
/// It costs its stack and this structure, which takes at most 512 bytes together with the reference
/// counts of its `Arc`.
#[repr(C)]
pub struct Task {
    /// SP of a task that is switched out. Its registers are saved on the stack at that address.
    context: switch::Context,
    /// See [`super::preempt`].
    preempt_count: AtomicU32,
    /// Whether the task must be preempted as soon as that is allowed.
    resched: AtomicBool,
    /// What has happened at its end: the bits of `spawn`.
    pub(super) ended: AtomicU8,
    /// The CPU that it ran on last.
    last_cpu: AtomicU32,
    lazy: LazyMmuState,
    counters: Counters,
    entry: Entry<Self>,
    /// How many times it was given a CPU.
    switches: AtomicU64,
    name: &'static str,
    bounds: stack::Stack,
    /// Its own stack. The code that frees the stack takes it, after the task has left it for good.
    stack: UnsafeCell<Option<Stack>>,
    /// The tasks that wait for its end.
    pub(super) gone: WaitQueue,
}

// The reference counts of an `Arc` take two words.
const _: () = assert!(
    size_of::<Task>() + 16 <= 512,
    "a task costs at most 512 bytes"
);

// SAFETY: each field but `context` and `stack` is `Sync`. The context is used by the CPU that
// switches from or to the task, under the lock of its queue. The stack is taken once, by the code
// that frees it (`spawn`).
unsafe impl Sync for Task {}
// SAFETY: no field is bound to a CPU.
unsafe impl Send for Task {}

/// The number of tasks, without [`EARLY`].
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// The number of tasks, including idle ones and those that are being cleaned up.
#[must_use]
pub fn alive() -> usize {
    ALIVE.load(Ordering::Acquire)
}

/// Puts `task` into an `Arc`; `None` if the heap has no room for it.
pub(super) fn share(task: Task) -> Option<Arc<Task>> {
    // This comes first, because dropping a task decrements the count.
    ALIVE.fetch_add(1, Ordering::Relaxed);
    // `Arc::new` would panic without memory, so the room is probed first. Another task may allocate
    // that memory between the probe and `Arc::new`, and then the kernel panics after all.
    let mut probe = Vec::<[u64; 64]>::new();
    probe.try_reserve_exact(1).ok()?;
    drop(probe);
    Some(Arc::new(task))
}

/// The task of the boot CPU before there is a heap, until [`super::init`].
static EARLY: Task = Task::new(
    "early",
    stack::Stack { bottom: 0, top: 0 },
    None,
    CpuMask::ALL,
);

impl Task {
    /// A task that has not run. It is in no section and owes nothing (R1).
    pub(super) const fn new(
        name: &'static str,
        bounds: stack::Stack,
        stack: Option<Stack>,
        allowed: CpuMask,
    ) -> Self {
        Self {
            context: switch::Context::new(),
            preempt_count: AtomicU32::new(0),
            resched: AtomicBool::new(false),
            ended: AtomicU8::new(0),
            last_cpu: AtomicU32::new(u32::MAX),
            lazy: LazyMmuState::new(),
            counters: Counters::new(),
            entry: Entry::new(allowed),
            switches: AtomicU64::new(0),
            name,
            bounds,
            stack: UnsafeCell::new(stack),
            gone: WaitQueue::new(),
        }
    }

    /// Its name in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its lazy MMU state.
    #[inline(always)]
    #[must_use]
    pub const fn lazy(&self) -> &LazyMmuState {
        &self.lazy
    }

    /// The counts of what it executed.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// How many times it was given a CPU.
    #[must_use]
    pub fn switches(&self) -> u64 {
        self.switches.load(Ordering::Relaxed)
    }

    /// The CPU that it runs on, ran on last, or waits for.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.entry.cpu()
    }

    /// The bounds of its stack.
    #[must_use]
    pub const fn bounds(&self) -> stack::Stack {
        self.bounds
    }

    /// What keeps it on its CPU; see [`super::preempt`].
    #[inline(always)]
    #[must_use]
    pub fn preempt_count(&self) -> u32 {
        self.preempt_count.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    #[inline(always)]
    pub(super) const fn context(&self) -> &switch::Context {
        &self.context
    }

    /// Only the CPU that runs the task writes the word, and an interrupt leaves the word as it
    /// found it. So a load and a store are enough, without an atomic read-modify-write.
    #[inline(always)]
    pub(super) fn count_up(&self, what: u32) {
        let count = self.preempt_count();
        self.preempt_count
            .store(count.wrapping_add(what), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn count_down(&self, what: u32) {
        let count = self.preempt_count();
        debug_assert!(
            count >= what,
            "preempt_count {count:#x} of {} - {what:#x}",
            self.name
        );
        self.preempt_count
            .store(count.wrapping_sub(what), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn needs_resched(&self) -> bool {
        self.resched.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn set_resched(&self, due: bool) {
        self.resched.store(due, Ordering::Relaxed);
    }

    /// Records that the task has `cpu`. Returns whether the task was on another CPU before, or on
    /// none.
    #[inline(always)]
    pub(super) fn arrive(&self, cpu: u32) -> bool {
        let switches = self.switches.load(Ordering::Relaxed);
        self.switches
            .store(switches.wrapping_add(1), Ordering::Relaxed);
        let last = self.last_cpu.load(Ordering::Relaxed);
        if last == cpu {
            return false;
        }
        self.last_cpu.store(cpu, Ordering::Relaxed);
        true
    }

    /// Takes its stack.
    ///
    /// # Safety
    /// The task has left its stack for good, and no other call takes the stack at the same time.
    pub(super) unsafe fn take_stack(&self) -> Option<Stack> {
        // SAFETY: this function's contract.
        unsafe { (*self.stack.get()).take() }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Release);
    }
}

impl Entity for Task {
    #[inline(always)]
    fn entry(&self) -> &Entry<Self> {
        &self.entry
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "task {} ({:?}, lazy {:?})",
            self.name, self.entry, self.lazy
        )
    }
}

/// The task that runs on this CPU; in an interrupt, the interrupted task.
#[inline(always)]
#[must_use]
pub fn current() -> &'static Task {
    // SAFETY: SP_EL0 holds the address of the CPU's current task from the first line of Rust on
    // (the contract of `set_current`), and the run queue keeps the task alive as long as it is
    // current. (`'static` is too long for a reference that outlives the task. No caller keeps the
    // reference without keeping the task, too.)
    unsafe { &*core::ptr::with_exposed_provenance::<Task>(sysreg::sp_el0() as usize) }
}

/// The same as an `Arc`.
#[must_use]
pub fn current_arc() -> Arc<Task> {
    let task = core::ptr::from_ref(current());
    // SAFETY: every current task but `EARLY` is in an `Arc`, and `EARLY` is not current any more
    // once there are other tasks (`init`). The run queue or the CPU holds a count of the task, so
    // it is alive.
    unsafe { Arc::increment_strong_count(task) };
    // SAFETY: the count of the line above.
    unsafe { Arc::from_raw(task) }
}

/// Makes `task` the current one of this CPU.
///
/// # Safety
/// `task` lives as long as it is current, and no other CPU runs it.
pub(super) unsafe fn set_current(task: *const Task) {
    // SAFETY: this function's contract.
    unsafe { sysreg::set_sp_el0(task.expose_provenance() as u64) };
}

/// Sets the first current task of a secondary CPU. The CPU calls this first in Rust.
pub fn init_secondary_cpu(task: &'static Task) {
    // SAFETY: the task lives forever, and `prepare_cpu` made it for the calling CPU.
    unsafe { set_current(task) };
}

/// Sets the first current task of the boot CPU. The kernel calls this first.
pub fn init_boot_cpu() {
    // SAFETY: the task is a static, and no other CPU is up.
    unsafe { set_current(&raw const EARLY) };
}
