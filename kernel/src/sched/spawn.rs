// SPDX-License-Identifier: MIT OR Apache-2.0

//! The beginning and the end of a task.
//!
//! The closure that a task runs, and the value that it ends with, lie at the top of the task's own
//! stack. Starting a task therefore allocates its stack and its [`Task`], and nothing else.
//!
//! # The end of a task
//!
//! Three events end a task:
//!
//! 1. the task writes its value ([`DONE`]), and leaves its CPU for good;
//! 2. the next task of that CPU sets [`GONE`], because only then the stack is no longer used;
//! 3. the [`JoinHandle`] is used up.
//!
//! [`JoinHandle::join`] waits for the other two, takes the value and frees the stack. If the handle
//! is dropped instead ([`DETACHED`]), a task called the reaper frees the stack after the later of
//! events 2 and 3. The value is dropped by the task itself if it was detached before event 1, and
//! otherwise by the drop of the handle.

use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use lazymmu::PAGE_SIZE;

use super::entity::CpuMask;
use super::might_sleep::might_sleep;
use super::run;
use super::stack::{Stack, StackError};
use super::task::{self, Task, current};
use super::wait::WaitQueue;
use super::{CPUS, NoSuchCpu};
use crate::arch::interrupts;
use crate::mm::MMU;

/// A bit of `Task::ended`: the value is written.
const DONE: u8 = 1;
/// A bit of `Task::ended`: the stack is no longer used.
const GONE: u8 = 2;
/// A bit of `Task::ended`: the handle is gone, so the value will not be taken.
const DETACHED: u8 = 4;

/// The number of pages of a stack, unless the [`Builder`] sets another one.
pub const STACK_PAGES: usize = 4;

/// The closure and the value may take one part in this many of a stack.
const PAYLOAD_SHARE: usize = 4;

/// Detached tasks that have ended and wait for the reaper.
static GRAVEYARD: WaitQueue = WaitQueue::new();
/// The queue on which the reaper waits.
static REAPER: WaitQueue = WaitQueue::new();

/// Why a task could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// Its stack could not be created.
    Stack(StackError),
    /// None of the CPUs that it may run on is online.
    NoSuchCpu(NoSuchCpu),
    /// Its closure or its value is too large for its stack.
    TooLarge {
        /// The size of the larger of the two in bytes.
        bytes: usize,
        /// The room for it at the top of the stack in bytes.
        limit: usize,
    },
    /// The heap has no room for the task.
    OutOfMemory,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stack(error) => write!(f, "no stack for the task: {error}"),
            Self::NoSuchCpu(error) => error.fmt(f),
            Self::TooLarge { bytes, limit } => write!(
                f,
                "the task's closure or value has {bytes} bytes, and its stack has room for {limit}: \
                 put them in a Box, or give it more pages (Builder::stack_pages)"
            ),
            Self::OutOfMemory => f.write_str(
                "no memory for the task: give the machine more memory, or run fewer tasks",
            ),
        }
    }
}

impl core::error::Error for SpawnError {}

/// A task to be started.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing runs before `spawn`"]
pub struct Builder {
    name: &'static str,
    stack_pages: usize,
    allowed: CpuMask,
}

impl Builder {
    /// Describes a task with `name` and a stack of [`STACK_PAGES`] that may run on any CPU.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            stack_pages: STACK_PAGES,
            allowed: CpuMask::ALL,
        }
    }

    /// Gives it a stack of `pages` pages, a power of two.
    pub const fn stack_pages(self, pages: usize) -> Self {
        Self {
            stack_pages: pages,
            ..self
        }
    }

    /// Lets it run on CPU number `cpu` only.
    pub const fn pinned(self, cpu: usize) -> Self {
        self.allowed(CpuMask::only(cpu))
    }

    /// Lets it run on `allowed` only.
    pub const fn allowed(self, allowed: CpuMask) -> Self {
        Self { allowed, ..self }
    }

    /// Starts the task. It runs `work`, and ends when `work` returns.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing is kept, and `work` is dropped.
    pub fn spawn<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        self,
        work: F,
    ) -> Result<JoinHandle<T>, SpawnError> {
        // The closure and the value share one place: the value is written after the closure has
        // been read.
        let (task, place) = self.prepare(Payload::of::<F, T>(), begin::<F, T>)?;
        let place = ptr::with_exposed_provenance_mut::<F>(place as usize);
        // SAFETY: `prepare` made room for the closure there, in a stack that no task uses yet.
        unsafe { place.write(work) };
        start(&task);
        Ok(JoinHandle {
            task: Some(task),
            value: place.cast(),
            _value: PhantomData,
        })
    }

    /// The part of `spawn` that does not depend on the types: creates a task with room for
    /// `payload` on its stack. The task starts in `begin`, which gets the address of the payload.
    #[inline(never)]
    fn prepare(
        self,
        payload: Payload,
        begin: extern "C" fn(u64) -> !,
    ) -> Result<(Arc<Task>, u64), SpawnError> {
        let limit = self.stack_pages * PAGE_SIZE as usize / PAYLOAD_SHARE;
        if payload.size.max(payload.align) > limit {
            return Err(SpawnError::TooLarge {
                bytes: payload.size,
                limit,
            });
        }
        if self.allowed.0 & CPUS.online().0 == 0 {
            return Err(SpawnError::NoSuchCpu(NoSuchCpu {
                allowed: self.allowed,
            }));
        }
        let stack = Stack::new(self.stack_pages).map_err(SpawnError::Stack)?;
        let bounds = stack.bounds();
        let place = (bounds.top - payload.size as u64) & !(payload.align as u64 - 1);
        let task = new_task(Task::new(self.name, bounds, Some(stack), self.allowed))?;
        // SAFETY: the new stack below the payload is free and large enough.
        unsafe { task.context().prepare(place, begin, place) };
        Ok((task, place))
    }
}

/// The size and alignment of what lies at the top of a stack. The alignment is at least a stack's.
#[derive(Clone, Copy, Debug)]
struct Payload {
    size: usize,
    align: usize,
}

impl Payload {
    /// Room for an `F`, and for a `T` after the `F` has been read.
    const fn of<F, T>() -> Self {
        const fn larger(one: usize, other: usize) -> usize {
            if one > other { one } else { other }
        }
        Self {
            size: larger(size_of::<F>(), size_of::<T>()),
            align: larger(larger(align_of::<F>(), align_of::<T>()), 16),
        }
    }
}

#[inline(never)]
fn start(task: &Arc<Task>) {
    let _masked = run::Masked::new();
    CPUS.start(Arc::clone(task));
}

/// Puts `task` into an `Arc`.
///
/// # Errors
/// [`SpawnError::OutOfMemory`].
pub(super) fn new_task(task: Task) -> Result<Arc<Task>, SpawnError> {
    task::share(task).ok_or(SpawnError::OutOfMemory)
}

/// Creates the idle task of CPU number `cpu`, for a CPU that already runs another task.
///
/// # Errors
/// [`SpawnError`]; nothing is kept.
pub(super) fn idle_task(name: &'static str, cpu: usize) -> Result<Arc<Task>, SpawnError> {
    extern "C" fn begin(_: u64) -> ! {
        arrive();
        run::idle()
    }
    let stack = Stack::new(STACK_PAGES).map_err(SpawnError::Stack)?;
    let bounds = stack.bounds();
    let task = new_task(Task::new(name, bounds, Some(stack), CpuMask::only(cpu)))?;
    // SAFETY: the stack is new and has no other user.
    unsafe { task.context().prepare(bounds.top, begin, 0) };
    Ok(task)
}

/// Starts `work` in a task of its own that may run on any CPU.
///
/// # Errors
/// [`SpawnError`]; nothing is kept, and `work` is dropped.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, SpawnError> {
    Builder::new(name).spawn(work)
}

/// The first Rust code of a task. Interrupts are masked, and the queue of its CPU is locked.
extern "C" fn begin<F: FnOnce() -> T + Send + 'static, T: Send + 'static>(place: u64) -> ! {
    arrive();
    let payload = ptr::with_exposed_provenance_mut::<F>(place as usize);
    // SAFETY: `spawn` put the closure there for this task, which reads it once.
    let work = unsafe { payload.read() };
    let value = work();
    // SAFETY: the place is large enough for the value, and the closure has been moved out of it.
    unsafe { payload.cast::<T>().write(value) };
    if is_done_with() {
        // SAFETY: the value was written above, and the task is detached, so no handle takes it.
        unsafe { payload.cast::<T>().drop_in_place() };
    }
    run::exit()
}

#[inline(never)]
fn arrive() {
    run::arrived();
    interrupts::unmask_irq();
}

/// Marks the work of the calling task as done, after its value is written. Returns whether the task
/// is detached, so that its value will not be taken.
#[inline(never)]
fn is_done_with() -> bool {
    leave_lazy_mode();
    ENDING.fetch_add(1, Ordering::Relaxed);
    current().ended.fetch_or(DONE, Ordering::AcqRel) & DETACHED != 0
}

/// Reports a task that ends inside a section, and lets what it deferred take effect.
fn leave_lazy_mode() {
    let lazy = MMU.lazy();
    let (depth, opened) = (lazy.state().enable_count(), lazy.state().opened_at());
    if let Err(error) = lazy.exit() {
        let name = current().name();
        match opened {
            Some(place) => log::error!("task {name}: {error} ({depth} deep, opened at {place})"),
            None => log::error!("task {name}: {error}"),
        }
    }
}

/// The number of tasks that have ended and are still being cleaned up, by the next task of their
/// CPU or by the reaper.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// Whether no ended task is still being cleaned up.
#[must_use]
pub fn is_quiet() -> bool {
    ENDING.load(Ordering::Acquire) == 0
}

/// Handles a task that has left its stack for good. The next task of that CPU calls this, with
/// interrupts masked.
pub(super) fn bury(task: Arc<Task>) {
    if task.ended.fetch_or(GONE, Ordering::AcqRel) & DETACHED != 0 {
        GRAVEYARD.add_dead(task);
        REAPER.wake_one();
    } else {
        task.gone.wake_all();
        drop(task);
        ENDING.fetch_sub(1, Ordering::Release);
    }
}

/// The loop of the reaper.
pub(super) fn reap() {
    loop {
        REAPER.wait_until(|| !GRAVEYARD.is_empty());
        while let Some(task) = GRAVEYARD.take_dead() {
            // SAFETY: the task's CPU has said that the stack is no longer used, and the task's
            // handle is gone.
            drop(unsafe { task.take_stack() });
            drop(task);
            ENDING.fetch_sub(1, Ordering::Release);
        }
    }
}

/// The right to take a task's value. A task whose handle is dropped continues without it, and the
/// reaper frees its stack at the end.
#[must_use = "a task whose handle is dropped is detached"]
pub struct JoinHandle<T> {
    /// `None` only while `join` or `drop` uses the handle up.
    task: Option<Arc<Task>>,
    value: *mut T,
    _value: PhantomData<T>,
}

// SAFETY: only `join` or `drop` accesses the value, once, after the task has written it, on any
// CPU.
unsafe impl<T: Send> Send for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// The task.
    #[must_use]
    pub fn task(&self) -> &Arc<Task> {
        match &self.task {
            Some(task) => task,
            None => unreachable!("`join` takes the handle"),
        }
    }

    /// Whether the task has ended, so that [`JoinHandle::join`] does not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task().ended.load(Ordering::Acquire) & GONE != 0
    }

    /// Waits for the end of the task; returns its value and frees its stack.
    ///
    /// # Panics
    /// Where the caller must not sleep; see [`might_sleep`].
    #[track_caller]
    pub fn join(mut self) -> T {
        might_sleep();
        let task = match self.task.take() {
            Some(task) => task,
            None => unreachable!("`join` takes the handle"),
        };
        wait_for(&task);
        // SAFETY: the task wrote the value before it set `DONE`, and this is the only handle.
        let value = unsafe { self.value.read() };
        clear_away(task);
        value
    }
}

#[inline(never)]
#[track_caller]
fn wait_for(task: &Task) {
    task.gone
        .wait_until(|| task.ended.load(Ordering::Acquire) & GONE != 0);
}

/// Frees the stack of a task that is gone, on behalf of its only handle.
#[inline(never)]
fn clear_away(task: Arc<Task>) {
    // SAFETY: the task no longer uses its stack, and this is the only handle.
    drop(unsafe { task.take_stack() });
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        let detached =
            task.ended
                .compare_exchange(0, DETACHED, Ordering::AcqRel, Ordering::Acquire);
        if detached.is_ok() {
            return;
        }
        // The task is done, so the value belongs to the handle. It is dropped before the task is
        // detached: from then on the reaper may free the stack, on which the value lies.
        // SAFETY: the task has written the value, and only this handle takes it.
        unsafe { self.value.drop_in_place() };
        if task.ended.fetch_or(DETACHED, Ordering::AcqRel) & GONE != 0 {
            ENDING.fetch_add(1, Ordering::Relaxed);
            GRAVEYARD.add_dead(task);
            REAPER.wake_one();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinHandle({:?})", self.task)
    }
}
