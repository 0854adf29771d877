// SPDX-License-Identifier: MIT OR Apache-2.0
//! R25 over many ranges: one invalidation, and no frame before it is complete.

use lazymmu::{AddressSpace, Mmu, PAGE_SIZE, PageRange, SpaceError, SpaceKind};
use lazymmu_testkit::fake::{
    self, BASE, Effect, Fake, KINDS, contiguous, count, data, new_mmu, new_space, pages, visible,
};

/// A space with `n` pages mapped from the start of its half plus 1.5 TiB, and that start.
fn mapped(mmu: &Mmu<Fake>, kind: SpaceKind, n: u64) -> (AddressSpace<'_, Fake>, u64) {
    let start = kind.half().start() + (3 << 39);
    let mut space = new_space(mmu, kind);
    space
        .map(pages(start, n), contiguous(1), data(kind))
        .unwrap();
    mmu.kernel().take_effects();
    (space, start)
}

fn part(start: u64, first: u64, n: u64) -> PageRange {
    pages(start + first * PAGE_SIZE, n)
}

#[test]
fn r25_one_invalidation_and_then_the_frames() {
    for kind in KINDS {
        let mmu = new_mmu();
        let (mut space, start) = mapped(&mmu, kind, 100);
        let mut gather = space.gather(|_, frame| mmu.kernel().note(frame.as_u64() / PAGE_SIZE));
        for first in [40, 10, 70] {
            gather.unmap(part(start, first, 3)).unwrap();
        }
        assert_eq!(count(&mmu.kernel().take_effects(), Effect::DsbIsh), 0);
        gather.finish();
        let effects = visible(mmu.kernel().take_effects());
        assert_eq!(count(&effects, Effect::DsbIshst), 1);
        assert_eq!(count(&effects, Effect::DsbIsh), 1);
        let done = effects.iter().position(|e| *e == Effect::DsbIsh).unwrap();
        let notes: Vec<(usize, u64)> = effects
            .iter()
            .enumerate()
            .filter_map(|(i, e)| match e {
                Effect::Note(n) => Some((i, *n)),
                _ => None,
            })
            .collect();
        assert!(notes.iter().all(|(i, _)| *i > done), "R25");
        let frames: Vec<u64> = notes.iter().map(|(_, frame)| *frame).collect();
        assert_eq!(frames, [41, 42, 43, 11, 12, 13, 71, 72, 73]);
        assert_eq!(mmu.kernel().counts().tlbi_requested, 9);
        assert!(mmu.kernel().all_invalidated());
        assert!(space.query(fake::va(start + 40 * PAGE_SIZE)).is_none());
        fake::destroy(space);
    }
}

#[test]
fn r25_a_full_list_is_finished_early_and_neighbors_are_one() {
    let mmu = new_mmu();
    let (mut space, start) = mapped(&mmu, SpaceKind::Kernel, 400);
    let mut given = 0;
    let mut gather = space.gather(|_, _| given += 1);
    // Neighbors, in both directions: one range.
    for first in [101, 100, 102] {
        gather.unmap(part(start, first, 1)).unwrap();
    }
    for i in 0..15 {
        gather.unmap(part(start, 10 * (i + 12), 2)).unwrap();
    }
    assert_eq!(count(&mmu.kernel().take_effects(), Effect::DsbIsh), 0);
    gather.unmap(part(start, 300, 1)).unwrap();
    assert_eq!(count(&mmu.kernel().take_effects(), Effect::DsbIsh), 1);
    drop(gather);
    assert_eq!(count(&mmu.kernel().take_effects(), Effect::DsbIsh), 1);
    assert_eq!(given, 3 + 30 + 1);
    fake::destroy(space);
}

#[test]
fn r25_what_was_gathered_is_in_use_until_the_end() {
    let mmu = new_mmu();
    let (mut space, start) = mapped(&mmu, SpaceKind::Kernel, 8);
    let mut gather = space.gather(|_, _| {});
    gather.unmap(part(start, 2, 2)).unwrap();
    let again = gather.unmap(part(start, 0, 4));
    assert!(
        matches!(again, Err(SpaceError::NotMapped { va }) if va.as_u64() == start + 2 * PAGE_SIZE)
    );
    gather.finish();
    space
        .map(part(start, 2, 2), contiguous(50), data(SpaceKind::Kernel))
        .unwrap();
    fake::destroy(space);
}

#[test]
fn r25_a_whole_table_is_not_gathered_twice() {
    let mmu = new_mmu();
    let (mut space, start) = mapped(&mmu, SpaceKind::Kernel, 512);
    let mut given = 0;
    let mut gather = space.gather(|_, _| given += 1);
    gather.unmap(part(start, 0, 512)).unwrap();
    let again = gather.unmap(part(start, 0, 512));
    assert!(matches!(again, Err(SpaceError::NotMapped { va }) if va.as_u64() == start));
    gather.finish();
    assert_eq!(given, 512);
    fake::destroy(space);
}

#[test]
fn r29_a_forgotten_gather_is_made_up_for() {
    let mmu = new_mmu();
    let (mut space, start) = mapped(&mmu, SpaceKind::Kernel, 512);
    let mut gather = space.gather(|_, _| unreachable!());
    gather.unmap(part(start, 0, 512)).unwrap();
    core::mem::forget(gather);
    // The frames are lost; the addresses come back after their invalidation.
    assert!(!mmu.kernel().all_invalidated());
    space
        .map(
            part(start, 0, 512),
            contiguous(9000),
            data(SpaceKind::Kernel),
        )
        .unwrap();
    assert!(mmu.kernel().all_invalidated());
    fake::destroy(space);
}

#[test]
fn r32_tables_go_after_the_frames() {
    let mmu = new_mmu();
    let (mut space, start) = mapped(&mmu, SpaceKind::Kernel, 1024);
    let tables = mmu.kernel().live_tables();
    let mut gather = space.gather(|_, _| mmu.kernel().note(1));
    gather.unmap(part(start, 0, 512)).unwrap();
    gather.unmap(part(start, 512, 512)).unwrap();
    mmu.kernel().take_effects();
    // Two last-level tables and the two above them.
    assert_eq!(gather.finish_and_free_tables(), 4);
    assert_eq!(mmu.kernel().live_tables(), tables - 4);
    let effects = mmu.kernel().take_effects();
    let first_free = effects.iter().position(|e| matches!(e, Effect::Free(_)));
    let given_back = |effects: &[Effect]| count(effects, Effect::Note(1));
    let before = &effects[..first_free.expect("tables went")];
    assert_eq!((given_back(before), given_back(&effects)), (1024, 1024));
    fake::destroy(space);
}

#[test]
fn many_small_ranges_fall_back_like_a_large_one() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    space
        .map(pages(BASE, 2000), contiguous(1), data(SpaceKind::Kernel))
        .unwrap();
    mmu.kernel().take_effects();
    let mut gather = space.gather(|_, _| {});
    for i in 0..10 {
        gather.unmap(part(BASE, i * 100, 60)).unwrap();
    }
    gather.finish();
    let effects = mmu.kernel().take_effects();
    let tlbi = effects.iter().filter(|e| matches!(e, Effect::Tlbi(..)));
    assert_eq!(tlbi.count(), 1);
    fake::destroy(space);
}
