// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the run queues know about a task, and the lists in which they keep tasks.
//!
//! A task is on at most one list, so it holds one link. Putting a task on a list allocates nothing,
//! so a context switch cannot run out of memory. A list owns a reference to each of its tasks.

use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Where a task is. The state changes under the lock of its [home CPU's](Entry::cpu) queue, with
/// one exception: a running task itself says what its next [`schedule`](super::Cpus::schedule) must
/// do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It has its home CPU.
    Running = 0,
    /// It is on the ready list of its home CPU.
    Ready = 1,
    /// It waits until it is [woken](super::Cpus::wake). It may not have left its CPU yet.
    Blocked = 2,
    /// It is among the sleepers of its home CPU, or is about to leave the CPU for them.
    Sleeping = 3,
    /// It has left its CPU and is not on the next CPU's list yet.
    Moving = 4,
    /// It never runs again. It may not have left its CPU yet.
    Dead = 5,
}

impl State {
    const fn from_u8(raw: u8) -> Self {
        match raw {
            0 => Self::Running,
            1 => Self::Ready,
            2 => Self::Blocked,
            3 => Self::Sleeping,
            4 => Self::Moving,
            _ => Self::Dead,
        }
    }
}

/// The CPUs that a task may run on, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMask(pub u32);

impl CpuMask {
    /// Every CPU.
    pub const ALL: Self = Self(u32::MAX);

    /// CPU number `cpu` alone.
    ///
    /// # Panics
    /// If the number is 32 or more.
    #[must_use]
    pub const fn only(cpu: usize) -> Self {
        assert!(cpu < u32::BITS as usize, "a mask has 32 CPUs");
        Self(1 << cpu)
    }

    /// Whether CPU number `cpu` is among them.
    #[must_use]
    pub const fn has(self, cpu: usize) -> bool {
        self.0 >> cpu & 1 != 0
    }
}

/// The part of a task that belongs to the run queues.
pub struct Entry<T> {
    /// The next task of the list that this one is on. Only that list uses it, under the list's
    /// lock.
    link: UnsafeCell<Option<Arc<T>>>,
    /// When a sleeping task must be woken, in ticks.
    deadline: AtomicU64,
    cpu: AtomicU32,
    allowed: AtomicU32,
    state: AtomicU8,
}

// SAFETY: all fields but the link are atomics. The link is reached only through a `List`. A task is
// on at most one list (the contract of `List::push`), so that list is the only one that uses the
// link, and the list's owner protects it with a lock.
unsafe impl<T: Send + Sync> Sync for Entry<T> {}

impl<T> Entry<T> {
    /// A task that has not run and may run on `allowed`. It is treated like one that was
    /// [blocked](State::Blocked).
    #[must_use]
    pub const fn new(allowed: CpuMask) -> Self {
        Self {
            link: UnsafeCell::new(None),
            deadline: AtomicU64::new(0),
            cpu: AtomicU32::new(0),
            allowed: AtomicU32::new(allowed.0),
            state: AtomicU8::new(State::Blocked as u8),
        }
    }

    /// The task's home: the CPU that it runs on, ran on last, or is queued on.
    #[inline(always)]
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Acquire) as usize
    }

    /// Where it may run.
    #[inline(always)]
    #[must_use]
    pub fn allowed(&self) -> CpuMask {
        CpuMask(self.allowed.load(Ordering::Relaxed))
    }

    /// Where it is.
    #[inline(always)]
    #[must_use]
    pub fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::Relaxed))
    }

    /// Says that the calling task waits for a wake-up. The task calls this itself, before it makes
    /// itself known to the code that will wake it. [`Cpus::schedule`](super::Cpus::schedule)
    /// follows, and the task must not be preempted in between.
    pub fn block(&self) {
        self.set_state(State::Blocked);
    }

    /// Says that the calling task waits until `deadline`, in ticks. The rest is as for
    /// [`Entry::block`].
    pub fn sleep_until(&self, deadline: u64) {
        self.deadline.store(deadline, Ordering::Relaxed);
        self.set_state(State::Sleeping);
    }

    /// Says that the calling task has ended. The rest is as for [`Entry::block`].
    pub fn die(&self) {
        self.set_state(State::Dead);
    }

    #[inline(always)]
    pub(super) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn set_cpu(&self, cpu: usize) {
        self.cpu.store(cpu as u32, Ordering::Release);
    }

    pub(super) fn set_allowed(&self, allowed: CpuMask) {
        self.allowed.store(allowed.0, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on CPU {}", self.state(), self.cpu())
    }
}

/// A task, as the run queues see it.
pub trait Entity: Send + Sync + Sized {
    /// The part of the task that belongs to the run queues.
    fn entry(&self) -> &Entry<Self>;
}

/// A list of tasks. It is first in, first out, unless its owner keeps it sorted.
pub struct List<T: Entity> {
    head: Option<Arc<T>>,
    /// The last task; dangling while there is none.
    tail: *const T,
    len: usize,
}

// SAFETY: `tail` points to a task that the list holds a reference to, and is used only through
// `&mut self`.
unsafe impl<T: Entity> Send for List<T> {}

impl<T: Entity> List<T> {
    /// A list without tasks.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            head: None,
            tail: core::ptr::null(),
            len: 0,
        }
    }

    /// How many tasks there are.
    #[inline(always)]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The first task.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.head.as_deref()
    }

    /// Appends `task`.
    ///
    /// # Safety
    /// `task` is on no list.
    #[inline]
    pub unsafe fn push(&mut self, task: Arc<T>) {
        let last = self.tail;
        self.tail = Arc::as_ptr(&task);
        self.len += 1;
        if self.head.is_none() {
            self.head = Some(task);
        } else {
            // SAFETY: there is a last task, and the list keeps it alive.
            let last = unsafe { &*last };
            // SAFETY: it is on this list.
            unsafe { *link(last) = Some(task) };
        }
    }

    /// Inserts `task` before the first one whose deadline is later.
    ///
    /// # Safety
    /// `task` is on no list.
    pub unsafe fn insert_by_deadline(&mut self, task: Arc<T>) {
        let deadline = task.entry().deadline();
        if self.is_empty() || self.last_deadline() <= deadline {
            // SAFETY: this function's contract.
            return unsafe { self.push(task) };
        }
        let mut place = &mut self.head;
        while let Some(here) = place
            && here.entry().deadline() <= deadline
        {
            let here = Arc::as_ptr(here);
            // SAFETY: the list keeps the task alive, and `&mut self` excludes any other change.
            let here = unsafe { &*here };
            // SAFETY: it is on this list.
            place = unsafe { link(here) };
        }
        // SAFETY: the task is on no list yet, so its link has no other user.
        unsafe { *link(&*task) = place.take() };
        *place = Some(task);
        self.len += 1;
    }

    fn last_deadline(&self) -> u64 {
        // SAFETY: the caller has checked that the list is not empty.
        unsafe { (*self.tail).entry().deadline() }
    }

    /// Takes the first task.
    #[inline]
    pub fn pop(&mut self) -> Option<Arc<T>> {
        let first = self.head.take()?;
        // SAFETY: it was on this list until now.
        self.head = unsafe { (*link(&*first)).take() };
        self.len -= 1;
        Some(first)
    }

    /// Takes the first task for which `wanted` returns `true`.
    pub fn take(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<Arc<T>> {
        let mut before: *const T = core::ptr::null();
        let mut place = &mut self.head;
        loop {
            let here = Arc::as_ptr(place.as_ref()?);
            // SAFETY: the list keeps the task alive, and `&mut self` excludes any other change.
            let task = unsafe { &*here };
            if wanted(task) {
                break;
            }
            before = here;
            // SAFETY: it is on this list.
            place = unsafe { link(task) };
        }
        let taken = place.take()?;
        // SAFETY: it was on this list until now.
        *place = unsafe { (*link(&*taken)).take() };
        if self.tail == Arc::as_ptr(&taken) {
            self.tail = before;
        }
        self.len -= 1;
        Some(taken)
    }
}

/// The link of `task`.
///
/// # Safety
/// The caller is the list that `task` is on or about to be on, and it uses no other reference to
/// the link.
#[expect(
    clippy::mut_from_ref,
    reason = "the list is exclusive, the tasks on it are not"
)]
#[inline(always)]
unsafe fn link<T: Entity>(task: &T) -> &mut Option<Arc<T>> {
    // SAFETY: this function's contract.
    unsafe { &mut *task.entry().link.get() }
}

impl<T: Entity> Drop for List<T> {
    /// Drops the tasks one by one. Without this, each task would drop the next one from within its
    /// own drop, and a long list would need a deep stack.
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<T: Entity> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Entity> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List of {}", self.len)
    }
}
