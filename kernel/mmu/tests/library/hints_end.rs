// SPDX-License-Identifier: MIT OR Apache-2.0
//! An announced range is in force until its guard goes, wherever the task has got to by then: behind it
//! the tables may be freed, so nobody may look at them any more (R22, R39).

use lazymmu::{
    AddressSpace, Asid, Backend, LazyMmuError, Mmu, PageRange, Prot, SpaceError, SpaceKind,
};
use lazymmu_testkit::fake::{
    self, Fake, USER, contiguous, enable_fast, frame, new_mmu_with, new_space, pages, va,
};

const AT: u64 = 1 << 30;

fn range() -> PageRange {
    pages(AT, 16)
}

fn ranges(mmu: &Mmu<Fake>) -> usize {
    mmu.lazy().state().fast_pte_ranges()
}

/// The guard of the range is gone: its table may be freed, and another one take its place.
fn free_and_map(mmu: &Mmu<Fake>, space: &mut AddressSpace<'_, Fake>) {
    assert_eq!(ranges(mmu), 0, "R22: the range was given up");
    assert_eq!(space.free_empty_tables(range()), Ok(3));
    space.map(pages(AT, 1), contiguous(1), Prot::USER).unwrap();
}

/// What is mapped after all that is there, and nothing else was written.
fn ends_well(mmu: &Mmu<Fake>, space: AddressSpace<'_, Fake>) {
    assert_eq!(mmu.lazy().state().enable_count(), 0);
    assert!(mmu.kernel().is_batch_empty(), "R23");
    assert_eq!(space.query(va(AT)).unwrap().entry.frame(), frame(1));
    fake::destroy(space);
}

#[test]
fn r22_a_range_dropped_before_an_inner_section_is_given_up() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let fast = space.fast_pte_range(range()).unwrap();
        let inner = mmu.lazy().section().unwrap();
        drop(fast);
        free_and_map(&mmu, &mut space);
        drop(inner);
        ends_well(&mmu, space);
    }
}

#[test]
fn r22_a_source_dropped_before_its_destination_is_given_up_alone() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut from = new_space(&mmu, USER);
        let mut to = new_space(&mmu, SpaceKind::User(Asid(9)));
        let source = from.fast_pte_range(range()).unwrap();
        let mut destination = to.fast_pte_range(range()).unwrap();
        drop(source);
        assert_eq!(from.free_empty_tables(range()), Ok(3), "{backend}");
        assert_eq!(ranges(&mmu), usize::from(backend == Backend::DeferStores));
        destination.set(0, frame(1), Prot::USER).unwrap();
        drop(destination);
        fake::destroy(from);
        ends_well(&mmu, to);
    }
}

#[test]
fn r22_r39_a_range_dropped_in_a_pause_is_given_up_and_reported() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let fast = space.fast_pte_range(range()).unwrap();
        let pause = mmu.lazy().paused().unwrap();
        drop(fast);
        assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::Asymmetric]);
        free_and_map(&mmu, &mut space);
        drop(pause);
        // The level could not be closed (R39), the range could.
        assert_eq!(ranges(&mmu), 0, "{backend}");
        mmu.lazy().disable().unwrap();
        ends_well(&mmu, space);
    }
}

#[test]
fn s12_a_range_dropped_in_a_suspension_does_not_come_back() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let fast = space.fast_pte_range(range()).unwrap();
        let suspended = mmu.lazy().suspend_all();
        drop(fast);
        let underflow = [LazyMmuError::EnableUnderflow];
        assert_eq!(mmu.kernel().take_reports(), underflow, "{backend}: R39");
        free_and_map(&mmu, &mut space);
        drop(suspended);
        assert_eq!(ranges(&mmu), 0, "{backend}");
        mmu.lazy().disable().unwrap();
        ends_well(&mmu, space);
    }
}

/// The callback keeps its suspension, and with it the depth at which the range was announced.
#[test]
fn s12_a_callback_s_range_ends_with_the_call() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let mut kept = None;
        let outer = mmu.lazy().section().unwrap();
        space
            .apply_to_page_range(pages(AT, 1), |_| {
                kept = Some(mmu.lazy().suspend_all());
                Ok::<(), SpaceError>(())
            })
            .unwrap();
        assert_eq!(space.free_empty_tables(range()), Ok(3));
        drop(kept);
        assert_eq!(ranges(&mmu), 0, "{backend}");
        space.map(pages(AT, 1), contiguous(1), Prot::USER).unwrap();
        drop(outer);
        ends_well(&mmu, space);
    }
}

/// Levels that end in another order than they began: a range is its own level's.
#[test]
fn r22_an_outer_section_dropped_first_leaves_the_inner_range_alone() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let outer = mmu.lazy().section().unwrap();
        let mut fast = space.fast_pte_range(range()).unwrap();
        drop(outer);
        fast.set(0, frame(1), Prot::USER).unwrap();
        assert_eq!(fast.get(0).frame(), frame(1), "{backend}: R20");
        drop(fast);
        free_nothing(&mut space);
        ends_well(&mmu, space);
    }
}

fn free_nothing(space: &mut AddressSpace<'_, Fake>) {
    assert_eq!(space.free_empty_tables(range()), Ok(0));
}

/// A range that was announced by hand, for a space that is gone.
#[test]
fn r22_a_destroyed_space_s_ranges_are_forgotten() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let space = fake::new_space_with_tables(&mmu, USER, range());
        enable_fast(&space, range());
        assert_eq!(ranges(&mmu), 1, "{backend}");
        fake::destroy(space);
        assert_eq!(ranges(&mmu), 0, "{backend}");
        mmu.lazy().disable().unwrap();
    }
}

/// The same where no table is freed, which would forget the ranges of the space by itself.
#[test]
fn s12_the_guard_alone_withdraws_its_range() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let outer = mmu.lazy().section().unwrap();
        let fast = space.fast_pte_range(range()).unwrap();
        let suspended = mmu.lazy().suspend_all();
        drop(fast);
        mmu.kernel().take_reports();
        drop(suspended);
        assert_eq!(ranges(&mmu), 0, "{backend}");
        mmu.lazy().disable().unwrap();
        drop(outer);
        fake::destroy(space);
    }
}
