// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which write executes which barriers, and when: R13-R18, R35, R36.

use lazymmu::tlbi::{Reach, Scope};
use lazymmu::{
    AddressSpace, Asid, Backend, Backing, BarrierPolicy, Desc, MemoryType, Mmu, Owed, PAGE_SIZE,
    Prot, SpaceKind,
};
use lazymmu_testkit::fake::interrupts::{Moment, at_moments};
use lazymmu_testkit::fake::order::Role;
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, Fake, KINDS, USER, contiguous, count, data, frame, is_leaf, leaves,
    new_mmu, new_space, pages, visible, with_ets2,
};
use std::rc::Rc;

const PAIR: [Effect; 2] = [Effect::DsbIshst, Effect::Isb];

/// A space in which the table of `BASE`'s first 2 MiB and the next exist, nothing noted.
fn with_tables(mmu: &Mmu<Fake>, kind: SpaceKind) -> (AddressSpace<'_, Fake>, u64) {
    let mut space = new_space(mmu, kind);
    let start = if kind == SpaceKind::Kernel {
        BASE
    } else {
        1 << 39
    };
    let table = 2 << 20;
    for at in [start, start + table] {
        space.map(pages(at, 1), contiguous(1), data(kind)).unwrap();
        space.unmap(pages(at, 1)).unwrap();
    }
    mmu.kernel().take_effects();
    (space, start)
}

/// Runs of leaf stores, each with what was executed behind it.
fn runs(effects: Vec<Effect>) -> Vec<(usize, Vec<Effect>)> {
    let mut runs: Vec<(usize, Vec<Effect>)> = Vec::new();
    for effect in visible(effects) {
        match runs.last_mut() {
            Some((stores, behind)) if is_leaf(&effect) && behind.is_empty() => *stores += 1,
            _ if is_leaf(&effect) => runs.push((1, Vec::new())),
            Some((_, behind)) => behind.push(effect),
            None => panic!("{effect:?} before the first store"),
        }
    }
    runs
}

#[test]
fn r13_r20_a_section_reads_what_it_wrote() {
    for backend in fake::backends() {
        let mmu = new_mmu();
        mmu.choose_backend(backend).unwrap();
        let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
        let mut fast = space.fast_pte_range(pages(start, 4)).unwrap();
        let new = Desc::page(frame(9), Prot::KERNEL);
        fast.set(2, frame(9), Prot::KERNEL).unwrap();
        assert_eq!(fast.get(2), new);
        assert_eq!(fast.get_and_clear(2), new);
        assert_eq!(fast.get(2), Desc::INVALID);
        drop(fast);
        let run = |entry: &mut lazymmu::PteRef<'_, Fake>| {
            let new = Desc::page(frame(3), Prot::KERNEL_RO);
            entry.set(frame(3), Prot::KERNEL_RO)?;
            assert_eq!(entry.get(), new);
            // Barriers may wait, and invalidations. Stores wait with two backends, and then a
            // reader asks the queue (R20).
            let waits = matches!(backend, Backend::DeferStores | Backend::Multicall);
            let stored = mmu.kernel().image().into_values().flatten();
            let stored = stored.filter(|e| *e == new.as_u64()).count();
            assert_eq!(stored, usize::from(!waits), "{backend}");
            Ok::<(), lazymmu::SpaceError>(())
        };
        space
            .apply_to_page_range(pages(start + PAGE_SIZE, 1), run)
            .unwrap();
    }
}

/// R14: what owes, by the entry written.
#[test]
fn r14_user_leaves_and_clears_owe_nothing_kernel_leaves_owe_the_pair() {
    let leaves = [
        (SpaceKind::Kernel, Prot::KERNEL, Owed::all()),
        (SpaceKind::Kernel, Prot::KERNEL_RO, Owed::all()),
        (SpaceKind::Kernel, Prot::KERNEL_ROX, Owed::all()),
        (SpaceKind::Kernel, Prot::DEVICE, Owed::all()),
        (USER, Prot::USER, Owed::empty()),
        (USER, Prot::USER_RO, Owed::empty()),
        (USER, Prot::USER_ROX, Owed::empty()),
    ];
    for (kind, prot, owed) in leaves {
        let mmu = new_mmu();
        let (mut space, start) = with_tables(&mmu, kind);
        let mut fast = space.fast_pte_range(pages(start, 1)).unwrap();
        fast.set(0, frame(1), prot).unwrap();
        assert_eq!(mmu.lazy().state().owed(), owed, "{prot:?}");
        mmu.lazy().flush();
        fast.get_and_clear(0);
        assert_eq!(mmu.lazy().state().owed(), Owed::empty(), "a clear");
    }
}

#[test]
fn r14_tables_of_user_spaces_owe_the_pair_and_their_removal_does_not() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, USER);
    let range = pages(0x40_0000, 1);
    let fast = space.fast_pte_range(range).unwrap();
    assert_eq!(mmu.lazy().state().owed(), Owed::all());
    drop(fast);
    assert_eq!(mmu.kernel().counts().requested, 3);
    assert_eq!(mmu.kernel().counts().dsb_paid, 1);
    assert_eq!(space.free_empty_tables(range).unwrap(), 3);
    // A write to level 0 is on Linux's list whatever it writes.
    assert_eq!(mmu.kernel().counts().requested, 4);
    assert_eq!(mmu.kernel().counts().dsb_paid, 2);
}

/// R15, in the three states in which the mode is inactive and a request's own section is
/// ignored or absent.
#[test]
fn r15_inactive_the_pair_follows_the_runs_last_store() {
    enum State {
        Paused,
        PausedInSection,
        Interrupt,
    }
    for state in [State::Paused, State::PausedInSection, State::Interrupt] {
        for (backend, run, crossing) in [
            (Backend::DeferBarriers, vec![5], vec![4, 3]),
            (Backend::Eager, vec![1; 5], vec![1; 7]),
        ] {
            let mmu = new_mmu();
            mmu.choose_backend(backend).unwrap();
            let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
            match state {
                State::Paused => mmu.lazy().pause().unwrap(),
                State::PausedInSection => {
                    mmu.lazy().enable().unwrap();
                    mmu.lazy().pause().unwrap();
                }
                State::Interrupt => mmu.kernel().set_interrupt(true),
            }
            let expected = |lengths: Vec<usize>| -> Vec<_> {
                lengths.into_iter().map(|n| (n, PAIR.to_vec())).collect()
            };
            space
                .map(pages(start, 5), contiguous(1), Prot::KERNEL)
                .unwrap();
            assert_eq!(runs(mmu.kernel().take_effects()), expected(run));
            let across = pages(start + 508 * PAGE_SIZE, 7);
            let frames: Vec<_> = (0..7).map(|n| frame(1000 - n * 3)).collect();
            space
                .map(across, Backing::Scattered(&frames), Prot::KERNEL)
                .unwrap();
            assert_eq!(runs(mmu.kernel().take_effects()), expected(crossing));
        }
    }
}

#[test]
fn r15_r16_a_request_outside_any_section_executes_one_pair_after_its_last_store() {
    let mmu = new_mmu();
    let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
    space
        .map(pages(start, 1024), contiguous(1), Prot::KERNEL)
        .unwrap();
    assert_eq!(runs(mmu.kernel().take_effects()), [(1024, PAIR.to_vec())]);
    let counts = mmu.kernel().counts();
    mmu.lazy().enable().unwrap();
    mmu.lazy().disable().unwrap();
    assert_eq!(
        mmu.kernel().take_effects(),
        [],
        "nothing owed, nothing paid"
    );
    assert_eq!(counts.dsb_paid, mmu.kernel().counts().dsb_paid);
}

#[test]
fn eager_executes_a_pair_per_entry_in_a_section_too() {
    let mmu = new_mmu();
    mmu.choose_backend(Backend::Eager).unwrap();
    let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
    let _section = mmu.lazy().section().unwrap();
    space
        .map(pages(start, 600), contiguous(1), Prot::KERNEL)
        .unwrap();
    assert_eq!(
        runs(mmu.kernel().take_effects()),
        vec![(1, PAIR.to_vec()); 600]
    );
    let frames = [frame(5), frame(3)];
    let two = pages(start + 700 * PAGE_SIZE, 2);
    space
        .map(two, Backing::Scattered(&frames), Prot::KERNEL)
        .unwrap();
    assert_eq!(
        runs(mmu.kernel().take_effects()),
        vec![(1, PAIR.to_vec()); 2]
    );
    for (i, frame) in frames.into_iter().enumerate() {
        let va = fake::va(two.start().as_u64() + i as u64 * PAGE_SIZE);
        let entry = space.query(va).unwrap().entry;
        assert_eq!(entry, Desc::page(frame, Prot::KERNEL));
    }
}

/// `ROT.inv+dmbst`: before each link of a new table a `DMB ISHST`, with nothing of the
/// table's contents after it. The checker of the fake holds the second half for every
/// test; here the barrier stands right in front of each link.
#[test]
fn r18_every_link_is_preceded_by_dmb_ishst() {
    for backend in fake::backends() {
        for kind in KINDS {
            let mmu = new_mmu();
            mmu.choose_backend(backend).unwrap();
            let mut space = new_space(&mmu, kind);
            // Across a 512 GiB boundary: two tables of each level.
            let start = kind.half().start() + (2 << 39) - 2 * PAGE_SIZE;
            space
                .map(pages(start, 4), contiguous(1), data(kind))
                .unwrap();
            let effects = mmu.kernel().take_effects();
            let mut levels = Vec::new();
            for (i, effect) in effects.iter().enumerate() {
                let Effect::Store {
                    role: Role::Link(level),
                    ..
                } = effect
                else {
                    continue;
                };
                levels.push(*level);
                assert_eq!(effects[i - 1], Effect::DmbIshst, "{effect:?}");
            }
            assert_eq!(levels, [0, 1, 2, 0, 1, 2]);
            assert_eq!(count(&effects, Effect::DmbIshst), 6);
            fake::destroy(space);
        }
    }
}

#[test]
fn r18_a_copied_root_entry_is_preceded_by_dmb_ishst() {
    let mmu = new_mmu();
    let (space, start) = with_tables(&mmu, SpaceKind::Kernel);
    let mut other = new_space(&mmu, SpaceKind::Kernel);
    mmu.kernel().take_effects();
    // SAFETY: neither space frees tables, and both live to the end of the test.
    let copied = unsafe { other.share_tables(&space, pages(start, 1)) };
    assert_eq!(copied, Ok(1));
    let effects = mmu.kernel().take_effects();
    assert_eq!(effects[0], Effect::DmbIshst);
    assert!(matches!(
        effects[1],
        Effect::Store {
            role: Role::Link(0),
            ..
        }
    ));
    assert_eq!(effects[2..], PAIR);
}

/// The barriers of an invalidation are barriers: they pay what is owed.
#[test]
fn r16_r26_an_invalidation_in_a_section_pays_what_is_owed() {
    let asid = Scope::Asid(Asid(1));
    for (scope, left) in [(Scope::AllAsids, Owed::empty()), (asid, Owed::CONTEXT)] {
        let mmu = new_mmu();
        let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
        let section = mmu.lazy().section().unwrap();
        let page = pages(start, 1);
        space.map(page, contiguous(1), Prot::KERNEL).unwrap();
        assert_eq!(mmu.lazy().state().owed(), Owed::all());
        mmu.invalidate_range(page, scope, Reach::Leaf);
        assert_eq!(mmu.lazy().state().owed(), left, "{scope:?}");
        mmu.kernel().note(0);
        mmu.kernel().take_effects();
        drop(section);
        let expected: &[Effect] = if left.is_empty() { &[] } else { &[Effect::Isb] };
        assert_eq!(mmu.kernel().take_effects(), expected);
    }
}

#[test]
fn r12_an_invalidation_in_an_interrupt_pays_nothing_of_the_task() {
    let mmu = new_mmu();
    let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
    let section = mmu.lazy().section().unwrap();
    let page = pages(start, 1);
    space.map(page, contiguous(1), Prot::KERNEL).unwrap();
    mmu.kernel().set_interrupt(true);
    mmu.invalidate_range(page, Scope::AllAsids, Reach::Leaf);
    mmu.kernel().set_interrupt(false);
    assert_eq!(mmu.lazy().state().owed(), Owed::all());
    mmu.kernel().take_effects();
    drop(section);
    assert_eq!(mmu.kernel().take_effects(), PAIR);
}

#[test]
fn r35_r36_ets2_owes_nothing_for_data_and_tables_and_the_pair_for_text() {
    for backend in fake::backends() {
        let mmu = new_mmu();
        mmu.choose_backend(backend).unwrap();
        mmu.choose_features(with_ets2());
        mmu.set_policy(BarrierPolicy::Ets2).unwrap();
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        let uncached = Prot::KERNEL.with_memory_type(MemoryType::NormalNonCacheable);
        for (i, prot) in [Prot::KERNEL, Prot::KERNEL_RO, Prot::DEVICE, uncached]
            .into_iter()
            .enumerate()
        {
            let range = pages(BASE + (i as u64) * (1 << 39), 3);
            space.map(range, contiguous(1), prot).unwrap();
            let effects = mmu.kernel().take_effects();
            assert_eq!(count(&effects, Effect::DmbIshst), 3, "R18 stays");
            assert_eq!(count(&effects, Effect::DsbIshst), 0, "{prot:?}");
            assert_eq!(count(&effects, Effect::Isb), 0, "{prot:?}");
        }
        let counts = mmu.kernel().counts();
        assert_eq!((counts.requested, counts.dsb_saved()), (24, 24));
        let text = pages(BASE + (9 << 39), 3);
        space.map(text, contiguous(1), Prot::KERNEL_ROX).unwrap();
        let effects = visible(mmu.kernel().take_effects());
        let pairs = if backend == Backend::Eager { 3 } else { 1 };
        assert_eq!(count(&effects, Effect::DsbIshst), pairs);
        assert_eq!(effects[effects.len() - 2..], PAIR);
        fake::destroy(space);
    }
}

#[test]
fn one_walk_per_table_serves_a_request() {
    let mmu = new_mmu();
    let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
    let walks = || mmu.kernel().counts().walks;
    let before = walks();
    space
        .map(pages(start, 512), contiguous(1), Prot::KERNEL)
        .unwrap();
    assert!((1..=2).contains(&(walks() - before)), "a check and a write");
    let before = walks();
    space.protect(pages(start, 512), Prot::KERNEL_RO).unwrap();
    assert!((1..=3).contains(&(walks() - before)));
}

/// Single entries, with and without a look at them, and pages mapped one by one.
#[test]
fn r14_single_user_entries_owe_nothing() {
    let mmu = new_mmu();
    let (mut space, start) = with_tables(&mmu, USER);
    mmu.lazy().enable().unwrap();
    let mut n = 8;
    space
        .apply_to_page_range(pages(start, 4), |entry| {
            n += 1;
            entry.set(frame(n), Prot::USER)
        })
        .unwrap();
    let mut fast = space
        .fast_pte_range(pages(start + 4 * PAGE_SIZE, 4))
        .unwrap();
    fast.set(2, frame(90), Prot::USER).unwrap();
    drop(fast);
    for i in 8..12 {
        let page = pages(start + i * PAGE_SIZE, 1);
        space
            .map(page, contiguous(100 + 2 * i), Prot::USER)
            .unwrap();
    }
    assert_eq!(mmu.lazy().state().owed(), Owed::empty());
    mmu.lazy().disable().unwrap();
    let effects = visible(mmu.kernel().take_effects());
    assert_eq!(effects.len(), 9);
    assert!(effects.iter().all(is_leaf), "{effects:?}");
    mmu.kernel().check_counters();
    fake::destroy(space);
}

#[test]
fn r16_entries_set_in_one_loop_owe_one_pair() {
    let mmu = new_mmu();
    let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
    let before = mmu.kernel().counts();
    let mut fast = space.fast_pte_range(pages(start, 40)).unwrap();
    fast.set_each(3, 21, Prot::KERNEL, |i| frame(2 * i as u64))
        .unwrap();
    drop(fast);
    assert_eq!(runs(mmu.kernel().take_effects()), [(21, PAIR.to_vec())]);
    let counts = mmu.kernel().counts() - before;
    assert_eq!((counts.ptes, counts.requested), (21, 21));
    fake::destroy(space);
}

/// Calls for one page each: what the call before has found out holds no longer than it is true.
#[test]
fn r15_pages_one_by_one_are_completed_as_the_backend_in_use_does() {
    for kind in KINDS {
        let mmu = new_mmu();
        let (mut space, start) = with_tables(&mmu, kind);
        let mut n = 0;
        let mut map = |count: u64| {
            for i in n..n + count {
                let page = pages(start + i * PAGE_SIZE, 1);
                space.map(page, contiguous(2 * i), data(kind)).unwrap();
            }
            n += count;
            let effects = visible(mmu.kernel().take_effects());
            let pairs = effects.windows(2).filter(|two| *two == PAIR).count();
            (leaves(&effects), pairs)
        };
        let lazy = mmu.lazy();
        let pays = kind == SpaceKind::Kernel;
        let pairs = |n| if pays { n } else { 0 };
        assert_eq!(map(3), (3, pairs(3)), "at once");
        lazy.enable().unwrap();
        assert_eq!(map(3), (3, 0), "in a section");
        assert_eq!(lazy.state().owed().is_empty(), !pays);
        lazy.flush();
        mmu.kernel().take_effects();
        assert_eq!(map(1), (1, 0));
        assert_eq!(lazy.state().owed().is_empty(), !pays, "behind a flush");
        lazy.pause().unwrap();
        mmu.kernel().take_effects();
        assert_eq!(map(2), (2, pairs(2)), "paused");
        lazy.resume().unwrap();
        lazy.disable().unwrap();
        mmu.choose_backend(Backend::Eager).unwrap();
        lazy.enable().unwrap();
        assert_eq!(map(3), (3, pairs(3)), "with another backend");
        lazy.disable().unwrap();
        mmu.kernel().check_counters();
        fake::destroy(space);
    }
}

/// A task is preempted right before a store of its section, and goes on elsewhere: the `DSB ISH` of the
/// switch has completed all stores but this one.
#[test]
fn r17_a_switch_in_front_of_a_store_pays_for_none_of_it() {
    type Write = fn(&mut AddressSpace<'_, Fake>, u64);
    let writes: [(&str, Write); 4] = [
        ("fresh entries", |space, start| {
            let entries = pages(start + 16 * PAGE_SIZE, 8);
            space
                .apply_to_page_range(entries, |entry| entry.set(frame(9), Prot::KERNEL))
                .unwrap();
        }),
        ("entries", |space, start| {
            let mut fast = space
                .fast_pte_range(pages(start + 16 * PAGE_SIZE, 8))
                .unwrap();
            for i in 0..8 {
                fast.set(i, frame(9), Prot::KERNEL).unwrap();
            }
        }),
        ("a run", |space, start| {
            let entries = pages(start + 16 * PAGE_SIZE, 8);
            space.map(entries, contiguous(9), Prot::KERNEL).unwrap();
        }),
        ("pages one by one", |space, start| {
            for i in 16..24 {
                let page = pages(start + i * PAGE_SIZE, 1);
                space.map(page, contiguous(i), Prot::KERNEL).unwrap();
            }
        }),
    ];
    for (name, write) in writes {
        let mmu = Rc::new(new_mmu());
        let (mut space, start) = with_tables(&mmu, SpaceKind::Kernel);
        mmu.lazy().enable().unwrap();
        // Everything is owed already when the writes begin.
        let elsewhere = pages(start + (2 << 20), 1);
        space.map(elsewhere, contiguous(1), Prot::KERNEL).unwrap();
        let table = space.last_level_table(fake::va(start)).unwrap();
        let switch = move |mmu: &Mmu<Fake>, moment| {
            let last_is_next = mmu.kernel().memory(table, 22) != 0;
            if moment == Moment::Store && last_is_next && mmu.kernel().memory(table, 23) == 0 {
                mmu.lazy().switch_out().unwrap();
            }
        };
        at_moments(&mmu, switch, || write(&mut space, start));
        mmu.lazy().disable().unwrap();
        let effects = mmu.kernel().take_effects();
        let last = |effect| effects.iter().rposition(|e| *e == effect);
        let stored = effects.iter().rposition(is_leaf);
        let switched = effects
            .iter()
            .position(|e| *e == Effect::DsbIsh)
            .expect("the task was preempted");
        assert!(Some(switched) < stored, "{name}: {effects:?}");
        assert!(stored < last(Effect::DsbIshst), "{name}: {effects:?}");
        fake::destroy(space);
    }
}

/// Tables as well: each link is completed before the next store.
#[test]
fn r15_eager_completes_each_link_at_once() {
    let mmu = new_mmu();
    mmu.choose_backend(Backend::Eager).unwrap();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    mmu.lazy().enable().unwrap();
    space
        .map(pages(BASE, 1), contiguous(1), Prot::KERNEL)
        .unwrap();
    let effects = visible(mmu.kernel().take_effects());
    let links = |e: &Effect| {
        matches!(
            e,
            Effect::Store {
                role: Role::Link(_),
                ..
            }
        )
    };
    let linked: Vec<usize> = (0..effects.len()).filter(|i| links(&effects[*i])).collect();
    assert_eq!(linked.len(), 3);
    for i in linked {
        assert_eq!(effects[i + 1..i + 3], PAIR, "{effects:?}");
    }
    mmu.lazy().disable().unwrap();
    fake::destroy(space);
}

#[test]
fn a_page_like_the_last_is_mapped_without_a_walk() {
    for kind in KINDS {
        let mmu = new_mmu();
        let (mut space, start) = with_tables(&mmu, kind);
        let mut walks = |i: u64| {
            let before = mmu.kernel().counts().walks;
            let page = pages(start + i * PAGE_SIZE, 1);
            space.map(page, contiguous(2 * i), data(kind)).unwrap();
            mmu.kernel().counts().walks - before
        };
        assert_eq!([0, 1, 2, 511].map(&mut walks), [1, 0, 0, 0]);
        assert_eq!([512, 513].map(&mut walks), [1, 0], "the next table");
        assert_eq!([3, 4].map(&mut walks), [1, 0], "there is one last table");
        fake::destroy(space);
    }
}
