// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls with bottom halves off, in a section of the caller's own in which something waits.
//!
//! Bottom halves off counts as an interrupt (R3), so what such a call writes takes effect at once. The entries may be those
//! for which a store or an invalidation of the same task waits. The fake machine judges each store.

use lazymmu::{AddressSpace, Desc, Half, Mmu, PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind};
use lazymmu_testkit::fake::{
    self, Effect, Fake, KINDS, contiguous, data, destroy, enable_fast, frame, is_leaf,
    new_mmu_with, new_space_with_tables, pages, tlbis,
};

/// The last pages of a half, and some in the middle of a group and of a table.
fn ranges(half: Half) -> [PageRange; 3] {
    [
        pages(half.start() + (5 << 30) + 21 * PAGE_SIZE, 3),
        pages(half.start(), 3),
        pages(half.end() - 3 * PAGE_SIZE, 3),
    ]
}

/// Runs `test` with each strategy on pages that exist: in a section that announces them, with the middle one mapped
/// before it.
fn each(test: impl Fn(&Mmu<Fake>, &mut AddressSpace<'_, Fake>, PageRange)) {
    for backend in fake::backends() {
        for kind in KINDS {
            for range in ranges(kind.half()) {
                let mmu = new_mmu_with(backend);
                let mut space = new_space_with_tables(&mmu, kind, range);
                space.map(nth(range, 1), contiguous(8), data(kind)).unwrap();
                enable_fast(&space, range);
                test(&mmu, &mut space, range);
                mmu.lazy().disable().unwrap();
                assert!(mmu.kernel().all_invalidated(), "{backend}");
                destroy(space);
            }
        }
    }
}

fn nth(range: PageRange, page: u64) -> PageRange {
    pages(range.start().as_u64() + page * PAGE_SIZE, 1)
}

/// What `call` does with bottom halves off.
fn bottom_halves_off<T>(mmu: &Mmu<Fake>, call: impl FnOnce() -> T) -> T {
    mmu.kernel().set_interrupt(true);
    let result = call();
    mmu.kernel().set_interrupt(false);
    result
}

fn frame_at(space: &AddressSpace<'_, Fake>, page: PageRange) -> Option<u64> {
    let mapping = space.query(page.start());
    mapping.map(|mapping| mapping.entry.frame().as_u64() / PAGE_SIZE)
}

fn read_only(kind: SpaceKind) -> Prot {
    match kind {
        SpaceKind::Kernel => Prot::KERNEL_RO,
        SpaceKind::User(_) => Prot::USER_RO,
    }
}

#[test]
fn r20_a_read_sees_what_waits() {
    each(|mmu, space, range| {
        space
            .map(nth(range, 0), contiguous(3), data(space.kind()))
            .unwrap();
        bottom_halves_off(mmu, || {
            assert_eq!(frame_at(space, nth(range, 0)), Some(3));
            let mut seen = Vec::new();
            let look = |entry: &mut lazymmu::PteRef<'_, Fake>| {
                seen.push(entry.get().is_valid());
                Ok::<(), SpaceError>(())
            };
            space.apply_to_page_range(range, look).unwrap();
            assert_eq!(seen, [true, true, false]);
            let again = space.map(nth(range, 0), contiguous(5), data(space.kind()));
            assert!(
                matches!(again, Err(SpaceError::AlreadyMapped { .. })),
                "{again:?}"
            );
        });
    });
}

#[test]
fn r3_what_waits_is_not_stored_over_a_later_write() {
    each(|mmu, space, range| {
        let (page, prot) = (nth(range, 0), data(space.kind()));
        space.map(page, contiguous(3), prot).unwrap();
        bottom_halves_off(mmu, || {
            space.unmap(page).unwrap();
            assert_eq!(frame_at(space, page), None);
        });
        assert_eq!(frame_at(space, page), None);
        space.map(page, contiguous(4), prot).unwrap();
        bottom_halves_off(mmu, || {
            let set = |entry: &mut lazymmu::PteRef<'_, Fake>| {
                assert_eq!(entry.get_and_clear().frame(), frame(4));
                entry.set(frame(6), prot)
            };
            space.apply_to_page_range(page, set).unwrap();
        });
        mmu.lazy().flush();
        assert_eq!(frame_at(space, page), Some(6));
        space.invalidate_range(page).unwrap();
    });
}

#[test]
fn r27_a_page_is_made_again_after_the_invalidation_that_waits() {
    each(|mmu, space, range| {
        let (page, prot) = (nth(range, 1), data(space.kind()));
        for number in 0..4 {
            let pending = space.unmap_no_invalidate(page).unwrap();
            bottom_halves_off(mmu, || match number {
                0 => space.map(page, contiguous(16), prot).unwrap(),
                1 => {
                    let set = |entry: &mut lazymmu::PteRef<'_, Fake>| entry.set(frame(16), prot);
                    space.apply_to_page_range(page, set).unwrap();
                }
                2 => {
                    let mut fast = space.fast_pte_range(page).unwrap();
                    fast.set_each(0, 1, prot, |_| frame(16)).unwrap();
                }
                _ => {
                    let mut fast = space.fast_pte_range(page).unwrap();
                    fast.set_run(0, 1, frame(16), prot).unwrap();
                }
            });
            assert_eq!(frame_at(space, page), Some(16));
            space.invalidate(pending);
        }
    });
}

#[test]
fn r26_an_invalidation_takes_effect_after_what_waits() {
    each(|mmu, space, range| {
        let page = nth(range, 1);
        space.protect(page, read_only(space.kind())).unwrap();
        bottom_halves_off(mmu, || space.invalidate_range(page).unwrap());
        let asid = fake::asid_of(space.kind());
        let va = page.start();
        assert!(!mmu.kernel().may_be_cached(asid, va.as_u64()));
        let table = fake::table_of(space, page).as_u64();
        let index = (va.as_u64() / PAGE_SIZE % 512) as usize;
        let held = Desc::from_u64(mmu.kernel().raw(table)[index]);
        let expected = Desc::page(frame(8), read_only(space.kind()));
        assert_eq!(held, expected, "in memory");
    });
}

/// R12: an interrupt's own pages, in the same table, leave alone what the interrupted task has let wait.
#[test]
fn r12_an_interrupt_leaves_alone_what_waits_for_other_entries() {
    each(|mmu, space, range| {
        let prot = data(space.kind());
        space.map(nth(range, 0), contiguous(3), prot).unwrap();
        let pending = space.unmap_no_invalidate(nth(range, 1)).unwrap();
        let waits = mmu.backend().invalidates();
        assert_eq!(!mmu.kernel().is_batch_empty(), waits);
        mmu.kernel().take_effects();
        bottom_halves_off(mmu, || {
            space.map(nth(range, 2), contiguous(4), prot).unwrap()
        });
        let effects = mmu.kernel().take_effects();
        let stores = effects.iter().filter(|effect: &&Effect| is_leaf(effect));
        assert_eq!((stores.count(), tlbis(&effects)), (1, 0), "{effects:?}");
        assert_eq!(!mmu.kernel().is_batch_empty(), waits);
        space.invalidate(pending);
    });
}
