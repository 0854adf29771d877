// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two roots over the same tables.

use lazymmu::{Asid, Half, Level, PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind};
use lazymmu_testkit::fake::{self, new_mmu, new_mmu_with, new_space, pages};

/// An invalidation of a user space reaches one ASID, and the translations of the other would stay.
#[test]
fn r25_user_spaces_share_no_tables() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let (user, other) = (SpaceKind::User(Asid(1)), SpaceKind::User(Asid(2)));
        let range = pages(5 << 39, 2);
        for (kinds, mapped) in [
            ((user, other), true),
            ((SpaceKind::Kernel, user), false),
            ((user, SpaceKind::Kernel), true),
        ] {
            let (mut first, mut second) = (new_space(&mmu, kinds.0), new_space(&mmu, kinds.1));
            if mapped {
                first.map(range, fake::contiguous(5), Prot::USER).unwrap();
            }
            // SAFETY: nothing is shared.
            let refused = unsafe { second.share_tables(&first, range) };
            assert_eq!(refused, Err(SpaceError::SharedByUsers));
            assert_eq!(second.query(range.start()), None);
            fake::destroy(first);
            fake::destroy(second);
        }
    }
}

/// The two pages of the range, one on each side of a 512 GiB boundary.
fn both(range: PageRange) -> [u64; 2] {
    let start = range.start().as_u64();
    [start, start + PAGE_SIZE]
}

#[test]
fn shared_tables_show_the_same_mappings() {
    let mmu = new_mmu();
    let mut first = new_space(&mmu, SpaceKind::Kernel);
    let start = Half::Upper.start() + (3 << 39) - PAGE_SIZE;
    let range = pages(start, 2);
    first.map(range, fake::contiguous(5), Prot::KERNEL).unwrap();
    let mut second = new_space(&mmu, SpaceKind::Kernel);
    // SAFETY: only `first` changes tables below, and both live to the end of the test.
    let copied = unsafe { second.share_tables(&first, range) };
    assert_eq!(copied, Ok(2));
    for va in both(range) {
        let va = fake::va(va);
        assert!(second.query(va).is_some());
        assert_eq!(first.query(va), second.query(va));
    }
    first.unmap(range).unwrap();
    assert_eq!(second.query(fake::va(start)), None);
    let taken = second.query(fake::va(Half::Upper.start()));
    assert_eq!(taken, None, "what was not asked for is not shared");
    // SAFETY: as above.
    let again = unsafe { second.share_tables(&first, range) };
    assert!(
        matches!(again, Err(SpaceError::AlreadyMapped { level: Level::L0, va, .. }) if va.as_u64() == start)
    );
    // The second half only: the entry in use is not at the start of the range.
    let mut third = new_space(&mmu, SpaceKind::Kernel);
    third
        .map(
            pages(start + PAGE_SIZE, 1),
            fake::contiguous(1),
            Prot::KERNEL,
        )
        .unwrap();
    // SAFETY: as above.
    let clash = unsafe { third.share_tables(&first, range) };
    let Err(SpaceError::AlreadyMapped { va, .. }) = clash else {
        panic!("{clash:?}");
    };
    assert_eq!(
        va.as_u64() >> 39,
        (start + PAGE_SIZE) >> 39,
        "names the entry in use"
    );
}
