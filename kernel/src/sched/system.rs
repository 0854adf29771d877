// SPDX-License-Identifier: MIT OR Apache-2.0

//! The one scheduler of this kernel: its beginning, and what a task may ask of it.

use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use spin::once::Once;

use super::entity::{CpuMask, Entity};
use super::run::{self, Kicks};
use super::spawn::{self, SpawnError};
use super::task::{self, Task, current, current_arc};
use super::{Cpus, MAX_CPUS, NoSuchCpu, Stats};
use crate::arch::relax::CpuRelax;
use crate::arch::{percpu, timer};
use crate::platform::interrupts::{self, IntId, InterruptError};
use crate::stack::Stack;

/// The run queues.
pub static CPUS: Cpus<Task, Kicks> = Cpus::new(Kicks);

/// The interrupt that makes a CPU look at its queue.
pub const RESCHEDULE: IntId = IntId::sgi(0);

/// The virtual timer's interrupt, from [`init`] on.
static TIMER: Once<IntId, CpuRelax> = Once::new();

/// Time slices per second: 4 ms each.
pub const SLICE_PER_SECOND: u64 = 250;

/// Time slices of another length, until dropped; then they are the usual ones again. One at a time.
#[must_use = "the slices are the usual ones again when this is dropped"]
#[derive(Debug)]
pub struct Slices(());

impl Slices {
    /// Slices of `ticks` of the timer, on each CPU from its next switch on.
    pub fn of(ticks: u32) -> Self {
        CPUS.set_slice(ticks);
        Self(())
    }

    /// The longest there are, a minute under QEMU: tasks make room where they give way.
    pub fn longest() -> Self {
        Self::of(u32::MAX)
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        CPUS.set_slice(usual_slice());
    }
}

/// In ticks of the timer.
fn usual_slice() -> u32 {
    u32::try_from(timer::frequency() / SLICE_PER_SECOND).unwrap_or(u32::MAX)
}

/// Why there is no scheduler.
#[derive(Clone, Copy, Debug)]
pub enum SchedError {
    /// The device tree names no interrupt for the virtual timer.
    NoTimer,
    /// An interrupt could not be had.
    Interrupt(InterruptError),
    /// The first tasks could not be made.
    Spawn(SpawnError),
}

impl From<InterruptError> for SchedError {
    fn from(error: InterruptError) -> Self {
        Self::Interrupt(error)
    }
}

impl From<SpawnError> for SchedError {
    fn from(error: SpawnError) -> Self {
        Self::Spawn(error)
    }
}

impl fmt::Display for SchedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTimer => f.write_str(
                "the device tree names no interrupt for the virtual timer, which the scheduler needs: \
                 give it an arm,armv8-timer node with four interrupts",
            ),
            Self::Interrupt(error) => error.fmt(f),
            Self::Spawn(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SchedError {}

/// Makes what runs now a task of its own, on the boot CPU for good, and starts the others that the scheduler
/// needs: one to idle, and one to clear away.
///
/// # Errors
/// [`SchedError`]; nothing is scheduled.
pub fn init(virtual_timer: Option<u32>) -> Result<(), SchedError> {
    let timer_interrupt = virtual_timer
        .and_then(|intid| intid.checked_sub(16))
        .map(IntId::ppi)
        .ok_or(SchedError::NoTimer)?;
    let bounds = percpu::current().stack();
    let main = spawn::new_task(Task::new("main", bounds, None, CpuMask::only(0)))?;
    main.arrive(0);
    // SAFETY: the queue below keeps it, and this CPU is the only one.
    unsafe { task::set_current(Arc::as_ptr(&main)) };
    CPUS.set_slice(usual_slice());
    CPUS.add_cpu(0, Some(main));
    interrupts::register(timer_interrupt, run::timer_fired)?;
    TIMER.call_once(|| timer_interrupt);
    interrupts::register(RESCHEDULE, run::kicked)?;
    init_cpu()?;
    run::set_idle(0, spawn::idle_task(IDLE_NAMES[0], 0)?);
    drop(spawn::spawn("reaper", spawn::reap)?);
    Ok(())
}

/// Lets the scheduler's interrupts through on the calling CPU.
///
/// # Errors
/// One of them cannot be enabled.
pub fn init_cpu() -> Result<(), InterruptError> {
    interrupts::enable(RESCHEDULE)?;
    match TIMER.get() {
        Some(timer) => interrupts::enable(*timer),
        None => Ok(()),
    }
}

/// What a CPU that is about to be started will be from its first line of Rust on: its idle task, on the stack
/// that it is given.
///
/// # Errors
/// There is no memory for it.
pub fn prepare_cpu(cpu: usize, bounds: Stack) -> Result<&'static Task, SpawnError> {
    let task = spawn::new_task(Task::new(IDLE_NAMES[cpu], bounds, None, CpuMask::only(cpu)))?;
    task.arrive(cpu as u32);
    let task = Arc::into_raw(task);
    // SAFETY: the count of `into_raw` is never given back.
    Ok(unsafe { &*task })
}

/// Lets the calling CPU, number `cpu`, take part; `idle` is what [`prepare_cpu`] made for it and what it is. It can be
/// sent interrupts ([`init_cpu`]), they are masked, and [`idle`](super::idle) follows.
pub fn add_cpu(cpu: usize, idle: &'static Task) {
    // SAFETY: leaked by `prepare_cpu`, which left one count for this.
    run::set_idle(cpu, unsafe { Arc::from_raw(idle) });
    CPUS.add_cpu(cpu, None);
}

/// Names of the idle tasks.
const IDLE_NAMES: [&str; MAX_CPUS] = [
    "idle/0", "idle/1", "idle/2", "idle/3", "idle/4", "idle/5", "idle/6", "idle/7", "idle/8",
    "idle/9", "idle/10", "idle/11", "idle/12", "idle/13", "idle/14", "idle/15",
];

/// The number of the CPU that the caller runs on. It may be another one as soon as it is known, unless the caller
/// is pinned, or must not be preempted.
#[must_use]
pub fn cpu() -> usize {
    percpu::current().index() as usize
}

/// The CPUs that take part.
#[must_use]
pub fn online() -> CpuMask {
    CPUS.online()
}

/// What CPU number `cpu` has done so far.
#[must_use]
pub fn stats(cpu: usize) -> Stats {
    let masked = run::Masked::new();
    let stats = CPUS.stats(cpu);
    drop(masked);
    stats
}

/// Lets `task` run on `allowed` only; it moves there at once if it can. Linux: `set_cpus_allowed_ptr()`.
///
/// # Errors
/// [`NoSuchCpu`] if none of them is online; nothing changes.
pub fn set_allowed(task: &Arc<Task>, allowed: CpuMask) -> Result<(), NoSuchCpu> {
    let masked = run::Masked::new();
    let result = CPUS.set_allowed(task, allowed);
    drop(masked);
    result
}

/// Moves the calling task to CPU number `cpu`, and keeps it there.
///
/// # Errors
/// [`NoSuchCpu`] if it is not online; nothing changes.
///
/// # Panics
/// Where the caller must not sleep.
#[track_caller]
pub fn migrate(cpu: usize) -> Result<(), NoSuchCpu> {
    super::might_sleep();
    set_allowed(&current_arc(), CpuMask::only(cpu))?;
    // The move is a preemption that the task has asked for. Somebody else may ask for another one meanwhile.
    while self::cpu() != cpu && allowed().has(cpu) {
        super::yield_now();
    }
    Ok(())
}

/// Sleeps for `time` at least. Linux: `msleep()`.
///
/// # Panics
/// Where the caller must not sleep; see [`might_sleep`](super::might_sleep()).
#[track_caller]
pub fn sleep(time: Duration) {
    let ticks = (time.as_nanos() * u128::from(timer::frequency())).div_ceil(1_000_000_000);
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
    super::sleep_until(timer::ticks().saturating_add(ticks));
}

/// Where the calling task may run.
#[must_use]
pub fn allowed() -> CpuMask {
    current().entry().allowed()
}
