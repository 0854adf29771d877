// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scenarios in which every instruction that the library executes is needed.
//!
//! Each scenario prepares on CPU 0, opens the window of the [`Saboteur`](super::Saboteur), makes
//! one call of the library, closes the window, and requires the outcome of the contract: on CPU 0
//! at once, and on CPU 1 after CPU 0 has published what it did. Without sabotage every requirement
//! holds; with it, one must fail.

use super::world::{
    ASID, KERNEL, Setup, USER, access, backing, faults, frame, kernel_space, no_hazards, only,
    page, pages, tell, user_space,
};
use super::{Kind, Modelled, Outcome};
use Kind::{Fetch, Read, Write};
use lazymmu::{Backend, BarrierPolicy, MemoryType, Mmu, PAGE_SIZE, Prot, SpaceError};
use std::fmt;

/// A scenario on a kernel of type `K`.
pub struct Scenario<K: Modelled> {
    /// Its name in messages.
    pub name: &'static str,
    /// The configuration that it needs.
    pub setup: fn(Backend) -> Setup,
    /// Executes the scenario. The error names the requirement that fails.
    pub run: fn(&Mmu<K>) -> Result<(), String>,
}

impl<K: Modelled> fmt::Debug for Scenario<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn repeat(backend: Backend) -> Setup {
    let mut setup = Setup::classic(backend);
    setup.model.repeat_tlbi = true;
    setup.tlb.repeat = true;
    setup
}

pub(super) fn ranged(backend: Backend) -> Setup {
    let mut setup = Setup::classic(backend);
    (setup.tlb.range, setup.tlb.ttl) = (true, true);
    setup
}

macro_rules! scenarios {
    ($($setup:path: $($run:ident),+;)+) => {
        vec![$($($crate::model::scenarios::Scenario { name: stringify!($run), setup: $setup, run: $run }),+),+]
    };
}
pub(super) use scenarios;

/// All scenarios. Each of them runs with every strategy.
pub fn all<K: Modelled>() -> Vec<Scenario<K>> {
    let mut all = plain();
    all.extend(super::queues::queues());
    all
}

fn plain<K: Modelled>() -> Vec<Scenario<K>> {
    scenarios! {
    Setup::classic: map_a_page, map_a_table, map_in_a_section, map_and_pause, map_in_an_interrupt,
        write_a_fast_range, unmap_a_page, unmap_and_flush_later, unmap_and_reuse_frames,
        restrict_a_page, relax_a_page, change_the_memory_type, map_where_it_was_emptied,
        unmap_what_nobody_used, free_a_table, unmap_a_user_page, restrict_a_user_page,
        destroy_a_user_space;
    ranged: unmap_a_range;
    repeat: unmap_with_the_erratum;
    Setup::ets2: map_text, unmap_text, unmap_a_page_of_data;
    }
}

pub(super) type Outcomes = Result<(), String>;

pub(super) fn window<K: Modelled, T>(mmu: &Mmu<K>, f: impl FnOnce() -> T) -> T {
    mmu.kernel().arm();
    let value = f();
    mmu.kernel().disarm();
    value
}

pub(super) fn good<T>(result: Result<T, SpaceError>) -> T {
    result.expect("the scenario asks for nothing that is refused")
}

/// Requires an outcome on CPU 0 at once, and on CPU 1 after CPU 0 has published what it did.
pub(super) fn both<K: Modelled>(mmu: &Mmu<K>, va: u64, kind: Kind, expected: Outcome) -> Outcomes {
    only(mmu, 0, va, kind, expected)?;
    tell(mmu);
    only(mmu, 1, va, kind, expected)
}

pub(super) fn both_fault<K: Modelled>(mmu: &Mmu<K>, va: u64, kind: Kind) -> Outcomes {
    faults(mmu, 0, va, kind)?;
    tell(mmu);
    faults(mmu, 1, va, kind)
}

fn map_a_page<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    window(mmu, || {
        good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL))
    });
    both(mmu, KERNEL, Read, page(5, Prot::KERNEL))
}

/// An access to the next page must not find what was in the memory of the new table before.
fn map_a_table<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    let va = KERNEL + (1 << 21);
    window(mmu, || {
        good(space.map(pages(va, 1), backing(5), Prot::KERNEL))
    });
    only(mmu, 0, va, Read, page(5, Prot::KERNEL))?;
    both_fault(mmu, va + PAGE_SIZE, Read)
}

fn map_in_a_section<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    let va = |i: u64| KERNEL + i * 2 * PAGE_SIZE;
    window(mmu, || {
        let section = mmu.lazy().section().expect("depth 0");
        for i in 0..3 {
            good(space.map(pages(va(i), 1), backing(5 + i), Prot::KERNEL));
        }
        drop(section);
    });
    (0..3).try_for_each(|i| both(mmu, va(i), Read, page(5 + i, Prot::KERNEL)))
}

fn map_and_pause<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    let section = mmu.lazy().section().expect("depth 0");
    let pause = window(mmu, || {
        good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
        mmu.lazy().paused().expect("depth 0")
    });
    let result = both(mmu, KERNEL, Read, page(5, Prot::KERNEL));
    drop(pause);
    drop(section);
    result
}

/// In an interrupt a mapping takes effect at once (R3), also if the interrupted task defers.
fn map_in_an_interrupt<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    let sim = mmu.kernel().sim();
    let section = mmu.lazy().section().expect("depth 0");
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    sim.enter_interrupt();
    let next = KERNEL + PAGE_SIZE;
    window(mmu, || {
        good(space.map(pages(next, 1), backing(6), Prot::KERNEL))
    });
    let result = both(mmu, next, Read, page(6, Prot::KERNEL));
    sim.leave_interrupt();
    drop(section);
    result
}

fn write_a_fast_range<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    window(mmu, || {
        let mut fast = good(space.fast_pte_range(pages(KERNEL, 8)));
        good(fast.set(3, frame(5), Prot::KERNEL));
    });
    both(mmu, KERNEL + 3 * PAGE_SIZE, Read, page(5, Prot::KERNEL))
}

/// A kernel space in which frame 5 is mapped at [`KERNEL`]. The mapping is old.
pub(super) fn mapped<K: Modelled>(
    mmu: &Mmu<K>,
    prot: Prot,
) -> (lazymmu::AddressSpace<'_, K>, super::RootId) {
    let (mut space, root) = kernel_space(mmu);
    good(space.map(pages(KERNEL, 1), backing(5), prot));
    mmu.kernel().sim().settle();
    (space, root)
}

fn unmap_a_page<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    window(mmu, || good(space.unmap(pages(KERNEL, 1))));
    both_fault(mmu, KERNEL, Read)
}

fn unmap_and_flush_later<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    // In a section, so that a backend that invalidates by itself does not do it at once.
    let section = mmu.lazy().section().expect("depth 0");
    let pending = good(space.unmap_no_invalidate(pages(KERNEL, 1)));
    let before = access(mmu, 0, KERNEL, Read);
    window(mmu, || space.invalidate(pending));
    drop(section);
    assert!(before.contains(page(5, Prot::KERNEL)), "row U1: {before:?}");
    both_fault(mmu, KERNEL, Read)
}

fn unmap_and_reuse_frames<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, root) = mapped(mmu, Prot::KERNEL);
    let sim = mmu.kernel().sim();
    window(mmu, || {
        let give_back = |va: lazymmu::VirtAddr, frame: lazymmu::Frame| {
            sim.reuse(root, va.as_u64(), frame.as_u64());
        };
        good(space.unmap_frames(pages(KERNEL, 1), give_back));
    });
    no_hazards(mmu)
}

fn restrict_a_page<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    window(mmu, || {
        good(space.protect(pages(KERNEL, 1), Prot::KERNEL_RO))
    });
    both(mmu, KERNEL, Write, Outcome::Permission)
}

fn relax_a_page<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL_RO);
    window(mmu, || good(space.protect(pages(KERNEL, 1), Prot::KERNEL)));
    both(mmu, KERNEL, Write, page(5, Prot::KERNEL))
}

fn change_the_memory_type<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    let uncached = Prot::KERNEL.with_memory_type(MemoryType::NormalNonCacheable);
    window(mmu, || good(space.remap(pages(KERNEL, 1), uncached)));
    both(mmu, KERNEL, Read, page(5, uncached))
}

/// An entry was emptied and not invalidated. Mapping it again invalidates first.
fn map_where_it_was_emptied<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL);
    good(space.apply_to_page_range(pages(KERNEL, 1), |entry| {
        entry.get_and_clear();
        Ok::<(), SpaceError>(())
    }));
    window(mmu, || {
        good(space.map(pages(KERNEL, 1), backing(6), Prot::KERNEL))
    });
    both(mmu, KERNEL, Read, page(6, Prot::KERNEL))
}

/// A mapping may be cached even if it was never used (row V1), so unmapping it must invalidate.
fn unmap_what_nobody_used<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    let section = mmu.lazy().section().expect("depth 0");
    good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL));
    window(mmu, || good(space.unmap(pages(KERNEL, 1))));
    drop(section);
    both_fault(mmu, KERNEL, Read)
}

/// The memory of a freed table becomes another table at once.
fn free_a_table<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    let range = pages(KERNEL + (1 << 21), 1);
    good(space.map(range, backing(5), Prot::KERNEL));
    good(space.unmap(range));
    mmu.kernel().sim().settle();
    let freed = window(mmu, || good(space.free_empty_tables(range)));
    assert_eq!(freed, 1);
    no_hazards(mmu)?;
    let other = KERNEL + (7 << 21);
    good(space.map(pages(other, 1), backing(6), Prot::KERNEL));
    both(mmu, other, Read, page(6, Prot::KERNEL))?;
    both_fault(mmu, range.start().as_u64(), Read)
}

fn unmap_a_user_page<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, root) = user_space(mmu);
    good(space.map(pages(USER, 1), backing(5), Prot::USER));
    mmu.kernel().sim().settle();
    window(mmu, || good(space.unmap(pages(USER, 1))));
    mmu.kernel().sim().reuse(root, USER, frame(5).as_u64());
    no_hazards(mmu)?;
    both_fault(mmu, USER, Read)
}

fn restrict_a_user_page<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = user_space(mmu);
    good(space.map(pages(USER, 1), backing(5), Prot::USER));
    mmu.kernel().sim().settle();
    window(mmu, || good(space.protect(pages(USER, 1), Prot::USER_RO)));
    both(mmu, USER, Write, Outcome::Permission)
}

/// Right after the call, tables, frames and the ASID are reused.
fn destroy_a_user_space<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, root) = user_space(mmu);
    let sim = mmu.kernel().sim();
    good(space.map(pages(USER, 1), backing(5), Prot::USER));
    sim.settle();
    sim.retire_root(root);
    // SAFETY: no task has the root, so no TTBR does, and no table is shared.
    window(mmu, || unsafe { space.destroy() });
    no_hazards(mmu)?;
    let kind = lazymmu::SpaceKind::User(ASID);
    let space = good(lazymmu::AddressSpace::new(mmu, kind));
    let root = sim.add_root(space.root(), kind);
    sim.set_root(0, root);
    sim.set_root(1, root);
    both_fault(mmu, USER, Read)
}

/// 106 pages take two ranged operations with TTL 3, of 64 and of 42 pages.
fn unmap_a_range<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = kernel_space(mmu);
    let range = pages(KERNEL, 42 + 64);
    good(space.map(range, backing(100), Prot::KERNEL));
    mmu.kernel().sim().settle();
    window(mmu, || good(space.unmap(range)));
    let mut all = (0..range.pages()).map(|i| KERNEL + i * PAGE_SIZE);
    all.try_for_each(|va| faults(mmu, 0, va, Read))?;
    tell(mmu);
    let mut all = (0..range.pages()).map(|i| KERNEL + i * PAGE_SIZE);
    all.try_for_each(|va| faults(mmu, 1, va, Read))
}

fn unmap_with_the_erratum<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, root) = mapped(mmu, Prot::KERNEL);
    window(mmu, || good(space.unmap(pages(KERNEL, 1))));
    mmu.kernel().sim().reuse(root, KERNEL, frame(5).as_u64());
    no_hazards(mmu)?;
    both_fault(mmu, KERNEL, Read)
}

/// ETS2 does not cover instruction fetches (R35).
fn map_text<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    assert_eq!(mmu.policy(), BarrierPolicy::Ets2);
    let (mut space, _) = kernel_space(mmu);
    window(mmu, || {
        good(space.map(pages(KERNEL, 1), backing(5), Prot::KERNEL_ROX))
    });
    both(mmu, KERNEL, Fetch, page(5, Prot::KERNEL_ROX))
}

fn unmap_text<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    let (mut space, _) = mapped(mmu, Prot::KERNEL_ROX);
    window(mmu, || good(space.unmap(pages(KERNEL, 1))));
    both_fault(mmu, KERNEL, Fetch)
}

fn unmap_a_page_of_data<K: Modelled>(mmu: &Mmu<K>) -> Outcomes {
    unmap_a_page(mmu)
}
