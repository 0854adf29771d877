// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members of contiguous groups that were just made, changed one by one in the same section, with every
//! backend (R20, R24, R29).

use lazymmu::{AddressSpace, Mmu, PAGE_SIZE, PageRange, Prot, SpaceError, bits};
use lazymmu_testkit::fake::{
    self, Fake, USER, enable_fast, frame, leaves, new_mmu_with, new_space, pages, refused,
    table_of, va,
};

const AT: u64 = 1 << 30;

fn group() -> PageRange {
    pages(AT, 16)
}

/// A space with one group, folded.
fn folded(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    let mut space = new_space(mmu, USER);
    let mut fast = space.fast_pte_range(group()).unwrap();
    fast.set_run(0, 16, frame(16), Prot::USER).unwrap();
    drop(fast);
    space
}

fn raw(space: &AddressSpace<'_, Fake>, page: u64) -> u64 {
    let found = space.query(va(AT + page * PAGE_SIZE)).expect("mapped");
    found.entry.as_u64()
}

/// The fake judges each store and, when no section is open, the whole (R29).
#[test]
fn r29_one_member_s_permissions_change_while_the_group_waits() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let mut fast = space.fast_pte_range(group()).unwrap();
        fast.set_run(0, 16, frame(16), Prot::USER).unwrap();
        fast.set(3, frame(19), Prot::USER_RO).unwrap();
        assert!(!fast.get(3).is_writable(), "{backend}: R20");
        drop(fast);
        space.invalidate_range(group()).unwrap();
        for page in 0..16 {
            let expected = if page == 3 { Prot::USER_RO } else { Prot::USER };
            let entry = lazymmu::Desc::page(frame(16 + page), expected);
            assert_eq!(raw(&space, page), entry.as_u64(), "{backend}, {page}");
        }
        fake::destroy(space);
    }
}

#[test]
fn r29_one_member_is_taken_while_the_group_waits() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let mut fast = space.fast_pte_range(group()).unwrap();
        fast.set_run(0, 16, frame(16), Prot::USER).unwrap();
        assert_eq!(fast.get_and_clear(3).frame(), frame(19), "{backend}");
        drop(fast);
        space.invalidate_range(group()).unwrap();
        for page in (0..16).filter(|page| *page != 3) {
            assert_eq!(raw(&space, page) & bits::CONT, 0, "{backend}: half a group");
        }
        fake::destroy(space);
    }
}

#[test]
fn r29_a_set_that_is_refused_breaks_no_group() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = folded(&mmu);
        assert_ne!(raw(&space, 3) & bits::CONT, 0, "{backend}");
        let mut fast = space.fast_pte_range(group()).unwrap();
        let error = refused(&mmu, || fast.set(3, frame(99), Prot::USER));
        assert!(matches!(error, SpaceError::BreakBeforeMake { .. }));
        drop(fast);
        assert_ne!(raw(&space, 3) & bits::CONT, 0, "{backend}: still a group");
        fake::destroy(space);
    }
}

/// Hardware writes one member's bit for all: whoever is taken out, and whoever stays, has it.
#[test]
fn r24_the_dirt_of_one_member_is_the_group_s() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = folded(&mmu);
        let table = table_of(&space, group());
        for i in 0..16 {
            let clean = bits::DBM | bits::AP_READ_ONLY;
            mmu.kernel().walker_writes(table, i, clean, 0);
        }
        mmu.kernel().walker_writes(table, 5, 0, bits::AP_READ_ONLY);
        let mut fast = space.fast_pte_range(group()).unwrap();
        let taken = fast.get_and_clear(3);
        drop(fast);
        space.invalidate_range(group()).unwrap();
        assert!(taken.is_writable(), "{backend}: the one that was taken");
        for page in [0, 5, 15] {
            let left = raw(&space, page);
            assert_eq!(left & bits::AP_READ_ONLY, 0, "{backend}: page {page}");
        }
        fake::destroy(space);
    }
}

/// Whole groups need no breaking, so emptying them takes one store per entry.
#[test]
fn r29_whole_groups_are_emptied_once() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, USER);
        let table = pages(AT, 512);
        let mut fast = space.fast_pte_range(table).unwrap();
        fast.set_run(0, 512, frame(512), Prot::USER).unwrap();
        drop(fast);
        enable_fast(&space, table);
        mmu.kernel().take_effects();
        space.unmap(table).unwrap();
        assert_eq!(leaves(&mmu.kernel().take_effects()), 512, "{backend}");
        mmu.lazy().disable().unwrap();
        fake::destroy(space);
    }
}
