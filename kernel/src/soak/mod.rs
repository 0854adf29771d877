// SPDX-License-Identifier: MIT OR Apache-2.0

//! The soak: random tasks on all CPUs for some time (`mode=soak seconds=N seed=N`).
//! `cargo xtask test --soak` boots it.
//!
//! Each [worker] maps, changes and unmaps pages of its own in sections of any depth, with pauses,
//! announced ranges, yields, sleeps, migrations, child tasks and a shared mutex. It knows after
//! each step what its pages and its lazy state must be. Meanwhile CPUs interrupt each other, also
//! in sections, time slices are short, and from time to time there is no memory for a moment.
//!
//! At the end no worker owes a barrier, nothing has leaked, and the counts match the requests. One
//! line gives the totals:
//!
//! ```text
//! soak steps=123456 sections=2345 switches=34567 preemptions=4567 refused=0 arrivals=890 stolen=90 out_of_memory=12
//! ```
//!
//! The first error ends the run, and its message has the worker's seed and step. A worker's own
//! steps are repeatable. What other tasks do in the meantime is not, if there is more than one CPU.

mod worker;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use lazymmu::LazyMmuError;

use self::worker::{Report, Worker};
use crate::arch::timer;
use crate::mm::vmap::VmapError;
use crate::mm::{MMU, frames, heap};
use crate::platform::exit::Status;
use crate::platform::interrupts::{self, IntId, InterruptError};
use crate::println;
use crate::sched::{self, Slices, SpawnError};
use crate::text::Text;
use crate::wrap_errors;

/// The interrupt that CPUs send each other.
const DISTURB: IntId = IntId::sgi(3);

/// The length of a time slice during the soak, in microseconds.
const SLICE: u64 = 150;

/// The number of workers for each CPU.
const WORKERS: usize = 3;

/// Tells the workers to end.
static STOP: AtomicBool = AtomicBool::new(false);
/// The number of interrupts that found an error.
static WRONG_IN_INTERRUPT: AtomicU64 = AtomicU64::new(0);

/// What went wrong.
#[derive(Debug)]
pub enum SoakError {
    /// A worker could not be started.
    Spawn(SpawnError),
    /// A worker could not get its pages.
    Pages(VmapError),
    /// Frames are exhausted before the soak begins.
    Frames(frames::OutOfFrames),
    /// The interrupt could not be registered or sent.
    Interrupt(InterruptError),
    /// A worker found an error.
    Worker(Box<Text<256>>),
    /// This many interrupts found an error.
    InInterrupt(u64),
    /// A count at the end differs from the one before the soak.
    Left {
        /// What was counted.
        what: &'static str,
        /// The count before the soak.
        before: usize,
        /// The count after it.
        after: usize,
    },
}

wrap_errors!(SoakError {
    SpawnError => Spawn,
    VmapError => Pages,
    frames::OutOfFrames => Frames,
    InterruptError => Interrupt,
});

impl fmt::Display for SoakError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => error.fmt(f),
            Self::Pages(error) => error.fmt(f),
            Self::Frames(error) => error.fmt(f),
            Self::Interrupt(error) => error.fmt(f),
            Self::Worker(text) => f.write_str(text.as_str()),
            Self::InInterrupt(count) => write!(
                f,
                "{count} interrupts found lazy MMU mode active, or a call that had an effect (R3)"
            ),
            Self::Left {
                what,
                before,
                after,
            } => write!(f, "{what}: {before} before the soak, {after} after"),
        }
    }
}

impl core::error::Error for SoakError {}

/// Runs the soak for `seconds`, with random numbers that start from `seed`.
#[must_use]
pub fn main(seconds: u64, seed: u64) -> Status {
    println!(
        "soak seconds={seconds} seed={seed} cpus={} backend={} policy={}",
        sched::online().0.count_ones(),
        MMU.backend(),
        MMU.policy()
    );
    match run(seconds, seed) {
        Ok(()) => Status::Success,
        Err(error) => {
            println!("error: {error}");
            Status::Failure
        }
    }
}

/// The counts that must be the same before and after the soak.
fn snapshot() -> [(&'static str, usize); 3] {
    [
        ("tasks", sched::alive()),
        ("frames in use", frames::usage().used - heap::frames_held()),
        ("bytes of heap in use", heap::bytes_used()),
    ]
}

fn run(seconds: u64, seed: u64) -> Result<(), SoakError> {
    // A first short run makes the tables and lists that are kept.
    let tasks = sched::alive();
    soak(Duration::from_millis(200), seed ^ 1)?;
    settle(tasks);
    let before = snapshot();
    let report = soak(Duration::from_secs(seconds), seed)?;
    settle(before[0].1);
    for ((what, before), (_, after)) in before.into_iter().zip(snapshot()) {
        if before != after {
            return Err(SoakError::Left {
                what,
                before,
                after,
            });
        }
    }
    println!("{report}");
    Ok(())
}

/// Waits until the tasks that have ended are freed.
fn settle(tasks: usize) {
    for _ in 0..1000 {
        if sched::alive() <= tasks && sched::is_quiet() {
            break;
        }
        sched::sleep(Duration::from_millis(1));
    }
}

fn disturbed(_: IntId) {
    let lazy = MMU.lazy();
    let before = lazy.state();
    let calls: [Result<(), LazyMmuError>; 4] =
        [lazy.enable(), lazy.pause(), lazy.resume(), lazy.disable()];
    lazy.flush();
    if lazy.state() != before || calls.iter().any(Result::is_err) || lazy.is_lazy_mmu_mode_active()
    {
        WRONG_IN_INTERRUPT.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs all workers for `time`; returns the sum of their reports.
fn soak(time: Duration, seed: u64) -> Result<Report, SoakError> {
    STOP.store(false, Ordering::Relaxed);
    let cpus: Vec<usize> = (0..sched::MAX_CPUS)
        .filter(|cpu| sched::online().has(*cpu))
        .collect();
    let switches = || totals(&cpus);
    let before = switches();
    let slices = Slices::of((timer::frequency() * SLICE / 1_000_000) as u32);
    interrupts::register(DISTURB, disturbed)?;
    let mut handles = Vec::new();
    for number in 0..WORKERS * cpus.len() {
        let worker = Worker::new(seed, number as u64)?;
        handles.push(sched::spawn("worker", move || worker.run(&STOP))?);
    }
    let until = timer::ticks() + (time.as_micros() as u64) * timer::frequency() / 1_000_000;
    let mut round = 0_u64;
    while timer::ticks() < until && handles.iter().all(|handle| !handle.is_finished()) {
        round += 1;
        interrupts::send_to_others(DISTURB)?;
        interrupts::send_to_self(DISTURB)?;
        if round.is_multiple_of(8) {
            // For a moment there is almost no memory.
            frames::set_budget(Some((round % 3) as usize));
            sched::sleep(Duration::from_micros(40));
            frames::set_budget(None);
        }
        sched::sleep(Duration::from_micros(200));
    }
    STOP.store(true, Ordering::Relaxed);
    let mut report = Report::default();
    let mut failed = None;
    for handle in handles {
        match handle.join() {
            Ok(one) => report.add(&one),
            Err(text) => failed = failed.or(Some(SoakError::Worker(Box::new(text)))),
        }
    }
    let unregistered = interrupts::unregister(DISTURB);
    drop(slices);
    if let Some(error) = failed {
        return Err(error);
    }
    unregistered?;
    let wrong = WRONG_IN_INTERRUPT.swap(0, Ordering::Relaxed);
    if wrong != 0 {
        return Err(SoakError::InInterrupt(wrong));
    }
    let after = switches();
    report.cpus = core::array::from_fn(|i| after[i] - before[i]);
    Ok(report)
}

/// The switches, preemptions, refused switches, arrivals and stolen tasks of all CPUs.
fn totals(cpus: &[usize]) -> [u64; 5] {
    let mut totals = [0; 5];
    for cpu in cpus {
        let stats = sched::stats(*cpu);
        let parts = [
            stats.switches,
            stats.preemptions,
            stats.refused,
            stats.arrivals,
            stats.stolen,
        ];
        for (total, part) in totals.iter_mut().zip(parts) {
            *total += part;
        }
    }
    totals
}
