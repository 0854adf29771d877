// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lazy_mmu_mode_enable_fast_pte_range()`: what Linux's proposal says of it (mail of 13 April 2026),
//! and where ours goes further without showing it (R21, R22). `fast_pte_range_random.rs` has the rest of R22.

use crate::panics;
use lazymmu::{
    AddressSpace, Asid, Backend, Backing, Frame, LazyMmuError, Mmu, PAGE_SIZE, Prot, RangeError,
    SpaceError, SpaceKind,
};
use lazymmu_testkit::fake::{
    self, BASE, Fake, KINDS, USER, contiguous, data, enable_fast, frame, leaves, map_page, new_mmu,
    new_mmu_with, new_space_with_tables, pages, part, refused, table_of,
};

const KERNEL: SpaceKind = SpaceKind::Kernel;

/// A kernel space with three tables.
fn space(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    new_space_with_tables(mmu, KERNEL, part(0, 3 * 512))
}

/// Leaf stores that mapping a page causes at once: 0 where it waits, which is where it was announced.
fn stores_of(space: &mut AddressSpace<'_, Fake>, page: u64) -> usize {
    space.mmu().kernel().take_effects();
    map_page(space, page);
    leaves(&space.mmu().kernel().take_effects())
}

/// Depth and number of ranges.
fn place(mmu: &Mmu<Fake>) -> (u8, usize) {
    let state = mmu.lazy().state();
    (state.enable_count(), state.fast_pte_ranges())
}

fn announce(
    space: &AddressSpace<'_, Fake>,
    start: u64,
    end: u64,
    table: Frame,
) -> Result<(), SpaceError> {
    // SAFETY: no test frees a table in a section.
    unsafe {
        space
            .mmu()
            .lazy()
            .enable_fast_pte_range(space, fake::va(start), end, table)
    }
}

#[test]
fn r21_it_enters_a_section_that_disable_leaves() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let space = space(&mmu);
        let before = mmu.kernel().counts();
        enable_fast(&space, part(0, 512));
        assert_eq!(place(&mmu), (1, 1), "{backend}");
        assert!(mmu.lazy().is_lazy_mmu_mode_active());
        mmu.lazy().disable().unwrap();
        assert_eq!(place(&mmu), (0, 0), "{backend}");
        let hooks = mmu.kernel().counts() - before;
        assert_eq!((hooks.enter, hooks.flush, hooks.leave), (1, 0, 1));
        let underflow = mmu.lazy().disable();
        assert_eq!(underflow, Err(LazyMmuError::EnableUnderflow));
    }
}

#[test]
fn r21_the_range_lies_in_one_table_of_this_space() {
    let mmu = new_mmu();
    let mut kernel = space(&mmu);
    let user = new_space_with_tables(&mmu, USER, pages(0x40_0000, 1));
    let (table, next) = (
        table_of(&kernel, part(0, 1)),
        table_of(&kernel, part(512, 1)),
    );
    let users = table_of(&user, pages(0x40_0000, 1));
    let check = |space: &AddressSpace<'_, Fake>, start, end, table| {
        let error = refused(&mmu, || announce(space, start, end, table));
        assert_eq!(place(&mmu), (0, 0), "{error}");
        error
    };
    let end = BASE + 512 * PAGE_SIZE;
    let wrong = |va, table| SpaceError::WrongTable {
        va: fake::va(va),
        table,
    };
    assert!(matches!(
        check(&kernel, BASE + 1, end, table),
        SpaceError::Range(_)
    ));
    assert!(matches!(
        check(&kernel, BASE, BASE, table),
        SpaceError::Range(_)
    ));
    let crosses = RangeError::CrossesTable {
        start: BASE,
        pages: 513,
    };
    assert_eq!(
        check(&kernel, BASE, end + PAGE_SIZE, table),
        SpaceError::Range(crosses)
    );
    assert_eq!(check(&kernel, BASE, end, next), wrong(BASE, next));
    assert_eq!(check(&kernel, BASE, end, users), wrong(BASE, users));
    // No table there at all.
    let far = BASE + (77 << 30);
    assert_eq!(
        check(&kernel, far, far + PAGE_SIZE, table),
        wrong(far, table)
    );
    assert!(matches!(
        check(&user, BASE, end, table),
        SpaceError::WrongHalf { .. }
    ));
    kernel.restrict(part(0, 16));
    assert!(matches!(
        check(&kernel, BASE, end, table),
        SpaceError::OutsideWindow { .. }
    ));
    for _ in 0..255 {
        mmu.lazy().enable().unwrap();
    }
    let overflow = refused(&mmu, || announce(&kernel, BASE, BASE + PAGE_SIZE, table));
    assert_eq!(overflow, SpaceError::Lazy(LazyMmuError::EnableOverflow));
    assert_eq!(place(&mmu), (255, 0));
}

#[test]
fn r3_r6_it_has_no_effect_while_paused_and_in_an_interrupt() {
    for interrupt in [false, true] {
        let mmu = new_mmu_with(Backend::DeferStores);
        let mut space = space(&mmu);
        let enter = || {
            if interrupt {
                mmu.kernel().set_interrupt(true);
            } else {
                mmu.lazy().pause().unwrap();
            }
        };
        let leave = || {
            if interrupt {
                mmu.kernel().set_interrupt(false);
            } else {
                mmu.lazy().resume().unwrap();
            }
        };
        enter();
        enable_fast(&space, part(0, 512));
        assert_eq!(place(&mmu), (0, 0));
        assert_eq!(stores_of(&mut space, 1), 1);
        mmu.lazy().disable().unwrap();
        leave();
        assert_eq!(place(&mmu), (0, 0));
        // Nor in a section: what was not counted does not stay.
        mmu.lazy().enable().unwrap();
        enter();
        enable_fast(&space, part(0, 512));
        leave();
        assert_eq!(place(&mmu), (1, 0));
        assert_eq!(stores_of(&mut space, 2), 1);
        mmu.lazy().disable().unwrap();
        // A refusal is one in an interrupt, too.
        enter();
        let error = announce(&space, BASE, BASE + PAGE_SIZE, space.root());
        assert!(matches!(error, Err(SpaceError::WrongTable { .. })));
        leave();
        fake::destroy(space);
    }
}

#[test]
fn r22_each_level_has_its_range_and_takes_it_along() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = space(&mmu);
    let lazy = mmu.lazy();
    // (pages 0..8), then (8..16) one level deeper.
    enable_fast(&space, part(0, 8));
    enable_fast(&space, part(8, 8));
    assert_eq!(place(&mmu), (2, 2));
    assert_eq!((stores_of(&mut space, 0), stores_of(&mut space, 8)), (0, 0));
    // A pause lets both go on, and a nested section as well.
    lazy.pause().unwrap();
    assert_eq!((stores_of(&mut space, 1), stores_of(&mut space, 9)), (1, 1));
    lazy.resume().unwrap();
    assert_eq!(
        (stores_of(&mut space, 2), stores_of(&mut space, 10)),
        (0, 0)
    );
    lazy.enable().unwrap();
    lazy.disable().unwrap();
    assert_eq!(place(&mmu), (2, 2));
    assert_eq!(
        (stores_of(&mut space, 3), stores_of(&mut space, 11)),
        (0, 0)
    );
    // The inner one ends with its level. Its table has no slot then.
    lazy.disable().unwrap();
    assert_eq!(place(&mmu), (1, 1));
    assert_eq!(stores_of(&mut space, 12), 1);
    assert_eq!(stores_of(&mut space, 4), 0);
    lazy.disable().unwrap();
    // A plain section has none.
    lazy.enable().unwrap();
    assert_eq!(place(&mmu), (1, 0));
    assert_eq!(stores_of(&mut space, 5), 1);
    lazy.disable().unwrap();
    fake::destroy(space);
}

#[test]
fn r22_a_range_belongs_to_the_task_that_announced_it() {
    let mmu = new_mmu_with(Backend::Multicall);
    let mut space = space(&mmu);
    enable_fast(&space, part(0, 8));
    let walks = |space: &mut AddressSpace<'_, Fake>, page| {
        let before = mmu.kernel().counts().walks;
        map_page(space, page);
        mmu.kernel().counts().walks - before
    };
    assert_eq!(walks(&mut space, 0), 0);
    mmu.lazy().switch_out().unwrap();
    mmu.kernel().switch_to(1);
    assert_eq!(place(&mmu), (0, 0));
    assert_eq!(walks(&mut space, 1), 1);
    mmu.kernel().switch_to(0);
    assert_eq!(walks(&mut space, 2), 0);
    mmu.kernel().set_interrupt(true);
    assert_eq!(walks(&mut space, 3), 1, "R12");
    mmu.kernel().set_interrupt(false);
    mmu.lazy().disable().unwrap();
}

#[test]
fn r22_a_fifth_range_is_not_kept_and_nothing_else_changes() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = space(&mmu);
        for level in 0..6_u64 {
            enable_fast(&space, part(16 * level, 16));
            map_page(&mut space, 16 * level + 3);
        }
        assert_eq!(place(&mmu), (6, 4), "{backend}");
        for level in (0..6_u64).rev() {
            map_page(&mut space, 16 * level + 5);
            mmu.lazy().disable().unwrap();
            assert_eq!(place(&mmu), (level as u8, level.min(4) as usize));
            for page in [3, 5] {
                let at = part(16 * level + page, 1).start();
                let entry = mmu
                    .kernel()
                    .memory(table_of(&space, part(0, 1)), (16 * level + page) as usize);
                assert_eq!(space.query(at).unwrap().entry.as_u64(), entry, "{backend}");
            }
        }
        assert_eq!(place(&mmu), (0, 0));
        fake::destroy(space);
    }
}

/// `move_ptes()`: a source and a destination, both live (S10).
#[test]
fn s10_source_and_destination_at_once() {
    for backend in fake::backends() {
        for kind in KINDS {
            let mmu = new_mmu_with(backend);
            let base = kind.half().start() + (3 << 39);
            let all = pages(base, 1024);
            let (from, to) = (pages(base, 64), pages(base + (1 << 21), 64));
            let mut space = new_space_with_tables(&mmu, kind, all);
            space.map(from, contiguous(32), data(kind)).unwrap();
            enable_fast(&space, from);
            enable_fast(&space, to);
            let mut taken = Vec::new();
            space
                .apply_to_page_range(from, |entry| {
                    taken.push(entry.get_and_clear());
                    Ok::<(), SpaceError>(())
                })
                .unwrap();
            let mut next = taken.iter();
            space
                .apply_to_page_range(to, |entry| {
                    let old = next.next().unwrap();
                    entry.set(old.frame(), data(kind))
                })
                .unwrap();
            mmu.lazy().disable().unwrap();
            mmu.lazy().disable().unwrap();
            if !backend.invalidates() {
                space.invalidate_range(from).unwrap();
            }
            assert!(mmu.kernel().all_invalidated(), "{backend}");
            let mut leaves = Vec::new();
            space.for_each_leaf(|va, _, entry| leaves.push((va, entry.frame())));
            let expected: Vec<_> = (0..64)
                .map(|i| (base + (1 << 21) + i * PAGE_SIZE, frame(32 + i)))
                .collect();
            assert_eq!(leaves, expected, "{backend}");
            fake::destroy(space);
        }
    }
}

/// `copy_pte_range()`: two spaces; and a range of one space says nothing about the other (S3).
#[test]
fn s3_a_range_is_one_space_s() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let other = SpaceKind::User(Asid(9));
    let range = pages(0x40_0000, 8);
    let mut spaces = [USER, other].map(|kind| new_space_with_tables(&mmu, kind, range));
    enable_fast(&spaces[0], range);
    let mut stores = |i: usize| {
        let before = mmu.kernel().counts().walks;
        spaces[i].map(range, contiguous(5), Prot::USER).unwrap();
        let walks = mmu.kernel().counts().walks - before;
        (leaves(&mmu.kernel().take_effects()), walks)
    };
    assert_eq!(stores(0), (0, 0));
    assert_eq!(stores(1), (8, 1));
    mmu.lazy().disable().unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 8);
}

#[test]
fn a_page_of_an_announced_range_is_mapped_without_a_walk() {
    for backend in fake::backends() {
        for kind in KINDS {
            let mmu = new_mmu_with(backend);
            let start = kind.half().start() + (3 << 39);
            let mut space = new_space_with_tables(&mmu, kind, pages(start, 512));
            let mut walks = |n: u64| {
                let before = mmu.kernel().counts().walks;
                let range = pages(start + n * PAGE_SIZE, 1);
                // Not the short way of a page like the last one, which walks nowhere, either.
                let frames = [frame(2 * n)];
                let backing = Backing::Scattered(&frames);
                space.map(range, backing, data(kind)).unwrap();
                mmu.kernel().counts().walks - before
            };
            assert_eq!(walks(0), 1, "{backend}: the yardstick");
            let space = &mut space;
            enable_fast(space, pages(start, 64));
            let mut walks = |n: u64| {
                let before = mmu.kernel().counts().walks;
                let range = pages(start + n * PAGE_SIZE, 1);
                // Not the short way of a page like the last one, which walks nowhere, either.
                let frames = [frame(2 * n)];
                let backing = Backing::Scattered(&frames);
                space.map(range, backing, data(kind)).unwrap();
                mmu.kernel().counts().walks - before
            };
            assert_eq!((walks(1), walks(63), walks(64)), (0, 0, 1), "{backend}");
            mmu.lazy().disable().unwrap();
            assert_eq!(walks(2), 1, "{backend}");
            assert!(mmu.lazy().state().fast_pte_ranges() == 0);
        }
    }
}

/// Ranges of other tables of the space are forgotten, too: announcing is never more than an offer.
#[test]
fn r32_ranges_go_with_their_tables() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = space(&mmu);
    let other = new_space_with_tables(&mmu, USER, pages(3 << 39, 8));
    let table = table_of(&space, part(0, 1));
    announce(&space, BASE, BASE + 8 * PAGE_SIZE, table).unwrap();
    enable_fast(&other, pages(3 << 39, 8));
    map_page(&mut space, 700);
    assert_eq!(place(&mmu), (2, 2));
    assert_eq!(space.free_empty_tables(part(1024, 512)), Ok(1));
    assert_eq!(place(&mmu), (2, 1), "the other space's is left");
    assert_eq!(stores_of(&mut space, 3), 1);
    mmu.lazy().disable().unwrap();
    mmu.lazy().disable().unwrap();
    fake::destroy(space);
    fake::destroy(other);
}

#[test]
fn r32_ranges_go_with_their_space() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let space = space(&mmu);
    enable_fast(&space, part(0, 8));
    assert_eq!(place(&mmu), (1, 1));
    fake::destroy(space);
    assert_eq!(place(&mmu), (1, 0));
    mmu.lazy().disable().unwrap();
}

/// Runs `request` on a range of 4 pages, the window of a space whose pages around it are mapped, and
/// checks that it panics and nothing came of it.
fn panics_outside(request: impl FnOnce(&mut lazymmu::FastPteRange<'_, '_, Fake>)) {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    map_page(&mut space, 10);
    space.restrict(part(5, 4));
    let before = mmu.kernel().image();
    let mut fast = space.fast_pte_range(part(5, 4)).unwrap();
    assert!(panics::catch(|| request(&mut fast)).is_err());
    drop(fast);
    assert_eq!(mmu.kernel().image(), before);
}

#[test]
fn pages_outside_of_the_range_are_nobody_s() {
    panics_outside(|fast| {
        fast.get(5);
    });
    panics_outside(|fast| {
        fast.get_and_clear(5);
    });
    panics_outside(|fast| fast.set(4, frame(7), Prot::KERNEL).unwrap());
    panics_outside(|fast| fast.set_run(3, 2, frame(7), Prot::KERNEL).unwrap());
    panics_outside(|fast| fast.set_frames(4, &[frame(7)], Prot::KERNEL).unwrap());
    panics_outside(|fast| {
        let every = |_| frame(7);
        fast.set_each(usize::MAX, 1, Prot::KERNEL, every).unwrap();
    });
}

/// A page that is not in the range is named with the range, and with the line of the caller.
#[test]
fn a_page_outside_of_the_range_is_named_with_its_caller() {
    type Call = fn(&mut lazymmu::FastPteRange<'_, '_, Fake>);
    let calls: [(&str, u32, Call); 6] = [
        ("1 pages from page 16", line!(), |fast| _ = fast.get(16)),
        ("1 pages from page 17", line!(), |fast| {
            _ = fast.set(17, frame(0), Prot::USER)
        }),
        ("1 pages from page 16", line!(), |fast| {
            _ = fast.get_and_clear(16)
        }),
        ("2 pages from page 15", line!(), |fast| {
            _ = fast.clear_run(15, 2)
        }),
        ("3 pages from page 14", line!(), |fast| {
            _ = fast.set_run(14, 3, frame(0), Prot::USER)
        }),
        ("9 pages from page 18446744073709551615", line!(), |fast| {
            _ = fast.set_each(usize::MAX, 9, Prot::USER, |_| frame(0));
        }),
    ];
    for (what, line, call) in calls {
        let mmu = new_mmu();
        let mut space = fake::new_space(&mmu, USER);
        let mut fast = space.fast_pte_range(pages(1 << 30, 16)).unwrap();
        let caught = panics::catch(|| call(&mut fast)).unwrap_err();
        let message = *caught.payload.downcast::<String>().unwrap();
        assert!(message.starts_with(what), "{message}");
        assert!(message.ends_with("whose pages are 0 to 15"), "{message}");
        let place = (caught.file.as_str(), caught.line);
        assert!(
            place.0 == file!() && (line..line + 2).contains(&place.1),
            "{place:?}"
        );
        drop(fast);
        fake::destroy(space);
    }
}
