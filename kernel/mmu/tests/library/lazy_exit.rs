// SPDX-License-Identifier: MIT OR Apache-2.0
//! A task that ends inside of sections (R1, R5, R23, R39): nothing of what it did is lost, and nothing
//! of it is left behind.

use lazymmu::{
    AddressSpace, Backend, LazyMmuError, LazyMmuState, Mmu, Owed, PAGE_SIZE, Prot, SpaceKind, bits,
};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, Fake, USER, contiguous, count, enable_fast, frame, is_maintenance,
    new_kernel_space, new_mmu_with, new_space, new_space_with_tables, pages, part, va,
};
use std::mem::forget;

const ENDED: Result<(), LazyMmuError> = Err(LazyMmuError::EndedInside);

/// The state is a new task's, the CPU is free, and the task may leave it.
#[track_caller]
fn is_gone(mmu: &Mmu<Fake>, what: &str) {
    let (kernel, state) = (mmu.kernel(), mmu.lazy().state());
    let new = format!("{:?}", LazyMmuState::new());
    assert_eq!(format!("{state:?}"), new, "{what}: R1");
    assert_eq!(state.fast_pte_ranges(), 0, "{what}");
    assert_eq!(state.opened_at(), None, "{what}");
    assert!(kernel.is_batch_empty(), "{what}: R23");
    assert!(kernel.all_invalidated(), "{what}: R23");
    assert_eq!(mmu.lazy().exit(), Ok(()), "{what}: once is enough");
    assert_eq!(mmu.choose_backend(mmu.backend()), Ok(()), "{what}");
    assert_eq!(mmu.lazy().switch_out(), Ok(()), "{what}: R38");
}

#[test]
fn r1_a_task_that_left_everything_has_nothing_to_leave() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        assert_eq!(mmu.lazy().exit(), Ok(()));
        drop(mmu.lazy().section().unwrap());
        drop(mmu.lazy().paused().unwrap());
        drop(mmu.lazy().suspend_all());
        let before = mmu.kernel().counts();
        assert_eq!(mmu.lazy().exit(), Ok(()), "{backend}");
        assert_eq!(mmu.kernel().counts(), before);
        assert_eq!(mmu.kernel().take_effects(), []);
    }
}

/// A way to be somewhere inside, and its name.
type Way = (&'static str, fn(&Mmu<Fake>));

const WAYS: [Way; 7] = [
    ("a section", |mmu| mmu.lazy().enable().unwrap()),
    ("sections", |mmu| {
        (0..3).for_each(|_| mmu.lazy().enable().unwrap());
    }),
    ("a pause", |mmu| {
        mmu.lazy().enable().unwrap();
        mmu.lazy().pause().unwrap();
    }),
    ("a pause alone", |mmu| mmu.lazy().pause().unwrap()),
    ("a suspension", |mmu| {
        mmu.lazy().enable().unwrap();
        forget(mmu.lazy().suspend_all());
    }),
    ("a suspension of nothing", |mmu| {
        forget(mmu.lazy().suspend_all());
    }),
    ("a section in two suspensions", |mmu| {
        mmu.lazy().enable().unwrap();
        forget(mmu.lazy().suspend_all());
        mmu.lazy().pause().unwrap();
        forget(mmu.lazy().suspend_all());
        mmu.lazy().enable().unwrap();
    }),
];

#[test]
fn r39_whatever_a_task_is_in_when_it_ends_is_left() {
    for backend in fake::backends() {
        for (name, enter) in WAYS {
            let mmu = new_mmu_with(backend);
            let mut space = new_kernel_space(&mmu);
            space.map(part(0, 2), contiguous(1), Prot::KERNEL).unwrap();
            enter(&mmu);
            space.map(part(5, 1), contiguous(9), Prot::KERNEL).unwrap();
            space.protect(part(0, 1), Prot::KERNEL_RO).unwrap();
            let hooks = mmu.kernel().counts();
            let was_active = mmu.lazy().is_lazy_mmu_mode_active();
            assert_eq!(mmu.lazy().exit(), ENDED, "{backend}, {name}");
            let hooks = mmu.kernel().counts() - hooks;
            assert_eq!(hooks.leave, u64::from(was_active), "{backend}, {name}: R9");
            is_gone(&mmu, name);
            let written = space.query(va(BASE + 5 * PAGE_SIZE)).unwrap().entry;
            assert_eq!(written.frame(), frame(9), "{backend}, {name}");
            assert!(!space.query(va(BASE)).unwrap().entry.is_writable());
            fake::destroy(space);
        }
    }
}

/// R5, R16: one pair for what is owed, in the last moment, and none for nothing.
#[test]
fn r16_the_end_pays_what_is_owed_once() {
    for writes in [0, 3] {
        let mmu = new_mmu_with(Backend::DeferBarriers);
        let mut space = new_kernel_space(&mmu);
        mmu.lazy().enable().unwrap();
        mmu.lazy().enable().unwrap();
        for i in 0..writes {
            space
                .map(part(2 * i, 1), contiguous(i), Prot::KERNEL)
                .unwrap();
        }
        mmu.kernel().take_effects();
        assert_eq!(mmu.lazy().exit(), ENDED);
        let effects = mmu.kernel().take_effects();
        let pair: &[Effect] = if writes == 0 {
            &[]
        } else {
            &[Effect::DsbIshst, Effect::Isb]
        };
        assert_eq!(effects, pair);
        is_gone(&mmu, "paid");
        fake::destroy(space);
    }
}

/// Announced ranges of two levels, one of them suspended, are withdrawn, and the entries in them stay as they
/// are: groups that have become one are for the holder of the space to fold.
#[test]
fn r22_announced_ranges_are_withdrawn_at_the_end() {
    const AT: u64 = 1 << 30;
    for backend in fake::backends() {
        for suspended in [false, true] {
            let mmu = new_mmu_with(backend);
            let mut space = new_space_with_tables(&mmu, USER, pages(AT, 64));
            let map_one_by_one = |space: &mut AddressSpace<'_, Fake>, first: u64| {
                for i in first..first + 16 {
                    let page = pages(AT + i * PAGE_SIZE, 1);
                    space.map(page, contiguous(i), Prot::USER).unwrap();
                }
            };
            enable_fast(&space, pages(AT, 16));
            map_one_by_one(&mut space, 0);
            if suspended {
                forget(mmu.lazy().suspend_all());
            }
            enable_fast(&space, pages(AT + 32 * PAGE_SIZE, 16));
            map_one_by_one(&mut space, 32);
            assert_eq!(mmu.lazy().exit(), ENDED, "{backend}");
            is_gone(&mmu, "withdrawn");
            let is_folded = |space: &AddressSpace<'_, Fake>, page: u64| {
                let entry = space.query(va(AT + page * PAGE_SIZE)).unwrap().entry;
                assert_eq!(entry.frame(), frame(page), "{backend}, page {page}");
                entry.as_u64() & bits::CONT != 0
            };
            // Where stores wait, the drain has folded its own.
            let by_drain = backend == Backend::DeferStores;
            for page in [0, 15, 32, 47] {
                assert_eq!(is_folded(&space, page), by_drain, "{backend}, {suspended}");
            }
            let folded = space.fold_contiguous(pages(AT, 64)).unwrap();
            assert_eq!(folded, if by_drain { 0 } else { 2 }, "{backend}");
            assert!([0, 15, 32, 47].iter().all(|page| is_folded(&space, *page)));
            mmu.kernel().check_groups();
            fake::destroy(space);
        }
    }
}

/// A range that was held as a value and forgotten is withdrawn, so that the next task in this state finds
/// nothing of it.
#[test]
fn r22_ranges_that_were_forgotten_are_withdrawn() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_kernel_space(&mmu);
        let mut held = space.fast_pte_range(part(0, 8)).unwrap();
        // Not one by one: that is counted when the range is dropped.
        held.set_frames(3, &[frame(7)], Prot::KERNEL).unwrap();
        forget(held);
        assert_eq!(mmu.lazy().exit(), ENDED, "{backend}");
        is_gone(&mmu, "forgotten");
        let written = space.query(va(BASE + 3 * PAGE_SIZE)).unwrap().entry;
        assert_eq!(written.frame(), frame(7), "{backend}");
        // Without a section, but with a range that was never withdrawn.
        let held = space.fast_pte_range(part(16, 8)).unwrap();
        forget(held);
        mmu.lazy().disable().unwrap();
        let ranges = mmu.lazy().state().fast_pte_ranges();
        let expected = if ranges > 0 { ENDED } else { Ok(()) };
        assert_eq!(mmu.lazy().exit(), expected, "{backend}");
        is_gone(&mmu, "withdrawn");
    }
}

/// A task that is ended in a callback: panics do not run destructors in a kernel.
#[test]
fn r5_a_callback_that_never_returns_loses_nothing() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        let ended = space.apply_to_page_range(part(0, 4), |entry| {
            entry.set(frame(3), Prot::KERNEL)?;
            if entry.va() == va(BASE + 2 * PAGE_SIZE) {
                forget(mmu.lazy().section()?);
                assert_eq!(mmu.lazy().state().enable_count(), 2);
                assert_eq!(mmu.lazy().exit(), ENDED, "{backend}");
                is_gone(&mmu, "callback");
                assert_ne!(entry.get().as_u64(), 0);
                // So that the caller's section, which does not know, can close its level.
                mmu.lazy().enable()?;
            }
            Ok::<(), lazymmu::SpaceError>(())
        });
        assert_eq!(ended, Ok(()));
        fake::destroy(space);
    }
}

#[test]
fn r3_an_interrupt_ends_no_task() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_kernel_space(&mmu);
        enable_fast(&space, part(0, 8));
        space.map(part(1, 1), contiguous(1), Prot::KERNEL).unwrap();
        let state = || (format!("{:?}", mmu.lazy()), mmu.kernel().is_batch_empty());
        let before = state();
        mmu.kernel().take_effects();
        mmu.kernel().set_interrupt(true);
        let refused = Err(LazyMmuError::InInterrupt);
        assert_eq!(mmu.lazy().exit(), refused, "{backend}");
        mmu.kernel().set_interrupt(false);
        assert_eq!(state(), before, "{backend}");
        assert_eq!(mmu.kernel().take_effects(), []);
        mmu.lazy().disable().unwrap();
        fake::destroy(space);
    }
}

/// The kernel reports where the section was opened, before it is left.
#[test]
fn r39_the_error_says_what_to_do() {
    let mmu = new_mmu_with(Backend::DeferBarriers);
    mmu.lazy().enable().unwrap();
    assert!(mmu.lazy().state().opened_at().is_some());
    let error = mmu.lazy().exit().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("R39") && text.contains("close every level"),
        "{text}"
    );
    assert_eq!(mmu.lazy().state().owed(), Owed::empty());
    let effects = mmu.kernel().take_effects();
    assert_eq!(count(&effects, Effect::DsbIshst), 0);
    assert!(!effects.iter().any(is_maintenance));
}
