// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values that are forgotten instead of dropped: `mem::forget` is safe, so nothing unsound may come of
//! it (R22, R25, R29).

use lazymmu::{AddressSpace, Mmu, PAGE_SIZE, PageRange, Prot, SpaceError};
use lazymmu_testkit::fake::{
    self, Fake, USER, contiguous, frame, new_mmu_with, new_space, pages, va,
};
use std::mem::forget;

const AT: u64 = 1 << 30;

fn page() -> PageRange {
    pages(AT, 1)
}

/// One page was mapped and gathered, and the gather was forgotten. Its frame is lost.
fn forgotten_gather(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    let mut space = new_space(mmu, USER);
    space.map(page(), contiguous(1), Prot::USER).unwrap();
    let mut gather = space.gather(|_, _| unreachable!("it is never finished"));
    gather.unmap(page()).unwrap();
    forget(gather);
    space
}

/// The error says how the address comes back, and that is so.
#[test]
fn r29_the_address_of_a_forgotten_gather_comes_back() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = forgotten_gather(&mmu);
        // A table in which nothing is counted is taken for empty as a whole.
        let neighbor = pages(AT + PAGE_SIZE, 1);
        space.map(neighbor, frame(3), Prot::USER).unwrap();
        let error = space.map(page(), frame(2), Prot::USER).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("unmap_existing"), "{backend}: {message}");
        let error = space.unmap(page()).unwrap_err();
        assert_eq!(error, SpaceError::NotMapped { va: va(AT) }, "{backend}");

        space.unmap_existing(page()).unwrap();
        assert!(mmu.kernel().all_invalidated(), "{backend}");
        space.map(page(), frame(2), Prot::USER).unwrap();
        space.unmap(pages(AT, 2)).unwrap();
        assert_eq!(space.free_empty_tables(page()), Ok(3), "{backend}");
        fake::destroy(space);
    }
}

/// What is gathered is not counted any more, so taking it out does not change the count.
#[test]
fn the_rest_of_a_forgotten_gather_may_be_cleared() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = forgotten_gather(&mmu);
        space
            .apply_to_page_range(page(), |entry| {
                assert!(!entry.get_and_clear().is_valid());
                Ok::<(), SpaceError>(())
            })
            .unwrap();
        assert_eq!(space.free_empty_tables(page()), Ok(3), "{backend}");
        fake::destroy(space);
    }
}

/// And setting it does: the table of a mapped page is not empty.
#[test]
fn r27_the_rest_of_a_forgotten_gather_may_be_set_after_its_invalidation() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = forgotten_gather(&mmu);
        // The fake judges the order (R27).
        space
            .apply_to_page_range(page(), |entry| entry.set(frame(2), Prot::USER))
            .unwrap();
        assert_eq!(space.free_empty_tables(page()), Ok(0), "{backend}");
        let found = space.query(va(AT)).unwrap().entry;
        assert_eq!(found.frame(), frame(2), "{backend}");
        fake::destroy(space);
    }
}

/// A set that is taken for one of an empty entry must be counted once.
#[test]
fn the_rest_of_a_forgotten_gather_is_set_once() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = forgotten_gather(&mmu);
        let mut fast = space.fast_pte_range(page()).unwrap();
        fast.set(0, frame(2), Prot::USER).unwrap();
        let again = fast.set_run(0, 1, frame(3), Prot::USER);
        assert!(
            matches!(again, Err(SpaceError::AlreadyMapped { .. })),
            "{backend}: {again:?}"
        );
        drop(fast);
        fake::destroy(space);
    }
}

/// The section stays open, and the range in it; the tables go with their space.
#[test]
fn r22_a_forgotten_range_does_not_outlive_its_space() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let mut fast = space.fast_pte_range(pages(AT, 16)).unwrap();
        fast.set_run(0, 16, frame(16), Prot::USER).unwrap();
        forget(fast);
        mmu.kernel().teardown.set(true);
        // SAFETY: no CPU walks the tables of a fake.
        unsafe { space.destroy() };
        mmu.kernel().teardown.set(false);
        assert_eq!(mmu.kernel().live_tables(), 0, "{backend}");
        // Folds no group of a table that is gone.
        mmu.lazy().disable().unwrap();
        assert!(mmu.kernel().is_batch_empty(), "{backend}: R23");
    }
}
