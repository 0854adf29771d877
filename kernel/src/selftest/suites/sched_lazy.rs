// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lazy MMU mode and context switches: the state belongs to the task, the switch completes its
//! stores, and other CPUs see the result.
//!
//! QEMU completes every store at once, so a missing barrier at the switch shows only in the counts
//! (`trace-only`). The machine model of the `lazymmu` crate shows that the barrier is needed
//! (`r17_*` there).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use lazymmu::{Backend, Backing, Owed, Prot};

use super::fixture::{Pages, counted, counted_beside, counts, spin_for, store, with};
use super::sched_fixture::{Private, Slices, cpus, pinned, second_cpu, settle, ticks};
use crate::arch::probe::try_read_u64 as load;
use crate::arch::{percpu, timer};
use crate::mm::{MMU, kernel_space};
use crate::sched::task::current_arc;
use crate::sched::{self, preempt, yield_now};
use crate::selftest::prelude::*;

suite! {
    name: "sched-lazy",
    order: 52,
    tests: [
        case!(QemuVisible, r1_a_new_task_starts_clean),
        case!(QemuVisible, r11_tasks_in_sections_of_different_depth_keep_their_own_state),
        case!(TraceOnly, r17_after_a_switch_only_the_isb_is_owed),
        case!(TraceOnly, r16_a_switch_with_nothing_owed_changes_nothing),
        case!(QemuVisible, r17_queued_on_one_cpu_flushed_and_used_on_another),
        case!(QemuVisible, a_section_is_held_across_sleep),
        case!(QemuVisible, r38_a_backend_that_keeps_its_cpu_is_not_preempted),
        cases!(QemuVisible, r23_what_waits_is_executed_at_the_switch, {
            batch_invalidations: Backend::BatchInvalidations,
            multicall: Backend::Multicall,
        }),
        case!(QemuVisible, r8_a_task_that_ends_in_a_section_is_reported_and_drained),
        case!(QemuVisible, r3_bottom_halves_off_counts_as_an_interrupt),
        case!(QemuVisible, with_bottom_halves_off_a_task_has_its_own_counters),
        case!(QemuVisible, r33_an_unmap_reaches_every_cpu),
        case!(QemuVisible, r37_a_mapping_is_published_to_another_cpu),
        case!(TraceOnly, r17_a_switch_completes_the_stores_of_who_leaves),
    ],
}

/// Maps page `i` of `pages` to its frame.
fn map(pages: &Pages, i: usize) -> Result<(), Outcome> {
    let part = expect_ok!(pages.area.part(i as u64, 1));
    let backing = Backing::Contiguous(pages.frames()[i]);
    expect_ok!(kernel_space::lock().map(part, backing, Prot::KERNEL));
    Ok(())
}

fn unmap(pages: &Pages, i: usize) -> Result<(), Outcome> {
    let part = expect_ok!(pages.area.part(i as u64, 1));
    expect_ok!(kernel_space::lock().unmap(part));
    Ok(())
}

/// The result of a task, for the test that joins it: nothing, or what is wrong.
type Found = Result<(), Outcome>;

fn r1_a_new_task_starts_clean() -> TestResult {
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(1));
    let section = expect_ok!(MMU.lazy().section());
    let pause = expect_ok!(MMU.lazy().paused());
    drop(pause);
    map(&pages, 0)?;
    expect_eq!(MMU.lazy().state().owed(), Owed::all());
    let child = expect_ok!(pinned("child", 0, || {
        let state = MMU.lazy().state();
        let before = counts();
        MMU.lazy().flush();
        // This compares the barriers that were paid, not those executed: a switch in the middle has
        // a DSB of its own.
        let spent = counts() - before;
        (
            state.enable_count(),
            state.pause_count(),
            state.owed(),
            MMU.lazy().is_lazy_mmu_mode_active(),
            spent.dsb_paid + spent.isb_paid,
        )
    }));
    let (enable, pause, owed, active, paid) = child.join();
    expect_eq!((enable, pause), (0, 0));
    expect_eq!(owed, Owed::empty());
    expect!(!active);
    // A flush of the child pays nothing that its creator owes.
    expect_eq!(paid, 0);
    expect_eq!(MMU.lazy().state().enable_count(), 1);
    drop(section);
    Ok(())
}

fn r11_tasks_in_sections_of_different_depth_keep_their_own_state() -> TestResult {
    /// The number of switches that must happen, and the laps after which a task stops waiting for
    /// them.
    const SWITCHES: u64 = 3000;
    const LAPS: u32 = 200;
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let _slices = Slices::of(Duration::from_micros(20));
    let switches = || cpus().map(|cpu| sched::stats(cpu).switches).sum::<u64>();
    let before = switches();
    let mut handles = Vec::new();
    let kinds = [(0_u8, 0_u8), (1, 0), (2, 1), (3, 0), (5, 2), (255, 1)];
    // The tasks are so many that each CPU has several.
    for (depth, pauses) in kinds.into_iter().cycle().take(2 * cpus().count() + 3) {
        handles.push(expect_ok!(sched::spawn("deep", move || -> Found {
            let pages = expect_ok!(Pages::reserved(u64::from(LAP), 1));
            let lazy = MMU.lazy();
            let mine = |more: u8| {
                let state = lazy.state();
                (state.enable_count(), state.pause_count()) == (depth + more, pauses)
            };
            for _ in 0..depth {
                expect_ok!(lazy.enable());
            }
            for _ in 0..pauses {
                expect_ok!(lazy.pause());
            }
            let active = depth > 0 && pauses == 0;
            let mut result = Ok(());
            for _ in 0..LAPS {
                result = one_lap(&pages, active, &mine);
                if result.is_err() || switches() - before >= SWITCHES {
                    break;
                }
            }
            for _ in 0..pauses {
                expect_ok!(lazy.resume());
            }
            for _ in 0..depth {
                expect_ok!(lazy.disable());
            }
            expect_eq!(lazy.state().owed(), Owed::empty());
            result
        })));
    }
    for handle in handles {
        handle.join()?;
    }
    let switched = switches() - before;
    expect!(switched >= SWITCHES, "only {switched} switches");
    Ok(())
}

/// The rounds of a lap, each with a page of its own. There are so many that one TLBI invalidates
/// them all: QEMU stops all CPUs for each TLBI, which takes milliseconds if there are more CPUs
/// than the host has and they wait for a lock.
const LAP: u32 = lazymmu::ENTRIES as u32;

/// Maps page by page, and unmaps all pages together.
fn one_lap(pages: &Pages, active: bool, mine: &dyn Fn(u8) -> bool) -> Found {
    for round in 0..LAP {
        one_round(pages, active, mine, round)?;
    }
    expect_ok!(pages.area.unmap());
    expect!(mine(0));
    Ok(())
}

/// Maps a page, lets others run, and checks that the counters and the debts are still the task's
/// own.
fn one_round(pages: &Pages, active: bool, mine: &dyn Fn(u8) -> bool, round: u32) -> Found {
    let lazy = MMU.lazy();
    expect!(mine(0));
    expect_eq!(lazy.is_lazy_mmu_mode_active(), active);
    let page = expect_ok!(pages.area.part(u64::from(round), 1));
    let backing = Backing::Contiguous(pages.frames()[0]);
    expect_ok!(kernel_space::lock().map(page, backing, Prot::KERNEL));
    let owed = lazy.state().owed();
    // A switch may have completed the stores already, so only the `ISB` is compared.
    expect_eq!(owed.contains(Owed::CONTEXT), active);
    if round.is_multiple_of(2) {
        yield_now();
    } else {
        spin_for(ticks(Duration::from_micros(15)));
    }
    expect!(mine(0));
    expect_eq!(lazy.state().owed().contains(Owed::CONTEXT), active);
    if active && round.is_multiple_of(3) && lazy.state().enable_count() < 255 {
        // A nested section flushes at its end (R5).
        expect_ok!(lazy.enable());
        expect!(mine(1));
        expect_ok!(lazy.disable());
    } else {
        lazy.flush();
    }
    expect_eq!(lazy.state().owed(), Owed::empty());
    let value = u64::from(round) << 32 | u64::from(sched::current().cpu() as u32);
    expect_ok!(store(page.start().as_u64(), value));
    expect_eq!(pages.frame_value(0), value);
    expect!(mine(0));
    Ok(())
}

fn r17_after_a_switch_only_the_isb_is_owed() -> TestResult {
    let _slices = Slices::endless();
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(1));
    let section = expect_ok!(MMU.lazy().section());
    map(&pages, 0)?;
    expect_eq!(MMU.lazy().state().owed(), Owed::all());
    let other = expect_ok!(pinned("other", 0, || ()));
    // The count starts here, because mapping the other task's stack has barriers of its own.
    let switches = sched::current().switches();
    let ((), spent) = counted_beside(&other, || {
        while !other.is_finished() {
            yield_now();
        }
    });
    let switches = sched::current().switches() - switches;
    expect!(switches >= 1);
    // There is one `DSB ISH` for each time that the task left its CPU.
    expect_eq!(spent.dsb_ish, switches, "{spent:?}");
    expect_eq!(MMU.lazy().state().owed() - Owed::CONTEXT, Owed::empty());
    other.join();
    // The spawn above has flushed. This is the same again, with one switch and nothing else.
    unmap(&pages, 0)?;
    let other = expect_ok!(pinned("other", 0, || {
        yield_now();
        yield_now();
    }));
    map(&pages, 0)?;
    expect_eq!(MMU.lazy().state().owed(), Owed::all());
    let ((), spent) = counted_beside(&other, yield_now);
    expect_eq!((spent.dsb_ish, spent.dsb_ishst, spent.isb), (1, 0, 0));
    expect_eq!(MMU.lazy().state().owed(), Owed::CONTEXT);
    let ((), spent) = counted(|| drop(section));
    expect_eq!((spent.dsb(), spent.isb), (0, 1));
    expect_ok!(store(pages.virt(0), 1));
    other.join();
    unmap(&pages, 0)?;
    Ok(())
}

fn r16_a_switch_with_nothing_owed_changes_nothing() -> TestResult {
    let _slices = Slices::endless();
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let other = expect_ok!(pinned("other", 0, || {
        yield_now();
        yield_now();
    }));
    let section = expect_ok!(MMU.lazy().section());
    let ((), spent) = counted_beside(&other, yield_now);
    expect_eq!((spent.dsb_ish, spent.dsb_ishst, spent.isb), (1, 0, 0));
    expect_eq!(spent.flush + spent.leave + spent.enter, 0);
    let ((), spent) = counted(|| drop(section));
    expect_eq!(spent.dsb() + spent.isb, 0);
    other.join();
    Ok(())
}

fn r17_queued_on_one_cpu_flushed_and_used_on_another() -> TestResult {
    let other = second_cpu()?;
    let _terms = expect_ok!(with(MMU.backend()));
    let task = expect_ok!(sched::spawn("mover", move || -> Found {
        for _ in 0..50 {
            let pages = expect_ok!(Pages::unmapped(2));
            expect_ok!(sched::migrate(0));
            let section = expect_ok!(MMU.lazy().section());
            map(&pages, 0)?;
            map(&pages, 1)?;
            if MMU.backend().is_preemptible() {
                expect_ok!(sched::migrate(other));
                expect_eq!(MMU.lazy().state().enable_count(), 1);
            }
            drop(section);
            expect_ok!(store(pages.virt(0), 11));
            expect_ok!(sched::migrate(0));
            expect_ok!(store(pages.virt(1), 12));
            expect_eq!((pages.frame_value(0), pages.frame_value(1)), (11, 12));
            unmap(&pages, 0)?;
            unmap(&pages, 1)?;
        }
        Ok(())
    }));
    task.join()
}

fn a_section_is_held_across_sleep() -> TestResult {
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(1));
    let section = expect_ok!(MMU.lazy().section());
    map(&pages, 0)?;
    sched::sleep(Duration::from_millis(1));
    expect_eq!(MMU.lazy().state().enable_count(), 1);
    expect!(MMU.lazy().state().owed().contains(Owed::CONTEXT));
    drop(section);
    expect_ok!(store(pages.virt(0), 1));
    unmap(&pages, 0)?;
    Ok(())
}

fn r38_a_backend_that_keeps_its_cpu_is_not_preempted() -> TestResult {
    static RAN: AtomicBool = AtomicBool::new(false);
    RAN.store(false, Ordering::Relaxed);
    let _terms = expect_ok!(with(Backend::DeferStores));
    let _slices = Slices::of(Duration::from_micros(100));
    sched::sleep(Duration::from_micros(100));
    // Preemption is off so that the other task does not run before the section begins.
    let off = preempt::off();
    let other = expect_ok!(pinned("other", 0, || RAN.store(true, Ordering::Relaxed)));
    let section = expect_ok!(MMU.lazy().section());
    drop(off);
    expect!(sched::may_sleep().is_err());
    // Two tries would prove nothing: reading the statistics causes one, and a tick that was armed
    // before causes another. On a busy host ticks are lost, and then the time is extended.
    let refused = || sched::stats(0).refused;
    let mut time = ticks(Duration::from_millis(20));
    let tried = loop {
        let before = refused();
        spin_for(time);
        let tried = refused() - before;
        if tried > 2 || time > timer::frequency() {
            break tried;
        }
        time *= 2;
    };
    let ran_inside = RAN.load(Ordering::Relaxed);
    drop(section);
    let ran_after = settle(|| RAN.load(Ordering::Relaxed));
    other.join();
    expect!(!ran_inside, "preempted inside of the section");
    expect!(ran_after);
    expect!(tried > 2, "the preemption was tried {tried} times");
    Ok(())
}

fn r23_what_waits_is_executed_at_the_switch(backend: Backend) -> TestResult {
    let _slices = Slices::endless();
    let _terms = expect_ok!(with(backend));
    let mut own = expect_ok!(Private::mapped(2));
    let other = expect_ok!(pinned("other", 0, || -> bool {
        // Another task on the same CPU finds the CPU's batch empty.
        (0..3).all(|_| {
            let empty = percpu::current().batch().is_empty();
            yield_now();
            empty
        })
    }));
    let section = expect_ok!(MMU.lazy().section());
    let page = expect_ok!(Private::pages(0, 1));
    let is_empty = || percpu::current().batch().is_empty();
    let ((protected, empty), spent) = counted_beside(&other, || {
        let protected = own.space().protect(page, Prot::KERNEL_RO);
        let before = is_empty();
        yield_now();
        (protected, (before, is_empty()))
    });
    expect_ok!(protected);
    expect_eq!(empty, (false, true));
    expect_eq!(spent.drains, 1);
    expect!(spent.tlbi >= 1);
    expect_eq!(
        own.query(0).map(|mapping| mapping.entry.is_writable()),
        Some(false)
    );
    drop(section);
    expect!(other.join(), "a task found something in its CPU's batch");
    Ok(())
}

fn r8_a_task_that_ends_in_a_section_is_reported_and_drained() -> TestResult {
    let _terms = expect_ok!(with(MMU.backend()));
    let pages = Arc::new(expect_ok!(Pages::unmapped(1)));
    let inner = Arc::clone(&pages);
    let task = expect_ok!(pinned("careless", 0, move || -> Found {
        expect_ok!(MMU.lazy().enable());
        expect_ok!(MMU.lazy().enable());
        map(&inner, 0)
    }));
    expect!(settle(|| task.is_finished()));
    let kept = Arc::clone(task.task());
    task.join()?;
    expect_eq!(kept.lazy().read().enable_count(), 0);
    expect_eq!(kept.lazy().read().owed(), Owed::empty());
    let counts = kept.counts();
    expect_eq!(counts.enter, counts.leave);
    drop(kept);
    expect_ok!(store(pages.virt(0), 3));
    expect_eq!(pages.frame_value(0), 3);
    unmap(&pages, 0)
}

fn r3_bottom_halves_off_counts_as_an_interrupt() -> TestResult {
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let section = expect_ok!(MMU.lazy().section());
    let off = preempt::bottom_halves_off();
    expect!(!MMU.lazy().is_lazy_mmu_mode_active());
    // All four calls do nothing.
    expect_ok!(MMU.lazy().enable());
    expect_ok!(MMU.lazy().pause());
    expect_eq!(MMU.lazy().state().enable_count(), 1);
    expect_eq!(MMU.lazy().state().pause_count(), 0);
    drop(off);
    expect!(MMU.lazy().is_lazy_mmu_mode_active());
    drop(section);
    Ok(())
}

/// An interrupt may come between a counter's load and its store, so it must not write the same
/// counter.
fn with_bottom_halves_off_a_task_has_its_own_counters() -> TestResult {
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(1));
    let backing = Backing::Contiguous(pages.frames()[0]);
    let mut space = kernel_space::lock();
    let off = preempt::bottom_halves_off();
    let before = (sched::current().counts(), sched::interrupt_counts());
    let mapped = space.map(pages.area.pages(), backing, Prot::KERNEL);
    let after = (sched::current().counts(), sched::interrupt_counts());
    drop(off);
    drop(space);
    expect_ok!(mapped);
    // No interrupt handler of this kernel changes entries.
    expect_eq!(after.1.ptes, before.1.ptes);
    expect_eq!(after.0.ptes, before.0.ptes + 1);
    Ok(())
}

/// Other CPUs read a page before and after it is unmapped. If the broadcast did not reach a CPU,
/// its second read would succeed.
fn r33_an_unmap_reaches_every_cpu() -> TestResult {
    let _ = second_cpu()?;
    let _terms = expect_ok!(with(MMU.backend()));
    static PAGE: AtomicU64 = AtomicU64::new(0);
    static ROUND: AtomicU32 = AtomicU32::new(0);
    static READERS: AtomicU32 = AtomicU32::new(0);
    static GONE: AtomicU32 = AtomicU32::new(0);
    const ROUNDS: u32 = 50;
    /// While CPUs of the machine sleep, the host is free for the others.
    const NAP: Duration = Duration::from_micros(20);
    ROUND.store(0, Ordering::Relaxed);
    let mut readers = Vec::new();
    for cpu in cpus().filter(|cpu| *cpu != 0) {
        readers.push(expect_ok!(pinned("reader", cpu, || -> u32 {
            let mut stale = 0;
            for round in 1..=ROUNDS {
                while ROUND.load(Ordering::Acquire) < round {
                    sched::sleep(NAP);
                }
                let page = PAGE.load(Ordering::Relaxed);
                // The page is in this CPU's TLB now.
                let first = load(page).is_ok();
                READERS.fetch_add(1, Ordering::AcqRel);
                while GONE.load(Ordering::Acquire) < round {
                    sched::sleep(NAP);
                }
                stale += u32::from(!first) + u32::from(load(page).is_ok());
                READERS.fetch_add(1, Ordering::AcqRel);
            }
            stale
        })));
    }
    let count = readers.len() as u32;
    let mut result = Ok(());
    GONE.store(0, Ordering::Relaxed);
    for round in 1..=ROUNDS {
        READERS.store(0, Ordering::Relaxed);
        let pages = match Pages::mapped(1) {
            Ok(pages) => pages,
            Err(_) => break,
        };
        PAGE.store(pages.virt(0), Ordering::Relaxed);
        ROUND.store(round, Ordering::Release);
        while READERS.load(Ordering::Acquire) < count {
            sched::sleep(NAP);
        }
        result = result.and(unmap(&pages, 0));
        GONE.store(round, Ordering::Release);
        // This wait is needed because the next round's page may have the same address.
        while READERS.load(Ordering::Acquire) < 2 * count {
            sched::sleep(NAP);
        }
    }
    // The readers end in any case.
    ROUND.store(ROUNDS, Ordering::Release);
    GONE.store(ROUNDS, Ordering::Release);
    let mut stale = 0;
    for reader in readers {
        stale += reader.join();
    }
    result?;
    expect_eq!(stale, 0);
    Ok(())
}

/// The rule for readers on other CPUs (R37): they acquire the value that announces the mapping, and
/// then execute an ISB.
fn r37_a_mapping_is_published_to_another_cpu() -> TestResult {
    let other = second_cpu()?;
    let _terms = expect_ok!(with(MMU.backend()));
    static PAGE: AtomicU64 = AtomicU64::new(0);
    PAGE.store(0, Ordering::Relaxed);
    const ROUNDS: u64 = 100;
    let reader = expect_ok!(pinned("reader", other, || -> u64 {
        let mut wrong = 0;
        for round in 1..=ROUNDS {
            let mut page = 0;
            while page == 0 {
                page = PAGE.load(Ordering::Acquire);
                yield_now();
            }
            crate::arch::barrier::isb();
            wrong += u64::from(load(page) != Ok(round));
            PAGE.store(0, Ordering::Release);
        }
        wrong
    }));
    let mut result = Ok(());
    for round in 1..=ROUNDS {
        let publish = || -> Found {
            let pages = expect_ok!(Pages::unmapped(1));
            pages.fill(0, round);
            let section = expect_ok!(MMU.lazy().section());
            map(&pages, 0)?;
            // The address is published after the end of the section, because no CPU may rely on
            // what is deferred.
            drop(section);
            PAGE.store(pages.virt(0), Ordering::Release);
            while PAGE.load(Ordering::Acquire) != 0 {
                sched::sleep(Duration::from_micros(20));
            }
            unmap(&pages, 0)
        };
        result = result.and(publish());
    }
    expect_eq!(reader.join(), 0);
    result
}

/// The switch completes the stores before another task runs, and not when the task returns: by then
/// another CPU may have run the task.
fn r17_a_switch_completes_the_stores_of_who_leaves() -> TestResult {
    let _slices = Slices::endless();
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(1));
    let me = current_arc();
    // Preemption is off, because the other task would see nothing if a time slice ended before the
    // map.
    let off = preempt::off();
    let other = expect_ok!(pinned("other", 0, move || me.lazy().read().owed()));
    let section = expect_ok!(MMU.lazy().section());
    map(&pages, 0)?;
    let before = MMU.lazy().state().owed();
    drop(off);
    yield_now();
    let seen = other.join();
    expect_eq!(before, Owed::all());
    expect_eq!(seen, Owed::CONTEXT);
    drop(section);
    unmap(&pages, 0)
}
