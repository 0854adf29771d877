// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preemption at every instruction of a lazy section, with each backend.
//!
//! Under `-icount shift=0` on `-cpu max` the counter ticks once per instruction, so a timer that is
//! armed for k ticks interrupts after the k-th instruction. k runs from before the section's first
//! instruction to after its last. Each time another task gets the CPU at that point, or at the
//! first later point at which the section allows it. That task checks its own state and gives the
//! CPU back. State, counts and mappings must be right each time.
//!
//! The section works on a space of its own without a lock, because a task that holds a spin lock is
//! not preempted.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use lazymmu::{Backend, Backing, Counts, Owed, Prot, SpaceError};

use super::fixture::{counts, with};
use super::sched_fixture::{Private, pinned, ticks_count_instructions};
use crate::arch::relax::cpu_relax;
use crate::arch::{percpu, timer};
use crate::mm::MMU;
use crate::platform::interrupts::{self, IntId};
use crate::sched::{self, yield_now};
use crate::selftest::prelude::*;
use crate::start;

suite! {
    name: "sweep",
    order: 54,
    tests: [
        cases!(QemuVisible, r11_r17_preempted_at_every_instruction, {
            eager: Backend::Eager,
            defer_barriers: Backend::DeferBarriers,
            defer_stores: Backend::DeferStores,
            batch_invalidations: Backend::BatchInvalidations,
            multicall: Backend::Multicall,
        }),
    ],
}

/// The pages of the space. Page 4 is not mapped when a section begins, and page 1 is writable.
const PAGES: usize = 6;

/// The number of timer interrupts.
static FIRED: AtomicU32 = AtomicU32::new(0);

fn fire(_: IntId) {
    timer::physical::disarm();
    FIRED.fetch_add(1, Ordering::Relaxed);
    sched::preempt_soon();
}

/// The physical timer, which interrupts this CPU until this is dropped.
struct Timer(IntId);

impl Timer {
    fn new() -> Result<Self, Outcome> {
        let Some(intid) = start::machine().description.timer.physical_timer else {
            skip!("the device tree names no interrupt for the physical timer");
        };
        let id = IntId::ppi(intid - 16);
        expect_ok!(interrupts::register(id, fire));
        let timer = Self(id);
        expect_ok!(interrupts::enable(id));
        Ok(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        timer::physical::disarm();
        if let Err(error) = interrupts::unregister(self.0) {
            log::error!("the timer's interrupt stays registered: {error}");
        }
    }
}

/// Tells the other task to end.
static STOP: AtomicBool = AtomicBool::new(false);
static VISITS: AtomicU32 = AtomicU32::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// The other task.
fn visitor() {
    let lazy = MMU.lazy();
    while !STOP.load(Ordering::Relaxed) {
        let state = lazy.state();
        let is_own = (state.enable_count(), state.pause_count()) == (0, 0)
            && state.owed().is_empty()
            && state.fast_pte_ranges() == 0
            && !lazy.is_lazy_mmu_mode_active();
        // R23: the task that left has left nothing in the CPU's batch.
        if !is_own || !percpu::current().batch().is_empty() {
            WRONG.fetch_add(1, Ordering::Relaxed);
        }
        VISITS.fetch_add(1, Ordering::Relaxed);
        yield_now();
    }
}

/// The section that is interrupted. It contains a nested section, a pause, and an announced range.
#[inline(never)]
fn section(own: &mut Private) -> Result<(), SpaceError> {
    let frames = [own.frames[4], own.frames[2]];
    let space = own.space();
    let lazy = MMU.lazy();
    let _section = lazy.section()?;
    space.protect(Private::pages(1, 1)?, Prot::KERNEL_RO)?;
    space.map(
        Private::pages(4, 1)?,
        Backing::Contiguous(frames[0]),
        Prot::KERNEL,
    )?;
    {
        let _nested = lazy.section()?;
        space.unmap(Private::pages(0, 1)?)?;
    }
    {
        let _pause = lazy.paused()?;
        space.protect(Private::pages(3, 1)?, Prot::KERNEL_RO)?;
    }
    let mut fast = space.fast_pte_range(Private::pages(2, 1)?)?;
    fast.get_and_clear(0);
    drop(fast);
    space.invalidate_range(Private::pages(2, 1)?)?;
    let mut fast = space.fast_pte_range(Private::pages(2, 1)?)?;
    fast.set(0, frames[1], Prot::KERNEL_RO)
}

/// Restores the state in which a section begins.
fn restore(own: &mut Private) -> Result<(), SpaceError> {
    let first = own.frames[0];
    let space = own.space();
    space.unmap(Private::pages(4, 1)?)?;
    space.map(
        Private::pages(0, 1)?,
        Backing::Contiguous(first),
        Prot::KERNEL,
    )?;
    space.protect(Private::pages(1, 3)?, Prot::KERNEL)
}

/// Whether the mappings are those at the end of the section.
fn is_done(own: &Private) -> bool {
    let is = |i: usize, writable: bool| {
        own.query(i as u64).is_some_and(|mapping| {
            mapping.entry.frame() == own.frames[i] && mapping.entry.is_writable() == writable
        })
    };
    own.query(0).is_none()
        && is(1, false)
        && is(2, false)
        && is(3, false)
        && is(4, true)
        && is(5, true)
}

/// Executes the section once, and returns its counts and its length in ticks.
fn once(own: &mut Private, after: u32) -> Result<(Counts, u64), SpaceError> {
    let before = counts();
    let start = timer::ticks();
    if after > 0 {
        timer::physical::arm(after);
    }
    let result = section(own);
    let took = timer::ticks() - start;
    result.map(|()| (counts() - before, took))
}

/// The counts that do not depend on where the task was preempted.
fn fixed(counts: &Counts) -> [u64; 9] {
    [
        counts.ptes,
        counts.links,
        counts.dmb_ishst,
        counts.tlbi_requested,
        counts.requested,
        counts.enter,
        counts.flush,
        counts.leave,
        counts.walks,
    ]
}

fn r11_r17_preempted_at_every_instruction(backend: Backend) -> TestResult {
    if !ticks_count_instructions() {
        skip!("a tick is no instruction here: run with --cpu max --icount");
    }
    let _terms = expect_ok!(with(backend));
    let mut own = expect_ok!(Private::mapped(PAGES));
    let page = expect_ok!(Private::pages(4, 1));
    expect_ok!(own.space().unmap(page));
    // This measures the section without preemption. The first round warms up the tables and caches
    // of the library.
    let mut calm = Counts::default();
    let mut length = 0;
    for _ in 0..2 {
        (calm, length) = expect_ok!(once(&mut own, 0));
        expect!(is_done(&own));
        expect_ok!(restore(&mut own));
    }
    let timer = Timer::new()?;
    STOP.store(false, Ordering::Relaxed);
    VISITS.store(0, Ordering::Relaxed);
    WRONG.store(0, Ordering::Relaxed);
    FIRED.store(0, Ordering::Relaxed);
    let other = expect_ok!(pinned("visitor", 0, visitor));
    let result = sweep(&mut own, &calm, length);
    STOP.store(true, Ordering::Relaxed);
    other.join();
    drop(timer);
    let inside = result?;
    expect_eq!(WRONG.load(Ordering::Relaxed), 0);
    log::debug!("{backend}: {length} instructions, {inside} preemptions inside of the section");
    // There is one preemption for each instruction: at the instruction itself, or later where the
    // library or the section allows it.
    expect!(
        inside >= length,
        "only {inside} of {length} preemptions inside of the section"
    );
    Ok(())
}

/// Preempts the section at each instruction. Returns how many preemptions were inside of the
/// section.
fn sweep(own: &mut Private, calm: &Counts, length: u64) -> Result<u64, Outcome> {
    let mut inside = 0;
    for after in 1..=length as u32 {
        let (fired, visits) = (
            FIRED.load(Ordering::Relaxed),
            VISITS.load(Ordering::Relaxed),
        );
        let switches = sched::current().switches();
        let (spent, _) = expect_ok!(once(own, after));
        let switched = sched::current().switches() - switches;
        expect!(
            is_done(own),
            "wrong mappings when preempted after {after} ticks"
        );
        let state = MMU.lazy().state();
        expect_eq!(
            (state.enable_count(), state.pause_count(), state.owed()),
            (0, 0, Owed::empty()),
            "preempted after {after} ticks"
        );
        expect_eq!(fixed(&spent), fixed(calm), "preempted after {after} ticks");
        // R17: each switch completes the stores once, and the section does not repeat that. The
        // task owes the ISB on the CPU on which it ends the section, so no ISB is saved. If a
        // switch executes a queue, the queue is executed in two parts, each with barriers of its
        // own, or less is left for the end of the section.
        let (slack_isb, slack_dsb) = if MMU.backend().invalidates() {
            (switched, 3 * switched)
        } else {
            (0, 0)
        };
        let near = |has: u64, wanted: u64, less: u64, more: u64| {
            (wanted.saturating_sub(less)..=wanted + more).contains(&has)
        };
        expect!(
            near(spent.isb, calm.isb, slack_isb, slack_isb)
                && near(spent.dsb(), calm.dsb(), slack_dsb, slack_dsb + switched),
            "preempted after {after} ticks: {spent:?}, calm {calm:?}"
        );
        inside += switched;
        // If the preemption was not possible inside of the section, it is due now.
        while FIRED.load(Ordering::Relaxed) == fired {
            cpu_relax();
        }
        while VISITS.load(Ordering::Relaxed) == visits {
            yield_now();
        }
        expect_ok!(restore(own));
    }
    Ok(inside)
}
