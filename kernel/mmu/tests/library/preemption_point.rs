// SPDX-License-Identifier: MIT OR Apache-2.0
//! When the kernel is told that the task may be preempted again: after each time in which a switch was refused, once,
//! and at no other time (R38). The fake fails if it is told in an interrupt.

use lazymmu::{AddressSpace, Backend, LazyMmuError, Mmu, Prot};
use lazymmu_testkit::fake::{
    self, BASE, Fake, close, contiguous, enable_fast, new_kernel_space, new_mmu_with, part, va,
};
use std::mem::forget;

/// Backends that let something wait, and their task go.
const PREEMPTIBLE: [Backend; 2] = [Backend::BatchInvalidations, Backend::Multicall];

/// A space whose pages 0 to 7 are mapped.
fn space(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    let mut space = new_kernel_space(mmu);
    space.map(part(0, 8), contiguous(1), Prot::KERNEL).unwrap();
    space
}

fn protect(space: &mut AddressSpace<'_, Fake>, page: u64) {
    space.protect(part(page, 1), Prot::KERNEL_RO).unwrap();
}

/// A way out of the section, and its name.
type End = (&'static str, fn(&Mmu<Fake>));

const ENDS: [End; 4] = [
    ("disable", |mmu| mmu.lazy().disable().unwrap()),
    ("pause", |mmu| mmu.lazy().pause().unwrap()),
    ("suspend", |mmu| forget(mmu.lazy().suspend_all())),
    ("exit", |mmu| assert!(mmu.lazy().exit().is_err())),
];

/// The task is bound until the section's end: what is executed before offers nothing, and the end does once, whether
/// something waited or not.
#[test]
fn r38_the_end_of_a_section_that_keeps_its_task_offers_the_cpu_once() {
    for (end, leave) in ENDS {
        for waits in [false, true] {
            let mmu = new_mmu_with(Backend::DeferStores);
            let mut space = space(&mmu);
            // The operation had a section of its own.
            assert_eq!(mmu.kernel().take_offers(), 1, "{end}");
            if waits {
                enable_fast(&space, part(0, 8));
                protect(&mut space, 0);
                // Read where it waits, executed by a nested end and by a flush.
                assert!(space.query(va(BASE)).is_some());
                mmu.lazy().enable().unwrap();
                mmu.lazy().disable().unwrap();
                protect(&mut space, 1);
                mmu.lazy().flush();
                protect(&mut space, 2);
            } else {
                mmu.lazy().enable().unwrap();
            }
            assert_eq!(mmu.kernel().take_offers(), 0, "{end}: still bound");
            leave(&mmu);
            assert_eq!(mmu.kernel().take_offers(), 1, "{end}");
            assert_eq!(mmu.lazy().might_sleep(), Ok(()), "{end}");
            close(&mmu);
            fake::destroy(space);
        }
    }
}

/// A preemption that came while the library was at work on the batch is made up for when it is not any more.
#[test]
fn r38_each_work_on_the_batch_ends_with_an_offer() {
    for backend in PREEMPTIBLE {
        let mmu = new_mmu_with(backend);
        let mut space = space(&mmu);
        mmu.lazy().enable().unwrap();
        assert_eq!(mmu.kernel().take_offers(), 0, "{backend}");
        protect(&mut space, 0);
        assert!(!mmu.kernel().is_batch_empty(), "{backend}");
        assert!(mmu.kernel().take_offers() > 0, "{backend}: taken on");
        mmu.lazy().flush();
        assert!(mmu.kernel().is_batch_empty(), "{backend}");
        assert_eq!(mmu.kernel().take_offers(), 1, "{backend}: executed");
        mmu.lazy().flush();
        mmu.lazy().disable().unwrap();
        assert_eq!(mmu.kernel().take_offers(), 0, "{backend}: nothing waits");
        fake::destroy(space);
    }
}

/// Who leaves the CPU is not asked to leave it: neither where the switch executes what waits nor where it is refused.
#[test]
fn r38_a_switch_offers_nothing() {
    for backend in fake::backends() {
        for interrupt in [false, true] {
            let mmu = new_mmu_with(backend);
            let mut space = space(&mmu);
            enable_fast(&space, part(0, 8));
            protect(&mut space, 0);
            let kernel = mmu.kernel();
            kernel.take_offers();
            kernel.set_interrupt(interrupt);
            let left = mmu.lazy().switch_out();
            kernel.set_interrupt(false);
            assert_eq!(left.is_ok(), backend.is_preemptible(), "{backend}");
            assert_eq!(kernel.take_offers(), 0, "{backend}");
            assert_eq!(mmu.lazy().might_sleep(), left, "{backend}: as before");
            mmu.lazy().disable().unwrap();
            fake::destroy(space);
        }
    }
}

/// R3, R12: what an interrupt writes and ends is over at once, and the interrupted task stays as bound as it was.
#[test]
fn r38_an_interrupt_offers_nothing() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = space(&mmu);
        enable_fast(&space, part(0, 8));
        protect(&mut space, 0);
        let kernel = mmu.kernel();
        kernel.take_offers();
        kernel.set_interrupt(true);
        mmu.lazy().enable().unwrap();
        protect(&mut space, 7);
        space.invalidate_range(part(7, 1)).unwrap();
        mmu.lazy().flush();
        mmu.lazy().drain();
        mmu.lazy().disable().unwrap();
        kernel.set_interrupt(false);
        assert_eq!(kernel.take_offers(), 0, "{backend}");
        let bound = mmu.lazy().might_sleep() == Err(LazyMmuError::NotPreemptible);
        assert_eq!(bound, !backend.is_preemptible(), "{backend}");
        mmu.lazy().disable().unwrap();
        fake::destroy(space);
    }
}

/// Where nothing is ever refused, nothing has to be made up for.
#[test]
fn r38_backends_without_a_batch_offer_nothing() {
    for backend in [Backend::Eager, Backend::DeferBarriers] {
        for (end, leave) in ENDS {
            let mmu = new_mmu_with(backend);
            let mut space = space(&mmu);
            enable_fast(&space, part(0, 8));
            protect(&mut space, 0);
            mmu.lazy().flush();
            leave(&mmu);
            assert_eq!(mmu.kernel().take_offers(), 0, "{backend}, {end}");
            close(&mmu);
            fake::destroy(space);
        }
    }
}
