// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guards close what they opened (R39), and the configuration refuses what cannot be.

use lazymmu::{
    Backend, BarrierPolicy, FastPteRange, Features, Kernel, LazyMmuError, LazyPause, LazySection,
    NoEts2, Owed, PendingInvalidation, Prot, SpaceError, SpaceKind,
};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, contiguous, frame, new_mmu, new_space, pages, with_ets2,
};

fn depths(mmu: &lazymmu::Mmu<fake::Fake>) -> (u8, u8) {
    let state = mmu.lazy().state();
    (state.enable_count(), state.pause_count())
}

#[test]
fn r39_sections_and_pauses_close_on_drop_and_nest() {
    let mmu = new_mmu();
    let lazy = mmu.lazy();
    {
        let _outer = lazy.section().unwrap();
        let inner = lazy.section().unwrap();
        assert_eq!(depths(&mmu), (2, 0));
        {
            let _pause = lazy.paused().unwrap();
            let _ignored = lazy.section().unwrap();
            assert_eq!(depths(&mmu), (2, 1));
        }
        assert_eq!(depths(&mmu), (2, 0));
        drop(inner);
        assert_eq!(depths(&mmu), (1, 0));
    }
    assert_eq!(depths(&mmu), (0, 0));
    let counts = mmu.kernel().counts();
    assert_eq!((counts.enter, counts.flush, counts.leave), (2, 1, 2));
}

#[test]
fn r39_an_early_return_closes_the_section() {
    let mmu = new_mmu();
    let fails = || {
        let _section = mmu.lazy().section()?;
        let _inner = mmu.lazy().section()?;
        mmu.lazy().resume()?;
        Ok::<(), LazyMmuError>(())
    };
    assert_eq!(fails(), Err(LazyMmuError::PauseUnderflow));
    assert_eq!(depths(&mmu), (0, 0));
}

#[test]
fn r39_a_callback_that_fails_leaves_the_section_and_pays() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let mut calls = 0;
    let error = space.apply_to_page_range(pages(BASE, 4), |entry| {
        calls += 1;
        entry.set(frame(calls), Prot::KERNEL)?;
        match calls {
            3 => Err(SpaceError::NotMapped { va: entry.va() }),
            _ => Ok(()),
        }
    });
    let va = fake::va(BASE + 2 * 4096);
    assert_eq!(error, Err(SpaceError::NotMapped { va }));
    assert_eq!(calls, 3);
    assert_eq!(depths(&mmu), (0, 0));
    assert_eq!(mmu.lazy().state().owed(), Owed::empty());
    let effects = mmu.kernel().take_effects();
    assert_eq!(fake::count(&effects, Effect::DsbIshst), 1);
    assert_eq!(fake::count(&effects, Effect::Isb), 1);
    fake::destroy(space);
}

#[test]
fn r39_a_section_dropped_on_the_other_side_of_a_pause_is_reported() {
    let mmu = new_mmu();
    let lazy = mmu.lazy();
    let section = lazy.section().unwrap();
    lazy.pause().unwrap();
    drop(section);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::Asymmetric]);
    assert_eq!(depths(&mmu), (1, 1), "the level cannot be closed here");
    let ignored = lazy.section().unwrap();
    lazy.resume().unwrap();
    drop(ignored);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::Asymmetric]);
    assert_eq!(depths(&mmu), (1, 0));
}

#[test]
fn r39_guards_dropped_in_another_interrupt_context_are_reported() {
    let mmu = new_mmu();
    let (lazy, kernel) = (mmu.lazy(), mmu.kernel());
    let section = lazy.section().unwrap();
    let pause = lazy.paused().unwrap();
    kernel.set_interrupt(true);
    drop(pause);
    drop(section);
    assert_eq!(kernel.take_reports(), [LazyMmuError::Asymmetric; 2]);
    let section = lazy.section().unwrap();
    let pause = lazy.paused().unwrap();
    kernel.set_interrupt(false);
    assert_eq!(depths(&mmu), (1, 1));
    drop(pause);
    lazy.resume().unwrap();
    drop(section);
    assert_eq!(kernel.take_reports(), [LazyMmuError::Asymmetric; 2]);
    assert_eq!(depths(&mmu), (1, 0));
}

#[test]
fn r8_a_guard_whose_level_somebody_else_closed_reports() {
    let mmu = new_mmu();
    let lazy = mmu.lazy();
    let section = lazy.section().unwrap();
    lazy.disable().unwrap();
    drop(section);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::EnableUnderflow]);
    let pause = lazy.paused().unwrap();
    lazy.resume().unwrap();
    drop(pause);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::PauseUnderflow]);
}

#[test]
fn r5_a_section_can_be_flushed_through_its_guard() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let section = mmu.lazy().section().unwrap();
    let mut fast = space.fast_pte_range(pages(BASE, 1)).unwrap();
    fast.set(0, frame(1), Prot::KERNEL).unwrap();
    mmu.kernel().take_effects();
    section.flush();
    assert_eq!(mmu.kernel().take_effects(), [Effect::DsbIshst, Effect::Isb]);
    section.flush();
    assert_eq!(mmu.kernel().take_effects(), []);
}

#[test]
fn the_backend_cannot_change_in_a_section() {
    let mmu = new_mmu();
    assert_eq!(mmu.backend(), Backend::DeferBarriers);
    let section = mmu.lazy().section().unwrap();
    assert_eq!(
        mmu.choose_backend(Backend::Eager),
        Err(LazyMmuError::InSection)
    );
    let pause = mmu.lazy().paused().unwrap();
    assert_eq!(
        mmu.choose_backend(Backend::Eager),
        Err(LazyMmuError::InSection)
    );
    assert_eq!(mmu.backend(), Backend::DeferBarriers);
    drop(pause);
    drop(section);
    for backend in fake::backends() {
        mmu.choose_backend(backend).unwrap();
        assert_eq!(mmu.backend(), backend);
    }
}

#[test]
fn r36_policy_ets2_needs_the_feature_on_every_cpu() {
    let mmu = new_mmu();
    assert_eq!(mmu.set_policy(BarrierPolicy::Ets2), Err(NoEts2));
    assert_eq!(mmu.policy(), BarrierPolicy::Classic);
    mmu.choose_features(with_ets2());
    assert_eq!(mmu.features(), with_ets2());
    mmu.set_policy(BarrierPolicy::Ets2).unwrap();
    assert_eq!(mmu.policy(), BarrierPolicy::Ets2);
    mmu.set_policy(BarrierPolicy::Classic).unwrap();
    assert_eq!(mmu.policy(), BarrierPolicy::Classic);
}

#[test]
fn r36_a_policy_that_the_cpus_do_not_allow_any_more_falls_back() {
    let mmu = new_mmu();
    mmu.choose_features(with_ets2());
    mmu.set_policy(BarrierPolicy::Ets2).unwrap();
    mmu.choose_features(with_ets2());
    assert_eq!(mmu.policy(), BarrierPolicy::Ets2);
    mmu.choose_features(Features::default());
    assert_eq!(mmu.policy(), BarrierPolicy::Classic);
}

/// Two candidates if `T` is `Send`, hence no answer; one if it is not.
trait AmbiguousIfSend<A> {
    fn is_not_send() {}
}
struct IsSend;
impl<T: ?Sized> AmbiguousIfSend<()> for T {}
impl<T: ?Sized + Send> AmbiguousIfSend<IsSend> for T {}

/// Compiles only if none of them is `Send`, for a kernel that is all that can be.
#[allow(dead_code)]
fn r11_what_belongs_to_a_task_does_not_leave_it<K: Kernel + Send + Sync + 'static>() {
    <LazySection<'static, K> as AmbiguousIfSend<_>>::is_not_send();
    <LazyPause<'static, K> as AmbiguousIfSend<_>>::is_not_send();
    <FastPteRange<'static, 'static, K> as AmbiguousIfSend<_>>::is_not_send();
    <PendingInvalidation<'static, K> as AmbiguousIfSend<_>>::is_not_send();
}

#[test]
fn r5_a_callers_section_pays_once_for_all_its_calls() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let section = mmu.lazy().section().unwrap();
    for i in 0..100 {
        let page = pages(BASE + i * 4096, 1);
        space.map(page, contiguous(i), Prot::KERNEL).unwrap();
    }
    let effects = mmu.kernel().take_effects();
    assert_eq!(fake::count(&effects, Effect::DsbIshst), 0);
    assert_eq!(fake::count(&effects, Effect::Isb), 0);
    assert_eq!(mmu.lazy().state().owed(), Owed::all());
    drop(section);
    assert_eq!(mmu.kernel().take_effects(), [Effect::DsbIshst, Effect::Isb]);
    let counts = mmu.kernel().counts();
    assert_eq!((counts.dsb_saved(), counts.isb_saved()), (102, 102));
    fake::destroy(space);
}

#[test]
fn the_backend_cannot_change_while_paused_or_suspended() {
    let mmu = new_mmu();
    let refused = Err(LazyMmuError::InSection);
    let pause = mmu.lazy().paused().unwrap();
    assert_eq!(mmu.choose_backend(Backend::Eager), refused);
    drop(pause);
    let section = mmu.lazy().section().unwrap();
    let suspended = mmu.lazy().suspend_all();
    assert_eq!(mmu.lazy().state().enable_count(), 0);
    assert_eq!(mmu.choose_backend(Backend::Eager), refused);
    drop(suspended);
    drop(section);
    assert_eq!(mmu.choose_backend(Backend::Eager), Ok(()));
}
