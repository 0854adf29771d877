// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks, time slices, sleeping and locks, on any number of CPUs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use super::fixture::{spin_for, spin_until};
use super::interrupts::in_interrupt;
use super::sched_fixture::{
    Slices, cpus, join_and_settle, pinned, second_cpu, settle, switches_of_cpu, ticks,
};
use crate::arch::switch::{self, Context};
use crate::arch::{interrupts, sysreg, timer};
use crate::mm::{frames, heap};
use crate::platform;
use crate::sched::{
    self, Builder, CannotSleep, CpuMask, Mutex, STACK_PAGES, SpawnError, Task, WaitQueue,
    may_sleep, preempt, spawn, yield_now,
};
use crate::selftest::prelude::*;
use crate::sync::IrqLock;

suite! {
    name: "sched",
    order: 50,
    tests: [
        case!(QemuVisible, a_task_runs_and_leaves_a_value),
        case!(QemuVisible, a_detached_task_is_cleared_away),
        case!(QemuVisible, a_value_nobody_takes_is_dropped),
        case!(QemuVisible, tasks_take_turns),
        case!(QemuVisible, a_time_slice_ends),
        case!(QemuVisible, preemption_off_keeps_the_cpu),
        case!(QemuVisible, sleepers_wake_in_order_and_not_early),
        case!(QemuVisible, a_mutex_excludes_and_may_be_held_asleep),
        case!(QemuVisible, an_interrupt_wakes_who_waits),
        case!(QemuVisible, r38_might_sleep_says_what_forbids_it),
        case!(QemuVisible, one_task_needs_no_ticks),
        case!(QemuVisible, a_task_costs_its_stack_and_512_bytes),
        case!(QemuVisible, no_memory_for_a_stack),
        case!(QemuVisible, requests_that_are_refused),
        case!(QemuVisible, registers_survive_a_switch),
        group!("smp", [
            case!(QemuVisible, a_pinned_task_stays),
            case!(QemuVisible, a_task_moves_when_it_is_told_to),
            case!(QemuVisible, no_cpu_idles_while_another_has_two_tasks),
            case!(QemuVisible, a_wake_up_reaches_an_idle_cpu),
            case!(QemuVisible, preemption_off_is_the_tasks_own),
        ]),
    ],
}

fn a_task_runs_and_leaves_a_value() -> TestResult {
    let captured = Box::new(40);
    let handle = expect_ok!(spawn("adder", move || {
        let name = sched::current().name();
        Box::new(*captured + name.len())
    }));
    expect_eq!(*handle.join(), 45);
    Ok(())
}

fn a_detached_task_is_cleared_away() -> TestResult {
    static RAN: AtomicU32 = AtomicU32::new(0);
    RAN.store(0, Ordering::Relaxed);
    let used = frames::usage().used;
    for _ in 0..3 {
        // One handle is dropped after its task has ended and one before, so both ways of freeing a
        // task are used.
        let handle = expect_ok!(spawn("detached", || {
            RAN.fetch_add(1, Ordering::Relaxed);
        }));
        expect!(settle(|| handle.is_finished()));
        drop(handle);
        drop(expect_ok!(spawn("detached", || {
            RAN.fetch_add(1, Ordering::Relaxed);
        })));
    }
    expect!(settle(
        || RAN.load(Ordering::Relaxed) == 6 && frames::usage().used == used
    ));
    Ok(())
}

/// Counts how often it is dropped.
struct Counted(&'static AtomicU32);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn a_value_nobody_takes_is_dropped() -> TestResult {
    static DROPPED: AtomicU32 = AtomicU32::new(0);
    DROPPED.store(0, Ordering::Relaxed);
    let early = expect_ok!(spawn("early", || Counted(&DROPPED)));
    expect!(settle(|| early.is_finished()));
    expect_eq!(DROPPED.load(Ordering::Relaxed), 0);
    drop(early);
    expect_eq!(DROPPED.load(Ordering::Relaxed), 1);
    drop(expect_ok!(spawn("late", || {
        sched::sleep(Duration::from_millis(1));
        Counted(&DROPPED)
    })));
    expect!(settle(|| DROPPED.load(Ordering::Relaxed) == 2));
    Ok(())
}

fn tasks_take_turns() -> TestResult {
    let turns = Arc::new(IrqLock::new(Vec::new()));
    let mut handles = Vec::new();
    // No task begins before all exist, and no task loses a turn to a time slice, which would be
    // short on a busy host.
    let _slices = Slices::endless();
    let off = preempt::off();
    for number in 0..3_u32 {
        let turns = Arc::clone(&turns);
        handles.push(expect_ok!(pinned("turns", 0, move || {
            for _ in 0..4 {
                turns.lock().push(number);
                yield_now();
            }
        })));
    }
    drop(off);
    for handle in handles {
        handle.join();
    }
    expect_eq!(*turns.lock(), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    Ok(())
}

fn a_time_slice_ends() -> TestResult {
    static COUNTS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let before = sched::stats(0);
    let mut handles = Vec::new();
    for count in &COUNTS {
        count.store(0, Ordering::Relaxed);
        handles.push(expect_ok!(pinned("spinner", 0, move || {
            while !STOP.load(Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        })));
    }
    // Neither task yields, so this task's sleep can end only with a preemption.
    let both = settle(|| COUNTS.iter().all(|count| count.load(Ordering::Relaxed) > 0));
    STOP.store(true, Ordering::Relaxed);
    for handle in handles {
        handle.join();
    }
    expect!(both);
    expect!(sched::stats(0).preemptions > before.preemptions);
    Ok(())
}

fn preemption_off_keeps_the_cpu() -> TestResult {
    static RAN: AtomicBool = AtomicBool::new(false);
    RAN.store(false, Ordering::Relaxed);
    let _slices = Slices::of(Duration::from_micros(100));
    // This switch begins a slice of that length.
    sched::sleep(Duration::from_micros(100));
    let off = preempt::off();
    let other = expect_ok!(pinned("other", 0, || RAN.store(true, Ordering::Relaxed)));
    let switches = sched::current().switches();
    // Two ticks are awaited: the second one comes after the end of the slice, even if the host
    // delays it.
    let ticks = sched::stats(0).ticks;
    spin_until(|| RAN.load(Ordering::Relaxed) || sched::stats(0).ticks >= ticks + 2);
    let ran = RAN.load(Ordering::Relaxed);
    drop(off);
    // The slice of this task is over, so the task is preempted here.
    let gave_way = sched::current().switches() > switches;
    other.join();
    expect!(!ran, "the other task ran while preemption was off");
    expect!(gave_way, "the preemption that was due was forgotten");
    Ok(())
}

fn sleepers_wake_in_order_and_not_early() -> TestResult {
    let asked = Duration::from_micros(333);
    let start = timer::ticks();
    sched::sleep(asked);
    expect!(timer::ticks() - start >= ticks(asked));
    // If a deadline passes on a busy host before all tasks sleep, their order proves nothing. Then
    // the test is repeated with deadlines that are further apart.
    let mut apart = ticks(Duration::from_millis(20));
    while !wake_in_order(apart)? {
        apart *= 2;
    }
    Ok(())
}

/// Lets three tasks sleep until deadlines that are `apart` ticks apart. Returns `false` if the
/// first deadline had passed before the last task slept.
fn wake_in_order(apart: u64) -> Result<bool, Outcome> {
    static BEGUN: AtomicU32 = AtomicU32::new(0);
    BEGUN.store(0, Ordering::Relaxed);
    let order = Arc::new(IrqLock::new(Vec::new()));
    // A task that has begun keeps the CPU until it sleeps.
    let _slices = Slices::endless();
    let start = timer::ticks();
    let mut handles = Vec::new();
    for number in [3_u64, 1, 2] {
        let order = Arc::clone(&order);
        handles.push(expect_ok!(pinned("sleeper", 0, move || {
            let deadline = start + number * apart;
            BEGUN.fetch_add(1, Ordering::Relaxed);
            sched::sleep_until(deadline);
            order.lock().push(number);
            timer::ticks() >= deadline
        })));
    }
    while BEGUN.load(Ordering::Relaxed) < 3 {
        yield_now();
    }
    let in_time = timer::ticks() < start + apart;
    for handle in handles {
        expect!(handle.join(), "a sleep was too short");
    }
    expect!(!in_time || *order.lock() == [1, 2, 3]);
    Ok(in_time)
}

fn a_mutex_excludes_and_may_be_held_asleep() -> TestResult {
    const ROUNDS: u64 = 20;
    let total = Arc::new(Mutex::new(0));
    let mut handles = Vec::new();
    for _ in 0..4 {
        let total = Arc::clone(&total);
        handles.push(expect_ok!(spawn("adder", move || {
            for round in 0..ROUNDS {
                let mut total = total.lock();
                let seen = *total;
                match round % 3 {
                    0 => yield_now(),
                    1 => sched::sleep(Duration::from_micros(50)),
                    _ => {}
                }
                *total = seen + 1;
            }
        })));
    }
    for handle in handles {
        handle.join();
    }
    expect_eq!(*total.lock(), 4 * ROUNDS);
    let held = total.lock();
    expect!(total.try_lock().is_none());
    drop(held);
    Ok(())
}

fn an_interrupt_wakes_who_waits() -> TestResult {
    static READY: AtomicBool = AtomicBool::new(false);
    static QUEUE: WaitQueue = WaitQueue::new();
    READY.store(false, Ordering::Relaxed);
    let waiter = expect_ok!(spawn("waiter", || {
        QUEUE.wait_until(|| READY.load(Ordering::Relaxed));
    }));
    expect!(settle(|| QUEUE.len() == 1));
    // A wake-up has no effect while the condition is false.
    QUEUE.wake_all();
    expect!(settle(|| QUEUE.len() == 1));
    expect!(!waiter.is_finished());
    expect_ok!(in_interrupt(|| {
        READY.store(true, Ordering::Relaxed);
        QUEUE.wake_one();
    }));
    waiter.join();
    Ok(())
}

fn r38_might_sleep_says_what_forbids_it() -> TestResult {
    static IN_INTERRUPT: AtomicBool = AtomicBool::new(false);
    expect_eq!(may_sleep(), Ok(()));
    let off = preempt::off();
    expect_eq!(may_sleep(), Err(CannotSleep::PreemptOff));
    drop(off);
    let off = preempt::bottom_halves_off();
    expect_eq!(may_sleep(), Err(CannotSleep::BottomHalvesOff));
    drop(off);
    let masked = interrupts::mask();
    expect_eq!(may_sleep(), Err(CannotSleep::Masked));
    drop(masked);
    IN_INTERRUPT.store(false, Ordering::Relaxed);
    expect_ok!(in_interrupt(|| {
        let refused = may_sleep() == Err(CannotSleep::Interrupt);
        IN_INTERRUPT.store(refused, Ordering::Relaxed);
    }));
    expect!(IN_INTERRUPT.load(Ordering::Relaxed));
    expect_eq!(may_sleep(), Ok(()));
    Ok(())
}

fn one_task_needs_no_ticks() -> TestResult {
    // By the end of this sleep, ticks that earlier tests have armed are over.
    sched::sleep(Duration::from_millis(12));
    let before = sched::stats(0);
    spin_for(ticks(Duration::from_millis(20)));
    let alone = sched::stats(0).ticks - before.ticks;
    expect!(alone <= 1, "{alone} ticks in 20 ms with one task");
    // A task that sleeps needs one tick, and the CPU is idle until then.
    sched::sleep(Duration::from_millis(20));
    let after = sched::stats(0);
    expect!(
        after.ticks - before.ticks <= 4,
        "{} ticks",
        after.ticks - before.ticks
    );
    expect!(after.idle > before.idle);
    Ok(())
}

fn a_task_costs_its_stack_and_512_bytes() -> TestResult {
    expect!(size_of::<Task>() + 16 <= 512);
    // The first task may take tables for the stacks and room in the list of areas. Both are kept.
    join_and_settle(expect_ok!(spawn("warm-up", || ())));
    let frames_before = frames::usage().used;
    let heap_before = heap::bytes_used();
    let task = expect_ok!(spawn("measured", || ()));
    let frames = frames::usage().used - frames_before;
    let heap = heap::bytes_used() - heap_before;
    join_and_settle(task);
    expect_eq!(frames, STACK_PAGES);
    expect!(heap <= 512, "{heap} bytes of heap");
    expect_eq!(frames::usage().used, frames_before);
    expect_eq!(heap::bytes_used(), heap_before);
    Ok(())
}

fn no_memory_for_a_stack() -> TestResult {
    let used = frames::usage().used;
    for budget in [0, STACK_PAGES - 1] {
        frames::set_budget(Some(budget));
        let result = spawn("too much", || ());
        frames::set_budget(None);
        expect_matches!(result, Err(SpawnError::Stack(_)));
        expect_eq!(frames::usage().used, used);
    }
    Ok(())
}

fn requests_that_are_refused() -> TestResult {
    let large = [0_u64; 1024];
    let result = spawn("large", move || large.len());
    expect_matches!(result, Err(SpawnError::TooLarge { .. }));
    let result = Builder::new("nowhere").pinned(31).spawn(|| ());
    expect_matches!(result, Err(SpawnError::NoSuchCpu(_)));
    expect!(sched::migrate(31).is_err());
    expect_eq!(sched::allowed(), CpuMask::only(0));
    Ok(())
}

/// Switches to another stack and back. Both sides have values of their own in every register that a
/// switch saves. The test does not use the scheduler, whose functions save most of the registers
/// themselves and would hide a register that the switch does not save.
fn registers_survive_a_switch() -> TestResult {
    static HERE: Context = Context::new();
    static THERE: Context = Context::new();
    static CHANGED: AtomicU64 = AtomicU64::new(0);
    extern "C" fn go() {
        // SAFETY: interrupts are masked, no other code knows these contexts, and the current task
        // stays the same. There is no exception that would need the stack's bounds.
        unsafe { switch::switch(&HERE, &THERE, sysreg::sp_el0()) };
    }
    extern "C" fn come_back() {
        // SAFETY: as above.
        unsafe { switch::switch(&THERE, &HERE, sysreg::sp_el0()) };
    }
    extern "C" fn other_side(seed: u64) -> ! {
        loop {
            let changed = switch::keeps_registers(come_back, seed);
            CHANGED.fetch_or(changed, Ordering::Relaxed);
        }
    }
    CHANGED.store(0, Ordering::Relaxed);
    let stack = Box::new([0_u64; 512]);
    let top = stack.as_ptr_range().end.expose_provenance() as u64 & !15;
    let masked = interrupts::mask();
    // SAFETY: the address is the upper end of the box, which is kept until after the last switch
    // from the other side.
    unsafe { THERE.prepare(top, other_side, 0x5a5a_0001_0000) };
    let changed = (0..3).fold(0, |changed, round| {
        changed | switch::keeps_registers(go, 0x3c3c_0002_0000 | round << 8)
    });
    drop(masked);
    drop(stack);
    expect_eq!((changed, CHANGED.load(Ordering::Relaxed)), (0, 0));
    Ok(())
}

fn a_pinned_task_stays() -> TestResult {
    let _ = second_cpu()?;
    let mut handles = Vec::new();
    for cpu in cpus() {
        handles.push(expect_ok!(pinned("pinned", cpu, move || {
            (0..20).all(|_| {
                yield_now();
                sched::sleep(Duration::from_micros(20));
                sched::cpu() == cpu
            })
        })));
    }
    for handle in handles {
        expect!(handle.join(), "a pinned task was elsewhere");
    }
    Ok(())
}

fn a_task_moves_when_it_is_told_to() -> TestResult {
    let other = second_cpu()?;
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    // The task moves itself.
    let itself = expect_ok!(spawn("mover", move || {
        (0..50).all(|round| {
            let cpu = if round % 2 == 0 { other } else { 0 };
            sched::migrate(cpu).is_ok() && sched::cpu() == cpu
        })
    }));
    expect!(itself.join());
    // Another task moves it, while it runs, sleeps, and is ready.
    let moved = expect_ok!(pinned("moved", other, || {
        while !STOP.load(Ordering::Relaxed) {
            sched::sleep(Duration::from_micros(30));
        }
    }));
    let mut ok = true;
    for round in 0..40 {
        let cpu = if round % 2 == 0 { 0 } else { other };
        ok &= sched::set_allowed(moved.task(), CpuMask::only(cpu)).is_ok();
        ok &= settle(|| moved.task().cpu() == cpu);
    }
    STOP.store(true, Ordering::Relaxed);
    moved.join();
    expect!(ok);
    Ok(())
}

fn no_cpu_idles_while_another_has_two_tasks() -> TestResult {
    let _ = second_cpu()?;
    let online = cpus().count();
    static STOP: AtomicBool = AtomicBool::new(false);
    static WHERE: AtomicU32 = AtomicU32::new(0);
    STOP.store(false, Ordering::Relaxed);
    WHERE.store(0, Ordering::Relaxed);
    let mut handles = Vec::new();
    for _ in 0..online {
        // The tasks begin on one CPU, and are allowed to leave it there.
        handles.push(expect_ok!(pinned("worker", 0, || {
            while !STOP.load(Ordering::Relaxed) {
                WHERE.fetch_or(1 << sched::cpu(), Ordering::Relaxed);
            }
        })));
    }
    for handle in &handles {
        expect_ok!(sched::set_allowed(handle.task(), CpuMask::ALL));
    }
    let spread = settle(|| WHERE.load(Ordering::Relaxed) == sched::online().0);
    STOP.store(true, Ordering::Relaxed);
    for handle in handles {
        handle.join();
    }
    expect!(
        spread,
        "of the CPUs {:#x} only {:#x} ran something",
        sched::online().0,
        WHERE.load(Ordering::Relaxed)
    );
    Ok(())
}

fn a_wake_up_reaches_an_idle_cpu() -> TestResult {
    let other = second_cpu()?;
    static TURN: AtomicU32 = AtomicU32::new(0);
    static QUEUE: WaitQueue = WaitQueue::new();
    TURN.store(0, Ordering::Relaxed);
    const ROUNDS: u32 = 50;
    let before = switches_of_cpu(other);
    let echo = expect_ok!(pinned("echo", other, || {
        for round in 0..ROUNDS {
            QUEUE.wait_until(|| TURN.load(Ordering::Acquire) == 2 * round + 1);
            TURN.store(2 * round + 2, Ordering::Release);
            QUEUE.wake_all();
        }
    }));
    let mut asleep = true;
    for round in 0..ROUNDS {
        // The other task has run and slept once more, so its CPU has nothing to do, and each
        // wake-up causes a switch there.
        let switches = before + 2 * (u64::from(round) + 1);
        asleep &= settle(|| QUEUE.len() == 1 && switches_of_cpu(other) >= switches);
        TURN.store(2 * round + 1, Ordering::Release);
        QUEUE.wake_all();
        QUEUE.wait_until(|| TURN.load(Ordering::Acquire) == 2 * round + 2);
    }
    echo.join();
    expect!(asleep);
    expect!(switches_of_cpu(other) >= before + u64::from(ROUNDS));
    // The interrupt that tells the CPU is reserved for the scheduler.
    expect!(platform::interrupts::register(sched::RESCHEDULE, |_| ()).is_err());
    Ok(())
}

fn preemption_off_is_the_tasks_own() -> TestResult {
    let other = second_cpu()?;
    let off = preempt::off();
    let task = expect_ok!(pinned("other", other, may_sleep));
    // This task spins instead of sleeping, because preemption must stay off until the other task
    // has checked.
    spin_until(|| task.is_finished());
    drop(off);
    expect_eq!(task.join(), Ok(()));
    Ok(())
}
