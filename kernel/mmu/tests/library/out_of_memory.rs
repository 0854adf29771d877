// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that ends before a request is served, after each number of tables.

use lazymmu::{AddressSpace, Level, PAGE_SIZE, Prot, SpaceError, SpaceKind};
use lazymmu_testkit::fake::{
    self, BASE, Effect, USER, contiguous, new_mmu, new_space, pages, refused,
};

/// Requests that need 0 to 7 tables, with memory for 0 to all of them.
#[test]
fn memory_that_ends_at_the_nth_table_leaves_nothing_behind() {
    let table: u64 = 2 << 20;
    // Start and pages, with a first mapping at `BASE` in place, and the tables needed.
    let cases = [
        (BASE + PAGE_SIZE, 1, 0),
        (BASE + table - PAGE_SIZE, 2, 1),
        (BASE + table - PAGE_SIZE, 2 + 512, 2),
        (BASE + (1 << 30), 1, 2),
        (BASE + (1 << 30) + table - PAGE_SIZE, 2, 3),
        (BASE + (2 << 39), 1, 3),
        (BASE + (2 << 39) + table - PAGE_SIZE, 2, 4),
        (BASE + (2 << 39) + (1 << 30) - PAGE_SIZE, 2, 5),
        (BASE + (2 << 39) - PAGE_SIZE, 2, 6),
        (BASE + (2 << 39) - PAGE_SIZE, 2 + 512, 7),
    ];
    // The cases of two tables at most under Miri: each refusal compares every bit of all tables.
    let most = if cfg!(miri) { 2 } else { usize::MAX };
    for (start, n, needed) in cases.into_iter().filter(|case| case.2 <= most) {
        let mmu = new_mmu();
        let kernel = mmu.kernel();
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        space
            .map(pages(BASE, 1), contiguous(1), Prot::KERNEL)
            .unwrap();
        let range = pages(start, n);
        for available in 0..needed {
            let expected = SpaceError::OutOfTables { needed, available };
            kernel.set_budget(available);
            let error = refused(&mmu, || space.map(range, contiguous(2), Prot::KERNEL));
            assert_eq!(error, expected);
            kernel.set_budget(available);
            let error = refused(&mmu, || {
                space.apply_to_page_range(range, |_| {
                    Err(SpaceError::NotMapped { va: range.start() })
                })
            });
            assert_eq!(error, expected);
            if range.is_in_one_table(Level::L3) {
                kernel.set_budget(available);
                let error = refused(&mmu, || space.fast_pte_range(range).map(|_| ()));
                assert_eq!(error, expected);
            }
        }
        kernel.set_budget(needed);
        let before = kernel.live_tables();
        space.map(range, contiguous(2), Prot::KERNEL).unwrap();
        assert_eq!(kernel.live_tables(), before + needed);
        assert_eq!(
            fake::tables_below(kernel, space.root().as_u64(), 0),
            before + needed
        );
        fake::destroy(space);
        assert_eq!(kernel.live_tables(), 0);
    }
}

#[test]
fn a_root_needs_memory() {
    let mmu = new_mmu();
    mmu.kernel().set_budget(0);
    let error = refused(&mmu, || AddressSpace::new(&mmu, USER));
    let (needed, available) = (1, 0);
    assert_eq!(error, SpaceError::OutOfTables { needed, available });
}

#[test]
fn reserved_tables_that_a_failing_callback_leaves_over_go_back() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let start = BASE + (1 << 39) - PAGE_SIZE;
    let error = SpaceError::NotMapped {
        va: fake::va(start),
    };
    let result = space.apply_to_page_range(pages(start, 2), |_| Err(error));
    assert_eq!(result, Err(error));
    let kernel = mmu.kernel();
    let own = fake::tables_below(kernel, space.root().as_u64(), 0);
    assert_eq!(
        (own, kernel.live_tables()),
        (4, 4),
        "the second three went back"
    );
    let freed = kernel.take_effects();
    let freed = freed
        .iter()
        .filter(|e| matches!(e, Effect::Free(_)))
        .count();
    assert_eq!(freed, 3);
    assert_eq!(space.free_empty_tables(pages(start, 2)), Ok(3));
    fake::destroy(space);
}
