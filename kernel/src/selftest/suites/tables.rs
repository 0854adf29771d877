// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables as the CPU sees them: map, unmap, protect, and the requests that each refuses.

use lazymmu::{
    AddressSpace, BATCHED_RANGES, Backend, Backing, Desc, Frame, MULTICALLS, MemoryType, PAGE_SIZE,
    PageRange, Prot, RangeError, SpaceError, SpaceKind, VirtAddr, bits,
};

use super::fixture::{Pages, apply, counted, counts, dsb_ish_of_a_flush, store};
use crate::arch::exceptions::esr::Status;
use crate::arch::probe::try_read_u64;
use crate::mm::frames::{self, Block, FrameList};
use crate::mm::kernel_space::Space;
use crate::mm::vmap;
use crate::mm::{MMU, kernel_space};
use crate::selftest::prelude::*;

suite! {
    name: "tables",
    order: 20,
    tests: [
        cases!(QemuVisible, scattered_frames_read_back,
            { one: 1, sixteen: 16, one_table: 512, across_tables: 1300 }),
        cases!(QemuVisible, contiguous_frames_read_back,
            { one: 1, sixteen: 16, one_table: 512, across_tables: 1024 }),
        case!(QemuVisible, writes_reach_the_frame),
        case!(QemuVisible, r27_unmapped_pages_fault_at_once),
        case!(QemuVisible, r27_remapped_address_shows_the_new_frame),
        case!(QemuVisible, r30_read_only_takes_effect_at_once),
        case!(QemuVisible, r31_mapping_needs_no_invalidation),
        case!(QemuVisible, r25_frames_come_back_after_the_invalidation),
        case!(QemuVisible, apply_sets_and_clears_each_entry),
        case!(QemuVisible, apply_stops_at_the_callback_error),
        case!(QemuVisible, fast_pte_range_in_any_order),
        case!(QemuVisible, a_lower_half_space_of_its_own),
        case!(TraceOnly, r18_each_new_table_is_ordered_before_its_link),
        case!(QemuVisible, r32_empty_tables_are_freed),
        case!(QemuVisible, r25_an_area_with_holes_goes_with_one_walk_per_table),
        case!(QemuVisible, r25_an_area_owns_its_frames_or_borrows_them),
        case!(QemuVisible, an_undefined_descriptor_is_no_mapping),
        group!("refuses", [
            case!(QemuVisible, bad_ranges),
            case!(QemuVisible, a_mapped_page),
            case!(QemuVisible, an_unmapped_page),
            case!(QemuVisible, the_other_half),
            case!(QemuVisible, user_attributes),
            case!(QemuVisible, a_wrong_number_of_frames),
            case!(QemuVisible, running_out_of_tables),
        ]),
    ],
}

fn reads_back(pages: &Pages) -> TestResult {
    for i in 0..pages.frames().len() {
        expect_eq!(try_read_u64(pages.virt(i)), Ok(pages.frame_value(i)));
    }
    Ok(())
}

fn scattered_frames_read_back(count: usize) -> TestResult {
    let pages = expect_ok!(Pages::unmapped(count));
    for i in 0..count {
        pages.fill(i, 0x5ca7_0000 + i as u64);
    }
    let reversed: alloc::vec::Vec<Frame> = pages.frames().iter().rev().copied().collect();
    let backing = Backing::Scattered(&reversed);
    expect_ok!(kernel_space::lock().map(pages.area.pages(), backing, Prot::KERNEL));
    for i in 0..count {
        expect_eq!(
            try_read_u64(pages.virt(i)),
            Ok(0x5ca7_0000 + (count - 1 - i) as u64)
        );
    }
    Ok(())
}

fn contiguous_frames_read_back(count: usize) -> TestResult {
    let area = expect_ok!(vmap::vmap(expect_ok!(Block::alloc(count)), Prot::KERNEL));
    for i in 0..count as u64 {
        let virt = area.start() + i * PAGE_SIZE;
        expect_ok!(store(virt, i ^ 0xc0c0));
        let phys = area.frames().first().as_u64() + i * PAGE_SIZE;
        let linear = crate::mm::layout::linear_virt(phys);
        expect_eq!(try_read_u64(linear), Ok(i ^ 0xc0c0));
    }
    Ok(())
}

fn writes_reach_the_frame() -> TestResult {
    let pages = expect_ok!(Pages::mapped(3));
    expect_ok!(store(pages.virt(1), 0xfeed));
    expect_eq!(pages.frame_value(1), 0xfeed);
    Ok(())
}

fn r27_unmapped_pages_fault_at_once() -> TestResult {
    let pages = expect_ok!(Pages::mapped(20));
    reads_back(&pages)?;
    let middle = expect_ok!(pages.area.part(5, 10));
    expect_ok!(kernel_space::lock().unmap(middle));
    for i in 0..20 {
        let gone = (5..15).contains(&i);
        expect_eq!(try_read_u64(pages.virt(i)).is_err(), gone);
    }
    Ok(())
}

fn r27_remapped_address_shows_the_new_frame() -> TestResult {
    let pages = expect_ok!(Pages::mapped(2));
    pages.fill(0, 1);
    pages.fill(1, 2);
    let first = expect_ok!(pages.area.part(0, 1));
    expect_eq!(try_read_u64(pages.virt(0)), Ok(1));
    let mut space = kernel_space::lock();
    expect_ok!(space.unmap(first));
    expect_ok!(space.map(first, Backing::Contiguous(pages.frames()[1]), Prot::KERNEL));
    drop(space);
    expect_eq!(try_read_u64(pages.virt(0)), Ok(2));
    Ok(())
}

fn r30_read_only_takes_effect_at_once() -> TestResult {
    let pages = expect_ok!(Pages::mapped(4));
    expect_ok!(store(pages.virt(2), 1));
    expect_ok!(kernel_space::lock().protect(pages.area.pages(), Prot::KERNEL_RO));
    for i in 0..4 {
        let fault = expect_err!(store(pages.virt(i), 2));
        expect_matches!(fault.esr.status(), Some(Status::Permission(_)));
        expect_ok!(try_read_u64(pages.virt(i)));
    }
    expect_ok!(kernel_space::lock().protect(pages.area.pages(), Prot::KERNEL));
    expect_ok!(store(pages.virt(2), 3));
    expect_eq!(pages.frame_value(2), 3);
    Ok(())
}

fn r31_mapping_needs_no_invalidation() -> TestResult {
    let pages = expect_ok!(Pages::unmapped(8));
    // The CPU must not cache the faulting walks below.
    for i in 0..8 {
        expect_err!(try_read_u64(pages.virt(i)));
    }
    let (mapped, spent) = counted(|| pages.area.map(Prot::KERNEL));
    expect_ok!(mapped);
    expect_eq!(spent.tlbi, 0);
    reads_back(&pages)
}

fn r25_frames_come_back_after_the_invalidation() -> TestResult {
    let pages = expect_ok!(Pages::mapped(600));
    reads_back(&pages)?;
    let before = counts();
    let mut seen = 0;
    let mut early = false;
    let mut wrong = false;
    let virt = pages.virt(0);
    let (result, _) = counted(|| {
        kernel_space::lock().unmap_frames(pages.area.pages(), |va, frame| {
            // By now the TLB entry of the page is gone, and the DSB after the TLBI has completed.
            early |= (counts() - before).dsb_ish == 0;
            wrong |= frame != pages.frames()[seen] || va.as_u64() != virt + seen as u64 * PAGE_SIZE;
            seen += 1;
        })
    });
    expect_ok!(result);
    expect_eq!((seen, early, wrong), (600, false, false));
    for i in [0, 511, 512, 599] {
        expect_err!(try_read_u64(pages.virt(i)));
    }
    Ok(())
}

fn apply_sets_and_clears_each_entry() -> TestResult {
    let pages = expect_ok!(Pages::unmapped(700));
    let range = pages.area.pages();
    let mut next = 0;
    expect_ok!(apply(&mut kernel_space::lock(), range, &mut |pte| {
        let frame = pages.frames()[next];
        next += 1;
        pte.set(frame, Prot::KERNEL)
    }));
    expect_eq!(next, 700);
    reads_back(&pages)?;
    let mut space = kernel_space::lock();
    let mut right = 0;
    expect_ok!(apply(&mut space, range, &mut |pte| {
        let old: Desc = pte.get_and_clear();
        right += usize::from(old.frame() == pages.frames()[right]);
        Ok(())
    }));
    expect_ok!(space.invalidate_range(range));
    drop(space);
    expect_eq!(right, 700);
    expect_err!(try_read_u64(pages.virt(699)));
    Ok(())
}

fn apply_stops_at_the_callback_error() -> TestResult {
    let pages = expect_ok!(Pages::unmapped(10));
    let mut calls = 0;
    let result = apply(&mut kernel_space::lock(), pages.area.pages(), &mut |pte| {
        calls += 1;
        if calls == 5 {
            return Err(SpaceError::NotMapped { va: pte.va() });
        }
        pte.set(pages.frames()[calls - 1], Prot::KERNEL)
    });
    expect_matches!(result, Err(SpaceError::NotMapped { .. }));
    expect_eq!(calls, 5);
    // R39: the error path has left the section, and the entries that were set before stay.
    expect!(!MMU.lazy().is_lazy_mmu_mode_active());
    expect_ok!(try_read_u64(pages.virt(3)));
    expect_err!(try_read_u64(pages.virt(4)));
    Ok(())
}

fn fast_pte_range_in_any_order() -> TestResult {
    let pages = expect_ok!(Pages::unmapped(64));
    let mut space = kernel_space::lock();
    let mut range = expect_ok!(space.fast_pte_range(pages.area.pages()));
    for i in (0..64).rev().step_by(3) {
        expect_ok!(range.set(i, pages.frames()[i], Prot::KERNEL));
        // R13: a read returns what was written.
        expect_eq!(range.get(i).frame(), pages.frames()[i]);
    }
    drop(range);
    drop(space);
    for i in 0..64 {
        expect_eq!(try_read_u64(pages.virt(i)).is_ok(), (63 - i) % 3 == 0);
    }
    Ok(())
}

fn a_lower_half_space_of_its_own() -> TestResult {
    let frames = expect_ok!(FrameList::alloc(3));
    let kind = SpaceKind::User(lazymmu::Asid(7));
    let mut space = expect_ok!(AddressSpace::new(&MMU, kind));
    let range = expect_ok!(PageRange::new(0x40_0000, 3));
    let result = space.map(range, Backing::Scattered(&frames), Prot::USER_RO);
    let found = space.query(range.start());
    drop(space);
    expect_ok!(result);
    let Some(found) = found else {
        fail!("the page just mapped is not there");
    };
    expect_eq!(found.entry.frame(), frames[0]);
    expect!(found.entry.as_u64() & bits::NG != 0);
    Ok(())
}

fn r18_each_new_table_is_ordered_before_its_link() -> TestResult {
    // The pages need more than one table, so there are two tables of the last level. No other part
    // of the vmap area is mapped, so there is one new table on each level above.
    let pages = expect_ok!(Pages::unmapped(513));
    let (mapped, spent) = counted(|| pages.area.map(Prot::KERNEL));
    expect_ok!(mapped);
    expect_eq!((spent.links, spent.dmb_ishst), (4, 4));
    Ok(())
}

fn r32_empty_tables_are_freed() -> TestResult {
    let before = frames::usage().used;
    let pages = expect_ok!(Pages::unmapped(1));
    expect_ok!(pages.area.map(Prot::KERNEL));
    let used = frames::usage().used;
    expect!(used > before + 1);
    expect_ok!(pages.area.unmap());
    let (freed, spent) = counted(|| kernel_space::lock().free_empty_tables(pages.area.pages()));
    let freed = expect_ok!(freed);
    expect!(freed > 0);
    expect_eq!(frames::usage().used, used - freed);
    // The tables are unlinked and fully invalidated before their frames come back.
    expect_eq!((spent.links, spent.dmb_ishst), (freed as u64, 0));
    expect!(spent.tlbi > 0);
    expect!(spent.dsb_ishst > 0);
    expect_eq!(spent.dsb_ish, dsb_ish_of_a_flush());
    expect_err!(try_read_u64(pages.virt(0)));
    Ok(())
}

/// Every second page is mapped. What is executed depends on the number of tables, not on that of
/// the pages.
fn r25_an_area_with_holes_goes_with_one_walk_per_table() -> TestResult {
    for count in [40, 500] {
        let used = frames::usage().used;
        let pages = expect_ok!(Pages::mapped(count));
        reads_back(&pages)?;
        let mut space = kernel_space::lock();
        for i in (0..count as u64).step_by(2) {
            expect_ok!(space.unmap(expect_ok!(pages.area.part(i, 1))));
        }
        drop(space);
        let virt = pages.virt(count - 1);
        let ((), spent) = counted(|| drop(pages));
        expect_eq!(spent.ptes, count as u64 / 2);
        // One walk looks for blocks, and one clears the entries. The tables that become empty are
        // found on the way from the root.
        expect_eq!(spent.walks, 2);
        // There is one invalidation of the pages, or one for each time that the strategy's list is
        // full, and one of the tables.
        let list = match MMU.backend() {
            Backend::BatchInvalidations => BATCHED_RANGES,
            Backend::Multicall => MULTICALLS,
            _ => count,
        };
        let invalidations = (count / 2).div_ceil(list) as u64 + 1;
        expect_eq!(spent.dsb_ish, invalidations * dsb_ish_of_a_flush());
        expect_err!(try_read_u64(virt));
        expect_eq!(frames::usage().used, used);
    }
    Ok(())
}

fn r25_an_area_owns_its_frames_or_borrows_them() -> TestResult {
    let used = || frames::usage().used;
    let before = used();
    let list = expect_ok!(FrameList::alloc(3));
    let with_list = used();
    let area = expect_ok!(vmap::vmap(&list, Prot::KERNEL));
    let virt = area.start();
    expect_ok!(try_read_u64(virt));
    drop(area);
    expect_err!(try_read_u64(virt));
    expect_eq!(used(), with_list, "the list is still there");
    let area = expect_ok!(vmap::vmap(list, Prot::KERNEL));
    expect_eq!(area.frames().len(), 3);
    drop(area);
    expect_eq!(used(), before, "it went with the area");
    // A refused request keeps nothing.
    let block = expect_ok!(Block::alloc(4));
    frames::set_budget(Some(0));
    let refused = vmap::vmap(block, Prot::KERNEL).map(|_| ());
    frames::set_budget(None);
    expect_err!(refused);
    expect_eq!(used(), before);
    Ok(())
}

/// A level-3 entry whose bits 1 and 0 are 01, which a walk does not accept.
fn an_undefined_descriptor_is_no_mapping() -> TestResult {
    let pages = expect_ok!(Pages::mapped(2));
    let second = expect_ok!(pages.area.part(1, 1));
    let mut space = kernel_space::lock();
    let (va, table) = (second.start(), space.last_level_table(second.start()));
    expect_ok!(space.unmap(second));
    drop(space);
    let Some(table) = table else {
        fail!("a mapped page has a table");
    };
    let index = va.as_u64() / PAGE_SIZE % lazymmu::ENTRIES as u64;
    let entry = crate::mm::layout::linear_virt(table.as_u64()) + 8 * index;
    let page = Desc::page(pages.frames()[1], Prot::KERNEL).as_u64();
    expect_ok!(store(entry, page & !bits::TABLE_OR_PAGE));
    let faults = try_read_u64(va.as_u64()).is_err();
    let found = kernel_space::lock().query(va);
    let mut report = crate::text::Text::<400>::new();
    let told = crate::mm::fault::explain(va.as_u64(), &mut report);
    expect_ok!(store(entry, 0));
    expect!(faults);
    expect_eq!(found, None);
    expect_ok!(told);
    expect!(
        report.as_str().contains("level 3: undefined (0x"),
        "{}",
        report.as_str()
    );
    Ok(())
}

fn bad_ranges() -> TestResult {
    let start = crate::mm::layout::VMAP;
    expect_matches!(PageRange::new(start + 1, 1), Err(RangeError::Unaligned(_)));
    expect_matches!(PageRange::new(start, 0), Err(RangeError::Empty(_)));
    expect_matches!(
        PageRange::new(start, u64::MAX / PAGE_SIZE),
        Err(RangeError::LeavesHalf { .. })
    );
    expect_matches!(PageRange::new(1 << 50, 1), Err(RangeError::NotCanonical(_)));
    Ok(())
}

/// Runs `request`, which must fail, and checks that it executed no barrier and took no frame.
fn changes_nothing(
    request: &mut dyn FnMut(&mut Space) -> Result<(), SpaceError>,
) -> Result<SpaceError, Outcome> {
    let used = frames::usage().used;
    let (result, spent) = counted(|| request(&mut kernel_space::lock()));
    let error = expect_err!(result);
    expect_eq!(frames::usage().used, used);
    expect_eq!((spent.ptes, spent.links), (0, 0));
    expect_eq!((spent.dsb(), spent.isb, spent.tlbi), (0, 0, 0));
    Ok(error)
}

fn a_mapped_page() -> TestResult {
    let pages = expect_ok!(Pages::mapped(3));
    let other = expect_ok!(FrameList::alloc(3));
    let middle = expect_ok!(pages.area.part(1, 1));
    expect_ok!(kernel_space::lock().unmap(expect_ok!(pages.area.part(0, 1))));
    let error = changes_nothing(&mut |space| {
        space.map(pages.area.pages(), Backing::Scattered(&other), Prot::KERNEL)
    })?;
    expect_matches!(error, SpaceError::AlreadyMapped { va, .. } if va == middle.start());
    expect_err!(try_read_u64(pages.virt(0)));
    Ok(())
}

fn an_unmapped_page() -> TestResult {
    let pages = expect_ok!(Pages::mapped(3));
    let last = expect_ok!(pages.area.part(2, 1));
    expect_ok!(kernel_space::lock().unmap(last));
    let range = pages.area.pages();
    let errors = [
        changes_nothing(&mut |space| space.unmap(range))?,
        changes_nothing(&mut |space| space.protect(range, Prot::KERNEL_RO))?,
        changes_nothing(&mut |space| space.remap(range, Prot::DEVICE))?,
    ];
    for error in errors {
        expect_eq!(error, SpaceError::NotMapped { va: last.start() });
    }
    expect_ok!(store(pages.virt(0), 1));
    Ok(())
}

fn the_other_half() -> TestResult {
    let range = expect_ok!(PageRange::new(0x1000, 1));
    let frames = expect_ok!(FrameList::alloc(1));
    let error =
        changes_nothing(&mut |space| space.map(range, Backing::Scattered(&frames), Prot::KERNEL))?;
    expect_matches!(error, SpaceError::WrongHalf { .. });
    Ok(())
}

fn user_attributes() -> TestResult {
    let pages = expect_ok!(Pages::unmapped(1));
    let error = changes_nothing(&mut |space| {
        space.map(
            pages.area.pages(),
            Backing::Scattered(pages.frames()),
            Prot::USER,
        )
    })?;
    expect_matches!(error, SpaceError::WrongPrivilege { .. });
    Ok(())
}

fn a_wrong_number_of_frames() -> TestResult {
    let pages = expect_ok!(Pages::unmapped(3));
    let error = changes_nothing(&mut |space| {
        space.map(
            pages.area.pages(),
            Backing::Scattered(&pages.frames()[..2]),
            Prot::KERNEL,
        )
    })?;
    expect_eq!(
        error,
        SpaceError::BackingLength {
            pages: 3,
            frames: 2
        }
    );
    Ok(())
}

fn running_out_of_tables() -> TestResult {
    // 2000 pages need at least four tables, and the budget allows fewer.
    let pages = expect_ok!(Pages::reserved(2000, 1));
    let area = &pages.area;
    let repeated = alloc::vec![pages.frames()[0]; 2000];
    for budget in 0..4 {
        let error = changes_nothing(&mut |space| {
            frames::set_budget(Some(budget));
            let result = space.map(area.pages(), Backing::Scattered(&repeated), Prot::KERNEL);
            frames::set_budget(None);
            result
        })?;
        expect_matches!(error, SpaceError::OutOfTables { available, .. } if available == budget);
        let last = VirtAddr::new(area.pages().end() - PAGE_SIZE);
        expect!(last.is_some_and(|va| kernel_space::lock().query(va).is_none()));
    }
    // With memory, the same request succeeds.
    expect_ok!(kernel_space::lock().map(
        area.pages(),
        Backing::Scattered(&repeated),
        Prot::KERNEL.with_memory_type(MemoryType::Normal)
    ));
    Ok(())
}
