// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores that wait in an announced range: until when, and what is read meanwhile (R20, R21, R23).

use lazymmu::{
    AddressSpace, Backend, DEFERRED_TABLES, Desc, LazyMmuError, Level, Mmu, PAGE_SIZE, PageRange,
    Prot, SpaceError, SpaceKind,
};
use lazymmu_testkit::fake::{
    self, Fake, KINDS, close, contiguous, data, enable_fast, frame, leaves, new_mmu_with,
    new_space_with_tables, pages, table_of, va,
};

const KERNEL: SpaceKind = SpaceKind::Kernel;

/// Three neighboring tables.
fn area(kind: SpaceKind) -> PageRange {
    pages(start(kind), 3 * 512)
}

fn start(kind: SpaceKind) -> u64 {
    kind.half().start() + (3 << 39)
}

/// The first `n` pages of table `t` of the area.
fn part(kind: SpaceKind, t: u64, n: u64) -> PageRange {
    pages(start(kind) + (t << 21), n)
}

/// Page `i` of `range` alone.
fn page(range: PageRange, i: u64) -> PageRange {
    pages(range.start().as_u64() + i * PAGE_SIZE, 1)
}

/// What memory holds for the first page of `range`.
fn memory(space: &AddressSpace<'_, Fake>, range: PageRange) -> u64 {
    let index = Level::L3.index(range.start());
    space.mmu().kernel().memory(table_of(space, range), index)
}

type Until = fn(&Mmu<Fake>, &AddressSpace<'_, Fake>);

/// Ways to let memory catch up, from depth 2 with the range announced at depth 1 or 2.
const ENDS: &[(&str, Until)] = &[
    ("nested disable", |mmu, _| mmu.lazy().disable().unwrap()),
    ("last disable", |mmu, _| {
        mmu.lazy().disable().unwrap();
        mmu.lazy().disable().unwrap();
    }),
    ("pause", |mmu, _| mmu.lazy().pause().unwrap()),
    ("flush", |mmu, _| mmu.lazy().flush()),
    ("drain", |mmu, _| mmu.lazy().drain()),
    ("flush_tlb_range", |_, space| {
        // R26, for pages that the section never wrote.
        let kind = space.kind();
        space.invalidate_range(part(kind, 2, 1)).unwrap();
    }),
    ("suspend_all", |mmu, _| drop(mmu.lazy().suspend_all())),
];

#[test]
fn r23_r26_a_store_waits_until_the_section_is_left_paused_or_flushed() {
    for kind in KINDS {
        for outer_first in [true, false] {
            for (name, until) in ENDS {
                let mmu = new_mmu_with(Backend::DeferStores);
                let mut space = new_space_with_tables(&mmu, kind, area(kind));
                let range = part(kind, 0, 8);
                if outer_first {
                    enable_fast(&space, range);
                    mmu.lazy().enable().unwrap();
                } else {
                    mmu.lazy().enable().unwrap();
                    enable_fast(&space, range);
                }
                mmu.kernel().take_effects();
                space.map(range, contiguous(32), data(kind)).unwrap();
                assert_eq!(leaves(&mmu.kernel().take_effects()), 0, "{name}");
                assert!(!mmu.kernel().is_batch_empty());
                until(&mmu, &space);
                assert_eq!(leaves(&mmu.kernel().take_effects()), 8, "{name}");
                assert!(mmu.kernel().is_batch_empty());
                assert_eq!(
                    memory(&space, page(range, 7)),
                    Desc::page(frame(39), data(kind)).as_u64()
                );
                close(&mmu);
                fake::destroy(space);
            }
        }
    }
}

#[test]
fn r23_after_an_announcement_that_is_over_nothing_waits() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_space_with_tables(&mmu, KERNEL, area(KERNEL));
    let range = part(KERNEL, 0, 8);
    mmu.lazy().enable().unwrap();
    enable_fast(&space, range);
    mmu.lazy().disable().unwrap();
    space.map(range, contiguous(1), Prot::KERNEL).unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 8);
    mmu.lazy().disable().unwrap();
}

#[test]
fn r23_a_third_table_makes_room_for_itself() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_space_with_tables(&mmu, KERNEL, area(KERNEL));
    assert_eq!(DEFERRED_TABLES, 2);
    for t in 0..3 {
        enable_fast(&space, part(KERNEL, t, 4));
    }
    let mut first_written = |t: u64| {
        space
            .map(part(KERNEL, t, 4), contiguous(10 * t), Prot::KERNEL)
            .unwrap();
        let effects = mmu.kernel().take_effects();
        let table = |t| memory(&space, part(KERNEL, t, 1)) != 0;
        (leaves(&effects), [table(0), table(1), table(2)])
    };
    assert_eq!(first_written(0), (0, [false; 3]));
    assert_eq!(first_written(1), (0, [false; 3]));
    assert_eq!(first_written(2), (4, [true, false, false]));
    let mut again = |t: u64, n| {
        space
            .map(page(part(KERNEL, t, 8), 4), contiguous(n), Prot::KERNEL)
            .unwrap();
        leaves(&mmu.kernel().take_effects())
    };
    // Not announced: page 4 of each is behind the range. Tables with a slot wait all the same (R21).
    assert_eq!((again(1, 50), again(2, 51), again(0, 52)), (0, 0, 1));
    close(&mmu);
    assert_eq!(leaves(&mmu.kernel().take_effects()), 10);
    let all = (0..3).map(|t| space.query(va(start(KERNEL) + (t << 21))).is_some());
    assert!(all.into_iter().all(|is_mapped| is_mapped));
}

#[test]
fn r21_out_of_the_range_everything_is_as_in_a_plain_section() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_space_with_tables(&mmu, KERNEL, area(KERNEL));
    enable_fast(&space, part(KERNEL, 0, 8));
    let behind = page(part(KERNEL, 0, 9), 8);
    // Half inside is outside.
    let across = pages(start(KERNEL) + 6 * PAGE_SIZE, 2).start().as_u64();
    space
        .map(pages(across, 3), contiguous(1), Prot::KERNEL)
        .unwrap();
    space.unmap(pages(across, 3)).unwrap();
    mmu.kernel().take_effects();
    for range in [behind, part(KERNEL, 1, 1)] {
        space.map(range, contiguous(3), Prot::KERNEL).unwrap();
        let effects = mmu.kernel().take_effects();
        assert_eq!(leaves(&effects), 1, "{range}");
        assert!(
            !effects.iter().any(fake::is_maintenance),
            "deferred: {effects:?}"
        );
    }
    close(&mmu);
}

#[test]
fn r20_who_reads_meanwhile_sees_what_was_written() {
    for kind in KINDS {
        let mmu = new_mmu_with(Backend::DeferStores);
        let mut space = new_space_with_tables(&mmu, kind, area(kind));
        let range = part(kind, 0, 4);
        let prot = data(kind);
        let mut fast = space.fast_pte_range(range).unwrap();
        fast.set(2, frame(7), prot).unwrap();
        assert_eq!(fast.get(2), Desc::page(frame(7), prot));
        assert_eq!(fast.get_and_clear(2), Desc::page(frame(7), prot));
        assert_eq!(fast.get(2), Desc::INVALID);
        drop(fast);
        assert_eq!(leaves(&mmu.kernel().take_effects()), 1, "the clear alone");

        enable_fast(&space, range);
        let at = page(range, 1);
        space.map(at, contiguous(5), prot).unwrap();
        assert_eq!(memory(&space, at), 0);
        let entry = Desc::page(frame(5), prot);
        assert_eq!(space.query(at.start()).unwrap().entry, entry);
        let mut last = None;
        space.walk(at.start(), |level, entry| last = Some((level, entry)));
        assert_eq!(last, Some((Level::L3, entry)));
        let mut all = Vec::new();
        space.for_each_leaf(|va, _, entry| all.push((va, entry)));
        assert_eq!(all, [(at.start().as_u64(), entry)]);
        let twice = space.map(range, contiguous(9), prot);
        let (va, level) = (at.start(), Level::L3);
        assert_eq!(twice, Err(SpaceError::AlreadyMapped { va, entry, level }));
        let mut read = Vec::new();
        space
            .apply_to_page_range(range, |entry| {
                read.push(entry.get());
                Ok::<(), SpaceError>(())
            })
            .unwrap();
        assert_eq!(read[..2], [Desc::INVALID, entry]);
        space.unmap(at).unwrap();
        let hole = space.unmap(at);
        assert_eq!(hole, Err(SpaceError::NotMapped { va: at.start() }));
        assert!(space.query(at.start()).is_none());
        close(&mmu);
        fake::destroy(space);
    }
}

#[test]
fn r21_any_order_and_any_subset() {
    for kind in KINDS {
        let mmu = new_mmu_with(Backend::DeferStores);
        let mut space = new_space_with_tables(&mmu, kind, area(kind));
        let mut fast = space.fast_pte_range(part(kind, 0, 512)).unwrap();
        let order = [511, 3, 200, 0, 4, 63, 64, 2];
        for i in order {
            fast.set(i, frame(1000 + 3 * i as u64), data(kind)).unwrap();
        }
        fast.get_and_clear(64);
        drop(fast);
        let table = mmu
            .kernel()
            .raw(table_of(&space, part(kind, 0, 1)).as_u64());
        for (i, entry) in table.into_iter().enumerate() {
            let expected = if i != 64 && order.contains(&i) {
                Desc::page(frame(1000 + 3 * i as u64), data(kind)).as_u64()
            } else {
                0
            };
            assert_eq!(entry, expected, "entry {i}");
        }
        fake::destroy(space);
    }
}

#[test]
fn r38_the_task_keeps_its_cpu_while_stores_wait() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_space_with_tables(&mmu, KERNEL, area(KERNEL));
    enable_fast(&space, part(KERNEL, 0, 8));
    space
        .map(part(KERNEL, 0, 1), contiguous(1), Prot::KERNEL)
        .unwrap();
    mmu.kernel().take_effects();
    let before = format!("{:?}", mmu.lazy());
    let refused = mmu.lazy().switch_out();
    assert_eq!(refused, Err(LazyMmuError::NotPreemptible));
    assert_eq!(mmu.kernel().take_effects(), [], "nothing is done");
    assert_eq!(format!("{:?}", mmu.lazy()), before);
    assert_eq!(memory(&space, part(KERNEL, 0, 1)), 0);
    mmu.lazy().pause().unwrap();
    assert_eq!(mmu.lazy().switch_out(), Ok(()));
    close(&mmu);
}

#[test]
fn r12_an_interrupt_sees_what_waits_and_leaves_it() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_space_with_tables(&mmu, KERNEL, area(KERNEL));
    enable_fast(&space, part(KERNEL, 0, 8));
    space
        .map(part(KERNEL, 0, 2), contiguous(1), Prot::KERNEL)
        .unwrap();
    mmu.kernel().take_effects();
    mmu.kernel().set_interrupt(true);
    mmu.lazy().flush();
    mmu.lazy().drain();
    mmu.lazy().disable().unwrap();
    assert!(space.query(va(start(KERNEL))).is_some());
    assert_eq!(memory(&space, part(KERNEL, 0, 1)), 0);
    assert_eq!(mmu.kernel().take_effects(), []);
    // Its own writes happen at once, in the announced range as well.
    let own = page(part(KERNEL, 0, 8), 6);
    space.map(own, contiguous(9), Prot::KERNEL).unwrap();
    assert_ne!(memory(&space, own), 0);
    mmu.kernel().set_interrupt(false);
    assert!(space.query(va(start(KERNEL))).is_some());
    assert_eq!(memory(&space, part(KERNEL, 0, 1)), 0);
    close(&mmu);
    assert_ne!(memory(&space, part(KERNEL, 0, 1)), 0);
}

/// Spaces of one scope may have different tables for the same addresses.
#[test]
fn r20_a_table_of_two_spaces_has_a_slot_for_each() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let range = part(KERNEL, 0, 8);
    let mut one = new_space_with_tables(&mmu, KERNEL, range);
    let mut other = new_space_with_tables(&mmu, KERNEL, range);
    enable_fast(&one, range);
    enable_fast(&other, range);
    one.map(page(range, 1), contiguous(7), Prot::KERNEL)
        .unwrap();
    other
        .map(page(range, 2), contiguous(8), Prot::KERNEL)
        .unwrap();
    close(&mmu);
    let held = |space: &AddressSpace<'_, Fake>| [1, 2].map(|i| memory(space, page(range, i)) != 0);
    assert_eq!((held(&one), held(&other)), ([true, false], [false, true]));
}

#[test]
fn r23_entries_set_in_one_loop_wait_too() {
    for kind in KINDS {
        let mmu = new_mmu_with(Backend::DeferStores);
        let mut space = new_space_with_tables(&mmu, kind, area(kind));
        let mut fast = space.fast_pte_range(part(kind, 0, 20)).unwrap();
        fast.set_each(1, 10, data(kind), |i| frame(40 + 2 * i as u64))
            .unwrap();
        fast.set_frames(11, &[frame(9), frame(7)], data(kind))
            .unwrap();
        fast.set_run(13, 3, frame(70), data(kind)).unwrap();
        assert_eq!(leaves(&mmu.kernel().take_effects()), 0);
        assert_eq!(fast.get(12), Desc::page(frame(7), data(kind)));
        drop(fast);
        assert_eq!(leaves(&mmu.kernel().take_effects()), 15);
        fake::destroy(space);
    }
}

/// A range that is held, or handed to a callback, is announced no longer than that.
#[test]
fn r23_behind_a_range_that_was_held_nothing_waits() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_space_with_tables(&mmu, KERNEL, area(KERNEL));
    mmu.lazy().enable().unwrap();
    let mut fast = space.fast_pte_range(part(KERNEL, 0, 4)).unwrap();
    fast.set(0, frame(1), Prot::KERNEL).unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 0);
    drop(fast);
    assert_eq!(leaves(&mmu.kernel().take_effects()), 1);
    let held = page(part(KERNEL, 0, 4), 1);
    space.map(held, contiguous(2), Prot::KERNEL).unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 1);
    let mut n = 3;
    space
        .apply_to_page_range(part(KERNEL, 1, 4), |entry| {
            n += 1;
            entry.set(frame(n), Prot::KERNEL)
        })
        .unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 0);
    mmu.lazy().flush();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 4);
    let behind = page(part(KERNEL, 1, 8), 4);
    space.map(behind, contiguous(9), Prot::KERNEL).unwrap();
    let within = page(part(KERNEL, 1, 4), 1);
    space.protect(within, Prot::KERNEL_RO).unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 2);
    mmu.lazy().disable().unwrap();
    fake::destroy(space);
}

#[test]
fn r23_tables_make_room_in_turn() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_space_with_tables(&mmu, KERNEL, area(KERNEL));
    for t in 0..3 {
        enable_fast(&space, part(KERNEL, t, 4));
    }
    for (i, t) in [0, 1, 2, 0].into_iter().enumerate() {
        let written = page(part(KERNEL, t, 4), i as u64);
        let frames = contiguous(10 * i as u64);
        space.map(written, frames, Prot::KERNEL).unwrap();
    }
    let held = |t, i| memory(&space, page(part(KERNEL, t, 4), i)) != 0;
    // The first made room for the third, and the second for the first.
    assert_eq!(
        [held(0, 0), held(1, 1), held(2, 2), held(0, 3)],
        [true, true, false, false]
    );
    close(&mmu);
    fake::destroy(space);
}

#[test]
fn r22_a_range_that_ends_takes_no_other_along() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut one = new_space_with_tables(&mmu, KERNEL, area(KERNEL));
    let mut other = new_space_with_tables(&mmu, fake::USER, area(fake::USER));
    let mut held = one.fast_pte_range(part(KERNEL, 0, 4)).unwrap();
    drop(other.fast_pte_range(part(fake::USER, 0, 4)).unwrap());
    assert_eq!(mmu.lazy().state().fast_pte_ranges(), 1);
    mmu.kernel().take_effects();
    held.set(1, frame(7), Prot::KERNEL).unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 0);
    drop(held);
    assert_eq!(leaves(&mmu.kernel().take_effects()), 1);
    fake::destroy(one);
    fake::destroy(other);
}
