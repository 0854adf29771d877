// SPDX-License-Identifier: MIT OR Apache-2.0

//! The scheduler: preemptive, one run queue per CPU, lazy MMU state that belongs to the task.
//!
//! | room | subject |
//! |---|---|
//! | [`entity`], [`cpus`] | who runs next and where; no hardware, checked on the host |
//! | [`task`], `stack`, `spawn` | what a task is, its beginning and its end |
//! | `run` | the switch, preemption, the timer, idling |
//! | [`preempt`], `might_sleep` | what keeps a task on its CPU |
//! | `wait`, `mutex`, `spin` | waiting for others |
//! | `context` | what the `lazymmu` crate asks |
//!
//! # Policy
//!
//! Round robin with time slices of [`SLICE_PER_SECOND`]. A CPU without a task takes one from another CPU's
//! list, and a task that becomes ready goes to an idle CPU if there is one. The timer runs only while there
//! is something to wait for: a second task, or a sleeper. An idle CPU waits in WFI.
//!
//! # Lazy MMU mode
//!
//! A task may lose its CPU in the middle of a section. Its counters, its pauses, its announced ranges and what it owes
//! are its own and stay as they are (R11); what the CPU it leaves must do for it is [`lazymmu::Lazy::switch_out`]
//! (R17): whoever it was, its stores are complete before any other CPU can run it. What a
//! switch did is not done again: of the pair that the section owes, only the `ISB` is left.
//!
//! With a backend that keeps stores on the CPU the task is not preempted inside a section, and
//! [`might_sleep()`] refuses.

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
