// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contract of lazy MMU mode, R1-R12 and R16: counters, hooks, debts.

use lazymmu::{Backend, Context, LazyMmuError, Mmu, Owed, Prot, PteRef, SpaceError, SpaceKind};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, Fake, contiguous, frame, new_mmu, new_space, pages,
};

/// Runs `f` with an entry to write to, outside any section: the one that the entry comes
/// with is left first and opened again afterwards.
fn with_entry(mmu: &Mmu<Fake>, mut f: impl FnMut(&mut PteRef<'_, Fake>)) {
    let mut space = new_space(mmu, SpaceKind::Kernel);
    space
        .apply_to_page_range(pages(BASE, 1), |entry| {
            let lazy = mmu.lazy();
            assert_eq!(lazy.disable(), Ok(()));
            mmu.kernel().take_effects();
            f(entry);
            assert_eq!(lazy.enable(), Ok(()));
            Ok::<(), SpaceError>(())
        })
        .unwrap();
}

/// A write that R14 lists; the same each time, so that no break is needed.
fn owing_write(entry: &mut PteRef<'_, Fake>) {
    entry.set(frame(7), Prot::KERNEL).unwrap();
}

#[test]
fn r1_a_new_task_is_outside_any_section_and_owes_nothing() {
    let mmu = new_mmu();
    let state = mmu.lazy().state();
    assert_eq!((state.enable_count(), state.pause_count()), (0, 0));
    assert_eq!(state.owed(), Owed::empty());
    assert!(!mmu.lazy().is_lazy_mmu_mode_active());
}

/// Linux's one KUnit case, `lazy_mmu_mode_active`, with its eleven expectations.
#[test]
fn r2_linux_kunit_case_lazy_mmu_mode_active() {
    let mmu = new_mmu();
    let lazy = mmu.lazy();
    let expect = |active| assert_eq!(lazy.is_lazy_mmu_mode_active(), active);
    expect(false);
    lazy.enable().unwrap();
    expect(true);
    lazy.enable().unwrap();
    expect(true);
    lazy.disable().unwrap();
    expect(true);
    lazy.pause().unwrap();
    expect(false);
    lazy.enable().unwrap();
    expect(false);
    lazy.disable().unwrap();
    expect(false);
    lazy.pause().unwrap();
    expect(false);
    lazy.resume().unwrap();
    expect(false);
    lazy.resume().unwrap();
    expect(true);
    lazy.disable().unwrap();
    expect(false);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Enable,
    Disable,
    Pause,
    Resume,
    Flush,
    ToggleInterrupt,
    Write,
}

const CALLS: [Call; 7] = [
    Call::Enable,
    Call::Disable,
    Call::Pause,
    Call::Resume,
    Call::Flush,
    Call::ToggleInterrupt,
    Call::Write,
];

/// The contract once more, written from the truth table and from nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Oracle {
    enabled: u32,
    paused: u32,
    interrupt: bool,
    owes: bool,
    hooks: [u64; 3],
}

const ENTER: usize = 0;
const FLUSH: usize = 1;
const LEAVE: usize = 2;

impl Oracle {
    fn active(&self) -> bool {
        !self.interrupt && self.enabled > 0 && self.paused == 0
    }

    /// Counts the hook; whether it executes a pair.
    fn hook(&mut self, which: usize) -> bool {
        self.hooks[which] += 1;
        which != ENTER && std::mem::take(&mut self.owes)
    }

    /// The verdict of the call, and whether it executes the pair.
    fn call(&mut self, call: Call, backend: Backend) -> (Result<(), LazyMmuError>, bool) {
        let mut pair = false;
        let mut verdict = Ok(());
        match call {
            Call::ToggleInterrupt => self.interrupt = !self.interrupt,
            Call::Write if backend == Backend::Eager || !self.active() => pair = true,
            Call::Write => self.owes = true,
            _ if self.interrupt => {}
            Call::Flush => pair = self.hook(FLUSH),
            Call::Enable | Call::Disable if self.paused > 0 => {}
            Call::Enable => {
                self.enabled += 1;
                if self.enabled == 1 {
                    pair = self.hook(ENTER);
                }
            }
            Call::Disable if self.enabled == 0 => verdict = Err(LazyMmuError::EnableUnderflow),
            Call::Disable => {
                self.enabled -= 1;
                pair = self.hook(if self.enabled == 0 { LEAVE } else { FLUSH });
            }
            Call::Pause => {
                self.paused += 1;
                if self.paused == 1 && self.enabled > 0 {
                    pair = self.hook(LEAVE);
                }
            }
            Call::Resume if self.paused == 0 => verdict = Err(LazyMmuError::PauseUnderflow),
            Call::Resume => {
                self.paused -= 1;
                if self.paused == 0 && self.enabled > 0 {
                    pair = self.hook(ENTER);
                }
            }
        }
        (verdict, pair)
    }
}

/// Every sequence of `length` calls. Each prefix is checked on the way.
fn truth_table(backend: Backend, length: u32) {
    // 343 sequences instead of 823 543: Miri looks at the accesses, not at the contract.
    let length = if cfg!(miri) { 3 } else { length };
    let mmu = new_mmu();
    mmu.choose_backend(backend).unwrap();
    let kernel = mmu.kernel();
    let lazy = mmu.lazy();
    with_entry(&mmu, |entry| {
        for number in 0..CALLS.len().pow(length) {
            let mut oracle = Oracle::default();
            let start = kernel.counts();
            let mut digits = number;
            for _ in 0..length {
                let call = CALLS[digits % CALLS.len()];
                digits /= CALLS.len();
                let verdict = match call {
                    Call::Enable => lazy.enable(),
                    Call::Disable => lazy.disable(),
                    Call::Pause => lazy.pause(),
                    Call::Resume => lazy.resume(),
                    Call::Flush => {
                        lazy.flush();
                        Ok(())
                    }
                    Call::ToggleInterrupt => {
                        kernel.set_interrupt(!kernel.in_interrupt());
                        Ok(())
                    }
                    Call::Write => {
                        owing_write(entry);
                        Ok(())
                    }
                };
                let (expected, pair) = oracle.call(call, backend);
                let mut effects = kernel.take_effects();
                if call == Call::Write {
                    assert!(fake::is_leaf(&effects.remove(0)));
                }
                let expected_effects: &[Effect] = match pair {
                    true => &[Effect::DsbIshst, Effect::Isb],
                    false => &[],
                };
                let state = lazy.state();
                let counts = kernel.counts() - start;
                let seen = Oracle {
                    enabled: state.enable_count().into(),
                    paused: state.pause_count().into(),
                    interrupt: kernel.in_interrupt(),
                    owes: state.owed() == Owed::all(),
                    hooks: [counts.enter, counts.flush, counts.leave],
                };
                let place = || format!("sequence {number}, at {call:?}");
                assert_eq!(verdict, expected, "{}", place());
                assert_eq!(seen, oracle, "{}", place());
                assert_eq!(effects, expected_effects, "{}", place());
                assert!(state.owed().is_empty() || state.owed() == Owed::all());
                assert_eq!(
                    lazy.is_lazy_mmu_mode_active(),
                    oracle.active(),
                    "{}",
                    place()
                );
            }
            kernel.set_interrupt(false);
            while lazy.resume().is_ok() {}
            while lazy.disable().is_ok() {}
            kernel.take_effects();
        }
    });
}

#[test]
fn r3_to_r7_r9_r16_truth_table_of_all_sequences_deferring() {
    truth_table(Backend::DeferBarriers, 7);
}

#[test]
fn r3_to_r7_r9_truth_table_of_all_sequences_eager() {
    truth_table(Backend::Eager, 6);
}

#[test]
fn r8_counters_refuse_to_wrap_and_change_nothing() {
    let mmu = new_mmu();
    let lazy = mmu.lazy();
    let counts = || {
        let state = lazy.state();
        (state.enable_count(), state.pause_count())
    };
    assert_eq!(lazy.disable(), Err(LazyMmuError::EnableUnderflow));
    assert_eq!(lazy.resume(), Err(LazyMmuError::PauseUnderflow));
    assert_eq!(counts(), (0, 0));
    for _ in 0..255 {
        lazy.enable().unwrap();
    }
    assert_eq!(lazy.enable(), Err(LazyMmuError::EnableOverflow));
    assert_eq!(lazy.section().unwrap_err(), LazyMmuError::EnableOverflow);
    assert_eq!(counts(), (255, 0));
    for _ in 0..255 {
        lazy.pause().unwrap();
    }
    assert_eq!(lazy.pause(), Err(LazyMmuError::PauseOverflow));
    assert_eq!(lazy.paused().unwrap_err(), LazyMmuError::PauseOverflow);
    assert_eq!(lazy.enable(), Ok(()), "ignored while paused, not refused");
    assert_eq!(counts(), (255, 255));
    let counted = mmu.kernel().counts();
    assert_eq!((counted.enter, counted.flush, counted.leave), (1, 0, 1));
    assert!(mmu.kernel().take_effects().is_empty());
}

#[test]
fn r8_a_request_that_needs_a_level_of_its_own_is_refused_at_depth_255() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    for _ in 0..255 {
        mmu.lazy().enable().unwrap();
    }
    let error = fake::refused(&mmu, || space.fast_pte_range(pages(BASE, 1)).map(|_| ()));
    assert_eq!(error, SpaceError::Lazy(LazyMmuError::EnableOverflow));
    // A request that joins the section needs no level.
    space
        .map(pages(BASE, 1), contiguous(1), Prot::KERNEL)
        .unwrap();
    assert_eq!(mmu.lazy().state().enable_count(), 255);
}

#[test]
fn r3_r12_an_interrupt_neither_flushes_nor_changes_the_task() {
    let mmu = new_mmu();
    let kernel = mmu.kernel();
    with_entry(&mmu, |entry| {
        let lazy = mmu.lazy();
        lazy.enable().unwrap();
        lazy.enable().unwrap();
        owing_write(entry);
        kernel.take_effects();
        let before = (mmu.lazy().state(), kernel.counts());
        kernel.set_interrupt(true);
        assert!(!lazy.is_lazy_mmu_mode_active());
        lazy.enable().unwrap();
        lazy.disable().unwrap();
        lazy.pause().unwrap();
        lazy.resume().unwrap();
        lazy.disable().unwrap();
        lazy.flush();
        drop(lazy.section().unwrap());
        drop(lazy.paused().unwrap());
        assert_eq!(kernel.take_effects(), []);
        assert_eq!((mmu.lazy().state(), kernel.counts()), before);
        owing_write(entry);
        assert_eq!(kernel.take_effects()[1..], [Effect::DsbIshst, Effect::Isb]);
        assert_eq!(lazy.state().owed(), Owed::all(), "the task's debt stays");
        kernel.set_interrupt(false);
        lazy.disable().unwrap();
        assert_eq!(kernel.take_effects(), [Effect::DsbIshst, Effect::Isb]);
        lazy.disable().unwrap();
        assert_eq!(kernel.take_effects(), []);
    });
}

#[test]
fn r10_the_counters_have_moved_when_a_hook_pays() {
    let mmu = new_mmu();
    let kernel = mmu.kernel();
    with_entry(&mmu, |entry| {
        let lazy = mmu.lazy();
        let depth_at_pair = |call: &dyn Fn() -> Result<(), LazyMmuError>| {
            call().unwrap();
            kernel.depth_at_last_dsb()
        };
        lazy.enable().unwrap();
        lazy.enable().unwrap();
        owing_write(entry);
        assert_eq!(
            depth_at_pair(&|| lazy.disable()),
            (1, 0),
            "still active in a flush"
        );
        owing_write(entry);
        assert_eq!(depth_at_pair(&|| lazy.pause()), (1, 1));
        lazy.resume().unwrap();
        owing_write(entry);
        assert_eq!(
            depth_at_pair(&|| lazy.disable()),
            (0, 0),
            "inactive in the last leave"
        );
    });
}

#[test]
fn r11_r17_the_state_and_the_debt_travel_with_the_task() {
    let mmu = new_mmu();
    let kernel = mmu.kernel();
    with_entry(&mmu, |entry| {
        let lazy = mmu.lazy();
        lazy.enable().unwrap();
        owing_write(entry);
        kernel.take_effects();
        kernel.switch_to(1);
        assert!(!lazy.is_lazy_mmu_mode_active());
        assert_eq!(lazy.state().owed(), Owed::empty());
        lazy.enable().unwrap();
        lazy.flush();
        lazy.disable().unwrap();
        assert_eq!(kernel.take_effects(), [], "the other task pays nothing");
        owing_write(entry);
        assert_eq!(kernel.take_effects()[1..], [Effect::DsbIshst, Effect::Isb]);
        kernel.switch_to(0);
        assert_eq!(lazy.state().owed(), Owed::all());
        assert_eq!(lazy.state().enable_count(), 1);
        lazy.disable().unwrap();
        assert_eq!(kernel.take_effects(), [Effect::DsbIshst, Effect::Isb]);
    });
}

/// Short ways that the interrupted task has prepared are not the interrupt's.
#[test]
fn r12_an_interrupt_s_entries_are_not_owed_by_the_task() {
    let mmu = new_mmu();
    let kernel = mmu.kernel();
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let page = |i: u64| pages(BASE + i * lazymmu::PAGE_SIZE, 1);
    mmu.lazy().enable().unwrap();
    for i in 0..2 {
        space.map(page(i), contiguous(i), Prot::KERNEL).unwrap();
    }
    assert_eq!(mmu.lazy().state().owed(), Owed::all());
    kernel.take_effects();
    kernel.set_interrupt(true);
    let pairs = || {
        let effects = kernel.take_effects();
        effects
            .windows(2)
            .filter(|two| *two == [Effect::DsbIshst, Effect::Isb])
            .count()
    };
    space.map(page(2), contiguous(2), Prot::KERNEL).unwrap();
    assert_eq!(pairs(), 1, "a page");
    space
        .apply_to_page_range(page(3), |entry| entry.set(frame(3), Prot::KERNEL))
        .unwrap();
    assert_eq!(pairs(), 1, "a callback's entry");
    let mut fast = space.fast_pte_range(page(4)).unwrap();
    fast.set(0, frame(4), Prot::KERNEL).unwrap();
    drop(fast);
    assert_eq!(pairs(), 1, "an entry");
    assert_eq!(mmu.lazy().state().owed(), Owed::all());
    kernel.set_interrupt(false);
    mmu.lazy().disable().unwrap();
    fake::destroy(space);
}
