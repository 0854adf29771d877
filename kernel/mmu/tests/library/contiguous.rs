// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contiguous groups: when they are made, dropped and kept, and what that costs (R29, S19).
//!
//! That no store breaks a group is judged by the test kit's `fake/groups.rs` at each of them; its own tests are the last ones.

use lazymmu::{
    AddressSpace, Backend, Desc, FastPteRange, Hardware, MemoryType, Mmu, PAGE_SIZE, PageRange,
    Prot, SpaceKind, TableFrames, VirtAddr, bits,
};
use lazymmu_testkit::fake::{
    self, Effect, Fake, USER, contiguous, enable_fast, frame, leaves, new_mmu_with, new_space,
    new_space_with_tables, pages, table_of, tlbis,
};

const START: u64 = 3 << 39;

fn part(first: u64, n: u64) -> PageRange {
    pages(START + first * PAGE_SIZE, n)
}

fn area() -> PageRange {
    part(0, 64)
}

fn space(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    new_space_with_tables(mmu, USER, area())
}

/// Which of the first 64 entries are in use (`.`), and which of these carry the hint (`#`).
fn picture(space: &AddressSpace<'_, Fake>) -> String {
    let table = table_of(space, area());
    let raw = space.mmu().kernel().raw(table.as_u64());
    let mark = |raw: &u64| match (raw & bits::VALID != 0, raw & bits::CONT != 0) {
        (true, true) => '#',
        (true, false) => '.',
        (false, _) => ' ',
    };
    let groups: Vec<String> = raw[..64]
        .chunks(16)
        .map(|group| {
            let marks: String = group.iter().map(mark).collect();
            match marks.trim_matches('#') {
                "" => "#".into(),
                _ if marks.trim_matches('.').is_empty() => ".".into(),
                _ if marks.trim().is_empty() => " ".into(),
                _ => marks,
            }
        })
        .collect();
    groups.join("|")
}

type Setter = fn(&mut FastPteRange<'_, '_, Fake>);

/// Ways to map 40 pages from page 8 on to frames 40..80.
const SETTERS: [(&str, Setter); 3] = [
    ("set", |fast| {
        for i in 0..40 {
            fast.set(i, frame(40 + i as u64), Prot::USER).unwrap();
        }
    }),
    ("set_each", |fast| {
        fast.set_each(0, 40, Prot::USER, |i| frame(40 + i as u64))
            .unwrap();
    }),
    ("set_run", |fast| {
        fast.set_run(0, 40, frame(40), Prot::USER).unwrap();
    }),
];

#[test]
fn s19_whole_groups_are_folded_when_the_section_ends() {
    for backend in fake::backends() {
        for (name, set) in SETTERS {
            let mmu = new_mmu_with(backend);
            let mut space = space(&mmu);
            let mut fast = space.fast_pte_range(part(8, 40)).unwrap();
            set(&mut fast);
            drop(fast);
            let effects = mmu.kernel().take_effects();
            assert_eq!(
                picture(&space),
                "        ........|#|#| ",
                "{backend}, {name}"
            );
            // Empty entries take no break: known in advance, or because nothing was stored yet.
            let made_at_once = name == "set_run" || backend == Backend::DeferStores;
            let dsb = effects.iter().filter(|e| **e == Effect::DsbIsh).count();
            assert_eq!(dsb, usize::from(!made_at_once), "{backend}, {name}");
            assert_eq!(tlbis(&effects), if made_at_once { 0 } else { 32 });
            assert_eq!(leaves(&effects), if made_at_once { 40 } else { 40 + 64 });
            for i in 0..40 {
                let entry = space.query(part(8 + i, 1).start()).unwrap().entry;
                assert_eq!(entry.frame(), frame(40 + i), "{backend}, {name}");
            }
            fake::destroy(space);
        }
    }
}

/// The raw range, and pages that are mapped one call each: the holder of the space folds them.
#[test]
fn s19_a_group_of_single_maps_is_folded_by_its_holder() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = space(&mmu);
        mmu.lazy().enable().unwrap();
        enable_fast(&space, part(0, 20));
        for i in (0..20).rev() {
            space
                .map(part(i, 1), contiguous(32 + i), Prot::USER)
                .unwrap();
        }
        // Where stores wait, the drain folds on the way.
        let by_drain = usize::from(backend == Backend::DeferStores);
        assert_eq!(space.fold_contiguous(part(0, 20)), Ok(1 - by_drain));
        assert_eq!(picture(&space), "#|....            | | ", "{backend}");
        assert_eq!(space.fold_contiguous(part(0, 64)), Ok(0), "once");
        mmu.lazy().disable().unwrap();
        mmu.lazy().disable().unwrap();
        assert_eq!(picture(&space), "#|....            | | ", "{backend}");
        fake::destroy(space);
    }
}

#[test]
fn s19_no_group_out_of_a_range_or_in_the_kernel_or_of_what_does_not_fit() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut user = space(&mmu);
        user.map(part(0, 16), contiguous(32), Prot::USER).unwrap();
        // Frames that do not begin where the addresses do; a gap; other attributes.
        let mut fast = user.fast_pte_range(part(16, 48)).unwrap();
        fast.set_run(0, 16, frame(49), Prot::USER).unwrap();
        for i in 16..32 {
            let gap = u64::from(i == 31);
            fast.set(i, frame(64 + i as u64 + gap), Prot::USER).unwrap();
        }
        fast.set_run(32, 15, frame(96), Prot::USER).unwrap();
        fast.set(47, frame(111), Prot::USER_RO).unwrap();
        drop(fast);
        assert_eq!(picture(&user), ".|.|.|.", "{backend}");
        fake::destroy(user);

        let range = pages(fake::BASE, 64);
        let mut kernel = new_space_with_tables(&mmu, SpaceKind::Kernel, range);
        let mut fast = kernel.fast_pte_range(range).unwrap();
        fast.set_run(0, 32, frame(32), Prot::KERNEL).unwrap();
        for i in 32..64 {
            fast.set(i, frame(32 + i as u64), Prot::KERNEL).unwrap();
        }
        drop(fast);
        let table = mmu.kernel().raw(table_of(&kernel, range).as_u64());
        assert!(table.iter().all(|raw| raw & bits::CONT == 0), "{backend}");
        fake::destroy(kernel);
    }
}

/// A space with four groups, folded.
fn folded(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    let mut space = space(mmu);
    let mut fast = space.fast_pte_range(area()).unwrap();
    fast.set_run(0, 64, frame(32), Prot::USER).unwrap();
    drop(fast);
    assert_eq!(picture(&space), "#|#|#|#");
    mmu.kernel().take_effects();
    space
}

type Change = fn(&mut AddressSpace<'_, Fake>);

/// Changes of a part, and what is left.
const PARTIAL: &[(&str, Change, &str)] = &[
    (
        "unmap",
        |space| space.unmap(part(20, 1)).unwrap(),
        "#|.... ...........|#|#",
    ),
    (
        "unmap across",
        |space| space.unmap(part(30, 4)).unwrap(),
        "#|..............  |  ..............|#",
    ),
    (
        "unmap a group and a part",
        |space| space.unmap(part(14, 18)).unwrap(),
        "..............  | |#|#",
    ),
    (
        "protect",
        |space| space.protect(part(20, 1), Prot::USER_RO).unwrap(),
        "#|.|#|#",
    ),
    (
        "protect a group and a part",
        |space| space.protect(part(16, 17), Prot::USER_RO).unwrap(),
        "#|#|.|#",
    ),
    (
        "remap",
        |space| {
            let uncached = Prot::USER.with_memory_type(MemoryType::NormalNonCacheable);
            space.remap(part(47, 2), uncached).unwrap();
        },
        "#|#|.|.",
    ),
    (
        "gather",
        |space| space.unmap_frames(part(63, 1), |_, _| {}).unwrap(),
        "#|#|#|............... ",
    ),
];

#[test]
fn r29_a_part_that_changes_drops_its_group_and_no_other() {
    for backend in fake::backends() {
        for (name, change, left) in PARTIAL {
            for in_section in [false, true] {
                let mmu = new_mmu_with(backend);
                let mut space = folded(&mmu);
                if in_section {
                    mmu.lazy().enable().unwrap();
                }
                change(&mut space);
                if in_section {
                    mmu.lazy().disable().unwrap();
                }
                mmu.kernel().check_groups();
                assert_eq!(picture(&space), *left, "{backend}, {name}, {in_section}");
                assert!(mmu.kernel().all_invalidated(), "{backend}, {name}");
                fake::destroy(space);
            }
        }
    }
}

#[test]
fn r29_a_part_that_changes_in_an_announced_range_drops_its_group() {
    for backend in fake::backends() {
        for (name, change, left) in PARTIAL {
            let mmu = new_mmu_with(backend);
            let mut space = folded(&mmu);
            enable_fast(&space, area());
            change(&mut space);
            mmu.lazy().disable().unwrap();
            mmu.kernel().check_groups();
            assert_eq!(picture(&space), *left, "{backend}, {name}");
            assert!(mmu.kernel().all_invalidated(), "{backend}, {name}");
            fake::destroy(space);
        }
    }
}

#[test]
fn r29_single_entries_that_change_drop_their_group() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = folded(&mmu);
        let mut fast = space.fast_pte_range(area()).unwrap();
        let taken = fast.get_and_clear(17);
        assert_eq!(taken.frame(), frame(49));
        fast.set(40, frame(72), Prot::USER_RO).unwrap();
        // The same once more: nothing to drop, and it can stay a group.
        fast.set(63, frame(95), Prot::USER).unwrap();
        let moved = fast.set(63, frame(7), Prot::USER);
        assert!(moved.is_err(), "R29: {moved:?}");
        drop(fast);
        space.invalidate_range(area()).unwrap();
        assert_eq!(picture(&space), "#|. ..............|.|#", "{backend}");
        fake::destroy(space);
    }
}

#[test]
fn r29_whole_groups_change_and_go_without_a_break() {
    for backend in fake::backends() {
        for announced in [false, true] {
            let mmu = new_mmu_with(backend);
            let mut space = folded(&mmu);
            let start = |space: &AddressSpace<'_, Fake>| {
                if announced {
                    enable_fast(space, area());
                } else {
                    mmu.lazy().enable().unwrap();
                }
            };
            start(&space);
            space.protect(part(16, 32), Prot::USER_RO).unwrap();
            mmu.lazy().disable().unwrap();
            let effects = mmu.kernel().take_effects();
            assert_eq!(leaves(&effects), 32, "{backend}: in place");
            assert_eq!(tlbis(&effects), 32, "{backend}");
            assert_eq!(picture(&space), "#|#|#|#", "{backend}");
            start(&space);
            space.unmap(part(32, 16)).unwrap();
            mmu.lazy().disable().unwrap();
            let effects = mmu.kernel().take_effects();
            if backend != Backend::DeferStores || !announced {
                assert_eq!(leaves(&effects), 16, "{backend}");
            }
            assert_eq!(tlbis(&effects), 16, "{backend}");
            assert_eq!(picture(&space), "#|#| |#", "{backend}");
            fake::destroy(space);
        }
    }
}

/// A change of the whole group that waits comes first, then the group is dropped.
#[test]
fn r29_a_group_is_dropped_behind_what_waits_for_it() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = folded(&mmu);
        mmu.lazy().enable().unwrap();
        space.protect(part(16, 16), Prot::USER_RO).unwrap();
        space.protect(part(20, 1), Prot::USER).unwrap();
        mmu.lazy().disable().unwrap();
        assert_eq!(picture(&space), "#|.|#|#", "{backend}");
        let is_writable = |i| {
            let entry = space.query(part(i, 1).start()).unwrap().entry;
            entry.is_writable()
        };
        assert!(is_writable(20) && !is_writable(19) && !is_writable(21));
        assert!(mmu.kernel().all_invalidated());
        fake::destroy(space);
    }
}

#[test]
fn r29_where_stores_wait_the_drain_drops_groups() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = folded(&mmu);
    enable_fast(&space, area());
    space.protect(part(20, 1), Prot::USER_RO).unwrap();
    space.protect(part(37, 2), Prot::USER_RO).unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 0);
    mmu.lazy().disable().unwrap();
    let effects = mmu.kernel().take_effects();
    let dsb = effects.iter().filter(|e| **e == Effect::DsbIsh).count();
    assert_eq!((leaves(&effects), tlbis(&effects), dsb), (64, 32, 1));
    assert_eq!(picture(&space), "#|.|.|#");
    fake::destroy(space);
}

/// Writes entry `i` of a table with one folded group, past the library.
fn poke(i: usize, value: impl FnOnce(u64) -> u64, then: impl FnOnce(&Fake)) {
    let mmu = new_mmu_with(Backend::DeferBarriers);
    let space = folded(&mmu);
    let kernel = mmu.kernel();
    let table = table_of(&space, area());
    // SAFETY: the space is alive, and so is its table.
    let pte = unsafe { &kernel.table_ptr(table).as_ref().entries()[i] };
    let new = value(kernel.load(pte).as_u64());
    #[expect(clippy::disallowed_methods, reason = "as hardware sets bits")]
    kernel.store(pte, Desc::from_u64(new));
    then(kernel);
}

#[test]
#[cfg_attr(miri, ignore = "tests the checker, not the library")]
#[should_panic(expected = "R29: 15 of 16 entries")]
fn r29_the_checker_notices_a_member_that_is_emptied() {
    poke(3, |_| 0, Fake::check_groups);
}

#[test]
#[cfg_attr(miri, ignore = "tests the checker, not the library")]
#[should_panic(expected = "differ")]
fn r29_the_checker_notices_a_member_that_is_changed() {
    poke(3, |raw| raw | bits::AP_READ_ONLY, Fake::check_groups);
}

#[test]
#[cfg_attr(miri, ignore = "tests the checker, not the library")]
#[should_panic(expected = "R29: 15 of 16 entries")]
fn r29_the_checker_notices_the_invalidation_of_a_part() {
    poke(
        3,
        |_| 0,
        |fake| {
            fake.dsb_ishst();
            fake.tlbi(lazymmu::TlbiOp::Aside1is, 0x2b << 48);
            fake.dsb_ish();
        },
    );
}

#[test]
#[cfg_attr(miri, ignore = "tests the checker, not the library")]
#[should_panic(expected = "next to entry")]
fn r29_the_checker_notices_two_sizes_in_a_group() {
    // Without the access flag, so that it is no replacement of a live entry.
    poke(3, |raw| raw & !(bits::CONT | bits::AF), |_| {});
}

/// A change of a range, its name, and the group that it leaves.
type RangeChange = (
    &'static str,
    fn(&mut FastPteRange<'_, '_, Fake>),
    &'static str,
);

/// The group waits in the queue, hint and all, and memory knows nothing of it.
#[test]
fn r29_a_part_of_a_group_that_waits_is_no_part_of_a_group() {
    let changes: [RangeChange; 2] = [
        (
            "get_and_clear",
            |fast| {
                fast.get_and_clear(3);
            },
            "... ............| | | ",
        ),
        (
            "set",
            |fast| fast.set(3, frame(35), Prot::USER_RO).unwrap(),
            ".| | | ",
        ),
    ];
    for backend in fake::backends() {
        for (name, change, left) in changes {
            let mmu = new_mmu_with(backend);
            let mut space = space(&mmu);
            let mut fast = space.fast_pte_range(part(0, 16)).unwrap();
            fast.set_run(0, 16, frame(32), Prot::USER).unwrap();
            change(&mut fast);
            drop(fast);
            assert_eq!(picture(&space), left, "{backend}, {name}");
            space.invalidate_range(area()).unwrap();
            fake::destroy(space);
        }
    }
}

/// The same behind a change of the memory type, whose make waits.
#[test]
fn r29_a_part_of_a_group_that_is_remade_drops_it() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = folded(&mmu);
        enable_fast(&space, area());
        let uncached = Prot::USER.with_memory_type(MemoryType::NormalNonCacheable);
        space.remap(part(16, 16), uncached).unwrap();
        space.unmap_frames(part(17, 13), |_, _| {}).unwrap();
        mmu.lazy().disable().unwrap();
        assert_eq!(picture(&space), "#|.             ..|#|#", "{backend}");
        fake::destroy(space);
    }
}

/// Fail before you write: what may not be replaced in place is refused, and its group stays.
#[test]
fn r29_a_refused_set_drops_no_group() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = folded(&mmu);
        mmu.lazy().enable().unwrap();
        let refused =
            space.apply_to_page_range(part(20, 1), |entry| entry.set(frame(7), Prot::USER));
        assert!(refused.is_err(), "{backend}");
        assert_eq!(leaves(&mmu.kernel().take_effects()), 0, "{backend}");
        assert_eq!(picture(&space), "#|#|#|#", "{backend}");
        mmu.lazy().disable().unwrap();
        fake::destroy(space);
    }
}

/// A member is taken the long way, and its invalidation is remembered all the same.
#[test]
fn r29_a_member_that_was_taken_is_invalidated_before_reuse() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = folded(&mmu);
        let mut fast = space.fast_pte_range(area()).unwrap();
        fast.get_and_clear(17);
        fast.set(17, frame(7), Prot::USER).unwrap();
        drop(fast);
        assert!(mmu.kernel().all_invalidated(), "{backend}");
        fake::destroy(space);
    }
}

/// Groups of any range are folded, announced or not, of several tables with one call; no kernel mapping is.
#[test]
fn s19_folding_takes_any_range_of_the_space() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = space(&mmu);
        let both = pages((1 << 30) - 32 * PAGE_SIZE, 64);
        space.map(both, contiguous(32), Prot::USER).unwrap();
        mmu.kernel().take_effects();
        let third = pages((1 << 30) - 10 * PAGE_SIZE, 12);
        assert_eq!(space.fold_contiguous(third), Ok(2), "{backend}: in part");
        assert_eq!(space.fold_contiguous(both), Ok(2), "{backend}");
        assert_eq!(space.fold_contiguous(both), Ok(0), "{backend}");
        for i in 0..64 {
            let at = VirtAddr::new(both.start().as_u64() + i * PAGE_SIZE).unwrap();
            let entry = space.query(at).unwrap().entry;
            assert_eq!(entry.frame(), frame(32 + i), "{backend}");
            assert_ne!(entry.as_u64() & bits::CONT, 0, "{backend}");
        }
        let wrong = pages(SpaceKind::Kernel.half().start(), 16);
        assert!(space.fold_contiguous(wrong).is_err());
        fake::destroy(space);

        let mut kernel = new_space(&mmu, SpaceKind::Kernel);
        kernel.map(wrong, contiguous(32), Prot::KERNEL).unwrap();
        assert_eq!(kernel.fold_contiguous(wrong), Ok(0), "{backend}");
        fake::destroy(kernel);
    }
}

/// A range keeps what it is when an earlier one is forgotten.
#[test]
fn s19_a_range_stays_announced_although_another_was_forgotten() {
    let mmu = new_mmu_with(Backend::DeferBarriers);
    let base = SpaceKind::Kernel.half().start();
    let kernel_area = pages(base, 1024);
    let mut other = new_space_with_tables(&mmu, SpaceKind::Kernel, kernel_area);
    let mut space = space(&mmu);
    enable_fast(&other, pages(base, 8));
    enable_fast(&space, part(0, 16));
    assert_eq!(other.free_empty_tables(pages(base + (1 << 21), 512)), Ok(1));
    assert_eq!(mmu.lazy().state().fast_pte_ranges(), 1);
    for i in 0..16 {
        space
            .map(part(i, 1), contiguous(32 + i), Prot::USER)
            .unwrap();
    }
    let walks = mmu.kernel().counts().walks;
    assert!(space.query(part(3, 1).start()).is_some());
    space.unmap(part(3, 1)).unwrap();
    assert_eq!(mmu.kernel().counts().walks, walks, "no walk in the range");
    mmu.lazy().disable().unwrap();
    mmu.lazy().disable().unwrap();
    assert_eq!(mmu.lazy().state().fast_pte_ranges(), 0);
    fake::destroy(space);
    fake::destroy(other);
}
