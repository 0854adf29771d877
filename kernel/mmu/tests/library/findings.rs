// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mistakes that fuzz targets (`fuzz/`) and random programs have found, one test for each. The test
//! repeats the calls, and its comment says what was wrong.

use lazymmu::{
    AddressSpace, Backend, BarrierPolicy, Owed, PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind,
};
use lazymmu_testkit::fake::interrupts::{Moment, preempt_when};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Effect, Fake, USER, contiguous, count, frame, new_mmu, new_mmu_with,
    new_space, new_space_with_tables, pages, va, visible, with_ets2,
};
use std::rc::Rc;

/// Found by `operations`. The mistake was in the fake machine: it took the `ISB` that is still owed
/// for one that ends the invalidation, so its counts differed from the library's counters.
#[test]
fn r16_an_invalidation_of_one_asid_leaves_the_isb_of_new_tables_owed() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, USER);
    let range = pages(3 << 39, 1);
    let section = mmu.lazy().section().unwrap();
    space
        .apply_to_page_range(range, |entry| {
            entry.set(frame(1), Prot::USER)?;
            Ok::<(), SpaceError>(())
        })
        .unwrap();
    assert_eq!(mmu.lazy().state().owed(), Owed::all());
    space.invalidate_range(range).unwrap();
    assert_eq!(mmu.lazy().state().owed(), Owed::CONTEXT);
    mmu.kernel().take_effects();
    drop(section);
    assert_eq!(visible(mmu.kernel().take_effects()), [Effect::Isb]);
    mmu.kernel().check_counters();
    fake::destroy(space);
}

/// Found by random programs with preemption. The task set the mark that something waits and was
/// preempted before it queued anything. The switch found an empty batch and cleared the mark. The
/// task then queued a store, which no later drain executed.
#[test]
fn r23_what_begins_to_wait_is_not_forgotten_by_a_switch() {
    for moment in 0.. {
        let mmu = Rc::new(new_mmu_with(Backend::Multicall));
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        let page = |i| pages(BASE + i * PAGE_SIZE, 1);
        space.map(page(0), contiguous(1), Prot::KERNEL).unwrap();
        mmu.lazy().enable().unwrap();
        let mut left = moment;
        let is_it = move |_: &Fake, at| {
            let asks = at == Moment::Lazy;
            left -= i32::from(asks);
            asks && left < 0
        };
        let came = preempt_when(&mmu, is_it, |_| {});
        space.map(page(1), contiguous(2), Prot::KERNEL).unwrap();
        mmu.kernel().strike_no_more();
        mmu.lazy().disable().unwrap();
        assert!(mmu.kernel().is_batch_empty(), "moment {moment}");
        assert!(space.query(va(BASE + PAGE_SIZE)).is_some());
        if came.get().is_none() {
            assert!(moment > 3, "it has moments");
            break;
        }
    }
}

/// Found by random programs. The switch let its task owe an `ISB` even if its drain had executed
/// one.
#[test]
fn r16_a_drain_at_a_switch_leaves_what_its_stores_owe_and_no_more() {
    // What is written, the policy, and the ISBs that are left for the section's end: a make that the
    // switch completed, a make that owes nothing, and a change whose invalidation had its own.
    type Write = fn(&mut AddressSpace<'_, Fake>, PageRange);
    let make: Write = |space, page| space.map(page, contiguous(2), Prot::KERNEL).unwrap();
    let protect: Write = |space, page| space.protect(page, Prot::KERNEL_RO).unwrap();
    for (write, is_mapped, policy, left) in [
        (make, false, BarrierPolicy::Classic, 1),
        (make, false, BarrierPolicy::Ets2, 0),
        (protect, true, BarrierPolicy::Classic, 0),
        (protect, true, BarrierPolicy::Ets2, 0),
    ] {
        let mmu = new_mmu_with(Backend::Multicall);
        mmu.choose_features(with_ets2());
        mmu.set_policy(policy).unwrap();
        let page = pages(BASE, 1);
        let mut space = new_space_with_tables(&mmu, SpaceKind::Kernel, page);
        if is_mapped {
            space.map(page, contiguous(1), Prot::KERNEL).unwrap();
        }
        mmu.lazy().enable().unwrap();
        write(&mut space, page);
        mmu.lazy().switch_out().unwrap();
        assert!(mmu.kernel().is_batch_empty());
        mmu.kernel().take_effects();
        mmu.lazy().disable().unwrap();
        let effects = mmu.kernel().take_effects();
        assert_eq!(count(&effects, Effect::Isb), left, "{policy}: {effects:?}");
        assert_eq!(count(&effects, Effect::DsbIshst), 0, "R17, {policy}");
        fake::destroy(space);
    }
}
