// SPDX-License-Identifier: MIT OR Apache-2.0
//! The five strategies on a CPU that walks tables and caches entries: the same scenarios for each.
//!
//! The strategies differ in what waits in a section, and each test states it where it matters. What
//! a caller may rely on is the same for all: at the end of a section at any depth, at a pause, when
//! frames are given back, and when the lock of the tables is released. QEMU's TLB keeps an entry
//! until it is invalidated, so each mapping is used before it changes. Figures are in
//! `backends-counts`.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use lazymmu::{
    AddressSpace, Asid, Backend, Backing, Frame, PAGE_SIZE, PageRange, Prot, SpaceKind, VirtAddr,
    bits,
};

use super::fixture::{counted, counts, with};
use super::interrupts::in_interrupt;
use super::scene::Step::*;
use super::scene::{CLEAR, NONE, OF_CHANGES, OF_MAKES, OWN, SET, Scene, mark, play, put};
use crate::arch::probe::try_read_u64;
use crate::mm::MMU;
use crate::mm::kernel_space::Space;
use crate::sched;
use crate::selftest::prelude::*;
use crate::sync::IrqLock;

suite! {
    name: "backends",
    order: 37,
    tests: [
        case!(QemuVisible, r5_pages_are_usable_after_their_section),
        case!(QemuVisible, r5_a_nested_end_flushes),
        case!(QemuVisible, s7_a_pause_is_immediate),
        case!(QemuVisible, r25_frames_are_free_when_unmap_returns),
        case!(QemuVisible, r30_no_page_is_writable_after_the_section_that_protects_it),
        case!(QemuVisible, r29_another_frame_by_clear_and_set),
        case!(QemuVisible, s10_pages_move_between_two_announced_ranges),
        case!(QemuVisible, r12_an_interrupt_maps_and_uses_a_page),
        case!(TraceOnly, r43_nothing_waits_when_the_lock_is_free),
        case!(QemuVisible, r29_contiguous_groups_are_folded_and_split),
    ],
}

#[rustfmt::skip]
fn r5_pages_are_usable_after_their_section() -> TestResult {
    play(0, 40, &[
        Enter,
        MapEach(0..20),
        Entries(20..40, SET),
        Waits(OF_MAKES),
        Leave,
        Waits(NONE),
        Shows(0..40, OWN),
    ])
}

#[rustfmt::skip]
fn r5_a_nested_end_flushes() -> TestResult {
    play(0, 8, &[
        Enter,
        Enter,
        Entries(0..4, SET),
        Waits(OF_MAKES),
        Leave,
        Waits(NONE),
        Shows(0..4, OWN),
        Entries(4..8, SET),
        Waits(OF_MAKES),
        Leave,
        Shows(4..8, OWN),
    ])
}

#[rustfmt::skip]
fn s7_a_pause_is_immediate() -> TestResult {
    play(0, 12, &[
        Enter,
        Entries(0..4, SET),
        Pause,
        Waits(NONE),
        Shows(0..4, OWN),
        // Each write while paused takes effect by itself.
        Entries(4..8, SET),
        Shows(4..8, OWN),
        Unmap(0..2),
        Faults(0..2),
        ProtectEach(2..4, 1),
        ReadOnly(2..4),
        Waits(NONE),
        Resume,
        Entries(8..12, SET),
        Waits(OF_MAKES),
        Leave,
        Shows(2..12, OWN),
    ])
}

#[rustfmt::skip]
fn r25_frames_are_free_when_unmap_returns() -> TestResult {
    play(6, 6, &[
        Enter,
        Unmap(0..3),
        Waits(NONE),
        Faults(0..3),
        // The longer way: the entries are cleared one by one, then invalidated.
        Entries(3..6, CLEAR),
        Waits(OF_CHANGES),
        Flush(3..6),
        Waits(NONE),
        Faults(3..6),
        Leave,
    ])
}

#[rustfmt::skip]
fn r30_no_page_is_writable_after_the_section_that_protects_it() -> TestResult {
    play(6, 6, &[
        Announce(0..6),
        ProtectEach(0..6, 1),
        Waits(OF_CHANGES),
        Leave,
        ReadOnly(0..6),
    ])
}

#[rustfmt::skip]
fn r29_another_frame_by_clear_and_set() -> TestResult {
    play(8, 8, &[
        Enter,
        Entries(0..8, |pages, i, pte| {
            pte.get_and_clear();
            put(pages, 7 - i, pte)
        }),
        Leave,
        Shows(0..8, |i| 7 - i),
    ])
}

/// As `move_ptes()` does. The destination is in the next table, which page 520 has built.
#[rustfmt::skip]
fn s10_pages_move_between_two_announced_ranges() -> TestResult {
    play(2, 521, &[
        MapEach(520..521),
        Announce(0..2),
        Announce(512..514),
        Entries(0..1, CLEAR),
        Entries(512..513, |pages, i, pte| put(pages, i - 512, pte)),
        Entries(1..2, CLEAR),
        Entries(513..514, |pages, i, pte| put(pages, i - 512, pte)),
        Waits(OF_CHANGES),
        // R25: this comes after everything that waits, and before the pages may be used for
        // something else.
        Flush(0..2),
        Faults(0..2),
        Leave,
        Leave,
        Shows(512..514, |i| i - 512),
    ])
}

/// The handler's input: the live root, a page, and a frame for the page.
static GIVEN: IrqLock<Option<(Frame, PageRange, Frame)>> = IrqLock::new(None);
/// The value that it read there, if no step failed.
static SEEN: AtomicU64 = AtomicU64::new(0);

fn use_a_page() {
    let Some((root, page, frame)) = GIVEN.lock().take() else {
        return;
    };
    // SAFETY: this is the root of the kernel's space. The interrupted code holds the lock of that
    // space and only waits meanwhile, so no other code writes its tables.
    let mut space = unsafe { AddressSpace::from_counted_root(&MMU, SpaceKind::Kernel, root) };
    let virt = page.start().as_u64();
    let (mapped, _) = counted(|| space.map(page, Backing::Contiguous(frame), Prot::KERNEL));
    let value = try_read_u64(virt);
    let (unmapped, _) = counted(|| space.unmap(page));
    space.into_root();
    if let (Ok(()), Ok(value), Ok(()), Err(_)) = (mapped, value, unmapped, try_read_u64(virt)) {
        SEEN.store(value, Ordering::Relaxed);
    }
}

fn interrupt(scene: &mut Scene) -> TestResult {
    // The page is in the same table as the entries that wait.
    let page = expect_ok!(scene.part(&(11..12)));
    *GIVEN.lock() = Some((scene.space().root(), page, scene.pages.frames()[11]));
    SEEN.store(0, Ordering::Relaxed);
    let before = (counts(), sched::interrupt_counts());
    expect_ok!(in_interrupt(use_a_page));
    expect_eq!(SEEN.load(Ordering::Relaxed), mark(11));
    // What waits belongs to the task, and none of it was executed.
    expect_eq!(counts(), before.0);
    expect_eq!(sched::interrupt_counts().drains, before.1.drains);
    Ok(())
}

#[rustfmt::skip]
fn r12_an_interrupt_maps_and_uses_a_page() -> TestResult {
    play(2, 12, &[
        Announce(0..12),
        ProtectEach(0..1, 1),
        Entries(2..11, SET),
        ProtectEach(1..2, 1),
        Waits(OF_CHANGES),
        Do(interrupt),
        Waits(OF_CHANGES),
        Leave,
        Shows(2..11, OWN),
        ReadOnly(0..2),
        Faults(11..12),
    ])
}

/// The lock is free, and the section continues.
fn is_active(_: &mut Scene) -> TestResult {
    expect!(MMU.lazy().is_lazy_mmu_mode_active());
    Ok(())
}

#[rustfmt::skip]
fn r43_nothing_waits_when_the_lock_is_free() -> TestResult {
    play(2, 4, &[
        Enter,
        Entries(2..4, SET),
        ProtectEach(0..2, 1),
        Waits(OF_CHANGES),
        Unlock,
        Waits(NONE),
        Do(is_active),
        Leave,
        Shows(2..4, OWN),
        ReadOnly(0..2),
    ])
}

fn r29_contiguous_groups_are_folded_and_split() -> TestResult {
    for backend in Backend::ALL {
        folded_and_split(backend)?;
    }
    Ok(())
}

fn folded_and_split(backend: Backend) -> TestResult {
    const START: u64 = 0x4000_0000;
    const PAGES: usize = 40;
    let _terms = expect_ok!(with(backend));
    // No CPU gets these tables, so any frame may be mapped in them.
    let mut space = expect_ok!(AddressSpace::new_user(&MMU, Asid(9)));
    let Some(first) = Frame::from_u64(0x5000_0000) else {
        fail!("a multiple of 4 KiB is a frame");
    };
    let range = expect_ok!(PageRange::new(START, PAGES as u64));
    {
        let mut fast = expect_ok!(space.fast_pte_range(range));
        for i in 0..PAGES {
            let frame = first.offset(i as u64);
            let set = frame.map(|frame| fast.set(i, frame, Prot::USER));
            expect_eq!(set, Some(Ok(())));
        }
    }
    // There are two groups of 16 pages, and 8 pages that form no group.
    expect_eq!(wrong_page(&space, first, 0..32), None);
    // A part of the first group changes, so that group is split and the other one stays.
    let third = expect_ok!(PageRange::new(START + 3 * PAGE_SIZE, 1));
    expect_ok!(space.protect(third, Prot::USER_RO));
    expect_eq!(wrong_page(&space, first, 16..32), None);
    Ok(())
}

/// The first page that is not mapped to its frame, or whose contiguous hint is wrong: it must be
/// set for `members` and clear for all others.
fn wrong_page(space: &Space, first: Frame, members: Range<u64>) -> Option<u64> {
    (0..40).find(|&i| {
        let found = VirtAddr::new(0x4000_0000 + i * PAGE_SIZE).and_then(|va| space.query(va));
        let Some(entry) = found.map(|found| found.entry) else {
            return true;
        };
        let is_member = entry.as_u64() & bits::CONT != 0;
        Some(entry.frame()) != first.offset(i) || is_member != members.contains(&i)
    })
}
