// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the scheduler costs: a switch of registers, one with all that belongs to it, a yield, a tick, and lazy MMU
//! mode's part of a switch.
//!
//! One line for each comes out, of the cheapest of several repetitions:
//!
//! ```text
//! event name=switch instructions=123 spread=0 dsb=1 isb=0
//! ```
//!
//! Two tasks on one CPU take turns; a stamp that one takes before it leaves and the other one compares when it
//! comes is what lies between them.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mmu::{Context as _, Counts};

use super::{BenchError, Best};
use crate::arch::switch::{self, Context};
use crate::arch::window::{self, ROUND};
use crate::arch::{Arm64, interrupts, sysreg, timer};
use crate::mm::MMU;
use crate::println;
use crate::sched::{self, Builder, SpawnError, Stack, yield_now};

/// Times that each event is measured.
const REPETITIONS: usize = 8;

/// The instructions of a loop that a tick interrupts in the middle.
const LOOP: u64 = 4000;

/// When the task that leaves had its last word.
static STAMP: AtomicU64 = AtomicU64::new(0);
/// How long the way to the other task took.
static TOOK: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// How a task gives way.
type Leave = fn();

/// A turn: notes when it ends, and how long ago the other one's did when it begins anew.
#[inline(never)]
fn turn(leave: Leave) {
    STAMP.store(timer::ticks(), Ordering::Relaxed);
    leave();
    TOOK.store(
        timer::ticks().wrapping_sub(STAMP.load(Ordering::Relaxed)),
        Ordering::Relaxed,
    );
}

/// The way of nobody: what the stamps themselves cost.
fn stay() {}

/// The switch with the queue's decision and the hand-over, interrupts masked by the caller.
fn schedule() {
    sched::switch_now();
}

/// Two contexts that are no tasks: this one, and one on a stack of its own.
static HERE: Context = Context::new();
static THERE: Context = Context::new();

/// To the other context: from the first register that is saved to the last one that is restored.
fn there() {
    // SAFETY: interrupts are masked; both contexts are this window's, and the current task stays who it is. The bounds
    // of the stack are needed by exceptions only, of which there are none.
    unsafe { switch::switch(&HERE, &THERE, sysreg::sp_el0()) };
}

/// And back.
fn here() {
    // SAFETY: as in `there`.
    unsafe { switch::switch(&THERE, &HERE, sysreg::sp_el0()) };
}

/// The other context.
extern "C" fn answer(_: u64) -> ! {
    loop {
        turn(here);
    }
}

/// Registers only.
fn registers() -> Result<Best, BenchError> {
    let stack = Stack::new(1).map_err(|error| BenchError::Spawn(SpawnError::Stack(error)))?;
    // SAFETY: the stack is new, and free again when nobody switches there any more, below.
    unsafe { THERE.prepare(stack.bounds().top, answer, 0) };
    let mut best = Best::NONE;
    for round in 0..REPETITIONS + 2 {
        interrupts::mask_irq();
        turn(there);
        interrupts::unmask_irq();
        if round >= 2 {
            best.improve((TOOK.load(Ordering::Relaxed), Counts::default()));
        }
    }
    Ok(best)
}

/// Measures and prints everything.
///
/// # Errors
/// There is no second task.
pub(super) fn measure() -> Result<(), BenchError> {
    let mut empty = Best::NONE;
    for _ in 0..REPETITIONS {
        turn(stay);
        empty.improve((TOOK.load(Ordering::Relaxed), Counts::default()));
    }
    print("switch", registers()?, empty.ticks);
    print("schedule", ways(schedule, true)?, empty.ticks);
    print("yield", ways(yield_now, false)?, empty.ticks);
    let (calm, ticked) = ticks()?;
    print("tick", ticked, calm);
    print("switch_out", switch_out(), empty_window());
    Ok(())
}

fn print(name: &str, best: Best, without: u64) {
    let counts = best.counts.unwrap_or_default();
    println!(
        "event name={name} instructions={} spread={} dsb={} isb={}",
        best.ticks.saturating_sub(without),
        best.dearest - best.ticks,
        counts.dsb(),
        counts.isb
    );
}

/// A second task that takes turns with this one, until `STOP`.
fn other(leave: Leave, masked: bool) -> Result<sched::JoinHandle<()>, BenchError> {
    STOP.store(false, Ordering::Relaxed);
    let work = move || {
        while !STOP.load(Ordering::Relaxed) {
            if masked {
                interrupts::mask_irq();
            }
            turn(leave);
            if masked {
                interrupts::unmask_irq();
            }
        }
    };
    Builder::new("other")
        .pinned(0)
        .spawn(work)
        .map_err(BenchError::Spawn)
}

/// From one task to the other.
fn ways(leave: Leave, masked: bool) -> Result<Best, BenchError> {
    let other = other(leave, masked)?;
    let mut best = Best::NONE;
    // The first turns are the other one's first steps.
    for round in 0..REPETITIONS + 2 {
        if masked {
            interrupts::mask_irq();
        }
        let before = Arm64.counters().read();
        turn(leave);
        let spent = Arm64.counters().read() - before;
        if masked {
            interrupts::unmask_irq();
        }
        if round >= 2 {
            best.improve((TOOK.load(Ordering::Relaxed), spent));
        }
    }
    STOP.store(true, Ordering::Relaxed);
    other.join();
    Ok(best)
}

/// A loop without and with a tick in the middle; a second task is ready, so that the timer is armed anew.
fn ticks() -> Result<(u64, Best), BenchError> {
    let other = other(yield_now, false)?;
    yield_now();
    let mut calm = Best::NONE;
    let mut ticked = Best::NONE;
    for armed in [false, true] {
        for _ in 0..REPETITIONS {
            let before = Arm64.counters().read();
            let start = timer::ticks();
            // The same instructions both times.
            timer::arm_at(start + if armed { LOOP / 2 } else { LOOP * 1000 });
            window::spend(LOOP / ROUND);
            let took = timer::ticks() - start;
            let spent = Arm64.counters().read() - before;
            if armed {
                ticked.improve((took, spent));
            } else {
                calm.improve((took, spent));
            }
        }
    }
    STOP.store(true, Ordering::Relaxed);
    other.join();
    Ok((calm.ticks, ticked))
}

#[inline(never)]
fn empty_window() -> u64 {
    let mut best = Best::NONE;
    for _ in 0..REPETITIONS {
        let start = timer::ticks();
        best.improve((timer::ticks() - start, Counts::default()));
    }
    best.ticks
}

/// What the library does at a switch of a task that is in no section: a check, and the barrier with its counting.
#[inline(never)]
fn switch_out() -> Best {
    let mut best = Best::NONE;
    for _ in 0..REPETITIONS {
        let before = Arm64.counters().read();
        interrupts::mask_irq();
        let start = timer::ticks();
        let left = MMU.lazy().switch_out();
        let took = timer::ticks() - start;
        interrupts::unmask_irq();
        if left.is_ok() {
            best.improve((took, Arm64.counters().read() - before));
        }
    }
    best
}
