// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lazy MMU mode and real interrupts (R3, R12): a handler never batches, and never touches the
//! batch of the interrupted task.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use lazymmu::{
    AddressSpace, Backend, Backing, Counts, Frame, LockedSpace, Owed, PAGE_SIZE, PageRange, Prot,
    SpaceError, SpaceKind,
};

use super::fixture::{Pages, counted, dsb_ish_of_a_flush, patience, spin_for, spin_until, with};
use crate::arch::Arm64;
use crate::arch::timer;
use crate::mm::frames::FrameList;
use crate::mm::layout::VMAP;
use crate::mm::{MMU, kernel_space};
use crate::platform::interrupts::{self, IntId, InterruptError};
use crate::sched;
use crate::sched::RawSpinLock;
use crate::selftest::prelude::*;
use crate::start;
use crate::sync::IrqLock;

suite! {
    name: "interrupts",
    order: 40,
    tests: [
        case!(QemuVisible, an_interrupt_arrives_and_returns),
        case!(QemuVisible, r2_the_mode_is_inactive_in_an_interrupt),
        case!(QemuVisible, r3_calls_in_an_interrupt_do_nothing),
        case!(TraceOnly, r3_writes_in_an_interrupt_complete_at_once),
        case!(TraceOnly, r12_an_interrupt_leaves_the_batch_alone),
        case!(TraceOnly, r12_an_invalidation_in_an_interrupt_pays_no_debts),
        case!(QemuVisible, r3_a_section_in_a_handler_is_ignored),
        case!(QemuVisible, the_timer_interrupts),
        case!(TraceOnly, r12_a_section_survives_many_interrupts),
    ],
}

/// The action that the handler executes once.
static ACTION: IrqLock<Option<fn()>> = IrqLock::new(None);
static DONE: AtomicBool = AtomicBool::new(false);

fn handler(_: IntId) {
    let action = ACTION.lock().take();
    if let Some(action) = action {
        action();
    }
    DONE.store(true, Ordering::Relaxed);
}

/// Runs `action` in an interrupt that this CPU sends to itself, and waits for it.
pub(super) fn in_interrupt(action: fn()) -> Result<(), InterruptError> {
    let id = IntId::sgi(5);
    *ACTION.lock() = Some(action);
    DONE.store(false, Ordering::Relaxed);
    interrupts::register(id, handler)?;
    let sent = interrupts::enable(id).and_then(|()| interrupts::send_to_self(id));
    if sent.is_ok() {
        spin_until(|| DONE.load(Ordering::Relaxed));
    }
    // The action must not stay for another interrupt if this one did not arrive.
    ACTION.lock().take();
    interrupts::unregister(id)?;
    sent
}

/// Expects that the interrupt ran.
macro_rules! interrupted {
    ($action:expr) => {
        expect_ok!(in_interrupt($action));
        expect!(DONE.load(Ordering::Relaxed), "the interrupt did not arrive");
    };
}

/// A value from a handler to the test that sent the interrupt.
static SEEN: AtomicU64 = AtomicU64::new(0);

fn an_interrupt_arrives_and_returns() -> TestResult {
    for _ in 0..3 {
        SEEN.store(0, Ordering::Relaxed);
        interrupted!(|| {
            let depth = sched::interrupt_depth();
            SEEN.store(u64::from(depth), Ordering::Relaxed);
        });
        expect_eq!(SEEN.load(Ordering::Relaxed), 1);
        expect_eq!(sched::interrupt_depth(), 0);
    }
    Ok(())
}

fn r2_the_mode_is_inactive_in_an_interrupt() -> TestResult {
    let _section = expect_ok!(MMU.lazy().section());
    expect!(MMU.lazy().is_lazy_mmu_mode_active());
    SEEN.store(9, Ordering::Relaxed);
    interrupted!(|| {
        let active = MMU.lazy().is_lazy_mmu_mode_active();
        SEEN.store(u64::from(active), Ordering::Relaxed);
    });
    expect_eq!(SEEN.load(Ordering::Relaxed), 0);
    expect!(MMU.lazy().is_lazy_mmu_mode_active());
    Ok(())
}

fn r3_calls_in_an_interrupt_do_nothing() -> TestResult {
    // The guard leaves the section on every path.
    let _section = expect_ok!(MMU.lazy().section());
    let before = MMU.lazy().state();
    let task = sched::current().counts();
    let handlers = sched::interrupt_counts();
    SEEN.store(0, Ordering::Relaxed);
    interrupted!(|| {
        let lazy = MMU.lazy();
        let (calls, _) = counted(|| {
            let calls = [
                lazy.enable(),
                lazy.pause(),
                lazy.resume(),
                lazy.disable(),
                lazy.disable(),
            ];
            lazy.flush();
            calls
        });
        SEEN.store(
            calls.iter().filter(|c| c.is_ok()).count() as u64,
            Ordering::Relaxed,
        );
    });
    let spent = sched::interrupt_counts() - handlers;
    expect_eq!(sched::current().counts(), task);
    expect_eq!(SEEN.load(Ordering::Relaxed), 5);
    expect_eq!(spent, Counts::default());
    expect_eq!(MMU.lazy().state(), before);
    Ok(())
}

/// An address space that handlers of these tests may use, because no other code does. No CPU ever
/// translates with it.
static OWN: IrqLock<Option<(OwnLocked, Frame)>> = IrqLock::new(None);

/// The lock in [`OWN`] lets the space pass from the task to the handler. The outer `IrqLock`
/// excludes other users.
type OwnLocked = LockedSpace<'static, Arm64, RawSpinLock>;

/// Creates [`OWN`], with the tables for the pages at [`own_page`]. The drop removes it.
struct OwnSpace {
    _frames: FrameList,
}

fn own_page(i: u64) -> Result<PageRange, SpaceError> {
    Ok(PageRange::new(VMAP + i * PAGE_SIZE, 1)?)
}

impl OwnSpace {
    fn new() -> Result<Self, SpaceError> {
        let out = |_| SpaceError::OutOfTables {
            needed: 1,
            available: 0,
        };
        let frames = FrameList::alloc(1).map_err(out)?;
        let mut space = AddressSpace::new(&MMU, SpaceKind::Kernel)?;
        let mapped = own_page(0)
            .and_then(|page| space.map(page, Backing::Contiguous(frames[0]), Prot::KERNEL));
        *OWN.lock() = Some((OwnLocked::new(space), frames[0]));
        let own = Self { _frames: frames };
        mapped.map(|()| own)
    }
}

impl Drop for OwnSpace {
    fn drop(&mut self) {
        // The tables are freed after the lock is released.
        let own = OWN.lock().take();
        drop(own);
    }
}

/// Maps page 1 of the own space from the handler.
fn map_in_handler() {
    if let (Some((space, frame)), Ok(page)) = (&mut *OWN.lock(), own_page(1)) {
        let (mapped, _) = counted(|| {
            let mut space = space.try_lock()?;
            space
                .map(page, Backing::Contiguous(*frame), Prot::KERNEL)
                .ok()
        });
        SEEN.store(u64::from(mapped.is_some()), Ordering::Relaxed);
    }
}

fn r3_writes_in_an_interrupt_complete_at_once() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let _own = expect_ok!(OwnSpace::new());
    let _section = expect_ok!(MMU.lazy().section());
    let before = sched::interrupt_counts();
    SEEN.store(0, Ordering::Relaxed);
    interrupted!(map_in_handler);
    let spent = sched::interrupt_counts() - before;
    expect_eq!(SEEN.load(Ordering::Relaxed), 1);
    expect_eq!((spent.ptes, spent.dsb(), spent.isb), (1, 1, 1));
    expect_eq!((spent.enter, spent.flush, spent.leave), (0, 0, 0));
    Ok(())
}

/// Maps the first `count` pages one by one, in the current section.
fn map_each(pages: &Pages, count: usize) -> Result<(), SpaceError> {
    for i in 0..count {
        let page = pages.area.part(i as u64, 1)?;
        let backing = Backing::Contiguous(pages.frames()[i]);
        kernel_space::lock().map(page, backing, Prot::KERNEL)?;
    }
    Ok(())
}

fn r12_an_interrupt_leaves_the_batch_alone() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let _own = expect_ok!(OwnSpace::new());
    let pages = expect_ok!(Pages::unmapped(1));
    let section = expect_ok!(MMU.lazy().section());
    expect_ok!(map_each(&pages, 1));
    expect_eq!(MMU.lazy().state().owed(), Owed::all());
    let before = sched::current().counts();
    SEEN.store(0, Ordering::Relaxed);
    interrupted!(map_in_handler);
    expect_eq!(SEEN.load(Ordering::Relaxed), 1);
    expect_eq!(sched::current().counts(), before);
    expect_eq!(MMU.lazy().state().owed(), Owed::all());
    let ((), spent) = counted(|| drop(section));
    expect_eq!((spent.dsb_paid, spent.isb_paid), (1, 1));
    Ok(())
}

fn r12_an_invalidation_in_an_interrupt_pays_no_debts() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let _own = expect_ok!(OwnSpace::new());
    let pages = expect_ok!(Pages::unmapped(1));
    let _section = expect_ok!(MMU.lazy().section());
    expect_ok!(map_each(&pages, 1));
    let before = sched::interrupt_counts();
    SEEN.store(0, Ordering::Relaxed);
    interrupted!(|| {
        if let (Some((space, _)), Ok(page)) = (&mut *OWN.lock(), own_page(0)) {
            let (unmapped, _) = counted(|| space.try_lock()?.unmap(page).ok());
            SEEN.store(u64::from(unmapped.is_some()), Ordering::Relaxed);
        }
    });
    let spent = sched::interrupt_counts() - before;
    expect_eq!(SEEN.load(Ordering::Relaxed), 1);
    // There are as many TLBI as DSB after them: if the CPU repeats TLBI, it repeats the DSB, too.
    let repeated = dsb_ish_of_a_flush();
    expect_eq!(
        (spent.dsb_ishst, spent.tlbi, spent.dsb_ish),
        (1, repeated, repeated)
    );
    expect_eq!(MMU.lazy().state().owed(), Owed::all());
    Ok(())
}

fn r3_a_section_in_a_handler_is_ignored() -> TestResult {
    // A section opened in a handler is ignored, and so is its end there.
    let before = (
        MMU.lazy().state().enable_count(),
        sched::interrupt_counts().enter,
    );
    interrupted!(|| drop(MMU.lazy().section()));
    let after = (
        MMU.lazy().state().enable_count(),
        sched::interrupt_counts().enter,
    );
    expect_eq!(before, after);
    Ok(())
}

static TICKS: AtomicU32 = AtomicU32::new(0);

/// The ticks between two timer interrupts, 8 microseconds. This is short enough to hit a section
/// many times, and long enough for the interrupted code to make progress, at any frequency of the
/// counter.
fn period() -> u32 {
    u32::try_from(timer::frequency() / 125_000).map_or(u32::MAX, |ticks| ticks.max(1))
}

fn timer_handler(_: IntId) {
    TICKS.fetch_add(1, Ordering::Relaxed);
    timer::physical::arm(period());
}

/// The physical timer, which fires all the time until this is dropped.
struct Ticking(IntId);

impl Ticking {
    fn start() -> Result<Self, Outcome> {
        let Some(intid) = start::machine().description.timer.physical_timer else {
            skip!("the device tree names no interrupt for the physical timer");
        };
        let id = IntId::ppi(intid - 16);
        TICKS.store(0, Ordering::Relaxed);
        expect_ok!(interrupts::register(id, timer_handler));
        let ticking = Self(id);
        expect_ok!(interrupts::enable(id));
        timer::physical::arm(period());
        Ok(ticking)
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        timer::physical::disarm();
        if let Err(error) = interrupts::unregister(self.0) {
            log::error!("the timer's interrupt stays registered: {error}");
        }
    }
}

fn the_timer_interrupts() -> TestResult {
    let ticking = Ticking::start()?;
    let came = spin_until(|| TICKS.load(Ordering::Relaxed) >= 5);
    drop(ticking);
    expect!(came);
    let stopped = TICKS.load(Ordering::Relaxed);
    spin_for(u64::from(period()) * 4);
    expect_eq!(TICKS.load(Ordering::Relaxed), stopped);
    Ok(())
}

fn r12_a_section_survives_many_interrupts() -> TestResult {
    const COUNT: usize = 400;
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(COUNT));
    let ticking = Ticking::start()?;
    let until = patience();
    // The number of interrupts in a round depends on the host, so rounds continue until there were
    // enough.
    while TICKS.load(Ordering::Relaxed) < 20 && timer::ticks() < until {
        let (result, spent) = counted(|| -> Result<(), SpaceError> {
            let _section = MMU.lazy().section()?;
            map_each(&pages, COUNT)
        });
        expect_ok!(result);
        expect_eq!((spent.ptes, spent.dsb(), spent.isb), (COUNT as u64, 1, 1));
        expect_ok!(pages.area.unmap());
    }
    drop(ticking);
    expect!(TICKS.load(Ordering::Relaxed) >= 20);
    Ok(())
}
