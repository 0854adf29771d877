// SPDX-License-Identifier: MIT OR Apache-2.0

//! The scheduler: preemptive, with one run queue for each CPU. The lazy MMU state belongs to the
//! task.
//!
//! | module | subject |
//! |---|---|
//! | [`entity`], [`cpus`] | the choice of task and CPU; no hardware, checked on the host |
//! | [`task`], `stack`, `spawn` | what a task is, its beginning and its end |
//! | `run` | the switch, preemption, the timer, idling |
//! | [`preempt`], `might_sleep` | what keeps a task on its CPU |
//! | `wait`, `mutex`, `spin` | waiting for other tasks and for interrupts |
//! | `context` | the answers to what the `lazymmu` crate asks |
//!
//! # Policy
//!
//! The scheduler is round robin with [`SLICE_PER_SECOND`] time slices per second. A CPU without a
//! task takes one from another CPU's list, and a task that becomes ready goes to an idle CPU if
//! there is one. The timer runs only while a second task or a sleeper needs it. An idle CPU waits
//! in WFI.
//!
//! # Lazy MMU mode
//!
//! A task may lose its CPU in the middle of a section. Its counters, its pauses, its announced
//! ranges and the barriers that it owes belong to the task, and a switch does not change them
//! (R11). There is one exception: [`lazymmu::Lazy::switch_out`] executes, on the CPU that the task
//! leaves, a barrier that completes the task's stores before any other CPU can run it (R17). The
//! section does not repeat that barrier: of the pair that it owes, only the `ISB` is left.
//!
//! With a backend that keeps stores on the CPU, a task is not preempted inside a section, and
//! [`might_sleep()`] refuses there.

pub mod cpus;
pub mod entity;
pub mod stats;

#[cfg(target_os = "none")]
mod context;
#[cfg(target_os = "none")]
mod might_sleep;
#[cfg(target_os = "none")]
mod mutex;
#[cfg(target_os = "none")]
pub mod preempt;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod spawn;
#[cfg(target_os = "none")]
mod spin;
#[cfg(target_os = "none")]
mod stack;
#[cfg(target_os = "none")]
pub mod task;
#[cfg(target_os = "none")]
mod wait;

#[cfg(target_os = "none")]
mod system;

pub use self::cpus::{Cpus, MAX_CPUS, NoSuchCpu};
pub use self::entity::CpuMask;
pub use self::stats::Stats;

#[cfg(target_os = "none")]
pub use self::{
    context::interrupt_counts,
    might_sleep::{CannotSleep, may_sleep, might_sleep},
    mutex::{Mutex, MutexGuard},
    preempt::{in_hard_interrupt, in_interrupt, interrupt_depth},
    run::{idle, interrupt, preempt_soon, sleep_until, switch_now, yield_now},
    spawn::{Builder, JoinHandle, STACK_PAGES, SpawnError, is_quiet, spawn},
    spin::RawSpinLock,
    stack::{Stack, StackError},
    system::{
        CPUS, RESCHEDULE, SLICE_PER_SECOND, SchedError, Slices, add_cpu, allowed, cpu, init,
        init_cpu, migrate, online, prepare_cpu, set_allowed, sleep, stats,
    },
    task::{Task, alive, current, init_boot_cpu, init_secondary_cpu},
    wait::WaitQueue,
};
