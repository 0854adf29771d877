// SPDX-License-Identifier: MIT OR Apache-2.0

//! The scheduler of this kernel: its initialization, and the calls that tasks make.

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

/// The interrupt that makes a CPU check its queue.
pub const RESCHEDULE: IntId = IntId::sgi(0);

/// The virtual timer's interrupt, set by [`init`].
static TIMER: Once<IntId, CpuRelax> = Once::new();

/// The number of time slices per second; each takes 4 ms.
pub const SLICE_PER_SECOND: u64 = 250;

/// Sets another length for time slices until it is dropped, which restores the usual one. Only one
/// may exist at a time.
#[must_use = "the slices are the usual ones again when this is dropped"]
#[derive(Debug)]
pub struct Slices(());

impl Slices {
    /// Slices of `ticks` of the timer. Each CPU uses them from its next switch on.
    pub fn of(ticks: u32) -> Self {
        CPUS.set_slice(ticks);
        Self(())
    }

    /// The longest possible slices, about a minute under QEMU: tasks are switched only where they
    /// ask for it.
    pub fn longest() -> Self {
        Self::of(u32::MAX)
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        CPUS.set_slice(usual_slice());
    }
}

/// The usual length of a time slice, in ticks of the timer.
fn usual_slice() -> u32 {
    u32::try_from(timer::frequency() / SLICE_PER_SECOND).unwrap_or(u32::MAX)
}

/// Why the scheduler could not be started.
#[derive(Clone, Copy, Debug)]
pub enum SchedError {
    /// The device tree names no interrupt for the virtual timer.
    NoTimer,
    /// An interrupt could not be registered or enabled.
    Interrupt(InterruptError),
    /// The first tasks could not be created.
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

/// Starts the scheduler. The code that runs now becomes the task `main`, which stays on the boot
/// CPU. Two more tasks start: the idle task of the boot CPU, and the reaper, which frees what ended
/// tasks leave.
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
    // SAFETY: the queue below keeps the task alive, and no other CPU is up.
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

/// Enables the scheduler's interrupts on the calling CPU.
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

/// Creates the idle task of a CPU that is about to be started. The CPU runs as that task from its
/// first line of Rust on, on the stack `bounds`.
///
/// # Errors
/// There is no memory for it.
pub fn prepare_cpu(cpu: usize, bounds: Stack) -> Result<&'static Task, SpawnError> {
    let task = spawn::new_task(Task::new(IDLE_NAMES[cpu], bounds, None, CpuMask::only(cpu)))?;
    task.arrive(cpu as u32);
    let task = Arc::into_raw(task);
    // SAFETY: `into_raw` keeps a reference count, which is never decremented.
    Ok(unsafe { &*task })
}

/// Lets the calling CPU, number `cpu`, take part in scheduling. `idle` is the task that
/// [`prepare_cpu`] made for it, and the CPU runs as that task. The caller has enabled the CPU's
/// interrupts ([`init_cpu`]) and has masked them, and calls [`idle`](super::idle) next.
pub fn add_cpu(cpu: usize, idle: &'static Task) {
    // SAFETY: `prepare_cpu` leaked one reference count for this call.
    run::set_idle(cpu, unsafe { Arc::from_raw(idle) });
    CPUS.add_cpu(cpu, None);
}

/// Names of the idle tasks.
const IDLE_NAMES: [&str; MAX_CPUS] = [
    "idle/0", "idle/1", "idle/2", "idle/3", "idle/4", "idle/5", "idle/6", "idle/7", "idle/8",
    "idle/9", "idle/10", "idle/11", "idle/12", "idle/13", "idle/14", "idle/15",
];

/// The number of the CPU that the caller runs on. The caller may move to another CPU at any time,
/// unless it is pinned or must not be preempted.
#[must_use]
pub fn cpu() -> usize {
    percpu::current().index() as usize
}

/// The CPUs that take part.
#[must_use]
pub fn online() -> CpuMask {
    CPUS.online()
}

/// The statistics of CPU number `cpu`.
#[must_use]
pub fn stats(cpu: usize) -> Stats {
    let masked = run::Masked::new();
    let stats = CPUS.stats(cpu);
    drop(masked);
    stats
}

/// Lets `task` run on `allowed` only. If it is on another CPU it moves: at once if it is ready,
/// when it loses its CPU if it runs, and when it wakes if it waits. Linux:
/// `set_cpus_allowed_ptr()`.
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
    // The task moves when it is preempted, which `set_allowed` has asked for. Another task may
    // change its CPUs again in the meantime.
    while self::cpu() != cpu && allowed().has(cpu) {
        super::yield_now();
    }
    Ok(())
}

/// Sleeps for at least `time`. Linux: `msleep()`.
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
