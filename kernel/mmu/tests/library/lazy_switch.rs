// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a context switch does for the task that leaves, and for no other task (R11, R17, R38).

use lazymmu::{Backend, LazyMmuError, Mmu, Owed, PAGE_SIZE, Prot};
use lazymmu_testkit::fake::interrupts::{Moment, at_moments};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, Fake, contiguous, enable_fast, is_maintenance, map_page,
    new_kernel_space, new_mmu_with, part,
};
use std::cell::Cell;
use std::rc::Rc;

const REFUSED: Result<(), LazyMmuError> = Err(LazyMmuError::NotPreemptible);

fn maintenance(mmu: &Mmu<Fake>) -> Vec<Effect> {
    let mut effects = mmu.kernel().take_effects();
    effects.retain(is_maintenance);
    effects
}

/// How often the library asks its kernel for something during a switch: for the state, for the counters, and to
/// execute the barrier. That is the short way.
const SHORT: u32 = 3;

/// How often it does.
fn asks(mmu: &Rc<Mmu<Fake>>, expected: Result<(), LazyMmuError>) -> u32 {
    let asked = Rc::new(Cell::new(0));
    let seen = asked.clone();
    at_moments(
        mmu,
        move |_, _| seen.set(seen.get() + 1),
        || assert_eq!(mmu.lazy().switch_out(), expected),
    );
    asked.get()
}

/// Outside of any section, and in one that lets its task go: the barrier, counted once, and not even a look
/// at what there could be.
#[test]
fn r17_a_task_with_nothing_owed_pays_the_barrier_of_the_switch() {
    for backend in fake::backends() {
        for sections in 0..3 {
            let mmu = Rc::new(new_mmu_with(backend));
            for _ in 0..sections {
                mmu.lazy().enable().unwrap();
            }
            let refused = sections > 0 && !backend.is_preemptible();
            let before = mmu.kernel().counts();
            let asked = asks(&mmu, if refused { REFUSED } else { Ok(()) });
            let executed = mmu.kernel().take_effects();
            if refused {
                assert_eq!(executed, [], "{backend}");
            } else {
                assert_eq!(executed, [Effect::DsbIsh], "{backend}, {sections}");
                let counts = mmu.kernel().counts() - before;
                assert_eq!((counts.dsb_ish, counts.dsb_paid), (1, 0), "{backend}");
                assert_eq!(asked, SHORT, "{backend}");
            }
        }
    }
}

/// R16, R17: of the pair, the switch has executed the first half.
#[test]
fn r17_a_store_that_a_switch_completed_owes_the_isb_alone() {
    for backend in fake::backends().filter(|b| *b != Backend::Eager) {
        let mmu = Rc::new(new_mmu_with(backend));
        let mut space = new_kernel_space(&mmu);
        mmu.lazy().enable().unwrap();
        map_page(&mut space, 1);
        if !backend.is_preemptible() {
            assert_eq!(mmu.lazy().switch_out(), REFUSED, "{backend}");
            mmu.lazy().disable().unwrap();
            continue;
        }
        for is_short in [false, true, true] {
            assert_eq!(asks(&mmu, Ok(())) == SHORT, is_short, "{backend}");
            assert_eq!(mmu.lazy().state().owed(), Owed::CONTEXT, "{backend}");
        }
        maintenance(&mmu);
        mmu.lazy().disable().unwrap();
        assert_eq!(maintenance(&mmu), [Effect::Isb], "{backend}");
        // And one more store owes both again.
        mmu.lazy().enable().unwrap();
        map_page(&mut space, 2);
        mmu.lazy().switch_out().unwrap();
        map_page(&mut space, 3);
        maintenance(&mmu);
        mmu.lazy().disable().unwrap();
        assert_eq!(maintenance(&mmu), [Effect::DsbIshst, Effect::Isb]);
        fake::destroy(space);
    }
}

/// A way into a section, or to one that is active again.
type Way = (&'static str, fn(&Mmu<Fake>));

/// From the enter hook to the leave hook the task keeps its CPU, whatever runs the hooks.
#[test]
fn r38_each_way_in_binds_the_task_and_each_way_out_lets_it_go() {
    let out: [Way; 4] = [
        ("disable", |mmu| mmu.lazy().disable().unwrap()),
        ("pause", |mmu| mmu.lazy().pause().unwrap()),
        ("suspend", |mmu| std::mem::forget(mmu.lazy().suspend_all())),
        ("exit", |mmu| assert!(mmu.lazy().exit().is_err())),
    ];
    for (name, leave) in out {
        let mmu = new_mmu_with(Backend::DeferStores);
        assert_eq!(mmu.lazy().might_sleep(), Ok(()));
        mmu.lazy().enable().unwrap();
        assert_eq!(mmu.lazy().might_sleep(), REFUSED, "{name}");
        leave(&mmu);
        assert_eq!(mmu.lazy().might_sleep(), Ok(()), "{name}");
        assert_eq!(mmu.lazy().switch_out(), Ok(()), "{name}");
    }
    let mmu = new_mmu_with(Backend::DeferStores);
    let lazy = mmu.lazy();
    let section = lazy.section().unwrap();
    let paused = lazy.paused().unwrap();
    let nested = lazy.paused().unwrap();
    drop(nested);
    assert_eq!(lazy.might_sleep(), Ok(()), "one pause is left");
    drop(paused);
    assert_eq!(lazy.might_sleep(), REFUSED, "resumed");
    let suspended = lazy.suspend_all();
    drop(lazy.section().unwrap());
    assert_eq!(lazy.might_sleep(), Ok(()), "suspended");
    drop(suspended);
    assert_eq!(lazy.might_sleep(), REFUSED, "back again");
    drop(section);
    assert_eq!(lazy.might_sleep(), Ok(()));
}

/// The strategy may change on another CPU while a task is in a section. What the task found when it entered
/// holds until it leaves, and what waits is executed at a switch whoever let it wait.
#[test]
fn r38_a_section_stays_what_it_was_when_it_was_entered() {
    for from in fake::backends() {
        for to in fake::backends() {
            let mmu = new_mmu_with(from);
            let mut space = new_kernel_space(&mmu);
            space.map(part(8, 2), contiguous(8), Prot::KERNEL).unwrap();
            let kernel = mmu.kernel();
            enable_fast(&space, part(0, 16));
            kernel.go_to(1);
            mmu.choose_backend(to).unwrap();
            kernel.go_to(0);
            map_page(&mut space, 1);
            space.protect(part(8, 1), Prot::KERNEL_RO).unwrap();
            let left = mmu.lazy().switch_out();
            assert_eq!(left.is_ok(), from.is_preemptible(), "{from} to {to}");
            if left.is_ok() {
                assert!(kernel.is_batch_empty(), "{from} to {to}");
            }
            mmu.lazy().disable().unwrap();
            assert_eq!(mmu.lazy().switch_out(), Ok(()), "{from} to {to}");
            assert!(kernel.is_batch_empty(), "{from} to {to}");
            assert_eq!(mmu.lazy().state().owed(), Owed::empty());
            assert!(space.query(fake::va(BASE + PAGE_SIZE)).is_some());
            fake::destroy(space);
        }
    }
}

/// R12: an interrupt that does not switch leaves everything as it is; one that does speaks for the task.
#[test]
fn r11_r12_a_switch_at_the_end_of_an_interrupt_is_the_task_s() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_kernel_space(&mmu);
        map_page(&mut space, 8);
        enable_fast(&space, part(0, 16));
        map_page(&mut space, 1);
        space.protect(part(8, 1), Prot::KERNEL_RO).unwrap();
        let kernel = mmu.kernel();
        kernel.set_interrupt(true);
        assert_eq!(
            mmu.lazy().might_sleep().is_err(),
            !backend.is_preemptible(),
            "{backend}"
        );
        let left = mmu.lazy().switch_out();
        kernel.set_interrupt(false);
        let state = mmu.lazy().state();
        assert_eq!((state.enable_count(), state.fast_pte_ranges()), (1, 1));
        assert_eq!(left.is_ok(), backend.is_preemptible(), "{backend}");
        if left.is_ok() {
            assert!(
                kernel.is_batch_empty() && kernel.all_invalidated(),
                "{backend}"
            );
            assert!(!state.owed().contains(Owed::STORES), "{backend}");
            // What comes in between finds a CPU without anything on it, and leaves it so.
            kernel.switch_to(1);
            let before = format!("{:?}", mmu.lazy());
            let section = mmu.lazy().section().unwrap();
            map_page(&mut space, 3);
            drop(section);
            assert_eq!(format!("{:?}", mmu.lazy()), before);
            kernel.switch_to(0);
        }
        mmu.lazy().disable().unwrap();
        assert!(
            kernel.is_batch_empty() && kernel.all_invalidated(),
            "{backend}"
        );
        fake::destroy(space);
    }
}

/// No moment inside the library is one at which the CPU's batch could pass on to the next task.
#[test]
fn r11_whoever_gets_the_cpu_finds_its_batch_empty() {
    for backend in fake::backends() {
        let mmu = Rc::new(new_mmu_with(backend));
        let mut space = new_kernel_space(&mmu);
        space.map(part(8, 8), contiguous(8), Prot::KERNEL).unwrap();
        let (left, stayed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (seen_left, seen_stayed) = (left.clone(), stayed.clone());
        let inside = Cell::new(false);
        let switch = move |mmu: &Mmu<Fake>, _: Moment| {
            if inside.replace(true) {
                return;
            }
            match mmu.lazy().switch_out() {
                Ok(()) => {
                    assert!(mmu.kernel().is_batch_empty(), "{backend}");
                    mmu.kernel().was_preempted();
                    seen_left.set(seen_left.get() + 1);
                }
                Err(_) => seen_stayed.set(seen_stayed.get() + 1),
            }
            inside.set(false);
        };
        at_moments(&mmu, switch, || {
            enable_fast(&space, part(0, 16));
            map_page(&mut space, 1);
            space.protect(part(8, 2), Prot::KERNEL_RO).unwrap();
            space.unmap(part(9, 2)).unwrap();
            mmu.lazy().disable().unwrap();
        });
        assert!(left.get() > 0, "{backend}");
        assert_eq!(stayed.get() > 0, backend.invalidates(), "{backend}");
        fake::destroy(space);
    }
}
