// SPDX-License-Identifier: MIT OR Apache-2.0
//! The windows of the scheduler: what a switch of registers, a whole switch, a yield, a tick, and
//! lazy MMU mode's part of a switch cost.
//!
//! The output has one line for each event, for the cheapest of several repetitions:
//!
//! ```text
//! event name=switch op=130 instructions=123 spread=0 dsb=1 isb=0
//! ```
//!
//! `op` is the number of the event's windows. A window ends on the CPU on which it began, but it
//! may end in another task.
//!
//! Two tasks on one CPU take turns. A task stores a time stamp before it leaves, and the other task
//! compares the stamp with the time when it arrives. The difference is the cost of the event.

use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lazymmu::Counts;

use super::best::{BenchError, Best, Counter};
use crate::arch::switch::{self, Context};
use crate::arch::window::{self, ROUND, WindowId};
use crate::arch::{interrupts, sysreg, timer};
use crate::mm::MMU;
use crate::println;
use crate::sched::{self, Builder, Slices, SpawnError, Stack, WaitQueue, yield_now};

/// How many times each event is measured.
const REPETITIONS: usize = 8;

/// The instructions of the loop that a tick interrupts in the middle.
const LOOP: u64 = 4000;

/// The time at which the leaving task stored its stamp.
static STAMP: AtomicU64 = AtomicU64::new(0);
/// How long the switch to the other task took.
static TOOK: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// How a task gives up its CPU.
type Leave = fn();

/// An event that is measured.
#[derive(Clone, Copy)]
struct Event {
    name: &'static str,
    /// The number of its windows.
    op: u8,
}

impl Event {
    const fn new(name: &'static str, op: u8) -> Self {
        Self { name, op }
    }

    const fn id(self) -> WindowId {
        WindowId::new(self.op, 0)
    }
}

/// The cost of the stamps themselves. Number 0 is also the empty window of the operations.
const NOTHING: Event = Event::new("nothing", 0);
const SWITCH: Event = Event::new("switch", 130);
const SCHEDULE: Event = Event::new("schedule", 131);
const YIELD: Event = Event::new("yield", 132);
const TICK: Event = Event::new("tick", 133);
const SWITCH_OUT: Event = Event::new("switch_out", 134);
/// Waking a task on another CPU: the waker's part.
const WAKE: Event = Event::new("wake", 135);
/// The sleeper's part on the other CPU, from the decision to sleep to the return from it. The CPU
/// idles in between.
const WOKEN: Event = Event::new("woken", 136);
/// The loop of [`TICK`] without a tick.
const CALM: Event = Event::new("calm", 137);
/// The code that surrounds the library's part of a switch.
const EMPTY: Event = Event::new("empty", 138);

/// A turn: stores the time at which the task leaves and, when the task is back, computes how long
/// ago the other task left.
#[inline(never)]
fn turn(event: Event, leave: Leave) {
    window::begin(event.id());
    STAMP.store(timer::ticks(), Ordering::Relaxed);
    leave();
    window::end(event.id());
    TOOK.store(
        timer::ticks().wrapping_sub(STAMP.load(Ordering::Relaxed)),
        Ordering::Relaxed,
    );
}

/// Leaves nothing: the turn then shows the cost of the stamps.
fn stay() {}

/// The whole switch, with the queue's decision and the hand-over. The caller has masked interrupts.
fn schedule() {
    sched::switch_now();
}

/// Two contexts that are not tasks: this one, and one on a stack of its own.
static HERE: Context = Context::new();
static THERE: Context = Context::new();

/// Switches to the other context. The window covers the code from the first register that is saved
/// to the last one that is restored.
fn there() {
    // SAFETY: interrupts are masked. Both contexts belong to this window, and the current task
    // stays the same. Only exceptions need the bounds of the stack, and there are none.
    unsafe { switch::switch(&HERE, &THERE, sysreg::sp_el0()) };
}

/// Switches back.
fn here() {
    // SAFETY: as in `there`.
    unsafe { switch::switch(&THERE, &HERE, sysreg::sp_el0()) };
}

/// The code of the other context.
extern "C" fn answer(_: u64) -> ! {
    loop {
        turn(SWITCH, here);
    }
}

/// Measures a switch of registers only.
fn registers() -> Result<Best, BenchError> {
    let stack = Stack::new(1).map_err(|error| BenchError::Spawn(SpawnError::Stack(error)))?;
    // SAFETY: the stack is new, and it is freed below, after the last switch to it.
    unsafe { THERE.prepare(stack.bounds().top, answer, 0) };
    let mut best = Best::NONE;
    for round in 0..REPETITIONS + 2 {
        interrupts::mask_irq();
        turn(SWITCH, there);
        interrupts::unmask_irq();
        if round >= 2 {
            best.improve((TOOK.load(Ordering::Relaxed), Counts::default()));
        }
    }
    // The other context has left for the last time, in a turn that it does not end.
    window::end(SWITCH.id());
    Ok(best)
}

/// Measures and prints everything.
///
/// # Errors
/// A second task could not be started.
pub(super) fn measure(counter: Counter) -> Result<(), BenchError> {
    let mut empty = Best::NONE;
    for _ in 0..REPETITIONS {
        turn(NOTHING, stay);
        empty.improve((TOOK.load(Ordering::Relaxed), Counts::default()));
    }
    let print = |event, best, without| print(counter, event, best, without);
    print(SWITCH, registers()?, empty.ticks);
    print(SCHEDULE, ways(SCHEDULE, schedule, true)?, empty.ticks);
    print(YIELD, ways(YIELD, yield_now, false)?, empty.ticks);
    let (calm, ticked) = ticks()?;
    print(TICK, ticked, calm);
    let empty = cheapest(EMPTY, || true);
    print(SWITCH_OUT, cheapest(SWITCH_OUT, switch_out), empty.ticks);
    if counter == Counter::Outside && sched::online().0 > 1 {
        wakes()?;
    }
    Ok(())
}

fn print(counter: Counter, Event { name, op }: Event, best: Best, without: u64) {
    // Nothing was measured.
    let Some(counts) = best.counts else { return };
    println!(
        "event name={name} op={op}{} dsb={} isb={}",
        best.taken(counter, without),
        counts.dsb(),
        counts.isb
    );
}

/// Starts a second task that takes turns with this one, until `STOP`.
fn other(event: Event, leave: Leave, masked: bool) -> Result<sched::JoinHandle<()>, BenchError> {
    STOP.store(false, Ordering::Relaxed);
    let work = move || {
        while !STOP.load(Ordering::Relaxed) {
            if masked {
                interrupts::mask_irq();
            }
            turn(event, leave);
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

/// Measures the switch from one task to the other.
fn ways(event: Event, leave: Leave, masked: bool) -> Result<Best, BenchError> {
    let other = other(event, leave, masked)?;
    let mut best = Best::NONE;
    // In the first turns the other task starts.
    for round in 0..REPETITIONS + 2 {
        if masked {
            interrupts::mask_irq();
        }
        let before = MMU.counts();
        turn(event, leave);
        let spent = MMU.counts() - before;
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

/// Measures a loop without and with a tick in the middle. A second task is ready, so that the tick
/// arms the timer again.
fn ticks() -> Result<(u64, Best), BenchError> {
    let other = other(NOTHING, yield_now, false)?;
    yield_now();
    // With `-icount` an instruction takes a nanosecond.
    let half = LOOP / 2 * timer::frequency() / 1_000_000_000;
    let mut calm = Best::NONE;
    let mut ticked = Best::NONE;
    for (event, after, best) in [(CALM, half * 2000, &mut calm), (TICK, half, &mut ticked)] {
        for _ in 0..REPETITIONS {
            let before = MMU.counts();
            let took = lap(black_box(event), black_box(after));
            best.improve((took, MMU.counts() - before));
        }
    }
    STOP.store(true, Ordering::Relaxed);
    other.join();
    Ok((calm.ticks, ticked))
}

/// Executes the loop with the timer armed to fire after `after` ticks, and returns the ticks that it
/// took. It is one function with and without a tick, so that both execute the same instructions.
#[inline(never)]
fn lap(event: Event, after: u64) -> u64 {
    let start = timer::ticks();
    timer::arm_at(start + after);
    window::begin(event.id());
    window::spend(LOOP / ROUND);
    window::end(event.id());
    timer::ticks() - start
}

/// Executes `work` in a window of `event`, and returns the ticks that it took and its result. It is
/// one function, so that the same instructions surround each `work`.
#[inline(never)]
fn timed(event: Event, work: fn() -> bool) -> (u64, bool) {
    let work = black_box(work);
    let _masked = interrupts::mask();
    window::begin(event.id());
    let start = timer::ticks();
    let done = work();
    let took = timer::ticks() - start;
    window::end(event.id());
    (took, done)
}

/// Returns the cheapest of several executions, without those for which `work` returns `false`.
fn cheapest(event: Event, work: fn() -> bool) -> Best {
    let mut best = Best::NONE;
    for _ in 0..REPETITIONS {
        let before = MMU.counts();
        let (took, done) = timed(event, work);
        if done {
            best.improve((took, MMU.counts() - before));
        }
    }
    best
}

/// Does what the library does at a switch of a task that is in no section: a check, and the barrier
/// with its counting.
fn switch_out() -> bool {
    MMU.lazy().switch_out().is_ok()
}

/// Measures a wake-up: a task on CPU 1 sleeps and is woken from CPU 0. Only a counter outside knows
/// which CPU has executed what.
///
/// Slices are as long as possible. If a slice ended while the sleeper's CPU idles, which happens on
/// a busy host, the sleeper's window would contain a tick and the arming of the timer.
fn wakes() -> Result<(), BenchError> {
    static SLEEPER: WaitQueue = WaitQueue::new();
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let _slices = Slices::longest();
    let sleeper = || {
        let mut best = Best::NONE;
        for call in 1..=REPETITIONS as u64 {
            let before = MMU.counts();
            window::begin(WOKEN.id());
            SLEEPER.wait_until(|| CALLS.load(Ordering::Relaxed) >= call);
            window::end(WOKEN.id());
            best.improve((0, MMU.counts() - before));
        }
        best
    };
    let sleeper = Builder::new("sleeper").pinned(1).spawn(sleeper);
    let sleeper = sleeper.map_err(BenchError::Spawn)?;
    let mut best = Best::NONE;
    for _ in 0..REPETITIONS {
        while SLEEPER.is_empty() {
            yield_now();
        }
        // The sleeper is on the queue, and its CPU is about to idle.
        window::spend(1 << 16);
        interrupts::mask_irq();
        let before = MMU.counts();
        window::begin(WAKE.id());
        CALLS.fetch_add(1, Ordering::Relaxed);
        SLEEPER.wake_all();
        window::end(WAKE.id());
        best.improve((0, MMU.counts() - before));
        interrupts::unmask_irq();
    }
    let woken = sleeper.join();
    print(Counter::Outside, WAKE, best, 0);
    print(Counter::Outside, WOKEN, woken, 0);
    Ok(())
}
