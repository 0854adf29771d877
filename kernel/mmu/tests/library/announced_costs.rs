// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an announced range costs, beside the same writes in a plain section (R22): no store, DSB, ISB or TLBI more, except
//! one break, one invalidation and one make for all groups that are folded at its end.
//! `announced_costs_random.rs` asks the same of random programs.

use crate::panics;
use lazymmu::{
    AddressSpace, Backend, BarrierPolicy, FastPteRange, Features, Mmu, PAGE_SIZE, PageRange, Prot,
    Reach, SpaceError, SpaceKind, TlbFeatures, bits,
};
use lazymmu_testkit::fake::{
    self, Choose, Effect, Executed, Fake, KINDS, USER, contiguous, data, enable_fast, frame,
    is_leaf, leaves, new_mmu, new_mmu_with, new_space_with_tables, pages, table_of, tlbis,
};

const AT: u64 = 1 << 30;

fn page(n: u64) -> PageRange {
    pages(AT + n * PAGE_SIZE, 1)
}

/// What `work` executes.
fn costs<T>(mmu: &Mmu<Fake>, work: impl FnOnce() -> T) -> Executed {
    let before = mmu.kernel().executed();
    work();
    mmu.kernel().executed() - before
}

/// One break, one invalidation and one make of so many groups, with so many TLBI.
fn of_fold(groups: usize, tlbi: usize) -> Executed {
    let entries = 16 * groups as u64;
    Executed {
        stores: 2 * entries,
        dsb: 2,
        isb: 0,
        tlbi: tlbi as u64,
        pages: entries,
    }
}

/// How many groups of the table at `start` are folded.
fn folded(space: &AddressSpace<'_, Fake>, start: u64) -> usize {
    let table = table_of(space, pages(start, 1));
    let raw = space.mmu().kernel().raw(table.as_u64());
    let is_member = |raw: &&u64| *raw & (bits::VALID | bits::CONT) == bits::VALID | bits::CONT;
    let members = raw.iter().filter(is_member).count();
    assert!(members.is_multiple_of(16), "half a group");
    members / 16
}

/// Which groups of a table are set, and how many ranged operations cover them.
const SETS: [(&[usize], usize); 5] = [
    (&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], 1),
    (&[0, 2, 3, 5], 3),
    (&[31], 1),
    (&[30, 31], 1),
    (&[], 0),
];

/// A library with this strategy, range operations or not, and the policy for FEAT_ETS2 or not.
fn library(backend: Backend, range: bool, ets2: bool) -> Mmu<Fake> {
    let mmu = new_mmu_with(backend);
    let (ttl, repeat) = (range, false);
    mmu.choose_features(Features {
        tlb: TlbFeatures { ttl, range, repeat },
        ets2,
    });
    if ets2 {
        mmu.set_policy(BarrierPolicy::Ets2).unwrap();
    }
    mmu
}

/// Sets the entries of `groups` one by one, the last group first.
fn set_groups(fast: &mut FastPteRange<'_, '_, Fake>, groups: &[usize], kind: SpaceKind) {
    for i in groups
        .iter()
        .rev()
        .flat_map(|group| 16 * group..16 * group + 16)
    {
        fast.set(i, frame(0x1000 + i as u64), data(kind)).unwrap();
    }
}

/// Consecutive frames are set one by one, in a table in the middle of the half, in its first and in
/// its last table. A version that folds each group as soon as its last entry is set executes one
/// break and one invalidation for each group, where one for all of them is enough.
#[test]
fn r22_entries_set_one_by_one_cost_one_fold_for_all_groups() {
    for kind in KINDS {
        let half = kind.half();
        let tables = [
            half.start(),
            half.start() + AT,
            (half.end() - 1) & !0x1f_ffff,
        ];
        for (start, (groups, ranged)) in tables.into_iter().flat_map(|t| SETS.map(|set| (t, set))) {
            // The last table of the upper half has a page less.
            let end = start.saturating_add(1 << 21).min(half.end());
            let table = PageRange::from_bounds(start, end).unwrap();
            for (backend, number) in fake::backends().flat_map(|b| [0, 1, 2, 3].map(|n| (b, n))) {
                if kind == SpaceKind::Kernel && groups.contains(&31) {
                    continue; // Not all of its pages exist at the end of the half.
                }
                let (range, ets2) = (number & 1 != 0, number & 2 != 0);
                let what = format!("{backend}, {start:#x}, {groups:?}, {range}, {ets2}");
                let mmu = library(backend, range, ets2);
                let mut space = new_space_with_tables(&mmu, kind, table);
                let plain = costs(&mmu, || {
                    let _section = mmu.lazy().section().unwrap();
                    for i in groups.iter().flat_map(|group| 16 * group..16 * group + 16) {
                        let page = pages(start + i as u64 * PAGE_SIZE, 1);
                        space
                            .map(page, contiguous(0x1000 + i as u64), data(kind))
                            .unwrap();
                    }
                });
                assert_eq!(folded(&space, start), 0, "{what}");
                fake::destroy(space);

                let mut space = new_space_with_tables(&mmu, kind, table);
                let announced = costs(&mmu, || {
                    let mut fast = space.fast_pte_range(table).unwrap();
                    set_groups(&mut fast, groups, kind);
                });
                let is_user = kind != SpaceKind::Kernel;
                assert_eq!(
                    folded(&space, start),
                    if is_user { groups.len() } else { 0 }
                );
                let breaks = is_user && backend != Backend::DeferStores && !groups.is_empty();
                if breaks {
                    let tlbi = if range { ranged } else { 16 * groups.len() };
                    let expected = plain + of_fold(groups.len(), tlbi);
                    assert_eq!(announced, expected, "{what}");
                } else {
                    assert!(
                        announced.is_at_most(plain),
                        "{what}: {announced:?}, {plain:?}"
                    );
                }
                fake::destroy(space);
            }
        }
    }
}

/// What could be a group and was not touched stays as it is, and so does what is one already.
#[test]
fn r22_a_range_folds_nothing_if_it_set_nothing() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space_with_tables(&mmu, USER, pages(AT, 64));
        space
            .map(pages(AT, 32), contiguous(32), Prot::USER)
            .unwrap();
        let looked = costs(&mmu, || {
            let fast = space.fast_pte_range(pages(AT, 64)).unwrap();
            assert!((0..32).all(|i| fast.get(i).is_valid()));
        });
        assert_eq!((looked, folded(&space, AT)), (Executed::default(), 0));
        let taken = costs(&mmu, || {
            let mut fast = space.fast_pte_range(pages(AT, 64)).unwrap();
            fast.get_and_clear(20);
        });
        assert!(taken.stores == 1 && taken.tlbi <= 1, "{backend}: {taken:?}");
        space.invalidate_range(page(20)).unwrap();

        // The first group becomes one, the second is none any more.
        assert_eq!(space.fold_contiguous(pages(AT, 64)), Ok(1));
        let again = costs(&mmu, || {
            let mut fast = space.fast_pte_range(pages(AT, 64)).unwrap();
            fast.set(40, frame(7), Prot::USER).unwrap();
        });
        let (stores, rest) = (1, Executed::default());
        assert_eq!(
            again,
            Executed { stores, ..rest },
            "{backend}: no group is new"
        );
        assert_eq!(folded(&space, AT), 1);
        fake::destroy(space);
    }
}

/// Groups that lie in the range in part count as well: at both of its ends, one that is full and one that is not.
#[test]
fn r22_a_range_that_ends_in_groups_folds_those_that_are_full() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space_with_tables(&mmu, USER, pages(AT, 64));
        space.map(pages(AT, 9), contiguous(32), Prot::USER).unwrap();
        let announced = costs(&mmu, || {
            let mut fast = space.fast_pte_range(pages(AT + 9 * PAGE_SIZE, 30)).unwrap();
            for i in 0..30 {
                fast.set(i, frame(41 + i as u64), Prot::USER).unwrap();
            }
        });
        // Where stores wait, the second group is made as one.
        let broken = if backend == Backend::DeferStores {
            1
        } else {
            2
        };
        let stores = 30;
        let plain = Executed {
            stores,
            ..Executed::default()
        };
        assert_eq!(announced, plain + of_fold(broken, 16 * broken), "{backend}");
        assert_eq!(folded(&space, AT), 2, "{backend}");
        fake::destroy(space);
    }
}

/// A panic between announcement and end, a pause, and an interrupt.
#[test]
fn r22_a_range_that_ends_anywhere_folds_once_or_not_at_all() {
    for backend in fake::backends() {
        for number in 0..3 {
            let mmu = new_mmu_with(backend);
            let kernel = mmu.kernel();
            let mut space = new_space_with_tables(&mmu, USER, pages(AT, 64));
            let announced = costs(&mmu, || match number {
                0 => {
                    let mut fast = space.fast_pte_range(pages(AT, 64)).unwrap();
                    let source = |i: usize| {
                        assert!(i < 40, "the source is at its end");
                        frame(32 + i as u64)
                    };
                    let set = move || fast.set_each(0, 64, Prot::USER, source);
                    assert!(panics::catch(set).is_err());
                }
                1 => {
                    let _pause = mmu.lazy().paused().unwrap();
                    let mut fast = space.fast_pte_range(pages(AT, 64)).unwrap();
                    fast.set_each(0, 40, Prot::USER, |i| frame(32 + i as u64))
                        .unwrap();
                }
                _ => {
                    kernel.set_interrupt(true);
                    let mut fast = space.fast_pte_range(pages(AT, 64)).unwrap();
                    fast.set_each(0, 40, Prot::USER, |i| frame(32 + i as u64))
                        .unwrap();
                    drop(fast);
                    kernel.set_interrupt(false);
                }
            });
            let (stores, rest) = (40, Executed::default());
            let plain = Executed { stores, ..rest };
            let waited = number == 0 && backend == Backend::DeferStores;
            let breaks = number < 2 && !waited;
            let expected = if breaks {
                plain + of_fold(2, 32)
            } else {
                plain
            };
            assert_eq!(announced, expected, "{backend}, {number}");
            assert_eq!(folded(&space, AT), if number < 2 { 2 } else { 0 });
            for i in 0..40 {
                let entry = space.query(page(i).start()).unwrap().entry;
                assert_eq!(entry.frame(), frame(32 + i), "{backend}, {number}");
            }
            fake::destroy(space);
        }
    }
}

/// What is empty is not stored to and not invalidated, although it lies between what is not.
#[test]
fn r22_a_run_with_holes_is_cleared_for_the_price_of_its_pages() {
    for kind in KINDS {
        for backend in fake::backends() {
            let at = kind.half().start() + AT;
            let mmu = new_mmu_with(backend);
            let mut space = new_space_with_tables(&mmu, kind, pages(at, 64));
            for i in [3, 4, 9, 30] {
                let page = pages(at + i * PAGE_SIZE, 1);
                space.map(page, contiguous(2 * i), data(kind)).unwrap();
            }
            mmu.kernel().take_effects();
            let mut fast = space.fast_pte_range(pages(at, 64)).unwrap();
            assert_eq!(fast.clear_run(0, 64), 4);
            // Nobody has to invalidate page 40.
            fast.set(40, frame(7), data(kind)).unwrap();
            drop(fast);
            let effects = mmu.kernel().take_effects();
            let most = if backend.invalidates() { 4 } else { 0 };
            assert_eq!((leaves(&effects), tlbis(&effects)), (5, most), "{backend}");
            space.invalidate_range(pages(at, 64)).unwrap();
            fake::destroy(space);
        }
    }
}

/// One run, one pair, with every strategy that does not pay for each entry.
#[test]
fn r22_entries_set_in_one_loop_pay_together_while_paused() {
    for backend in fake::backends().filter(|backend| *backend != Backend::Eager) {
        let mmu = new_mmu_with(backend);
        let range = fake::part(0, 20);
        let mut space = new_space_with_tables(&mmu, SpaceKind::Kernel, range);
        let pause = mmu.lazy().paused().unwrap();
        let announced = costs(&mmu, || {
            let mut fast = space.fast_pte_range(range).unwrap();
            fast.set_each(0, 20, Prot::KERNEL, |i| frame(2 * i as u64))
                .unwrap();
        });
        let expected = Executed {
            stores: 20,
            dsb: 1,
            isb: 1,
            ..Executed::default()
        };
        assert_eq!(announced, expected, "{backend}");
        drop(pause);
        fake::destroy(space);
    }
}

/// Three tables of a kernel space with the first 8 pages of each mapped, where stores wait.
fn three_tables(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    mmu.choose_backend(Backend::DeferStores).unwrap();
    let mut space = new_space_with_tables(mmu, SpaceKind::Kernel, fake::part(0, 3 * 512));
    for table in 0..3 {
        let range = fake::part(512 * table, 8);
        space
            .map(range, contiguous(33 + 16 * table), Prot::KERNEL)
            .unwrap();
    }
    mmu.kernel().take_effects();
    space
}

/// An invalidation of so many pages of a kernel space.
const fn invalidation(stores: u64, tlbi: u64) -> Executed {
    Executed {
        stores,
        dsb: 2,
        isb: 1,
        tlbi,
        pages: tlbi,
    }
}

#[test]
fn r22_a_make_is_paid_for_by_an_invalidation_that_follows_it_anyway() {
    let mmu = new_mmu();
    let mut space = three_tables(&mmu);
    enable_fast(&space, fake::part(0, 512));
    let executed = costs(&mmu, || {
        space
            .map(fake::part(100, 1), contiguous(1), Prot::KERNEL)
            .unwrap();
        space.unmap(fake::part(3, 1)).unwrap();
        mmu.lazy().disable().unwrap();
    });
    assert_eq!(executed, invalidation(2, 1));
    fake::destroy(space);
}

#[test]
fn r22_tables_that_wait_share_an_invalidation() {
    let mmu = new_mmu();
    let mut space = three_tables(&mmu);
    space
        .map(fake::part(508, 4), contiguous(77), Prot::KERNEL)
        .unwrap();
    let across = fake::part(508, 8);
    // The second first.
    enable_fast(&space, fake::part(512, 512));
    enable_fast(&space, fake::part(0, 512));
    let executed = costs(&mmu, || {
        space.protect(fake::part(515, 3), Prot::KERNEL_RO).unwrap();
        space.protect(across, Prot::KERNEL_RO).unwrap();
        mmu.lazy().flush();
    });
    assert_eq!(executed, invalidation(10, 10));
    mmu.kernel().take_effects();
    fake::close(&mmu);
    fake::destroy(space);
}

type Ask = fn(&Mmu<Fake>, &AddressSpace<'_, Fake>);

/// R26: what is asked for comes after the section's stores, in the invalidation that these need anyway.
#[test]
fn r22_r26_an_invalidation_that_is_asked_for_is_shared_as_well() {
    let asks: [(Ask, u64); 3] = [
        (
            |_, space| space.invalidate_range(fake::part(2, 4)).unwrap(),
            5,
        ),
        (
            |mmu, space| mmu.invalidate_range(fake::part(2, 4), space.kind().scope(), Reach::Walk),
            5,
        ),
        (|mmu, space| mmu.invalidate_all(space.kind().scope()), 1),
    ];
    for (ask, tlbi) in asks {
        for remade in [false, true] {
            let mmu = new_mmu();
            let mut space = three_tables(&mmu);
            enable_fast(&space, fake::part(0, 512));
            let clear = |entry: &mut lazymmu::PteRef<'_, Fake>| {
                entry.get_and_clear();
                Ok::<(), SpaceError>(())
            };
            space.apply_to_page_range(fake::part(1, 3), clear).unwrap();
            if remade {
                let page = fake::part(2, 1);
                space.map(page, contiguous(5), Prot::KERNEL).unwrap();
            }
            let executed = costs(&mmu, || ask(&mmu, &space));
            let effects = mmu.kernel().take_effects();
            let (last, behind) = (
                effects.iter().rposition(is_leaf).unwrap(),
                effects.iter().rposition(|e| *e == Effect::DsbIsh).unwrap(),
            );
            assert!(last < behind, "R26: {effects:?}");
            if remade {
                assert_eq!(
                    (executed.dsb, executed.stores),
                    (4, 1),
                    "a break-before-make"
                );
            } else {
                let expected = invalidation(0, tlbi);
                let pages = if tlbi == 1 { 512 } else { tlbi };
                assert_eq!(executed, Executed { pages, ..expected });
            }
            assert!(mmu.kernel().all_invalidated());
            fake::close(&mmu);
            fake::destroy(space);
        }
    }
}

/// Two tables have what must be invalidated. A third is written at once, and waits when one of them made room.
#[test]
fn r22_a_third_table_causes_no_invalidation() {
    let mmu = new_mmu();
    let mut space = three_tables(&mmu);
    for table in 0..3 {
        enable_fast(&space, fake::part(512 * table, 512));
    }
    space.protect(fake::part(0, 1), Prot::KERNEL_RO).unwrap();
    space.protect(fake::part(512, 1), Prot::KERNEL_RO).unwrap();
    let executed = costs(&mmu, || {
        space
            .map(fake::part(1024 + 20, 4), contiguous(1), Prot::KERNEL)
            .unwrap();
    });
    let (stores, rest) = (4, Executed::default());
    assert_eq!(executed, Executed { stores, ..rest });
    let executed = costs(&mmu, || mmu.lazy().flush());
    assert_eq!(executed, invalidation(2, 2), "which pays for the third");
    // One that owes nothing makes room, although it is not its turn.
    space
        .map(fake::part(20, 1), contiguous(2), Prot::KERNEL)
        .unwrap();
    space.protect(fake::part(512, 1), Prot::KERNEL).unwrap();
    let executed = costs(&mmu, || {
        let page = fake::part(1024 + 30, 1);
        space.map(page, contiguous(3), Prot::KERNEL).unwrap();
    });
    let stores = 1;
    assert_eq!(executed, Executed { stores, ..rest }, "the first table's");
    fake::close(&mmu);
    fake::destroy(space);
}

/// Where nothing may be drained, the batch takes note of what was invalidated beside it.
#[test]
fn r22_what_is_invalidated_with_bottom_halves_off_is_not_invalidated_again() {
    let mmu = new_mmu();
    let mut space = three_tables(&mmu);
    enable_fast(&space, fake::part(0, 512));
    let executed = costs(&mmu, || {
        let pending = space.unmap_no_invalidate(fake::part(2, 3)).unwrap();
        mmu.kernel().set_interrupt(true);
        space.invalidate(pending);
        mmu.kernel().set_interrupt(false);
        mmu.lazy().disable().unwrap();
    });
    assert_eq!(executed, invalidation(3, 3));
    assert!(mmu.kernel().all_invalidated());
    fake::destroy(space);
}

/// An invalidation of everything names no pages that could tell whose they are, so it is executed beside the batch.
#[test]
fn r22_what_an_invalidation_of_everything_covers_is_not_invalidated_again() {
    for in_interrupt in [false, true] {
        let mmu = new_mmu();
        let mut space = three_tables(&mmu);
        enable_fast(&space, fake::part(0, 512));
        let executed = costs(&mmu, || {
            let pending = space.unmap_no_invalidate(fake::part(2, 3)).unwrap();
            std::mem::forget(pending);
            mmu.kernel().set_interrupt(in_interrupt);
            mmu.invalidate_all(space.kind().scope());
            mmu.kernel().set_interrupt(false);
            mmu.lazy().disable().unwrap();
        });
        let Executed { dsb, isb, tlbi, .. } = executed;
        assert_eq!((dsb, isb, tlbi), (2, 1, 1), "{in_interrupt}");
        assert!(mmu.kernel().all_invalidated());
        fake::destroy(space);
    }
}

/// One request, of which a part is announced: the caller invalidates all of it, and the strategy none.
#[test]
fn r22_a_request_that_is_announced_in_part_is_invalidated_once() {
    let mmu = new_mmu();
    let mut space = three_tables(&mmu);
    space
        .map(fake::part(508, 4), contiguous(77), Prot::KERNEL)
        .unwrap();
    enable_fast(&space, fake::part(0, 512));
    let executed = costs(&mmu, || {
        let pending = space.unmap_no_invalidate(fake::part(508, 8)).unwrap();
        mmu.lazy().flush();
        space.invalidate(pending);
    });
    assert_eq!(executed, invalidation(8, 8));
    // R29: what is left to the caller is invalidated before its address is used again.
    space
        .map(fake::part(508, 8), contiguous(97), Prot::KERNEL)
        .unwrap();
    let pending = space.unmap_no_invalidate(fake::part(508, 8)).unwrap();
    space
        .map(fake::part(509, 1), contiguous(5), Prot::KERNEL)
        .unwrap();
    mmu.lazy().disable().unwrap();
    drop(pending);
    fake::close(&mmu);
    fake::destroy(space);
}
