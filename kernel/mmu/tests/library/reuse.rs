// SPDX-License-Identifier: MIT OR Apache-2.0
//! R27-R29 from safe code: an address that was emptied and not invalidated cannot be
//! mapped again before it is. The fake's order checker panics if it could.

use lazymmu::{PAGE_SIZE, Prot, SpaceError, SpaceKind};
use lazymmu_testkit::fake::order::Role;
use lazymmu_testkit::fake::{
    self, BASE, Effect, KINDS, contiguous, count, data, frame, new_mmu, new_space, pages, visible,
};

/// Number of TLBIs executed since the last look.
fn tlbis(mmu: &lazymmu::Mmu<fake::Fake>) -> usize {
    let effects = mmu.kernel().take_effects();
    let is_tlbi = |effect: &&Effect| matches!(effect, Effect::Tlbi(..));
    effects.iter().filter(is_tlbi).count()
}

fn start(kind: SpaceKind) -> u64 {
    kind.half().start() + (3 << 39)
}

#[test]
fn r29_mapping_over_an_unflushed_page_invalidates_first() {
    for kind in KINDS {
        for count in [1, 700] {
            let mmu = new_mmu();
            let mut space = new_space(&mmu, kind);
            let range = pages(start(kind), count);
            space.map(range, contiguous(1), data(kind)).unwrap();
            let pending = space.unmap_no_invalidate(range).unwrap();
            assert_eq!(tlbis(&mmu), 0);
            space.map(range, contiguous(5000), data(kind)).unwrap();
            assert!(tlbis(&mmu) > 0);
            drop(pending);
            fake::destroy(space);
        }
    }
}

#[test]
fn r29_a_forgotten_flush_is_made_up_for() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let range = pages(BASE, 3);
    let data = data(SpaceKind::Kernel);
    space.map(range, contiguous(1), data).unwrap();
    core::mem::forget(space.unmap_no_invalidate(range).unwrap());
    // Elsewhere nothing is owed.
    tlbis(&mmu);
    let elsewhere = pages(BASE + (1 << 30), 3);
    space.map(elsewhere, contiguous(9), data).unwrap();
    assert_eq!(tlbis(&mmu), 0);
    space.map(range, contiguous(5), data).unwrap();
    assert_eq!(tlbis(&mmu), 3);
    assert!(mmu.kernel().all_invalidated());
    fake::destroy(space);
}

#[test]
fn r29_a_flush_in_time_is_not_repeated() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let range = pages(BASE, 3);
    let data = data(SpaceKind::Kernel);
    for first in [1, 100, 200] {
        space.map(range, contiguous(first), data).unwrap();
        let pending = space.unmap_no_invalidate(range).unwrap();
        tlbis(&mmu);
        space.invalidate(pending);
        assert_eq!(tlbis(&mmu), 3);
    }
    space.map(range, contiguous(1), data).unwrap();
    assert_eq!(tlbis(&mmu), 0);
    fake::destroy(space);
}

#[test]
fn r29_entries_emptied_one_by_one_are_invalidated_before_reuse() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let range = pages(start(kind), 8);
        space.map(range, contiguous(1), data(kind)).unwrap();
        // S8: break and make inside one section, in a callback.
        tlbis(&mmu);
        space
            .apply_to_page_range(range, |pte| {
                let old = pte.get_and_clear();
                let other = old.frame().offset(4096).unwrap();
                pte.set(other, data(kind))
            })
            .unwrap();
        assert_eq!(tlbis(&mmu), 8);
        let mut fast = space.fast_pte_range(range).unwrap();
        fast.get_and_clear(3);
        fast.set(2, fast.get(2).frame(), data(kind)).unwrap();
        fast.set(3, frame(7), data(kind)).unwrap();
        drop(fast);
        assert_eq!(tlbis(&mmu), 1);
        let mut fast = space.fast_pte_range(range).unwrap();
        fast.get_and_clear(0);
        fast.get_and_clear(1);
        fast.set_run(0, 2, frame(70), data(kind)).unwrap();
        drop(fast);
        assert_eq!(tlbis(&mmu), 2);
        assert!(mmu.kernel().all_invalidated());
        fake::destroy(space);
    }
}

#[test]
fn r29_a_forgotten_fast_range_hides_no_entry() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let data = data(SpaceKind::Kernel);
    let range = pages(BASE, 4);
    let mut fast = space.fast_pte_range(range).unwrap();
    // What goes the short way is counted at the end, which does not come: this goes the long way.
    fast.set_run(2, 1, frame(9), data).unwrap();
    core::mem::forget(fast);
    mmu.lazy().disable().unwrap();
    // The table's population is not known, so its entries are looked at.
    let refused = space.map(range, contiguous(1), data);
    assert!(
        matches!(refused, Err(SpaceError::AlreadyMapped { va, .. }) if va == fake::va(BASE + 2 * PAGE_SIZE))
    );
    space.unmap(pages(BASE + 2 * PAGE_SIZE, 1)).unwrap();
    assert_eq!(space.free_empty_tables(range), Ok(0));
    space.map(range, contiguous(1), data).unwrap();
    // `fake::destroy` would miss the population.
    mmu.kernel().teardown.set(true);
    // SAFETY: no CPU walks a table of the fake.
    unsafe { space.destroy() };
}

#[test]
fn r32_one_invalidation_serves_all_tables_that_go() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let data = data(SpaceKind::Kernel);
    let range = pages(BASE, 512 * 5);
    space.map(range, contiguous(1), data).unwrap();
    space.unmap(range).unwrap();
    mmu.kernel().take_effects();
    // Five last-level tables and the two above them.
    assert_eq!(space.free_empty_tables(range), Ok(7));
    let effects = mmu.kernel().take_effects();
    assert_eq!(count(&effects, Effect::DsbIsh), 1);
    let links = |e: &&Effect| {
        matches!(
            e,
            Effect::Store {
                role: Role::Link(_),
                ..
            }
        )
    };
    assert_eq!(visible(effects).iter().filter(links).count(), 7);
    fake::destroy(space);
}

#[test]
fn holes_are_passed_over_as_a_whole() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let half = SpaceKind::Kernel.half();
    let everything = lazymmu::PageRange::from_bounds(half.start(), half.end()).unwrap();
    let before = mmu.kernel().counts().walks;
    assert_eq!(space.free_empty_tables(everything), Ok(0));
    // 2^36 pages: the tables they need are counted, not visited one by one.
    mmu.kernel().set_budget(10);
    let refused = space.map(everything, contiguous(0), data(SpaceKind::Kernel));
    let tables = 512 + (512 << 9) + (512 << 18);
    assert!(
        matches!(refused, Err(SpaceError::OutOfTables { needed, available: 10 }) if needed == tables),
        "{refused:?}"
    );
    assert!(mmu.kernel().counts().walks - before < 2000);
    fake::destroy(space);
}

/// The short way of a page like the last one is closed while an entry of the table waits for its
/// invalidation.
#[test]
fn r29_a_page_like_the_last_is_invalidated_before_reuse() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let page = |i: u64| pages(start(kind) + i * PAGE_SIZE, 1);
        for i in 0..4 {
            space
                .map(page(i), contiguous(9 + 2 * i), data(kind))
                .unwrap();
        }
        core::mem::forget(space.unmap_no_invalidate(page(2)).unwrap());
        tlbis(&mmu);
        space.map(page(2), contiguous(60), data(kind)).unwrap();
        assert_eq!(tlbis(&mmu), 1);
        // A neighbor goes the long way and must not lead the next one astray.
        core::mem::forget(space.unmap_no_invalidate(page(1)).unwrap());
        space.map(page(7), contiguous(71), data(kind)).unwrap();
        space.map(page(1), contiguous(80), data(kind)).unwrap();
        assert_eq!(tlbis(&mmu), 1);
        assert!(mmu.kernel().all_invalidated());
        fake::destroy(space);
    }
}

#[test]
fn r32_a_table_that_is_gone_is_not_the_last_one() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let page = |i: u64| pages(start(kind) + i * PAGE_SIZE, 1);
        let far = pages(start(kind) + (1 << 21), 1);
        space.map(far, contiguous(3), data(kind)).unwrap();
        for i in 0..2 {
            space
                .map(page(i), contiguous(9 + 2 * i), data(kind))
                .unwrap();
        }
        space.unmap(pages(start(kind), 2)).unwrap();
        assert_eq!(space.free_empty_tables(pages(start(kind), 2)), Ok(1));
        space.map(page(1), contiguous(5), data(kind)).unwrap();
        let found = space.query(page(1).start()).unwrap();
        assert_eq!(found.entry.frame(), frame(5));
        fake::destroy(space);
    }
}

/// Nor is its table the last one, whose entries in use would be counted.
#[test]
fn r29_pages_behind_a_forgotten_fast_range_are_not_counted() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let data = data(SpaceKind::Kernel);
    let page = |i: u64| pages(BASE + i * PAGE_SIZE, 1);
    for i in 0..2 {
        space.map(page(i), contiguous(i), data).unwrap();
    }
    let mut fast = space.fast_pte_range(page(5)).unwrap();
    fast.set_run(0, 1, frame(9), data).unwrap();
    core::mem::forget(fast);
    mmu.lazy().disable().unwrap();
    for i in 2..4 {
        space.map(page(i), contiguous(i), data).unwrap();
    }
    for i in 0..4 {
        let found = space.query(page(i).start()).unwrap();
        assert_eq!(found.entry.frame(), frame(i));
        space.unmap(page(i)).unwrap();
    }
    // Page 5 is there, however often others came and went.
    assert_eq!(space.free_empty_tables(page(0)), Ok(0));
    assert!(space.query(page(5).start()).is_some());
    mmu.kernel().teardown.set(true);
    // SAFETY: no CPU walks a table of the fake.
    unsafe { space.destroy() };
}

/// An entry that was empty to begin with, and is not written the short way.
#[test]
fn r29_text_that_a_callback_empties_is_invalidated_before_data_comes() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    space
        .apply_to_page_range(pages(BASE, 4), |entry| {
            entry.set(frame(9), Prot::KERNEL_ROX)?;
            entry.get_and_clear();
            mmu.kernel().take_effects();
            entry.set(frame(10), Prot::KERNEL)?;
            let effects = mmu.kernel().take_effects();
            let invalidated = effects.iter().position(fake::is_maintenance);
            let stored = effects.iter().rposition(fake::is_leaf);
            assert!(invalidated.is_some() && invalidated < stored, "{effects:?}");
            Ok::<(), SpaceError>(())
        })
        .unwrap();
    fake::destroy(space);
}
