// SPDX-License-Identifier: MIT OR Apache-2.0
//! Invalidations that wait: which share one, and what does not wait for them (R25, R26, R29, S2, S13).

use lazymmu::{
    AddressSpace, Asid, BATCHED_RANGES, Backend, Mmu, PAGE_SIZE, PageRange, Prot, SpaceError,
    SpaceKind,
};
use lazymmu_testkit::fake::{
    self, BASE, Effect, Fake, KINDS, USER, close, contiguous, count, data, enable_fast, frame,
    leaves, new_mmu_with, new_space, new_space_with_tables, pages, tlbis,
};

const KERNEL: SpaceKind = SpaceKind::Kernel;

fn new_mmu() -> Mmu<Fake> {
    new_mmu_with(Backend::BatchInvalidations)
}

fn start(kind: SpaceKind) -> u64 {
    kind.half().start() + (3 << 39)
}

fn part(kind: SpaceKind, first: u64, n: u64) -> PageRange {
    pages(start(kind) + first * PAGE_SIZE, n)
}

/// A space with 512 pages mapped to frames from 33 on, which are no contiguous groups.
fn mapped(mmu: &Mmu<Fake>, kind: SpaceKind) -> AddressSpace<'_, Fake> {
    let mut space = new_space(mmu, kind);
    space
        .map(part(kind, 0, 512), contiguous(33), data(kind))
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

/// Empties the pages one by one.
fn clear(space: &mut AddressSpace<'_, Fake>, range: PageRange) {
    space
        .apply_to_page_range(range, |entry| {
            entry.get_and_clear();
            Ok::<(), SpaceError>(())
        })
        .unwrap();
}

#[test]
fn s2_many_clears_and_one_invalidation_behind_them() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = mapped(&mmu, kind);
        clear(&mut space, part(kind, 10, 20));
        let effects = mmu.kernel().take_effects();
        assert_eq!(leaves(&effects), 20);
        assert_eq!(tlbis(&effects), 20);
        assert_eq!(count(&effects, Effect::DsbIsh), 1);
        let first = effects.iter().position(|e| *e == Effect::DsbIshst).unwrap();
        assert_eq!(leaves(&effects[..first]), 20, "behind all clears");
        assert!(mmu.kernel().all_invalidated());
        // Nothing is left for who maps there.
        space
            .map(part(kind, 10, 20), contiguous(600), data(kind))
            .unwrap();
        assert_eq!(tlbis(&mmu.kernel().take_effects()), 0);
        fake::destroy(space);
    }
}

#[test]
fn s2_ranges_that_do_not_touch_wait_up_to_192() {
    let mmu = new_mmu();
    let mut space = mapped(&mmu, KERNEL);
    assert_eq!(BATCHED_RANGES, 192);
    mmu.lazy().enable().unwrap();
    for i in 0..192 {
        clear(&mut space, part(KERNEL, 2 * i, 1));
    }
    assert_eq!(tlbis(&mmu.kernel().take_effects()), 0);
    // A neighbor of the last one takes no room.
    clear(&mut space, part(KERNEL, 383, 1));
    assert_eq!(tlbis(&mmu.kernel().take_effects()), 0);
    clear(&mut space, part(KERNEL, 400, 1));
    let effects = mmu.kernel().take_effects();
    assert_eq!((tlbis(&effects), count(&effects, Effect::DsbIsh)), (193, 1));
    assert!(!mmu.kernel().all_invalidated(), "the last one waits");
    mmu.lazy().disable().unwrap();
    assert_eq!(tlbis(&mmu.kernel().take_effects()), 1);
    assert!(mmu.kernel().all_invalidated());
    fake::destroy(space);
}

#[test]
fn s3_another_space_s_pages_end_the_batch() {
    let mmu = new_mmu();
    let other = SpaceKind::User(Asid(7));
    let mut spaces = [USER, other].map(|kind| mapped(&mmu, kind));
    mmu.lazy().enable().unwrap();
    // Source and destination in turn: each turn is an invalidation.
    for i in 0..3 {
        for (n, space) in spaces.iter_mut().enumerate() {
            clear(space, part(USER, 2 * i, 1));
            let effects = mmu.kernel().take_effects();
            let expected = usize::from((i, n) != (0, 0));
            assert_eq!(tlbis(&effects), expected, "{i}, {n}");
        }
    }
    mmu.lazy().disable().unwrap();
    assert!(mmu.kernel().all_invalidated());
}

type Point = fn(&Mmu<Fake>, &mut AddressSpace<'_, Fake>);

const POINTS: [(&str, Point); 12] = [
    ("disable", |mmu, _| mmu.lazy().disable().unwrap()),
    ("pause", |mmu, _| mmu.lazy().pause().unwrap()),
    ("flush", |mmu, _| mmu.lazy().flush()),
    ("drain", |mmu, _| mmu.lazy().drain()),
    ("suspend_all", |mmu, _| drop(mmu.lazy().suspend_all())),
    ("switch_out", |mmu, _| mmu.lazy().switch_out().unwrap()),
    ("exit", |mmu, _| assert!(mmu.lazy().exit().is_err())),
    ("flush_tlb_range", |_, space| {
        let kind = space.kind();
        space.invalidate_range(part(kind, 200, 1)).unwrap();
    }),
    ("unmap", |_, space| {
        let kind = space.kind();
        space.unmap(part(kind, 109, 1)).unwrap();
    }),
    ("gather", |_, space| {
        let kind = space.kind();
        space.unmap_frames(part(kind, 109, 1), |_, _| {}).unwrap();
    }),
    ("remap", |_, space| {
        let kind = space.kind();
        space.remap(part(kind, 109, 1), data(kind)).unwrap();
    }),
    ("free_empty_tables", |_, space| {
        let kind = space.kind();
        space.free_empty_tables(part(kind, 0, 1)).unwrap();
    }),
];

#[test]
fn r23_what_waits_is_invalidated_at_each_of_these() {
    for kind in KINDS {
        for (name, point) in POINTS {
            let mmu = new_mmu();
            let mut space = mapped(&mmu, kind);
            mmu.lazy().enable().unwrap();
            mmu.lazy().enable().unwrap();
            clear(&mut space, part(kind, 10, 1));
            space.protect(part(kind, 30, 2), read_only(kind)).unwrap();
            assert_eq!(tlbis(&mmu.kernel().take_effects()), 0, "{name}");
            point(&mmu, &mut space);
            assert!(mmu.kernel().all_invalidated(), "{name}");
            assert!(mmu.kernel().is_batch_empty(), "{name}");
            close(&mmu);
            fake::destroy(space);
        }
    }
}

#[test]
fn r25_an_unmap_in_a_section_is_complete_when_it_returns() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = mapped(&mmu, kind);
        let (kernel, asid) = (mmu.kernel(), fake::asid_of(kind));
        mmu.lazy().enable().unwrap();
        let pending = space.unmap_no_invalidate(part(kind, 4, 2)).unwrap();
        assert!(
            !kernel.all_invalidated(),
            "unmap_no_invalidate leaves it open"
        );
        space.invalidate(pending);
        assert!(kernel.all_invalidated());
        drop(space.unmap_no_invalidate(part(kind, 6, 2)).unwrap());
        assert!(kernel.all_invalidated(), "dropped is flushed");
        let mut given = 0;
        let mut gather = space.gather(|va, _| {
            assert!(!kernel.may_be_cached(asid, va.as_u64()), "R25: {va}");
            given += 1;
        });
        gather.unmap(part(kind, 20, 3)).unwrap();
        gather.unmap(part(kind, 40, 3)).unwrap();
        kernel.take_effects();
        gather.finish();
        assert_eq!(given, 6);
        assert_eq!(count(&kernel.take_effects(), Effect::DsbIsh), 1);
        mmu.lazy().disable().unwrap();
        fake::destroy(space);
    }
}

#[test]
fn r29_an_address_is_invalidated_before_it_is_mapped_again() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = mapped(&mmu, kind);
        mmu.lazy().enable().unwrap();
        clear(&mut space, part(kind, 10, 4));
        // Somewhere else: no reason to drain.
        clear(&mut space, part(kind, 200, 1));
        mmu.kernel().take_effects();
        let asid = fake::asid_of(kind);
        let mut map = |first, n| {
            space
                .map(part(kind, first, n), contiguous(700), data(kind))
                .map(|()| tlbis(&mmu.kernel().take_effects()))
        };
        assert_eq!(map(200, 1), Ok(5));
        assert!(mmu.kernel().all_invalidated());
        assert_eq!(map(10, 4), Ok(0), "once is enough");
        assert!(!mmu.kernel().may_be_cached(asid, start(kind)));
        mmu.lazy().disable().unwrap();
        // A run, and single entries.
        let mut fast = space.fast_pte_range(part(kind, 50, 8)).unwrap();
        for i in 0..8 {
            fast.get_and_clear(i);
        }
        fast.set_each(0, 4, data(kind), |i| frame(900 + 2 * i as u64))
            .unwrap();
        assert_eq!(tlbis(&mmu.kernel().take_effects()), 8);
        fast.get_and_clear(2);
        fast.set(2, frame(77), data(kind)).unwrap();
        assert_eq!(tlbis(&mmu.kernel().take_effects()), 1);
        drop(fast);
        fake::destroy(space);
    }
}

#[test]
fn s9_a_protect_in_the_caller_s_section_takes_effect_with_it() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = mapped(&mmu, kind);
        mmu.lazy().enable().unwrap();
        for i in 0..5 {
            space
                .protect(part(kind, 20 * i, 3), read_only(kind))
                .unwrap();
        }
        let effects = mmu.kernel().take_effects();
        assert_eq!(leaves(&effects), 15, "stores happen at once");
        assert!(!effects.iter().any(fake::is_maintenance));
        mmu.lazy().disable().unwrap();
        let effects = mmu.kernel().take_effects();
        assert_eq!(tlbis(&effects), 15);
        assert_eq!(count(&effects, Effect::DsbIsh), 1);
        // Without a section of the caller's: when it returns.
        space.protect(part(kind, 0, 3), data(kind)).unwrap();
        assert!(mmu.kernel().all_invalidated());
        fake::destroy(space);
    }
}

#[test]
fn r3_r6_paused_or_in_an_interrupt_nothing_waits() {
    for interrupt in [false, true] {
        let mmu = new_mmu();
        let mut space = mapped(&mmu, KERNEL);
        mmu.lazy().enable().unwrap();
        clear(&mut space, part(KERNEL, 100, 1));
        if interrupt {
            mmu.kernel().set_interrupt(true);
        } else {
            mmu.lazy().pause().unwrap();
        }
        mmu.kernel().take_effects();
        clear(&mut space, part(KERNEL, 10, 1));
        assert_eq!(tlbis(&mmu.kernel().take_effects()), 1);
        space.protect(part(KERNEL, 20, 2), Prot::KERNEL_RO).unwrap();
        assert_eq!(tlbis(&mmu.kernel().take_effects()), 2);
        space.unmap(part(KERNEL, 20, 2)).unwrap();
        assert_eq!(tlbis(&mmu.kernel().take_effects()), 2);
        // R12: what the interrupted task has waiting waits on.
        let waits = mmu
            .kernel()
            .may_be_cached(None, part(KERNEL, 100, 1).start().as_u64());
        assert_eq!(waits, interrupt);
        mmu.kernel().set_interrupt(false);
        while mmu.lazy().resume().is_ok() {}
        mmu.lazy().disable().unwrap();
        assert!(mmu.kernel().all_invalidated());
        fake::destroy(space);
    }
}

#[test]
fn r16_the_barriers_of_makes_are_one_pair_as_ever() {
    let mmu = new_mmu();
    let mut space = new_space_with_tables(&mmu, KERNEL, pages(BASE, 512));
    enable_fast(&space, pages(BASE, 64));
    for i in 0..10 {
        space
            .map(pages(BASE + i * PAGE_SIZE, 1), contiguous(i), Prot::KERNEL)
            .unwrap();
    }
    let effects = mmu.kernel().take_effects();
    assert!(!effects.iter().any(fake::is_maintenance));
    assert_eq!(leaves(&effects), 10);
    mmu.lazy().disable().unwrap();
    let effects = mmu.kernel().take_effects();
    assert_eq!(effects, [Effect::DsbIshst, Effect::Isb]);
    fake::destroy(space);
}

/// Older powerpc and sparc drained in `__switch_to()` and remembered that the section goes on.
#[test]
fn r38_what_waits_is_invalidated_on_the_cpu_that_the_task_leaves() {
    for in_interrupt in [false, true] {
        let mmu = new_mmu();
        let mut space = mapped(&mmu, KERNEL);
        let kernel = mmu.kernel();
        mmu.lazy().enable().unwrap();
        clear(&mut space, part(KERNEL, 10, 2));
        kernel.take_effects();
        let before = kernel.counts();
        assert_eq!(mmu.lazy().might_sleep(), Ok(()));
        kernel.set_interrupt(in_interrupt);
        assert_eq!(mmu.lazy().switch_out(), Ok(()));
        kernel.set_interrupt(false);
        // The invalidation, with barriers of its own, and the switch's.
        let effects = kernel.take_effects();
        assert_eq!(effects[0], Effect::DsbIshst);
        assert_eq!(tlbis(&effects), 2, "{effects:?}");
        assert_eq!(effects[3..], [Effect::DsbIsh, Effect::Isb, Effect::DsbIsh]);
        assert!(kernel.is_batch_empty() && kernel.all_invalidated());
        let counts = kernel.counts() - before;
        assert_eq!((counts.drains, counts.tlbi, counts.dsb_ish), (1, 2, 2));
        assert_eq!(counts.tlbi_requested, 2);
        let state = mmu.lazy().state();
        assert_eq!((state.enable_count(), state.pause_count()), (1, 0), "R11");
        // On another CPU, the section goes on.
        let elsewhere = kernel.counts();
        kernel.move_to(1);
        clear(&mut space, part(KERNEL, 20, 1));
        assert!(!kernel.is_batch_empty());
        assert_eq!((kernel.counts() - elsewhere).tlbi, 0, "it waits anew");
        mmu.lazy().disable().unwrap();
        assert!(kernel.is_batch_empty() && kernel.all_invalidated());
        kernel.move_to(0);
        assert!(kernel.is_batch_empty());
        fake::destroy(space);
    }
}

/// Between two halves of a break-before-make, in a gather, and in front of a lock that is released: who
/// asks what waits, after a switch, is told that nothing does, and nothing has to.
#[test]
fn r25_r29_who_drains_behind_a_switch_finds_nothing_to_do() {
    let mmu = new_mmu();
    let mut space = mapped(&mmu, USER);
    let kernel = mmu.kernel();
    mmu.lazy().enable().unwrap();
    let moved = part(USER, 3, 1);
    clear(&mut space, moved);
    mmu.lazy().switch_out().unwrap();
    assert!(kernel.is_batch_empty(), "the next task's");
    kernel.move_to(1);
    kernel.take_effects();
    // The checker of the fake knows what a TLB may hold of the page (R29).
    space.map(moved, contiguous(77), Prot::USER).unwrap();
    assert_eq!(tlbis(&kernel.take_effects()), 0);
    let mut given = 0;
    let mut gather = space.gather(|va, _| {
        let cached = kernel.may_be_cached(fake::asid_of(USER), va.as_u64());
        assert!(!cached, "R25");
        given += 1;
    });
    gather.unmap(part(USER, 5, 2)).unwrap();
    mmu.lazy().switch_out().unwrap();
    assert!(kernel.is_batch_empty(), "the next task's");
    kernel.move_to(0);
    kernel.take_effects();
    gather.finish();
    assert_eq!(given, 2);
    assert_eq!(tlbis(&kernel.take_effects()), 0);
    clear(&mut space, part(USER, 8, 1));
    mmu.lazy().switch_out().unwrap();
    kernel.take_effects();
    mmu.lazy().drain();
    assert_eq!(kernel.take_effects(), [], "R43");
    mmu.lazy().disable().unwrap();
    fake::destroy(space);
}
