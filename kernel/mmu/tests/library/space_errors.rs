// SPDX-License-Identifier: MIT OR Apache-2.0
//! Refused requests: each error provoked, and nothing left behind.
//!
//! [`fake::refused`] compares every bit of every table, the tables allocated, the lazy
//! state, and the barriers and TLBI executed.

use lazymmu::bbm::Violation;
use lazymmu::{
    AddressSpace, Backing, BarrierPolicy, Desc, Frame, Half, Hardware, Level, Mmu, PAGE_SIZE,
    PageRange, Prot, RangeError, SpaceError, SpaceKind, TableFrames, bits,
};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Fake, USER, contiguous, data, frame, new_mmu, new_space, pages, refused,
    with_ets2,
};

/// Every request that takes a range, as one list.
fn all_requests(space: &mut AddressSpace<'_, Fake>, range: PageRange) -> Vec<SpaceError> {
    let prot = data(space.kind());
    let mmu = space.mmu();
    let backing = Backing::Contiguous(frame(1));
    vec![
        refused(mmu, || space.map(range, backing, prot)),
        refused(mmu, || space.unmap(range)),
        refused(mmu, || space.unmap_no_invalidate(range).map(|_| ())),
        refused(mmu, || space.unmap_frames(range, |_, _| unreachable!())),
        refused(mmu, || space.protect(range, prot)),
        refused(mmu, || space.remap(range, prot)),
        refused(mmu, || space.apply_to_page_range(range, |_| Ok(()))),
        refused(mmu, || space.fast_pte_range(range).map(|_| ())),
        refused(mmu, || space.free_empty_tables(range)),
        refused(mmu, || space.invalidate_range(range)),
    ]
}

#[test]
fn a_range_of_the_other_half_is_refused_by_everything() {
    for (kind, start, half) in [
        (SpaceKind::Kernel, 0x1000, Half::Upper),
        (USER, BASE, Half::Lower),
    ] {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let range = pages(start, 1);
        for error in all_requests(&mut space, range) {
            assert_eq!(error, SpaceError::WrongHalf { range, half });
        }
        let other = new_space(&mmu, kind);
        // SAFETY: the request is refused.
        let error = refused(&mmu, || unsafe { space.share_tables(&other, range) });
        let expected = match kind {
            SpaceKind::Kernel => SpaceError::WrongHalf { range, half },
            SpaceKind::User(_) => SpaceError::SharedByUsers,
        };
        assert_eq!(error, expected);
        assert_eq!(space.query(fake::va(start)), None);
        space.walk(fake::va(start), |_, _| unreachable!());
    }
}

#[test]
fn attributes_of_the_other_privilege_are_refused() {
    for (kind, start, prot) in [
        (SpaceKind::Kernel, BASE, Prot::USER),
        (USER, 0x1000, Prot::KERNEL),
    ] {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let range = pages(start, 1);
        let fits = data(kind);
        let expected = SpaceError::WrongPrivilege { prot };
        let error = refused(&mmu, || space.map(range, contiguous(1), prot));
        assert_eq!(error, expected);
        space.map(range, contiguous(1), fits).unwrap();
        assert_eq!(refused(&mmu, || space.protect(range, prot)), expected);
        assert_eq!(refused(&mmu, || space.remap(range, prot)), expected);
        fake::destroy(space);
    }
}

#[test]
fn an_error_of_the_other_privilege_names_attributes_and_the_way_out() {
    let text = |prot| SpaceError::WrongPrivilege { prot }.to_string();
    assert_eq!(
        text(Prot::USER),
        "user attributes (normal rw user) in a kernel address space: use one of Prot::KERNEL, \
         KERNEL_RO, KERNEL_ROX and DEVICE, or a user space"
    );
    assert_eq!(
        text(Prot::KERNEL_ROX),
        "kernel attributes (normal ro x) in a user address space: use one of Prot::USER, USER_RO \
         and USER_ROX, or a kernel space"
    );
    let page = Desc::page(frame(1), Prot::USER);
    assert_eq!(page.to_string(), format!("PA 0x1000 {}", Prot::USER));
}

#[test]
fn single_entries_of_the_other_privilege_are_refused() {
    for (kind, start, prot) in [
        (SpaceKind::Kernel, BASE, Prot::USER),
        (USER, 0x1000, Prot::KERNEL),
    ] {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let range = pages(start, 2);
        let expected = Err(SpaceError::WrongPrivilege { prot });
        let set = space.apply_to_page_range(range, |entry| entry.set(frame(1), prot));
        assert_eq!(set, expected);
        let mut fast = space.fast_pte_range(range).unwrap();
        assert_eq!(fast.set(0, frame(1), prot), expected);
        assert_eq!(fast.set_run(0, 2, frame(1), prot), expected);
        assert_eq!(fast.get(0), Desc::INVALID);
    }
}

#[test]
fn the_backing_must_fit_the_range() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let range = pages(BASE, 3);
    for n in [0, 2, 4] {
        let frames = vec![frame(1); n];
        let error = refused(&mmu, || {
            space.map(range, Backing::Scattered(&frames), Prot::KERNEL)
        });
        let frames = n as u64;
        assert_eq!(error, SpaceError::BackingLength { pages: 3, frames });
    }
    let last = Frame::from_u64((1 << 48) - PAGE_SIZE).unwrap();
    let first = Frame::from_u64((1 << 48) - 2 * PAGE_SIZE).unwrap();
    let error = refused(&mmu, || {
        space.map(range, Backing::Contiguous(first), Prot::KERNEL)
    });
    assert_eq!(error, SpaceError::BackingEnd { first, pages: 3 });
    // The last frame of all is a frame.
    space
        .map(pages(BASE, 2), Backing::Contiguous(first), Prot::KERNEL)
        .unwrap();
    let entry = space.query(fake::va(BASE + PAGE_SIZE)).unwrap().entry;
    assert_eq!(entry, Desc::page(last, Prot::KERNEL));
    let mut fast = space
        .fast_pte_range(pages(BASE + 2 * PAGE_SIZE, 3))
        .unwrap();
    let error = fast.set_run(0, 2, last, Prot::KERNEL);
    assert_eq!(
        error,
        Err(SpaceError::BackingEnd {
            first: last,
            pages: 2
        })
    );
    assert_eq!(fast.get(0), Desc::INVALID);
    drop(fast);
    fake::destroy(space);
}

#[test]
fn ranges_that_are_none_are_refused_before_any_space_sees_them() {
    let top = Half::Upper.end();
    let cases = [
        (BASE + 1, 1, RangeError::Unaligned(BASE + 1)),
        (BASE, 0, RangeError::Empty(BASE)),
        (1 << 48, 1, RangeError::NotCanonical(1 << 48)),
        (BASE ^ 1 << 48, 1, RangeError::NotCanonical(BASE ^ 1 << 48)),
        ((1 << 48) - PAGE_SIZE, 2, leaves((1 << 48) - PAGE_SIZE, 2)),
        (top - PAGE_SIZE, 2, leaves(top - PAGE_SIZE, 2)),
        (top, 1, leaves(top, 1)),
        (BASE, u64::MAX, leaves(BASE, u64::MAX)),
        (
            BASE,
            u64::MAX / PAGE_SIZE,
            leaves(BASE, u64::MAX / PAGE_SIZE),
        ),
        (0, 1 << 52, leaves(0, 1 << 52)),
        (0, (1 << 36) + 1, leaves(0, (1 << 36) + 1)),
    ];
    for (start, pages, expected) in cases {
        assert_eq!(
            PageRange::new(start, pages),
            Err(expected),
            "{start:#x}+{pages}"
        );
    }
    assert!(PageRange::new(0, 1 << 36).is_ok());
    assert!(PageRange::new(top - PAGE_SIZE, 1).is_ok());
    let unaligned = RangeError::Unaligned(BASE + 5);
    assert_eq!(PageRange::from_bounds(BASE, BASE + 5), Err(unaligned));
    assert_eq!(
        PageRange::from_bounds(BASE, BASE),
        Err(RangeError::Empty(BASE))
    );
    assert!(PageRange::from_bounds(BASE, 0x1000).is_err(), "wraps");
    assert!(
        PageRange::from_bounds(0x1000, BASE).is_err(),
        "spans both halves"
    );
}

fn leaves(start: u64, pages: u64) -> RangeError {
    RangeError::LeavesHalf { start, pages }
}

#[test]
fn used_and_unused_pages_are_named() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let start = BASE + (1 << 30) - 2 * PAGE_SIZE;
    // Four pages across a 1 GiB boundary, the fourth not mapped.
    space
        .map(pages(start, 3), contiguous(10), Prot::KERNEL)
        .unwrap();
    let whole = pages(start, 4);
    let va = fake::va(start + 3 * PAGE_SIZE);
    let missing = SpaceError::NotMapped { va };
    assert_eq!(refused(&mmu, || space.unmap(whole)), missing);
    assert_eq!(refused(&mmu, || space.unmap_no_invalidate(whole)), missing);
    let none = refused(&mmu, || space.unmap_frames(whole, |_, _| unreachable!()));
    assert_eq!(none, missing);
    assert_eq!(
        refused(&mmu, || space.protect(whole, Prot::KERNEL_RO)),
        missing
    );
    assert_eq!(refused(&mmu, || space.remap(whole, Prot::DEVICE)), missing);
    let error = refused(&mmu, || {
        space.map(pages(start + 2 * PAGE_SIZE, 2), contiguous(1), Prot::KERNEL)
    });
    let used = SpaceError::AlreadyMapped {
        va: fake::va(start + 2 * PAGE_SIZE),
        entry: Desc::page(frame(12), Prot::KERNEL),
        level: Level::L3,
    };
    assert_eq!(error, used);
    // No table at all.
    let far = pages(BASE + (7 << 39), 2);
    let va = far.start();
    assert_eq!(
        refused(&mmu, || space.unmap(far)),
        SpaceError::NotMapped { va }
    );
    fake::destroy(space);
}

#[test]
fn r29_protect_refuses_another_memory_type_at_the_page_concerned() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    space
        .map(pages(BASE, 3), contiguous(1), Prot::KERNEL)
        .unwrap();
    space
        .map(pages(BASE + 3 * PAGE_SIZE, 1), contiguous(9), Prot::DEVICE)
        .unwrap();
    let error = refused(&mmu, || space.protect(pages(BASE, 4), Prot::KERNEL_RO));
    let expected = SpaceError::BreakBeforeMake {
        va: fake::va(BASE + 3 * PAGE_SIZE),
        violation: Violation::MemoryType,
    };
    assert_eq!(error, expected);
    let entry_changes = |space: &mut AddressSpace<'_, Fake>, n, prot| {
        space.apply_to_page_range(pages(BASE, 1), |entry| entry.set(frame(n), prot))
    };
    let bbm = |violation| {
        let va = fake::va(BASE);
        Err(SpaceError::BreakBeforeMake { va, violation })
    };
    assert_eq!(
        entry_changes(&mut space, 2, Prot::KERNEL),
        bbm(Violation::OutputAddress)
    );
    assert_eq!(
        entry_changes(&mut space, 1, Prot::DEVICE),
        bbm(Violation::MemoryType)
    );
    let mut fast = space.fast_pte_range(pages(BASE, 1)).unwrap();
    assert_eq!(
        fast.set(0, frame(2), Prot::KERNEL),
        bbm(Violation::OutputAddress)
    );
    assert_eq!(
        fast.set(0, frame(1), Prot::DEVICE),
        bbm(Violation::MemoryType)
    );
    assert_eq!(fast.get(0), Desc::page(frame(1), Prot::KERNEL));
}

/// A tree with a 2 MiB block, which only other code can have made.
fn with_block(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    let mut space = new_space(mmu, SpaceKind::Kernel);
    drop(space.fast_pte_range(pages(BASE + (2 << 20), 1)).unwrap());
    let kernel = mmu.kernel();
    let mut table = space.root();
    for level in [Level::L0, Level::L1] {
        // SAFETY: the frame came from the fake and is live.
        let entries = unsafe { kernel.table_ptr(table).as_ref() }.entries();
        table = kernel.load(&entries[level.index(fake::va(BASE))]).frame();
    }
    // SAFETY: as above.
    let entries = unsafe { kernel.table_ptr(table).as_ref() }.entries();
    let block = Desc::page(frame(512), Prot::KERNEL).as_u64() & !bits::TABLE_OR_PAGE;
    let cell = &entries[0];
    // SAFETY: the entry is a live cell of the fake that nobody else touches.
    unsafe { cell.as_ptr().write(block) };
    space
}

#[test]
fn blocks_are_shown_and_refused() {
    let mmu = new_mmu();
    let mut space = with_block(&mmu);
    let (va, level) = (fake::va(BASE), Level::L2);
    let found = space.query(fake::va(BASE + 0x1234)).unwrap();
    assert_eq!((found.level, found.entry.frame()), (level, frame(512)));
    let range = pages(BASE, 2);
    let expected = SpaceError::Block { va, level };
    assert_eq!(refused(&mmu, || space.unmap(range)), expected);
    assert_eq!(
        refused(&mmu, || space.protect(range, Prot::KERNEL_RO)),
        expected
    );
    assert_eq!(refused(&mmu, || space.remap(range, Prot::DEVICE)), expected);
    let error = refused(&mmu, || space.unmap_frames(range, |_, _| unreachable!()));
    assert_eq!(error, expected);
    let error = refused(&mmu, || space.apply_to_page_range(range, |_| Ok(())));
    assert_eq!(error, expected);
    assert_eq!(
        refused(&mmu, || space.fast_pte_range(range).map(|_| ())),
        expected
    );
    let error = refused(&mmu, || space.map(range, contiguous(1), Prot::KERNEL));
    assert!(matches!(
        error,
        SpaceError::AlreadyMapped {
            level: Level::L2,
            ..
        }
    ));
    assert_eq!(space.free_empty_tables(range), Ok(0));
}

#[test]
fn a_fast_range_does_not_cross_a_table() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let start = BASE + (2 << 20) - PAGE_SIZE;
    let error = refused(&mmu, || space.fast_pte_range(pages(start, 2)).map(|_| ()));
    let crosses = RangeError::CrossesTable { start, pages: 2 };
    assert_eq!(error, SpaceError::Range(crosses));
    drop(space.fast_pte_range(pages(start, 1)).unwrap());
    drop(space.fast_pte_range(pages(start + PAGE_SIZE, 512)).unwrap());
    fake::destroy(space);
}

#[test]
fn in_an_interrupt_a_refusal_is_a_refusal() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    mmu.kernel().set_interrupt(true);
    let range = pages(BASE, 1);
    let va = range.start();
    assert_eq!(
        refused(&mmu, || space.unmap(range)),
        SpaceError::NotMapped { va }
    );
    space.map(range, contiguous(1), Prot::KERNEL).unwrap();
    space.unmap(range).unwrap();
    mmu.kernel().set_interrupt(false);
    assert!(mmu.lazy().state().owed().is_empty());
    fake::destroy(space);
}

#[test]
fn a_restricted_space_changes_nothing_outside_its_window() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let window = pages(BASE, 10);
    space
        .map(pages(BASE - PAGE_SIZE, 3), contiguous(1), Prot::KERNEL)
        .unwrap();
    space.restrict(window);
    for range in [
        pages(BASE - PAGE_SIZE, 1),
        pages(BASE - PAGE_SIZE, 2),
        pages(BASE + 9 * PAGE_SIZE, 2),
        pages(BASE + 10 * PAGE_SIZE, 1),
    ] {
        let outside = SpaceError::OutsideWindow { range, window };
        for error in all_requests(&mut space, range) {
            assert_eq!(error, outside);
        }
    }
    assert!(space.query(fake::va(BASE - PAGE_SIZE)).is_some());
    space.unmap(pages(BASE, 2)).unwrap();
    fake::destroy(space);
}

#[test]
fn r29_an_entry_is_fresh_once() {
    // The first goes the short way, the others do not.
    for first in [Prot::KERNEL, Prot::KERNEL_ROX, Prot::DEVICE] {
        for policy in [BarrierPolicy::Classic, BarrierPolicy::Ets2] {
            let mmu = new_mmu();
            mmu.choose_features(with_ets2());
            mmu.set_policy(policy).unwrap();
            let mut space = new_space(&mmu, SpaceKind::Kernel);
            space
                .apply_to_page_range(pages(BASE, 3), |entry| {
                    entry.set(frame(1), first)?;
                    let again = entry.set(frame(2), Prot::KERNEL);
                    let (va, violation) = (entry.va(), Violation::OutputAddress);
                    let refused = SpaceError::BreakBeforeMake { va, violation };
                    assert_eq!(again, Err(refused), "{first:?}");
                    // The same frame with other permissions is no other page.
                    let mut other = first;
                    if first != Prot::DEVICE {
                        other = Prot::KERNEL_RO;
                    }
                    entry.set(frame(1), other)
                })
                .unwrap();
            // The permissions of live entries have changed, and their invalidation is the caller's.
            space.invalidate_range(pages(BASE, 3)).unwrap();
            space.unmap(pages(BASE, 3)).unwrap();
            // Each counts once, so the tables are empty now: those of levels 1 to 3.
            assert_eq!(space.free_empty_tables(pages(BASE, 3)), Ok(3), "{first:?}");
            fake::destroy(space);
        }
    }
}

/// However a leaf of another memory type comes in, `protect` finds it.
#[test]
fn r29_single_entries_of_another_memory_type_are_noted() {
    type Write = fn(&mut AddressSpace<'_, Fake>);
    let at = |i: u64| pages(BASE + i * PAGE_SIZE, 1);
    let writes: [(&str, Write); 5] = [
        ("a fresh entry", |space| {
            space
                .apply_to_page_range(pages(BASE, 4), |entry| {
                    let is_first = entry.va().as_u64() == BASE;
                    let prot = if is_first { Prot::DEVICE } else { Prot::KERNEL };
                    entry.set(frame(1), prot)
                })
                .unwrap();
        }),
        ("an entry", |space| {
            let mut fast = space.fast_pte_range(pages(BASE, 4)).unwrap();
            fast.set(0, frame(1), Prot::DEVICE).unwrap();
            fast.set_run(1, 3, frame(2), Prot::KERNEL).unwrap();
        }),
        ("a run", |space| {
            let mut fast = space.fast_pte_range(pages(BASE, 4)).unwrap();
            fast.set_run(1, 3, frame(2), Prot::KERNEL).unwrap();
            fast.set_run(0, 1, frame(1), Prot::DEVICE).unwrap();
        }),
        ("a page", |space| {
            let rest = pages(BASE + PAGE_SIZE, 3);
            space.map(rest, contiguous(2), Prot::KERNEL).unwrap();
            space
                .map(pages(BASE, 1), contiguous(1), Prot::DEVICE)
                .unwrap();
        }),
        ("another type for what is mapped", |space| {
            space
                .map(pages(BASE, 4), contiguous(1), Prot::KERNEL)
                .unwrap();
            space.remap(pages(BASE, 1), Prot::DEVICE).unwrap();
        }),
    ];
    for (name, write) in writes {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        write(&mut space);
        let refused = space.protect(pages(BASE, 4), Prot::KERNEL_RO);
        let expected = SpaceError::BreakBeforeMake {
            va: fake::va(BASE),
            violation: Violation::MemoryType,
        };
        assert_eq!(refused, Err(expected), "{name}");
        assert_eq!(space.protect(at(1), Prot::KERNEL_RO), Ok(()), "{name}");
        fake::destroy(space);
    }
}

/// What the call before has found out about a table does not open the window.
#[test]
fn pages_one_by_one_end_at_the_window_too() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let page = |i: u64| pages(BASE + i * PAGE_SIZE, 1);
    let map =
        |space: &mut AddressSpace<'_, Fake>, i| space.map(page(i), contiguous(i), Prot::KERNEL);
    map(&mut space, 0).unwrap();
    map(&mut space, 1).unwrap();
    let window = pages(BASE, 8);
    space.restrict(window);
    let outside = |i| {
        Err(SpaceError::OutsideWindow {
            range: page(i),
            window,
        })
    };
    assert_eq!(
        map(&mut space, 9),
        outside(9),
        "asked before the window was set"
    );
    map(&mut space, 2).unwrap();
    map(&mut space, 3).unwrap();
    assert_eq!(map(&mut space, 8), outside(8), "asked for a page inside");
    fake::destroy(space);
}

/// Calls for one page each, behind one that has found out about the table.
#[test]
fn pages_one_by_one_are_refused_as_ever() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let page = |i: u64| pages(BASE + i * PAGE_SIZE, 1);
    for i in 0..3 {
        space.map(page(i), contiguous(i), Prot::KERNEL).unwrap();
    }
    let user = refused(&mmu, || space.map(page(3), contiguous(3), Prot::USER));
    assert_eq!(user, SpaceError::WrongPrivilege { prot: Prot::USER });
    let used = refused(&mmu, || space.map(page(1), contiguous(9), Prot::KERNEL));
    let expected = SpaceError::AlreadyMapped {
        va: page(1).start(),
        entry: Desc::page(frame(1), Prot::KERNEL),
        level: Level::L3,
    };
    assert_eq!(used, expected);
    space.map(page(3), contiguous(3), Prot::KERNEL).unwrap();
    fake::destroy(space);
}
