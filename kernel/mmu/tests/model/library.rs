// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library on the machine model: what an access may see, before and after.
//!
//! Each test names the rule whose two sides it shows: what the contract promises is the only
//! outcome, and what it does not promise can really go wrong.

use Kind::{Read, Write};
use lazymmu::{Backend, Mmu, Owed, PAGE_SIZE, Prot, SpaceError};
use lazymmu_testkit::model::world::{
    KERNEL, Setup, USER, access, backing, faults, frame, kernel_space, no_hazards, only, page,
    pages, tell, user_space,
};
use lazymmu_testkit::model::{self, Hazard, Kind, Outcomes, Plan, Saboteur, Switch};

const DEFER: Backend = Backend::DeferBarriers;

fn classic() -> Mmu<Saboteur> {
    Setup::classic(DEFER).build(Plan::Nothing)
}

fn good<T>(result: Result<T, SpaceError>) -> T {
    result.expect("the test asks for nothing that is refused")
}

fn must(result: Result<(), String>) {
    if let Err(what) = result {
        panic!("{what}");
    }
}

/// Both are possible: the new translation, and a fault as if it were not there yet.
fn may_come_late(out: Outcomes, n: u64) -> bool {
    out.contains(page(n, Prot::KERNEL)) && out.may_fault()
}

#[test]
fn r19_a_page_mapped_in_a_section_may_fault_until_its_end() {
    let mmu = classic();
    let (mut space, _) = kernel_space(&mmu);
    let section = mmu.lazy().section().unwrap();
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    assert!(may_come_late(access(&mmu, 0, KERNEL, Read), 5), "row M1");
    drop(section);
    must(only(&mmu, 0, KERNEL, Read, page(5, Prot::KERNEL)));
}

/// Each of them pays: nested end, pause, flush.
#[test]
fn r5_whatever_makes_a_section_take_effect_does() {
    let ends: [fn(&Mmu<Saboteur>); 3] = [
        |mmu| mmu.lazy().disable().unwrap(),
        |mmu| mmu.lazy().pause().unwrap(),
        |mmu| mmu.lazy().flush(),
    ];
    for end in ends {
        let mmu = classic();
        let (mut space, _) = kernel_space(&mmu);
        mmu.lazy().enable().unwrap();
        mmu.lazy().enable().unwrap();
        good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
        assert!(may_come_late(access(&mmu, 0, KERNEL, Read), 5));
        end(&mmu);
        must(only(&mmu, 0, KERNEL, Read, page(5, Prot::KERNEL)));
    }
}

/// R36: with ETS2 the section owes nothing, and nothing can fault, on this CPU at once and on
/// another that merely acquires. An executable page is another matter (R35).
#[test]
fn r36_ets2_needs_no_barrier_for_data() {
    let mmu = Setup::ets2(DEFER).build(Plan::Nothing);
    let sim = &mmu.kernel().sim;
    let (mut space, _) = kernel_space(&mmu);
    let section = mmu.lazy().section().unwrap();
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    assert_eq!(mmu.lazy().state().owed(), Owed::empty());
    must(only(&mmu, 0, KERNEL, Read, page(5, Prot::KERNEL)));
    assert!(
        may_come_late(access(&mmu, 1, KERNEL, Read), 5),
        "nobody told"
    );
    sim.acquire(1, &sim.release(0));
    must(only(&mmu, 1, KERNEL, Read, page(5, Prot::KERNEL)));
    let text = KERNEL + PAGE_SIZE;
    good(space.map(pages(text, 1), backing(6), Prot::KERNEL_ROX));
    assert!(access(&mmu, 0, text, Kind::Fetch).may_fault());
    drop(section);
    must(only(&mmu, 0, text, Kind::Fetch, page(6, Prot::KERNEL_ROX)));
}

/// R16, R26: an invalidation of a user's range completes the stores that a section owes barriers
/// for, but does not synchronize, so the section's end still does.
#[test]
fn r16_an_invalidation_pays_what_its_barriers_do_and_no_more() {
    let mmu = classic();
    let (mut space, _) = kernel_space(&mmu);
    let (user, _) = user_space(&mmu);
    let section = mmu.lazy().section().unwrap();
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    good(user.invalidate_range(pages(USER, 1)));
    assert!(may_come_late(access(&mmu, 0, KERNEL, Read), 5), "row M3");
    drop(section);
    must(only(&mmu, 0, KERNEL, Read, page(5, Prot::KERNEL)));
}

/// R37: the writer's pair does nothing for another CPU, which takes a context synchronization of
/// its own after it learned of the page (rows X2 and X3).
#[test]
fn r37_another_cpu_synchronizes_for_itself() {
    let mmu = classic();
    let sim = &mmu.kernel().sim;
    let (mut space, _) = kernel_space(&mmu);
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    sim.acquire(1, &sim.release(0));
    assert!(may_come_late(access(&mmu, 1, KERNEL, Read), 5), "row X2");
    tell(&mmu);
    must(only(&mmu, 1, KERNEL, Read, page(5, Prot::KERNEL)));
}

/// Task 0 leaves CPU 0 in the middle of a section and goes on on CPU 1.
fn migrate(mmu: &Mmu<Saboteur>, how: Switch) {
    let sim = &mmu.kernel().sim;
    sim.switch(0, model::CPUS, how);
    sim.switch(1, model::CPUS + 1, how);
    sim.on(1);
    sim.switch(1, 0, how);
}

#[test]
fn r17_the_switch_completes_what_a_migrating_task_has_written() {
    for how in [Switch::DsbIsh, Switch::Bare] {
        let mmu = classic();
        let (mut space, _) = kernel_space(&mmu);
        let section = mmu.lazy().section().unwrap();
        good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
        migrate(&mmu, how);
        assert_eq!(mmu.lazy().state().owed(), Owed::all());
        drop(section);
        // The pair on the new CPU is not enough: its DSB ISHST completes that CPU's stores.
        let out = access(&mmu, 1, KERNEL, Read);
        match how {
            Switch::DsbIsh => assert!(out.is_only(page(5, Prot::KERNEL)), "{out:?}"),
            Switch::Bare => assert!(may_come_late(out, 5), "{out:?}"),
        }
    }
}

#[test]
fn r17_an_invalidation_on_the_new_cpu_takes_what_was_emptied_on_the_old() {
    for how in [Switch::DsbIsh, Switch::Bare] {
        let mmu = classic();
        let (mut space, root) = kernel_space(&mmu);
        good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
        let pending = good(space.unmap_no_invalidate(pages(KERNEL, 1)));
        migrate(&mmu, how);
        space.invalidate(pending);
        mmu.kernel().sim.reuse(root, KERNEL, frame(5).as_u64());
        match how {
            Switch::DsbIsh => {
                must(faults(&mmu, 1, KERNEL, Read));
                must(no_hazards(&mmu));
            }
            // Row U3: the old value may be read, and cached, again.
            Switch::Bare => {
                assert!(access(&mmu, 1, KERNEL, Read).contains(page(5, Prot::KERNEL)));
                assert!(no_hazards(&mmu).is_err());
            }
        }
    }
}

/// R3, R12: what an interrupt writes takes effect at once, and an interrupt that writes nothing
/// completes nothing of the interrupted task's.
#[test]
fn r12_an_interrupt_leaves_the_batch_alone() {
    let mmu = classic();
    let sim = &mmu.kernel().sim;
    let (mut space, _) = kernel_space(&mmu);
    let section = mmu.lazy().section().unwrap();
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    sim.enter_interrupt();
    sim.leave_interrupt();
    assert!(may_come_late(access(&mmu, 0, KERNEL, Read), 5), "row M7");
    sim.enter_interrupt();
    let other = KERNEL + PAGE_SIZE;
    good(space.map(pages(other, 1), backing(6), Prot::KERNEL));
    must(only(&mmu, 0, other, Read, page(6, Prot::KERNEL)));
    sim.leave_interrupt();
    assert_eq!(mmu.lazy().state().owed(), Owed::all());
    drop(section);
    must(only(&mmu, 0, KERNEL, Read, page(5, Prot::KERNEL)));
}

#[test]
fn r25_a_frame_may_be_reused_after_the_flush_and_not_before() {
    let mmu = classic();
    let sim = &mmu.kernel().sim;
    let (mut space, root) = kernel_space(&mmu);
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    let pending = good(space.unmap_no_invalidate(pages(KERNEL, 1)));
    let page = frame(5).as_u64();
    sim.reuse(root, KERNEL, page);
    let early = Hazard::Frame {
        frame: page,
        va: KERNEL,
        cpu: 0,
    };
    assert_eq!(sim.take_hazards(), [early]);
    space.invalidate(pending);
    sim.reuse(root, KERNEL, page);
    must(no_hazards(&mmu));
}

/// R28, row V1: a deferred barrier does not keep an entry out of the TLBs.
#[test]
fn r28_what_was_mapped_and_emptied_in_one_section_may_be_cached() {
    let mmu = classic();
    let (mut space, _) = kernel_space(&mmu);
    let section = mmu.lazy().section().unwrap();
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    let pending = good(space.unmap_no_invalidate(pages(KERNEL, 1)));
    drop(section);
    assert!(access(&mmu, 0, KERNEL, Read).contains(page(5, Prot::KERNEL)));
    space.invalidate(pending);
    must(faults(&mmu, 0, KERNEL, Read));
}

/// R27: a flush of one page of several that were emptied does not stand for the others; mapping
/// there invalidates them first.
#[test]
fn r27_a_flush_of_a_part_leaves_the_rest_to_the_next_mapping() {
    for backend in Backend::ALL {
        let mmu = Setup::classic(backend).build(Plan::Nothing);
        let (mut space, _) = kernel_space(&mmu);
        let second = KERNEL + PAGE_SIZE;
        good(space.map(pages(KERNEL, 2), backing(5), Prot::KERNEL));
        good(space.apply_to_page_range(pages(KERNEL, 2), |entry| {
            entry.get_and_clear();
            Ok::<(), SpaceError>(())
        }));
        good(space.invalidate_range(pages(KERNEL, 1)));
        must(faults(&mmu, 0, KERNEL, Read));
        good(space.map(pages(second, 1), backing(9), Prot::KERNEL));
        must(only(&mmu, 0, second, Read, page(9, Prot::KERNEL)));
    }
}

/// R34: on a part with the erratum, a kernel that does not know of it reuses memory too early.
#[test]
fn r34_the_erratum_takes_a_second_invalidation() {
    for knows in [true, false] {
        let mut setup = Setup::classic(DEFER);
        setup.model.repeat_tlbi = true;
        setup.tlb.repeat = knows;
        let mmu = setup.build(Plan::Nothing);
        let (mut space, root) = kernel_space(&mmu);
        good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
        good(space.unmap(pages(KERNEL, 1)));
        // The entry itself is gone all the same.
        must(faults(&mmu, 0, KERNEL, Read));
        mmu.kernel().sim.reuse(root, KERNEL, frame(5).as_u64());
        assert_eq!(no_hazards(&mmu).is_ok(), knows);
    }
}

/// R30: another CPU that was not told may use the old permission still (row U8), and may not any
/// more when it was (P4).
#[test]
fn r30_a_restriction_reaches_a_cpu_that_is_told() {
    let mmu = classic();
    let (mut space, _) = kernel_space(&mmu);
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    tell(&mmu);
    good(space.protect(pages(KERNEL, 1), Prot::KERNEL_RO));
    assert!(access(&mmu, 1, KERNEL, Write).contains(page(5, Prot::KERNEL)));
    must(only(&mmu, 0, KERNEL, Write, model::Outcome::Permission));
    tell(&mmu);
    must(only(&mmu, 1, KERNEL, Write, model::Outcome::Permission));
}

/// A user's mapping owes nothing (R14): its first access may fault, never anything worse, and
/// an exception later there is no doubt any more that the store is on its way only.
#[test]
fn r14_a_users_first_access_may_fault_spuriously() {
    let mmu = classic();
    let (mut space, _) = user_space(&mmu);
    good(space.map(pages(USER, 1), backing(5), Prot::USER));
    let out = access(&mmu, 0, USER, Read);
    assert!(
        out.is_only_or_faults(page(5, Prot::USER)) && out.may_fault(),
        "{out:?}"
    );
    mmu.kernel().sim.dsb(0);
    must(only(&mmu, 0, USER, Read, page(5, Prot::USER)));
}

/// Break-before-make by hand: unmapped and mapped elsewhere, another CPU sees only the new page
/// when it is told, and never both (row B3).
#[test]
fn r29_a_page_that_moves_is_broken_first() {
    for backend in Backend::ALL {
        let mmu = Setup::classic(backend).build(Plan::Nothing);
        let (mut space, _) = kernel_space(&mmu);
        good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
        tell(&mmu);
        good(space.unmap(pages(KERNEL, 1)));
        good(space.map(pages(KERNEL, 1), backing(6), Prot::KERNEL));
        must(only(&mmu, 0, KERNEL, Read, page(6, Prot::KERNEL)));
        let untold = access(&mmu, 1, KERNEL, Read);
        assert!(untold.contains(page(5, Prot::KERNEL)), "row U8: {untold:?}");
        tell(&mmu);
        must(only(&mmu, 1, KERNEL, Read, page(6, Prot::KERNEL)));
    }
}
