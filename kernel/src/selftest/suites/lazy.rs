// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contract of lazy MMU mode: its counters, its hooks, and the calls that it refuses.
//!
//! Linux's KUnit case checks one predicate. It comes first here, followed by what it does not
//! check. Barriers are counted in the suite `lazy-counts`.

use lazymmu::{Backend, LazyMmuError, LazyMmuState, Owed};

use super::fixture::{counted, with};
use crate::mm::MMU;
use crate::selftest::prelude::*;

suite! {
    name: "lazy",
    order: 30,
    tests: [
        case!(QemuVisible, lazy_mmu_mode_active),
        case!(QemuVisible, r1_a_new_task_owes_nothing),
        case!(QemuVisible, r4_r5_hooks_of_nested_sections),
        case!(QemuVisible, r6_calls_are_ignored_while_paused),
        case!(QemuVisible, r7_pause_and_resume_at_any_depth),
        case!(QemuVisible, r7_pause_without_a_section),
        case!(QemuVisible, r8_overflow_and_underflow_are_refused),
        case!(QemuVisible, r8_overflow_of_pause_is_refused),
        case!(QemuVisible, r39_early_return_leaves_the_section),
        case!(QemuVisible, guards_nest_and_pause),
        case!(QemuVisible, the_backend_stays_inside_a_section),
    ],
}

/// The current task's `(enable_count, pause_count)`.
fn depths() -> (u8, u8) {
    let state = MMU.lazy().state();
    (state.enable_count(), state.pause_count())
}

fn active() -> bool {
    MMU.lazy().is_lazy_mmu_mode_active()
}

/// The eleven expectations of `mm/tests/lazy_mmu_mode_kunit.c`, in their order.
fn lazy_mmu_mode_active() -> TestResult {
    let lazy = MMU.lazy();
    expect!(!active());
    expect_ok!(lazy.enable());
    expect!(active());
    expect_ok!(lazy.enable());
    expect!(active());
    expect_ok!(lazy.disable());
    expect!(active());
    expect_ok!(lazy.pause());
    expect!(!active());
    expect_ok!(lazy.enable());
    expect!(!active());
    expect_ok!(lazy.disable());
    expect!(!active());
    expect_ok!(lazy.pause());
    expect!(!active());
    expect_ok!(lazy.resume());
    expect!(!active());
    expect_ok!(lazy.resume());
    expect!(active());
    expect_ok!(lazy.disable());
    expect!(!active());
    Ok(())
}

fn r1_a_new_task_owes_nothing() -> TestResult {
    let state = LazyMmuState::new().read();
    expect_eq!(
        (state.enable_count(), state.pause_count(), state.owed()),
        (0, 0, Owed::empty())
    );
    expect!(!state.is_active());
    Ok(())
}

/// The effect of one call: the depths after it, and how often each hook ran.
fn step(call: impl FnOnce() -> Result<(), LazyMmuError>) -> ((u8, u8), [u64; 3]) {
    let (_, spent) = counted(call);
    (depths(), [spent.enter, spent.flush, spent.leave])
}

fn r4_r5_hooks_of_nested_sections() -> TestResult {
    const NONE: [u64; 3] = [0, 0, 0];
    const ENTER: [u64; 3] = [1, 0, 0];
    const FLUSH: [u64; 3] = [0, 1, 0];
    const LEAVE: [u64; 3] = [0, 0, 1];
    let lazy = MMU.lazy();
    // This is the worked example of the patch series that defined the contract.
    expect_eq!(step(|| lazy.enable()), ((1, 0), ENTER));
    expect_eq!(step(|| lazy.enable()), ((2, 0), NONE));
    expect_eq!(step(|| lazy.pause()), ((2, 1), LEAVE));
    expect_eq!(step(|| lazy.enable()), ((2, 1), NONE));
    expect_eq!(step(|| lazy.disable()), ((2, 1), NONE));
    expect_eq!(step(|| lazy.resume()), ((2, 0), ENTER));
    expect_eq!(step(|| lazy.disable()), ((1, 0), FLUSH));
    expect_eq!(step(|| lazy.disable()), ((0, 0), LEAVE));
    Ok(())
}

fn r6_calls_are_ignored_while_paused() -> TestResult {
    let lazy = MMU.lazy();
    expect_ok!(lazy.enable());
    expect_ok!(lazy.pause());
    for _ in 0..300 {
        expect_ok!(lazy.enable());
    }
    expect_eq!(depths(), (1, 1));
    expect_ok!(lazy.resume());
    // The calls were ignored, not queued.
    expect_eq!(depths(), (1, 0));
    expect_ok!(lazy.disable());
    expect_eq!(depths(), (0, 0));
    Ok(())
}

fn r7_pause_and_resume_at_any_depth() -> TestResult {
    let lazy = MMU.lazy();
    for depth in [1_u8, 2, 7] {
        for _ in 0..depth {
            expect_ok!(lazy.enable());
        }
        expect_eq!(step(|| lazy.pause()), ((depth, 1), [0, 0, 1]));
        expect_eq!(step(|| lazy.pause()), ((depth, 2), [0, 0, 0]));
        expect_eq!(step(|| lazy.resume()), ((depth, 1), [0, 0, 0]));
        expect_eq!(step(|| lazy.resume()), ((depth, 0), [1, 0, 0]));
        for _ in 0..depth {
            expect_ok!(lazy.disable());
        }
    }
    Ok(())
}

fn r7_pause_without_a_section() -> TestResult {
    let lazy = MMU.lazy();
    expect_eq!(step(|| lazy.pause()), ((0, 1), [0, 0, 0]));
    expect_eq!(step(|| lazy.resume()), ((0, 0), [0, 0, 0]));
    Ok(())
}

fn r8_overflow_and_underflow_are_refused() -> TestResult {
    let lazy = MMU.lazy();
    expect_eq!(lazy.disable(), Err(LazyMmuError::EnableUnderflow));
    expect_eq!(lazy.resume(), Err(LazyMmuError::PauseUnderflow));
    expect_eq!(depths(), (0, 0));
    for _ in 0..255 {
        expect_ok!(lazy.enable());
    }
    expect_eq!(lazy.enable(), Err(LazyMmuError::EnableOverflow));
    expect_eq!(depths(), (255, 0));
    expect!(active());
    for _ in 0..255 {
        expect_ok!(lazy.disable());
    }
    expect_eq!(depths(), (0, 0));
    Ok(())
}

fn r8_overflow_of_pause_is_refused() -> TestResult {
    let lazy = MMU.lazy();
    for _ in 0..255 {
        expect_ok!(lazy.pause());
    }
    expect_eq!(lazy.pause(), Err(LazyMmuError::PauseOverflow));
    expect_eq!(depths(), (0, 255));
    for _ in 0..255 {
        expect_ok!(lazy.resume());
    }
    Ok(())
}

fn r39_early_return_leaves_the_section() -> TestResult {
    fn gives_up() -> Result<(), LazyMmuError> {
        let _section = MMU.lazy().section()?;
        let _nested = MMU.lazy().section()?;
        Err(LazyMmuError::InSection)
    }
    expect_err!(gives_up());
    expect_eq!(depths(), (0, 0));
    Ok(())
}

fn guards_nest_and_pause() -> TestResult {
    let lazy = MMU.lazy();
    let outer = expect_ok!(lazy.section());
    {
        let _inner = expect_ok!(lazy.section());
        expect_eq!(depths(), (2, 0));
        let _pause = expect_ok!(lazy.paused());
        expect_eq!(depths(), (2, 1));
        let _ignored = expect_ok!(lazy.section());
        expect_eq!(depths(), (2, 1));
    }
    expect_eq!(depths(), (1, 0));
    expect!(expect_ok!(lazy.section_unless_active()).is_none());
    drop(outer);
    expect_eq!(depths(), (0, 0));
    expect!(expect_ok!(lazy.section_unless_active()).is_some());
    Ok(())
}

fn the_backend_stays_inside_a_section() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let _section = expect_ok!(MMU.lazy().section());
    // SAFETY: the tasks of earlier tests have ended.
    let refused = unsafe { MMU.set_backend(Backend::Eager) };
    expect_eq!(refused, Err(LazyMmuError::InSection));
    expect_eq!(MMU.backend(), Backend::DeferBarriers);
    Ok(())
}
