// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue of stores and invalidations: its order, its length, its ends (R11, R12, R20, R23, R26).
//!
//! Most tests let a hypervisor execute the calls, and look at what it was asked for.

use lazymmu::{
    AddressSpace, Asid, Backend, Call, Context, Desc, Features, MULTICALLS, Mmu, Owed, PAGE_SIZE,
    Prot, SpaceKind, TlbFeatures, tlbi::Scope,
};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, Fake, USER, close, contiguous, enable_fast, frame, leaves,
    new_kernel_space, new_mmu_with, new_space, pages, part, table_of, tlbis,
};

fn new_mmu() -> Mmu<Fake> {
    new_mmu_with(Backend::Multicall)
}

/// A kernel space with a table, in which pages 100..110 are mapped to frames 500 and on.
fn space(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    let mut space = new_kernel_space(mmu);
    space
        .map(part(100, 10), contiguous(500), Prot::KERNEL)
        .unwrap();
    mmu.kernel().take_effects();
    space
}

fn memory(space: &AddressSpace<'_, Fake>, i: usize) -> u64 {
    let table = table_of(space, part(0, 1));
    space.mmu().kernel().memory(table, i)
}

/// A call in short: the entry that is stored and its frame, or the pages that are invalidated.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Short {
    Store(u64, u64),
    Invalidate(u64, u64),
}
use Short::{Invalidate, Store};

fn short(calls: &[Call]) -> Vec<Short> {
    calls
        .iter()
        .map(|call| match call {
            Call::Store { entry, new, .. } => {
                assert!(new.is_valid());
                Store(
                    entry.as_u64() % PAGE_SIZE / 8,
                    new.frame().as_u64() / PAGE_SIZE,
                )
            }
            Call::Invalidate { range, scope } => {
                assert_eq!(*scope, Scope::AllAsids);
                Invalidate((range.start().as_u64() - BASE) / PAGE_SIZE, range.pages())
            }
        })
        .collect()
}

/// The transitions since the last call.
fn transitions(mmu: &Mmu<Fake>) -> Vec<Vec<Short>> {
    let taken = mmu.kernel().take_multicalls();
    taken.iter().map(|calls| short(calls)).collect()
}

#[test]
fn r26_stores_and_invalidations_are_executed_in_the_order_they_were_asked_for() {
    let mmu = new_mmu();
    mmu.kernel().start_hypervisor();
    let mut space = space(&mmu);
    mmu.lazy().enable().unwrap();
    space.map(part(3, 1), contiguous(7), Prot::KERNEL).unwrap();
    space.protect(part(105, 1), Prot::KERNEL_RO).unwrap();
    space.map(part(1, 2), contiguous(8), Prot::KERNEL).unwrap();
    space.protect(part(101, 2), Prot::KERNEL_RO).unwrap();
    // A neighbor's invalidation behind another is one call; behind a store it is not.
    assert_eq!(transitions(&mmu), Vec::<Vec<Short>>::new());
    mmu.lazy().disable().unwrap();
    assert_eq!(
        transitions(&mmu),
        [[
            Store(3, 7),
            Store(105, 505),
            Invalidate(105, 1),
            Store(1, 8),
            Store(2, 9),
            Store(101, 501),
            Store(102, 502),
            Invalidate(101, 2),
        ]]
    );
    assert!(mmu.kernel().all_invalidated());
    assert_eq!(
        memory(&space, 2),
        Desc::page(frame(9), Prot::KERNEL).as_u64()
    );
    fake::destroy(space);
}

#[test]
fn s20_invalidations_in_a_row_of_neighbors_are_one_call() {
    let mmu = new_mmu();
    mmu.kernel().start_hypervisor();
    let mut space = space(&mmu);
    let mut fast = space.fast_pte_range(part(100, 10)).unwrap();
    for i in [4, 5, 3, 8, 9] {
        fast.get_and_clear(i);
    }
    drop(fast);
    assert_eq!(
        transitions(&mmu),
        [[Invalidate(103, 3), Invalidate(108, 2)]]
    );
    fake::destroy(space);
}

/// Where the library is its own hypervisor.
#[test]
fn s20_invalidations_in_a_row_share_their_barriers() {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    let mut fast = space.fast_pte_range(part(100, 10)).unwrap();
    for i in [1, 4, 7] {
        fast.get_and_clear(i);
    }
    drop(fast);
    let effects = mmu.kernel().take_effects();
    let dsb = fake::count(&effects, Effect::DsbIsh);
    assert_eq!((tlbis(&effects), dsb), (3, 1));
    fake::destroy(space);
}

#[test]
fn s20_neighbors_of_another_space_are_a_call_of_their_own() {
    let mmu = new_mmu();
    mmu.kernel().start_hypervisor();
    let other = SpaceKind::User(Asid(7));
    let mut spaces = [USER, other].map(|kind| new_space(&mmu, kind));
    let page = |i: usize| pages(0x40_0000 + i as u64 * PAGE_SIZE, 1);
    for (i, space) in spaces.iter_mut().enumerate() {
        space.map(page(i), contiguous(5), Prot::USER).unwrap();
    }
    mmu.lazy().enable().unwrap();
    for (i, space) in spaces.iter_mut().enumerate() {
        space
            .apply_to_page_range(page(i), |entry| {
                entry.get_and_clear();
                Ok::<(), lazymmu::SpaceError>(())
            })
            .unwrap();
    }
    mmu.lazy().disable().unwrap();
    let calls = mmu.kernel().take_multicalls().concat();
    let scopes: Vec<Scope> = calls
        .iter()
        .filter_map(|call| match call {
            Call::Invalidate { scope, .. } => Some(*scope),
            Call::Store { .. } => None,
        })
        .collect();
    let (a, b) = (USER.scope(), other.scope());
    assert_eq!(scopes, [a, b]);
    assert!(mmu.kernel().all_invalidated());
}

#[test]
fn r23_the_queue_is_executed_when_it_is_full() {
    for own in [false, true] {
        let mmu = new_mmu();
        let mut space = space(&mmu);
        if !own {
            mmu.kernel().start_hypervisor();
        }
        mmu.lazy().enable().unwrap();
        let mut stored = |first, n| {
            space
                .map(part(first, n), contiguous(first), Prot::KERNEL)
                .unwrap();
            leaves(&mmu.kernel().take_effects())
        };
        assert_eq!(MULTICALLS, 32);
        assert_eq!(stored(0, 31), 0);
        assert_eq!(stored(31, 1), 0, "the last place");
        assert_eq!(stored(32, 1), 32, "room for one more");
        assert_eq!(stored(33, 40), 32);
        assert_eq!(mmu.kernel().counts().drains, 2);
        mmu.lazy().disable().unwrap();
        let effects = mmu.kernel().take_effects();
        assert_eq!(leaves(&effects), 9);
        // The library's own drains execute no barrier: the section's end pays.
        let pair = [Effect::DsbIshst, Effect::Isb];
        assert!(own <= effects.ends_with(&pair), "{effects:?}");
        let full = transitions(&mmu);
        assert_eq!(full.len(), if own { 0 } else { 3 });
        fake::destroy(space);
    }
}

#[test]
fn r23_invalidations_fill_the_queue_as_well() {
    let mmu = new_mmu();
    mmu.kernel().start_hypervisor();
    let mut space = new_kernel_space(&mmu);
    space
        .map(part(0, 512), contiguous(1), Prot::KERNEL)
        .unwrap();
    mmu.kernel().take_effects();
    let mut fast = space.fast_pte_range(part(0, 512)).unwrap();
    for i in 0..32 {
        fast.get_and_clear(10 * i);
    }
    assert_eq!(transitions(&mmu).len(), 0);
    fast.get_and_clear(500);
    let first = transitions(&mmu);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].len(), 32);
    fast.get_and_clear(501);
    drop(fast);
    assert_eq!(transitions(&mmu), [[Invalidate(500, 2)]]);
    fake::destroy(space);
}

type Point = fn(&Mmu<Fake>, &mut AddressSpace<'_, Fake>);

const POINTS: [(&str, Point); 11] = [
    ("disable", |mmu, _| mmu.lazy().disable().unwrap()),
    ("pause", |mmu, _| mmu.lazy().pause().unwrap()),
    ("flush", |mmu, _| mmu.lazy().flush()),
    ("drain", |mmu, _| mmu.lazy().drain()),
    ("switch_out", |mmu, _| mmu.lazy().switch_out().unwrap()),
    ("exit", |mmu, _| assert!(mmu.lazy().exit().is_err())),
    ("flush_tlb_range", |_, space| {
        space.invalidate_range(part(200, 1)).unwrap();
    }),
    ("flush_tlb_all", |mmu, _| {
        mmu.invalidate_all(Scope::AllAsids)
    }),
    ("unmap", |_, space| space.unmap(part(109, 1)).unwrap()),
    ("gather", |_, space| {
        space.unmap_frames(part(109, 1), |_, _| {}).unwrap();
    }),
    ("free_empty_tables", |_, space| {
        space.free_empty_tables(part(0, 1)).unwrap();
    }),
];

#[test]
fn r23_the_queue_is_executed_at_each_of_these() {
    for (name, point) in POINTS {
        let mmu = new_mmu();
        let mut space = space(&mmu);
        mmu.lazy().enable().unwrap();
        mmu.lazy().enable().unwrap();
        space.protect(part(101, 1), Prot::KERNEL_RO).unwrap();
        space.map(part(5, 1), contiguous(9), Prot::KERNEL).unwrap();
        mmu.kernel().take_effects();
        assert!(!mmu.kernel().is_batch_empty());
        point(&mmu, &mut space);
        assert!(mmu.kernel().is_batch_empty(), "{name}");
        assert!(mmu.kernel().all_invalidated(), "{name}");
        assert_ne!(memory(&space, 5), 0, "{name}");
        assert!(tlbis(&mmu.kernel().take_effects()) >= 1);
        close(&mmu);
        fake::destroy(space);
    }
}

#[test]
fn r11_a_switch_executes_the_queue_and_leaves_the_task_s_counters() {
    for in_interrupt in [false, true] {
        let mmu = new_mmu();
        let mut space = space(&mmu);
        let lazy = mmu.lazy();
        lazy.enable().unwrap();
        enable_fast(&space, part(0, 64));
        space.map(part(5, 1), contiguous(9), Prot::KERNEL).unwrap();
        space.protect(part(101, 1), Prot::KERNEL_RO).unwrap();
        space.map(part(6, 1), contiguous(9), Prot::KERNEL).unwrap();
        mmu.kernel().take_effects();
        // Preempted at the end of an interrupt: what waits is the task's all the same.
        mmu.kernel().set_interrupt(in_interrupt);
        assert_eq!(lazy.might_sleep(), Ok(()));
        assert_eq!(lazy.switch_out(), Ok(()));
        mmu.kernel().set_interrupt(false);
        let effects = mmu.kernel().take_effects();
        assert!(mmu.kernel().is_batch_empty(), "{in_interrupt}");
        assert_eq!(leaves(&effects), 3);
        assert_eq!(effects.last(), Some(&Effect::DsbIsh), "R17");
        let state = lazy.state();
        assert_eq!((state.enable_count(), state.pause_count()), (2, 0));
        assert_eq!(state.fast_pte_ranges(), 1);
        // The DSB is done, here; an ISB counts where it is executed.
        assert_eq!(state.owed(), Owed::CONTEXT);
        mmu.kernel().switch_to(1);
        assert_eq!(mmu.lazy().state().enable_count(), 0);
        mmu.kernel().switch_to(0);
        lazy.disable().unwrap();
        assert_eq!(mmu.kernel().take_effects(), [Effect::Isb]);
        lazy.disable().unwrap();
        assert_eq!(mmu.kernel().take_effects(), []);
        fake::destroy(space);
    }
}

#[test]
fn r20_the_last_value_in_the_queue_is_the_entry_s() {
    let mmu = new_mmu();
    mmu.kernel().start_hypervisor();
    let mut space = space(&mmu);
    let mut fast = space.fast_pte_range(part(100, 10)).unwrap();
    let mut read = Vec::new();
    fast.set(2, frame(502), Prot::KERNEL_RO).unwrap();
    read.push(fast.get(2));
    fast.set(2, frame(502), Prot::KERNEL_ROX).unwrap();
    read.push(fast.get(2));
    // Emptied behind what waits, and made again behind its invalidation.
    read.push(fast.get_and_clear(2));
    read.push(fast.get(2));
    fast.set(2, frame(77), Prot::KERNEL).unwrap();
    read.push(fast.get(2));
    drop(fast);
    let page = |n, prot| Desc::page(frame(n), prot);
    assert_eq!(
        read,
        [
            page(502, Prot::KERNEL_RO),
            page(502, Prot::KERNEL_ROX),
            page(502, Prot::KERNEL_ROX),
            Desc::INVALID,
            page(77, Prot::KERNEL),
        ]
    );
    let done = transitions(&mmu);
    assert_eq!(
        done.concat(),
        [
            Store(102, 502),
            Invalidate(102, 1),
            Store(102, 502),
            Invalidate(102, 1),
            Invalidate(102, 1),
            Store(102, 77),
        ]
    );
    assert_eq!(done.len(), 2, "emptying executes the stores before");
    assert_eq!(memory(&space, 102), page(77, Prot::KERNEL).as_u64());
    fake::destroy(space);
}

/// What an entry held is final when it is taken, so it is taken behind everything that waits (R24, S10).
#[test]
fn r26_an_entry_is_emptied_behind_the_stores_that_wait() {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    mmu.lazy().enable().unwrap();
    space.map(part(5, 1), contiguous(9), Prot::KERNEL).unwrap();
    mmu.kernel().take_effects();
    space
        .apply_to_page_range(part(105, 1), |entry| {
            entry.get_and_clear();
            Ok::<(), lazymmu::SpaceError>(())
        })
        .unwrap();
    let effects = mmu.kernel().take_effects();
    let stored = effects.iter().filter(|e| fake::is_leaf(e));
    let stored: Vec<usize> = stored
        .map(|e| match e {
            Effect::Store { index, .. } => *index,
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(stored, [5, 105]);
    // Its own invalidation waits, and is no reason to execute the queue again.
    assert!(!mmu.kernel().is_batch_empty());
    mmu.lazy().disable().unwrap();
    assert!(mmu.kernel().all_invalidated());
    fake::destroy(space);
}

#[test]
fn r12_an_interrupt_sees_the_queue_and_does_not_execute_it() {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    mmu.lazy().enable().unwrap();
    space.map(part(5, 1), contiguous(9), Prot::KERNEL).unwrap();
    space.protect(part(101, 1), Prot::KERNEL_RO).unwrap();
    mmu.kernel().take_effects();
    mmu.kernel().set_interrupt(true);
    mmu.lazy().flush();
    mmu.lazy().drain();
    mmu.lazy().disable().unwrap();
    drop(mmu.lazy().suspend_all());
    assert_eq!(mmu.kernel().take_effects(), []);
    assert!(space.query(part(5, 1).start()).is_some());
    assert_eq!(memory(&space, 5), 0);
    // What it writes itself happens at once, and overtakes.
    space.map(part(6, 1), contiguous(9), Prot::KERNEL).unwrap();
    let effects = mmu.kernel().take_effects();
    assert_eq!(leaves(&effects), 1);
    assert_eq!(fake::count(&effects, Effect::DsbIshst), 1);
    space.unmap(part(108, 1)).unwrap();
    assert_eq!(leaves(&mmu.kernel().take_effects()), 1);
    mmu.kernel().set_interrupt(false);
    assert!(!mmu.kernel().is_batch_empty());
    assert_eq!(memory(&space, 5), 0);
    assert!(space.query(part(5, 1).start()).is_some());
    mmu.lazy().disable().unwrap();
    assert_ne!(memory(&space, 5), 0);
    fake::destroy(space);
}

#[test]
fn r3_without_a_section_nothing_is_queued() {
    let mmu = new_mmu();
    mmu.kernel().start_hypervisor();
    let mut space = space(&mmu);
    mmu.lazy().enable().unwrap();
    mmu.lazy().pause().unwrap();
    space.map(part(5, 1), contiguous(9), Prot::KERNEL).unwrap();
    assert_ne!(memory(&space, 5), 0);
    space.protect(part(5, 1), Prot::KERNEL_RO).unwrap();
    assert!(mmu.kernel().all_invalidated());
    assert_eq!(transitions(&mmu).len(), 0);
    mmu.lazy().resume().unwrap();
    mmu.lazy().disable().unwrap();
    assert!(mmu.kernel().hypervisor().is_some());
    fake::destroy(space);
}

/// The library executes: changes share invalidations, and the second half of a break-before-make does not.
#[test]
fn r29_a_make_behind_an_invalidation_stays_behind_it() {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    let mut fast = space.fast_pte_range(part(100, 10)).unwrap();
    fast.get_and_clear(1);
    fast.set(1, frame(77), Prot::KERNEL).unwrap();
    let effects = mmu.kernel().take_effects();
    assert_eq!((leaves(&effects), tlbis(&effects)), (1, 0), "the break");
    drop(fast);
    // The order checker has seen to the rest.
    let effects = mmu.kernel().take_effects();
    assert_eq!((leaves(&effects), tlbis(&effects)), (1, 1));
    assert!(mmu.kernel().all_invalidated());
    assert_eq!(
        memory(&space, 101),
        Desc::page(frame(77), Prot::KERNEL).as_u64()
    );
    fake::destroy(space);
}

#[test]
fn s20_changes_of_neighbors_are_one_range() {
    let mmu = new_mmu();
    let tlb = TlbFeatures {
        range: true,
        ..TlbFeatures::default()
    };
    mmu.choose_features(Features {
        tlb,
        ..Features::default()
    });
    let mut space = space(&mmu);
    mmu.lazy().enable().unwrap();
    for i in 100..108 {
        space.protect(part(i, 1), Prot::KERNEL_RO).unwrap();
    }
    mmu.kernel().take_effects();
    mmu.lazy().disable().unwrap();
    let effects = mmu.kernel().take_effects();
    assert_eq!((leaves(&effects), tlbis(&effects)), (8, 1));
    assert!(mmu.kernel().all_invalidated());
    fake::destroy(space);
}

/// What is emptied as a run was mapped a moment ago, and the queue holds that.
#[test]
fn r26_a_run_is_emptied_behind_the_stores_that_wait() {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    mmu.lazy().enable().unwrap();
    space.map(part(5, 3), contiguous(9), Prot::KERNEL).unwrap();
    assert_eq!(memory(&space, 6), 0);
    space.unmap(part(5, 3)).unwrap();
    assert_eq!([5, 6, 7].map(|i| memory(&space, i)), [0; 3]);
    mmu.lazy().disable().unwrap();
    assert_eq!([5, 6, 7].map(|i| memory(&space, i)), [0; 3]);
    assert!(mmu.kernel().all_invalidated());
    fake::destroy(space);
}

#[test]
fn r27_invalidations_of_two_spaces_are_executed_one_by_one() {
    let mmu = new_mmu();
    let mut spaces = [USER, SpaceKind::User(Asid(7))].map(|kind| new_space(&mmu, kind));
    let page = pages(0x40_0000, 1);
    for space in &mut spaces {
        space.map(page, contiguous(5), Prot::USER).unwrap();
    }
    mmu.lazy().enable().unwrap();
    mmu.kernel().take_effects();
    for space in &mut spaces {
        space
            .apply_to_page_range(page, |entry| {
                entry.get_and_clear();
                Ok::<(), lazymmu::SpaceError>(())
            })
            .unwrap();
    }
    assert_eq!(tlbis(&mmu.kernel().take_effects()), 0);
    mmu.lazy().disable().unwrap();
    assert_eq!(tlbis(&mmu.kernel().take_effects()), 2);
    assert!(mmu.kernel().all_invalidated());
}

/// Preempted anywhere but at work on the queue: what is asked for is executed, by the switch or later.
#[test]
fn r11_a_switch_between_two_steps_loses_no_call() {
    let mmu = std::rc::Rc::new(new_mmu());
    let mut space = space(&mmu);
    mmu.lazy().enable().unwrap();
    mmu.kernel().take_effects();
    let inside = std::cell::Cell::new(false);
    let switch = move |mmu: &Mmu<Fake>, moment| {
        if moment == fake::interrupts::Moment::Lazy && !inside.replace(true) {
            // Refused while the library works on the queue.
            let _ = mmu.lazy().switch_out();
            inside.set(false);
        }
    };
    fake::interrupts::at_moments(&mmu, switch, || {
        space.map(part(5, 1), contiguous(9), Prot::KERNEL).unwrap();
    });
    mmu.lazy().disable().unwrap();
    assert!(mmu.kernel().is_batch_empty());
    assert_ne!(memory(&space, 5), 0);
    fake::destroy(space);
}
