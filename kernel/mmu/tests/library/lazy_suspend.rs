// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaving all levels in order to sleep (R38), and which kernels may have which backend.

use lazymmu::{AddressSpace, Backend, LazyMmuError, Mmu, Owed, Prot};
use lazymmu_testkit::fake::interrupts::{Moment, at_moments};
use lazymmu_testkit::fake::{
    self, Choose, Effect, Fake, close, contiguous, enable_fast, leaves, map_page, new_kernel_space,
    new_mmu, new_mmu_with, part,
};
use std::cell::Cell;
use std::rc::Rc;

/// Depth, pauses, ranges.
fn place(mmu: &Mmu<Fake>) -> (u8, u8, usize) {
    let state = mmu.lazy().state();
    (
        state.enable_count(),
        state.pause_count(),
        state.fast_pte_ranges(),
    )
}

#[test]
fn s12_all_levels_are_left_and_come_back() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_kernel_space(&mmu);
        let lazy = mmu.lazy();
        lazy.enable().unwrap();
        enable_fast(&space, part(0, 8));
        lazy.enable().unwrap();
        enable_fast(&space, part(8, 8));
        map_page(&mut space, 3);
        assert_eq!(place(&mmu), (4, 0, 2), "{backend}");
        mmu.kernel().take_effects();
        let suspended = lazy.suspend_all();
        // R5: everything has taken effect, and the task is as one without sections.
        assert_eq!(place(&mmu), (0, 0, 0), "{backend}");
        assert_eq!(lazy.state().owed(), Owed::empty(), "{backend}");
        assert!(mmu.kernel().is_batch_empty(), "{backend}");
        let effects = mmu.kernel().take_effects();
        let pair = [Effect::DsbIshst, Effect::Isb];
        assert_eq!(effects.ends_with(&pair), backend != Backend::Eager);
        assert_eq!(lazy.might_sleep(), Ok(()), "{backend}");
        assert_eq!(lazy.switch_out(), Ok(()), "{backend}");
        mmu.kernel().take_effects();
        // Sections of the meantime are like any other.
        lazy.enable().unwrap();
        map_page(&mut space, 4);
        assert_eq!(
            lazy.state().owed().is_empty(),
            backend == Backend::Eager || backend == Backend::Multicall
        );
        lazy.disable().unwrap();
        assert_eq!(leaves(&mmu.kernel().take_effects()), 1, "{backend}");
        drop(suspended);
        assert_eq!(place(&mmu), (4, 0, 2), "{backend}");
        // The ranges are in force again, each at its level.
        let walks = mmu.kernel().counts().walks;
        map_page(&mut space, 5);
        map_page(&mut space, 9);
        assert_eq!(mmu.kernel().counts().walks, walks, "{backend}");
        lazy.disable().unwrap();
        assert_eq!(place(&mmu), (3, 0, 1), "{backend}");
        close(&mmu);
        fake::destroy(space);
    }
}

#[test]
fn s12_pauses_come_back_too() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_kernel_space(&mmu);
    let lazy = mmu.lazy();
    enable_fast(&space, part(0, 8));
    lazy.pause().unwrap();
    lazy.pause().unwrap();
    let counts = mmu.kernel().counts();
    let suspended = lazy.suspend_all();
    assert_eq!(place(&mmu), (0, 0, 0));
    // The mode may be enabled, which a pause alone would not allow.
    lazy.enable().unwrap();
    assert!(lazy.is_lazy_mmu_mode_active());
    lazy.disable().unwrap();
    drop(suspended);
    assert_eq!(place(&mmu), (1, 2, 1));
    let hooks = mmu.kernel().counts() - counts;
    assert_eq!(
        (hooks.enter, hooks.leave),
        (1, 1),
        "R9: paused before and after, so no hook but the section's own"
    );
    map_page(&mut space, 1);
    assert_eq!(leaves(&mmu.kernel().take_effects()), 1, "still paused");
    close(&mmu);
    fake::destroy(space);
}

#[test]
fn r9_hooks_of_a_suspension_come_in_pairs() {
    let mmu = new_mmu();
    let lazy = mmu.lazy();
    for levels in [0, 1, 3] {
        for _ in 0..levels {
            lazy.enable().unwrap();
        }
        let before = mmu.kernel().counts();
        drop(lazy.suspend_all());
        let hooks = mmu.kernel().counts() - before;
        let expected = u64::from(levels > 0);
        assert_eq!(
            (hooks.leave, hooks.enter, hooks.flush),
            (expected, expected, 0),
            "{levels}"
        );
        close(&mmu);
    }
    assert_eq!(mmu.kernel().take_effects(), []);
}

#[test]
fn r39_a_section_that_leaks_out_of_a_suspension_is_reported() {
    let mmu = new_mmu();
    let mut space = new_kernel_space(&mmu);
    let lazy = mmu.lazy();
    lazy.enable().unwrap();
    lazy.enable().unwrap();
    let suspended = lazy.suspend_all();
    enable_fast(&space, part(0, 8));
    map_page(&mut space, 1);
    mmu.kernel().take_effects();
    drop(suspended);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::Asymmetric]);
    let pair = [Effect::DsbIshst, Effect::Isb];
    assert_eq!(mmu.kernel().take_effects(), pair, "its writes take effect");
    assert_eq!(place(&mmu), (2, 0, 0), "its level and range are lost");
    close(&mmu);
    // The same for a pause.
    let suspended = lazy.suspend_all();
    lazy.pause().unwrap();
    drop(suspended);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::Asymmetric]);
    assert_eq!(place(&mmu), (0, 0, 0));
    fake::destroy(space);
}

#[test]
fn r3_r39_a_suspension_in_an_interrupt_does_nothing() {
    let mmu = new_mmu();
    let lazy = mmu.lazy();
    lazy.enable().unwrap();
    mmu.kernel().set_interrupt(true);
    let before = mmu.kernel().counts();
    drop(lazy.suspend_all());
    assert_eq!(mmu.kernel().counts(), before);
    assert_eq!(mmu.kernel().take_reports(), []);
    let from_interrupt = lazy.suspend_all();
    mmu.kernel().set_interrupt(false);
    drop(from_interrupt);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::Asymmetric]);
    assert_eq!(place(&mmu), (1, 0, 0));
    let from_task = lazy.suspend_all();
    mmu.kernel().set_interrupt(true);
    drop(from_task);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::Asymmetric]);
    mmu.kernel().set_interrupt(false);
    assert_eq!(place(&mmu), (0, 0, 0), "the levels cannot come back here");
}

#[test]
fn r38_who_may_sleep_in_a_section() {
    for (backend, allowed) in [
        (Backend::Eager, true),
        (Backend::DeferBarriers, true),
        (Backend::DeferStores, false),
        (Backend::BatchInvalidations, true),
        (Backend::Multicall, true),
    ] {
        let mmu = new_mmu_with(backend);
        let lazy = mmu.lazy();
        assert_eq!(backend.is_preemptible(), allowed, "{backend}");
        assert_eq!(lazy.might_sleep(), Ok(()));
        lazy.enable().unwrap();
        let in_section = if allowed {
            Ok(())
        } else {
            Err(LazyMmuError::NotPreemptible)
        };
        assert_eq!(lazy.might_sleep(), in_section, "{backend}");
        assert_eq!(lazy.switch_out(), in_section, "{backend}");
        lazy.pause().unwrap();
        assert_eq!(lazy.might_sleep(), Ok(()), "{backend}: nothing waits");
        lazy.resume().unwrap();
        lazy.enable().unwrap();
        lazy.disable().unwrap();
        assert_eq!(lazy.might_sleep(), in_section, "{backend}: one level left");
        let suspended = lazy.suspend_all();
        assert_eq!(lazy.might_sleep(), Ok(()), "{backend}");
        drop(suspended);
        close(&mmu);
    }
}

#[test]
fn a_backend_that_needs_a_batch_is_refused_without_one() {
    let mmu = new_mmu();
    mmu.kernel().withdraw_batch();
    for backend in fake::backends() {
        let before = mmu.backend();
        let chosen = mmu.choose_backend(backend);
        if backend.invalidates() {
            assert_eq!(chosen, Err(LazyMmuError::NoBatch), "{backend}");
            assert_eq!(mmu.backend(), before);
        } else {
            assert_eq!(chosen, Ok(()));
            assert_eq!(mmu.backend(), backend);
        }
    }
    let message = LazyMmuError::NoBatch.to_string();
    assert!(message.contains("Context::batch()"), "{message}");
    mmu.lazy().enable().unwrap();
    let refused = mmu.choose_backend(Backend::Eager);
    assert_eq!(refused, Err(LazyMmuError::InSection));
    mmu.lazy().disable().unwrap();
}

const WITH_BATCH: [Backend; 3] = [
    Backend::DeferStores,
    Backend::BatchInvalidations,
    Backend::Multicall,
];

/// Stores, changes and invalidations that wait, whatever the backend lets wait.
fn let_something_wait(space: &mut AddressSpace<'_, Fake>) {
    map_page(space, 3);
    space.protect(part(0, 2), Prot::KERNEL_RO).unwrap();
    map_page(space, 4);
    assert!(!space.mmu().kernel().is_batch_empty());
}

#[test]
fn r38_who_works_on_the_batch_keeps_the_cpu() {
    for backend in WITH_BATCH {
        let mmu = Rc::new(new_mmu_with(backend));
        let mut space = new_kernel_space(&mmu);
        space.map(part(0, 2), contiguous(1), Prot::KERNEL).unwrap();
        enable_fast(&space, part(0, 8));
        let_something_wait(&mut space);
        let visits = Rc::new(Cell::new(0));
        let seen = visits.clone();
        let visit = move |mmu: &Mmu<Fake>, moment| {
            let waits = !mmu.kernel().is_batch_empty();
            if moment == Moment::Store || moment == Moment::Counters && waits {
                seen.set(seen.get() + 1);
                let refused = Err(LazyMmuError::NotPreemptible);
                assert_eq!(mmu.lazy().might_sleep(), refused, "{backend}");
            }
        };
        at_moments(&mmu, visit, || mmu.lazy().drain());
        assert!(visits.get() > 0, "{backend}");
        close(&mmu);
        assert_eq!(mmu.lazy().might_sleep(), Ok(()), "{backend}");
        assert_eq!(mmu.lazy().switch_out(), Ok(()), "{backend}");
        fake::destroy(space);
    }
}

/// The mode is inactive already when a section's last hook runs (R10), and what waits is still there.
#[test]
fn r38_what_waits_keeps_the_task_until_it_is_drained() {
    let ends: [fn(&Mmu<Fake>); 2] = [
        |mmu| mmu.lazy().disable().unwrap(),
        |mmu| mmu.lazy().pause().unwrap(),
    ];
    for (backend, end) in WITH_BATCH
        .into_iter()
        .flat_map(|b| ends.map(|end| (b, end)))
    {
        let mmu = Rc::new(new_mmu_with(backend));
        let mut space = new_kernel_space(&mmu);
        space.map(part(0, 2), contiguous(1), Prot::KERNEL).unwrap();
        // With a range announced, its end is what drains.
        if backend == Backend::DeferStores {
            enable_fast(&space, part(0, 8));
        } else {
            mmu.lazy().enable().unwrap();
        }
        let_something_wait(&mut space);
        let visit = move |mmu: &Mmu<Fake>, _| {
            if !backend.is_preemptible() && !mmu.kernel().is_batch_empty() {
                assert!(mmu.lazy().might_sleep().is_err(), "{backend}");
            }
        };
        let drains = mmu.kernel().counts().drains;
        at_moments(&mmu, visit, || end(&mmu));
        assert!(mmu.kernel().is_batch_empty(), "{backend}");
        assert_eq!(mmu.kernel().counts().drains - drains, 1, "{backend}");
        assert_eq!(mmu.lazy().might_sleep(), Ok(()), "{backend}");
        close(&mmu);
        fake::destroy(space);
    }
}

#[test]
fn r22_a_section_of_the_meantime_ends_no_suspended_range() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let space = new_kernel_space(&mmu);
    let lazy = mmu.lazy();
    enable_fast(&space, part(0, 8));
    let suspended = lazy.suspend_all();
    enable_fast(&space, part(8, 8));
    assert_eq!(place(&mmu), (1, 0, 1));
    lazy.disable().unwrap();
    assert_eq!(place(&mmu), (0, 0, 0));
    drop(suspended);
    assert_eq!(place(&mmu), (1, 0, 1));
    close(&mmu);
    assert_eq!(place(&mmu), (0, 0, 0));
    fake::destroy(space);
}

/// Suspensions beyond the 255 that are counted end before these, and bring nothing back early.
#[test]
fn r8_suspensions_beyond_the_counter_are_suspensions_all_the_same() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let mut space = new_kernel_space(&mmu);
    map_page(&mut space, 0);
    enable_fast(&space, part(0, 16));
    assert_eq!(mmu.lazy().state().fast_pte_ranges(), 1);
    let mut suspended: Vec<_> = (0..300).map(|_| mmu.lazy().suspend_all()).collect();
    while let Some(last) = suspended.pop() {
        let left = suspended.len() + 1;
        assert_eq!(mmu.lazy().state().fast_pte_ranges(), 0, "{left} are left");
        let refused = mmu.choose_backend(Backend::Eager);
        assert_eq!(refused, Err(LazyMmuError::InSection), "{left} are left");
        drop(last);
    }
    assert_eq!(mmu.lazy().state().fast_pte_ranges(), 1);
    close(&mmu);
    fake::destroy(space);
}
