// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scenarios for stores and invalidations that wait, announced ranges, contiguous groups, and the
//! context switch. They run with every strategy, like those of [`super::scenarios`].

use super::scenarios::{
    Outcomes, Scenario, both, both_fault, good, mapped, ranged, scenarios, window,
};
use super::world::{
    KERNEL, Setup, USER, frame, kernel_space, no_hazards, only, page, pages, user_space,
};
use super::{Kind, Modelled, Outcome, RootId, Switch};
use Kind::{Read, Write};
use lazymmu::{AddressSpace, Backend, LazyMmuError, Mmu, PAGE_SIZE, PageRange, Prot, SpaceError};

/// A machine whose context switch executes nothing besides the library's `switch_out`.
fn bare(backend: Backend) -> Setup {
    let mut setup = Setup::classic(backend);
    setup.switch = Switch::Bare;
    setup
}

pub(super) fn queues<K: Modelled>() -> Vec<Scenario<K>> {
    scenarios! {
    Setup::classic: protect_in_a_section, protect_in_a_fast_range, move_a_page_in_a_fast_range,
        restrict_and_flush_in_a_section, gather_in_a_section, pause_behind_a_clear;
    ranged: split_a_group, split_a_group_in_a_fast_range, protect_a_group, fold_a_group;
    bare: switch_out_in_a_section;
    }
}

/// Enters a section that announces `range`.
fn announce<K: Modelled>(space: &AddressSpace<'_, K>, range: PageRange) {
    let table = space
        .last_level_table(range.start())
        .expect("the scenario's table is old");
    let lazy = space.mmu().lazy();
    // SAFETY: no scenario frees the table in the section.
    let result = unsafe { lazy.enable_fast_pte_range(space, range.start(), range.end(), table) };
    good(result);
}

fn leave<K: Modelled>(mmu: &Mmu<K>) {
    mmu.lazy().disable().expect("a section is open");
}

/// With a strategy that invalidates by itself, the restriction takes effect with the caller's
/// section (R30).
fn protect_in_a_section<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    mmu.lazy().enable().expect("depth 0");
    window(mmu, || {
        good(space.protect(pages(KERNEL, 1), Prot::KERNEL_RO));
        leave(mmu);
    });
    both(mmu, KERNEL, Write, Outcome::Permission)
}

fn protect_in_a_fast_range<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    announce(&space, pages(KERNEL, 8));
    window(mmu, || {
        good(space.protect(pages(KERNEL, 1), Prot::KERNEL_RO));
        leave(mmu);
    });
    both(mmu, KERNEL, Write, Outcome::Permission)
}

/// Break-before-make inside a section (S8, S11).
fn move_a_page_in_a_fast_range<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    window(mmu, || {
        let mut fast = good(space.fast_pte_range(pages(KERNEL, 8)));
        fast.get_and_clear(0);
        good(fast.set(0, frame(6), Prot::KERNEL));
    });
    both(mmu, KERNEL, Read, page(6, Prot::KERNEL))
}

/// An invalidation before the section's end takes effect at once (R26, S13). If the strategy
/// invalidates by itself, the request is for another page, so that the drain before it must
/// invalidate the changed one.
fn restrict_and_flush_in_a_section<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    announce(&space, pages(KERNEL, 8));
    good(space.apply_to_page_range(pages(KERNEL, 1), |entry| {
        entry.set(frame(5), Prot::KERNEL_RO)
    }));
    let other = if mmu.backend().invalidates() { 7 } else { 0 };
    let flushed = pages(KERNEL + other * PAGE_SIZE, 1);
    window(mmu, || good(space.invalidate_range(flushed)));
    let result = both(mmu, KERNEL, Write, Outcome::Permission);
    leave(mmu);
    result
}

/// Also in a section of the caller, frames are given back after the invalidation (R25).
fn gather_in_a_section<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, root) = mapped(mmu, Prot::KERNEL);
    let sim = mmu.kernel().sim();
    announce(&space, pages(KERNEL, 8));
    window(mmu, || {
        let give_back = |va: lazymmu::VirtAddr, frame: lazymmu::Frame| {
            sim.reuse(root, va.as_u64(), frame.as_u64());
        };
        good(space.unmap_frames(pages(KERNEL, 1), give_back));
    });
    leave(mmu);
    no_hazards(mmu)?;
    both_fault(mmu, KERNEL, Read)
}

/// An emptied page is invalidated when a pause begins. If the strategy leaves that to the caller,
/// the caller invalidates it before.
fn pause_behind_a_clear<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    announce(&space, pages(KERNEL, 8));
    good(space.apply_to_page_range(pages(KERNEL, 1), |entry| {
        entry.get_and_clear();
        Ok::<(), SpaceError>(())
    }));
    let pause = window(mmu, || {
        if !mmu.backend().invalidates() {
            good(space.invalidate_range(pages(KERNEL, 1)));
        }
        mmu.lazy().paused().expect("depth 0")
    });
    let result = both_fault(mmu, KERNEL, Read);
    drop(pause);
    leave(mmu);
    result
}

/// A user space with a folded group at [`USER`], mapped to frames 16 to 31. The mapping is old.
fn grouped<K: Modelled>(mmu: &Mmu<K>) -> (AddressSpace<'_, K>, RootId) {
    let (mut space, root) = user_space(mmu);
    let mut fast = good(space.fast_pte_range(pages(USER, 16)));
    good(fast.set_run(0, 16, frame(16), Prot::USER));
    drop(fast);
    mmu.kernel().sim().settle();
    (space, root)
}

/// Requires that page 3 is unmapped and page 4 is mapped as before: no TLB may translate one of
/// them by an old entry for the whole group.
fn split<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    both_fault(mmu, USER + 3 * PAGE_SIZE, Read)?;
    // R14: a user leaf owes no barrier, so the library has not completed the store of page 4. This
    // barrier of the test completes it.
    mmu.kernel().sim().dsb(0);
    both(mmu, USER + 4 * PAGE_SIZE, Read, page(20, Prot::USER))
}

fn split_a_group<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = grouped(mmu);
    let range = pages(USER + 3 * PAGE_SIZE, 1);
    window(mmu, || good(space.unmap(range)));
    split(mmu)
}

fn split_a_group_in_a_fast_range<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = grouped(mmu);
    announce(&space, pages(USER, 16));
    let range = pages(USER + 3 * PAGE_SIZE, 1);
    window(mmu, || {
        good(space.unmap(range));
        leave(mmu);
    });
    split(mmu)
}

/// All 16 entries of a group change in place.
fn protect_a_group<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = grouped(mmu);
    announce(&space, pages(USER, 16));
    window(mmu, || {
        good(space.protect(pages(USER, 16), Prot::USER_RO));
        leave(mmu);
    });
    (0..16).try_for_each(|i| both(mmu, USER + i * PAGE_SIZE, Write, Outcome::Permission))
}

/// 16 pages whose mappings are old become a group.
fn fold_a_group<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = user_space(mmu);
    good(space.map(pages(USER, 16), super::world::backing(16), Prot::USER));
    mmu.kernel().sim().settle();
    let mut fast = good(space.fast_pte_range(pages(USER, 16)));
    // Sets an entry to the same value, because only a range in which something was set is folded.
    good(fast.set(3, frame(19), Prot::USER));
    window(mmu, || drop(fast));
    mmu.kernel().sim().dsb(0);
    both(mmu, USER + 3 * PAGE_SIZE, Read, page(19, Prot::USER))
}

/// The task continues on another CPU after it has written on this one (R17).
fn switch_out_in_a_section<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    let sim = mmu.kernel().sim();
    let (this, idle) = (sim.running(0), super::CPUS);
    mmu.lazy().enable().expect("depth 0");
    good(space.map(pages(KERNEL, 1), super::world::backing(5), Prot::KERNEL));
    if !mmu.backend().is_preemptible() {
        assert_eq!(mmu.lazy().switch_out(), Err(LazyMmuError::NotPreemptible));
        leave(mmu);
        return Ok(());
    }
    window(mmu, || {
        mmu.lazy().switch_out().expect("the backend allows it");
        sim.switch(0, idle, Switch::Bare);
        // CPU 1 switches from another task, so its switch executes a barrier as well.
        sim.switch(1, this, Switch::DsbIsh);
        sim.on(1);
        if mmu.backend() == Backend::Eager {
            // The barriers were executed on CPU 0, so CPU 1 must synchronize its context (R37).
            sim.synchronize(1);
        }
        leave(mmu);
    });
    let result = only(mmu, 1, KERNEL, Read, page(5, Prot::KERNEL));
    sim.on(0);
    result
}
