// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tasks: what runs, with the lazy MMU state that belongs to it.
//!
//! The current task of a CPU is found through SP_EL0, which the kernel does not use as a stack pointer: one
//! instruction, and the answer is right wherever the task is by the time it is used.

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
/// It costs its stack and this structure, which is not larger than 512 bytes with the reference counts in
/// front of it.
#[repr(C)]
pub struct Task {
    /// SP of a task that is switched out; its registers are saved there.
    context: switch::Context,
    /// See [`super::preempt`].
    preempt_count: AtomicU32,
    /// Whether the task is to make room as soon as it may.
    resched: AtomicBool,
    /// What has happened to it after its end.
    pub(super) ended: AtomicU8,
    /// The CPU that it ran on last.
    last_cpu: AtomicU32,
    lazy: LazyMmuState,
    counters: Counters,
    entry: Entry<Self>,
    /// Times that it was given a CPU.
    switches: AtomicU64,
    name: &'static str,
    bounds: stack::Stack,
    /// Its own stack; taken when it has left that for good, by the one who is to free it.
    stack: UnsafeCell<Option<Stack>>,
    /// Who waits for its end.
    pub(super) gone: WaitQueue,
}

// The counts of an `Arc` are two words.
const _: () = assert!(
    size_of::<Task>() + 16 <= 512,
    "a task costs at most 512 bytes"
);

// SAFETY: all but `context` and `stack` is shared by its own rules. The context is used by the CPU that switches
// from or to the task, under the lock of its queue; the stack is taken by the one who is to free it
// (`spawn`), once.
unsafe impl Sync for Task {}
// SAFETY: nothing in it is bound to a CPU.
unsafe impl Send for Task {}

/// How many tasks there are, [`EARLY`] not among them.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// How many tasks there are, idle ones and those that are being cleared away included.
#[must_use]
pub fn alive() -> usize {
    ALIVE.load(Ordering::Acquire)
}

/// An `Arc` around `task`; `None` if the heap has no room for it.
pub(super) fn share(task: Task) -> Option<Arc<Task>> {
    // Before anything can drop it again.
    ALIVE.fetch_add(1, Ordering::Relaxed);
    // `Arc::new` would end the kernel. Whoever allocates in between may take what was there; then it does.
    let mut probe = Vec::<[u64; 64]>::new();
    probe.try_reserve_exact(1).ok()?;
    drop(probe);
    Some(Arc::new(task))
}

/// Runs before there is a heap: the boot up to [`super::init`].
static EARLY: Task = Task::new(
    "early",
    stack::Stack { bottom: 0, top: 0 },
    None,
    CpuMask::ALL,
);

impl Task {
    /// A task that has not run: no section, nothing owed (R1).
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

    /// The name in reports.
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

    /// What it executed.
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

    /// Bounds of its stack.
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

    /// Only the CPU that the task has writes the word, and an interrupt leaves it as it was: load and store
    /// will do.
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

    /// Takes note that the task has `cpu`; returns whether it was on another one, or nowhere, before.
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
    /// The task has left its stack for good, and nobody else takes it at the same time.
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

/// The task that runs on this CPU; in an interrupt, the one it interrupted.
#[inline(always)]
#[must_use]
pub fn current() -> &'static Task {
    // SAFETY: SP_EL0 holds the address of the CPU's current task from the first line of Rust on
    // (`set_current`'s contract), and the run queue keeps that alive as long as it is current. (`'static` is too long
    // for a reference that outlives the task: nobody keeps one that does not keep the task, too.)
    unsafe { &*core::ptr::with_exposed_provenance::<Task>(sysreg::sp_el0() as usize) }
}

/// The same, with a share in it.
#[must_use]
pub fn current_arc() -> Arc<Task> {
    let task = core::ptr::from_ref(current());
    // SAFETY: every current task but `EARLY` is in an `Arc`, and `EARLY` is nobody's once there is a heap
    // (`init`); the run queue or its CPU holds a count, so there is one to add to.
    unsafe { Arc::increment_strong_count(task) };
    // SAFETY: the count of the line above.
    unsafe { Arc::from_raw(task) }
}

/// Makes `task` the current one of this CPU.
///
/// # Safety
/// `task` lives as long as it is current, and no other CPU has it.
pub(super) unsafe fn set_current(task: *const Task) {
    // SAFETY: this function's contract.
    unsafe { sysreg::set_sp_el0(task.expose_provenance() as u64) };
}

/// Gives a secondary CPU a task to be. The first thing that it does in Rust.
pub fn init_secondary_cpu(task: &'static Task) {
    // SAFETY: it lives for ever, and was made for the calling CPU (`prepare_cpu`).
    unsafe { set_current(task) };
}

/// Gives the boot CPU a task to be. The first thing that the kernel does.
pub fn init_boot_cpu() {
    // SAFETY: a static, and no other CPU is up.
    unsafe { set_current(&raw const EARLY) };
}
