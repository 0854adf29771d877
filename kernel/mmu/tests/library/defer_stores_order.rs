// SPDX-License-Identifier: MIT OR Apache-2.0
//! The drain of stores that waited: what it costs, and in which order it happens (R23, R27-R29).

use lazymmu::{
    AddressSpace, Backend, Desc, Features, Mmu, PAGE_SIZE, PageRange, Prot, SpaceKind, TlbFeatures,
    TlbiOp, bits,
};
use lazymmu_testkit::fake::{
    self, Choose, Effect, Fake, KINDS, USER, contiguous, data, enable_fast, frame, is_leaf, leaves,
    new_mmu_with, new_space_with_tables, pages, tlbis, visible,
};

fn range(kind: SpaceKind, n: u64) -> PageRange {
    pages(kind.half().start() + (3 << 39), n)
}

/// A space with `n` pages mapped to frames from 33 on, which are no contiguous group.
fn mapped(mmu: &Mmu<Fake>, kind: SpaceKind, n: u64) -> AddressSpace<'_, Fake> {
    let mut space = new_space_with_tables(mmu, kind, range(kind, n));
    space
        .map(range(kind, n), contiguous(33), data(kind))
        .unwrap();
    mmu.kernel().take_effects();
    space
}

const fn read_only(kind: SpaceKind) -> Prot {
    match kind {
        SpaceKind::Kernel => Prot::KERNEL_RO,
        SpaceKind::User(_) => Prot::USER_RO,
    }
}

fn value(effect: &Effect) -> u64 {
    match effect {
        Effect::Store { value, .. } => *value,
        other => panic!("{other:?} is no store"),
    }
}

/// Row V1 (`needTLBI1`): what reached memory for a moment must be invalidated. What waited and went away
/// again did not reach it.
#[test]
fn r28_mapped_and_unmapped_in_one_section() {
    for (backend, expected) in [
        (Backend::Eager, 1),
        (Backend::DeferBarriers, 1),
        (Backend::DeferStores, 0),
        (Backend::BatchInvalidations, 1),
        (Backend::Multicall, 1),
    ] {
        for kind in KINDS {
            let mmu = new_mmu_with(backend);
            let mut space = new_space_with_tables(&mmu, kind, range(kind, 8));
            enable_fast(&space, range(kind, 8));
            space
                .map(range(kind, 1), contiguous(5), data(kind))
                .unwrap();
            space.unmap(range(kind, 1)).unwrap();
            mmu.lazy().disable().unwrap();
            let effects = mmu.kernel().take_effects();
            assert_eq!(
                tlbis(&effects),
                expected,
                "{backend}, {kind:?}: {effects:?}"
            );
            assert!(mmu.kernel().all_invalidated());
            fake::destroy(space);
        }
    }
}

#[test]
fn r29_a_page_that_moves_is_broken_invalidated_and_made() {
    for kind in KINDS {
        let mmu = new_mmu_with(Backend::DeferStores);
        let mut space = mapped(&mmu, kind, 4);
        let mut fast = space.fast_pte_range(range(kind, 4)).unwrap();
        assert_eq!(fast.get_and_clear(1), Desc::page(frame(34), data(kind)));
        fast.set(1, frame(70), data(kind)).unwrap();
        drop(fast);
        let effects = visible(mmu.kernel().take_effects());
        let (first, rest) = effects.split_first().unwrap();
        assert_eq!(value(first), 0, "the break");
        let [
            Effect::DsbIshst,
            Effect::Tlbi(op, operand),
            Effect::DsbIsh,
            rest @ ..,
        ] = rest
        else {
            panic!("{effects:?}");
        };
        let by_all = kind == SpaceKind::Kernel;
        let expected = if by_all {
            TlbiOp::Vaale1is
        } else {
            TlbiOp::Vale1is
        };
        assert_eq!(*op, expected);
        let at = range(kind, 4).start().as_u64() + PAGE_SIZE;
        assert_eq!(operand & ((1 << 37) - 1), at >> 12 & ((1 << 37) - 1));
        let rest = if by_all { &rest[1..] } else { rest };
        assert_eq!(value(&rest[0]), Desc::page(frame(70), data(kind)).as_u64());
        // What the make owes: the pair, for the kernel.
        let pair: &[Effect] = match by_all {
            true => &[Effect::DsbIshst, Effect::Isb],
            false => &[],
        };
        assert_eq!(rest[1..], *pair);
        fake::destroy(space);
    }
}

#[test]
fn r29_permissions_change_in_place_and_are_invalidated_once() {
    for kind in KINDS {
        let mmu = new_mmu_with(Backend::DeferStores);
        let mut space = mapped(&mmu, kind, 6);
        enable_fast(&space, range(kind, 6));
        // Twice, and half of it back: one store per entry all the same.
        space.protect(range(kind, 6), read_only(kind)).unwrap();
        space.protect(range(kind, 3), data(kind)).unwrap();
        assert_eq!(
            mmu.kernel().take_effects(),
            [],
            "not before the section ends"
        );
        mmu.lazy().disable().unwrap();
        let effects = mmu.kernel().take_effects();
        assert_eq!(leaves(&effects), 6);
        let after = effects.iter().position(|e| !is_leaf(e)).unwrap();
        assert_eq!(after, 6, "no break: {effects:?}");
        assert_eq!(effects[6], Effect::DsbIshst);
        assert_eq!(tlbis(&effects), 6);
        assert_eq!(effects.iter().filter(|e| **e == Effect::DsbIsh).count(), 1);
        assert!(mmu.kernel().all_invalidated());
        let last = effects[..6].iter().map(value);
        let is_read_only = |raw: u64| raw & bits::AP_READ_ONLY != 0;
        let seen: Vec<_> = last.map(is_read_only).collect();
        assert_eq!(seen, [false, false, false, true, true, true]);
        fake::destroy(space);
    }
}

#[test]
fn r33_a_contiguous_range_takes_one_ranged_operation() {
    for kind in KINDS {
        let mmu = new_mmu_with(Backend::DeferStores);
        mmu.choose_features(Features {
            tlb: TlbFeatures {
                range: true,
                ttl: true,
                repeat: false,
            },
            ets2: false,
        });
        let mut space = mapped(&mmu, kind, 64);
        let mut fast = space.fast_pte_range(range(kind, 64)).unwrap();
        // One by one, and not in order.
        for i in (0..64).rev() {
            fast.get_and_clear(i);
        }
        drop(fast);
        let effects = mmu.kernel().take_effects();
        assert_eq!(tlbis(&effects), 1, "{effects:?}");
        assert_eq!(mmu.kernel().counts().tlbi_saved(), 63);
        assert!(mmu.kernel().all_invalidated());
        fake::destroy(space);
    }
}

#[test]
fn r27_what_was_not_live_is_not_invalidated() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = mapped(&mmu, USER, 2);
    let mut fast = space.fast_pte_range(range(USER, 512)).unwrap();
    fast.get_and_clear(300);
    for i in 2..512 {
        fast.set(i, frame(2 * i as u64), Prot::USER).unwrap();
    }
    drop(fast);
    assert_eq!(tlbis(&mmu.kernel().take_effects()), 0);
    fake::destroy(space);
}

/// R25: the frames of a gather go back behind the invalidation, in whatever section it happens.
#[test]
fn r25_a_gather_in_an_announced_range_drains_before_it_gives_back() {
    for kind in KINDS {
        let mmu = new_mmu_with(Backend::DeferStores);
        let mut space = mapped(&mmu, kind, 8);
        enable_fast(&space, range(kind, 8));
        space.protect(range(kind, 8), read_only(kind)).unwrap();
        let kernel = mmu.kernel();
        let asid = fake::asid_of(kind);
        let mut given = 0;
        space
            .unmap_frames(range(kind, 8), |va, frame| {
                assert!(!kernel.may_be_cached(asid, va.as_u64()), "R25: {va}");
                assert_eq!(frame.as_u64() / PAGE_SIZE, 33 + given);
                given += 1;
            })
            .unwrap();
        assert_eq!(given, 8);
        mmu.lazy().disable().unwrap();
        fake::destroy(space);
    }
}

#[test]
fn r29_a_memory_type_changes_by_break_before_make_in_the_section() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let kind = SpaceKind::Kernel;
    let mut space = mapped(&mmu, kind, 4);
    enable_fast(&space, range(kind, 4));
    space.protect(range(kind, 2), read_only(kind)).unwrap();
    space.remap(range(kind, 4), Prot::DEVICE).unwrap();
    mmu.lazy().disable().unwrap();
    let entry = space.query(range(kind, 4).start()).unwrap().entry;
    assert_eq!(entry, Desc::page(frame(33), Prot::DEVICE));
    assert!(mmu.kernel().all_invalidated());
    fake::destroy(space);
}

/// One table stores at once and leaves the invalidation to the caller, the other lets both wait.
#[test]
fn r27_a_range_announced_in_part_is_invalidated_as_a_whole() {
    for kind in KINDS {
        for announced in [0, 1] {
            let mmu = new_mmu_with(Backend::DeferStores);
            let mut space = mapped(&mmu, kind, 1024);
            let at = |first: u64, n| pages(range(kind, 1).start().as_u64() + first * PAGE_SIZE, n);
            let both = at(508, 8);
            enable_fast(&space, at(512 * announced, 512));
            space.protect(both, read_only(kind)).unwrap();
            mmu.lazy().flush();
            assert!(mmu.kernel().all_invalidated(), "table {announced}");
            let pending = space.unmap_no_invalidate(both).unwrap();
            space.invalidate(pending);
            assert!(mmu.kernel().all_invalidated(), "table {announced}");
            // Two requests that are joined: the end of one table, the beginning of the other.
            space.map(both, contiguous(77), data(kind)).unwrap();
            mmu.lazy().flush();
            let mut first = space.unmap_no_invalidate(at(508, 4)).unwrap();
            let second = space.unmap_no_invalidate(at(512, 4)).unwrap();
            first.merge(second).unwrap();
            space.invalidate(first);
            assert!(mmu.kernel().all_invalidated(), "table {announced}");
            mmu.lazy().disable().unwrap();
            fake::destroy(space);
        }
    }
}

/// What a drain has done is not done again by the next.
#[test]
fn r27_what_was_drained_is_not_drained_again() {
    for kind in KINDS {
        let mmu = new_mmu_with(Backend::DeferStores);
        let mut space = mapped(&mmu, kind, 8);
        enable_fast(&space, range(kind, 16));
        let page = |i: u64| pages(range(kind, 1).start().as_u64() + i * PAGE_SIZE, 1);
        space.protect(page(1), read_only(kind)).unwrap();
        space.map(page(9), contiguous(99), data(kind)).unwrap();
        mmu.lazy().flush();
        let effects = mmu.kernel().take_effects();
        assert_eq!((leaves(&effects), tlbis(&effects)), (2, 1));
        space.map(page(11), contiguous(111), data(kind)).unwrap();
        mmu.lazy().flush();
        let effects = mmu.kernel().take_effects();
        assert_eq!((leaves(&effects), tlbis(&effects)), (1, 0));
        mmu.lazy().disable().unwrap();
        fake::destroy(space);
    }
}
