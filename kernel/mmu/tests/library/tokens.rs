// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tokens of invalidations that are still to come: what they are worth in another context, another space, another
//! number, and that no other thread gets them.

use lazymmu::{
    AddressSpace, Asid, Backend, FastPteRange, LazyPause, LazySection, LazySuspended, LockedSpace,
    Mmu, MmuGather, PAGE_SIZE, PageRange, PendingInvalidation, PteRef, SpaceGuard, SpaceKind,
    VirtAddr,
};
use lazymmu_testkit::fake::{
    self, Effect, Fake, KINDS, asid_of, close, contiguous, data, destroy, enable_fast, frame,
    new_mmu_with, new_space, pages, tlbis,
};
use std::cell::Cell;

/// In the middle of the half.
fn page(kind: SpaceKind, n: u64) -> PageRange {
    pages(kind.half().start() + (5 << 30) + n * PAGE_SIZE, 1)
}

fn mapped(mmu: &Mmu<Fake>, kind: SpaceKind, n: u64) -> AddressSpace<'_, Fake> {
    let mut space = new_space(mmu, kind);
    let range = pages(page(kind, 0).start().as_u64(), n);
    space.map(range, contiguous(64), data(kind)).unwrap();
    space
}

fn may_be_cached(space: &AddressSpace<'_, Fake>, page: PageRange) -> bool {
    let asid = asid_of(space.kind());
    space
        .mmu()
        .kernel()
        .may_be_cached(asid, page.start().as_u64())
}

/// How a section is at the moment at which the entries are emptied.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Begun {
    Outside,
    Inside,
    Announced,
    Paused,
}

/// And at the moment at which the token is used.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ended {
    AsBegun,
    BottomHalvesOff,
    Paused,
    Suspended,
    Left,
}

fn each(test: impl Fn(Backend, SpaceKind, Begun, Ended)) {
    for backend in fake::backends() {
        for kind in KINDS {
            for begun in [
                Begun::Outside,
                Begun::Inside,
                Begun::Announced,
                Begun::Paused,
            ] {
                for ended in [
                    Ended::AsBegun,
                    Ended::BottomHalvesOff,
                    Ended::Paused,
                    Ended::Suspended,
                    Ended::Left,
                ] {
                    test(backend, kind, begun, ended);
                }
            }
        }
    }
}

fn begin(space: &AddressSpace<'_, Fake>, begun: Begun) {
    let lazy = space.mmu().lazy();
    match begun {
        Begun::Outside => {}
        Begun::Inside => lazy.enable().unwrap(),
        Begun::Announced => enable_fast(space, pages(page(space.kind(), 0).start().as_u64(), 8)),
        Begun::Paused => {
            lazy.enable().unwrap();
            lazy.pause().unwrap();
        }
    }
}

/// Runs `work` in the context that `ended` says.
fn then(mmu: &Mmu<Fake>, ended: Ended, work: impl FnOnce()) {
    match ended {
        Ended::AsBegun => work(),
        Ended::BottomHalvesOff => {
            mmu.kernel().set_interrupt(true);
            work();
            mmu.kernel().set_interrupt(false);
        }
        Ended::Paused => {
            let _pause = mmu.lazy().paused().unwrap();
            work();
        }
        Ended::Suspended => {
            let _suspended = mmu.lazy().suspend_all();
            work();
        }
        Ended::Left => {
            close(mmu);
            work();
        }
    }
}

#[test]
fn r25_an_invalidation_is_complete_when_its_token_was_used_wherever_that_is() {
    each(|backend, kind, begun, ended| {
        let mmu = new_mmu_with(backend);
        let mut space = mapped(&mmu, kind, 8);
        begin(&space, begun);
        let pending = space.unmap_no_invalidate(page(kind, 1)).unwrap();
        then(&mmu, ended, || {
            space.invalidate(pending);
            assert!(
                !may_be_cached(&space, page(kind, 1)),
                "{backend}, {begun:?}, {ended:?}"
            );
        });
        // Dropped, it does the same.
        close(&mmu);
        begin(&space, begun);
        let pending = space.unmap_no_invalidate(page(kind, 2)).unwrap();
        then(&mmu, ended, || {
            drop(pending);
            assert!(
                !may_be_cached(&space, page(kind, 2)),
                "{backend}, {begun:?}, {ended:?}"
            );
        });
        close(&mmu);
        destroy(space);
    });
}

#[test]
fn r25_frames_come_back_after_their_invalidation_wherever_a_gather_is_finished() {
    each(|backend, kind, begun, ended| {
        let mmu = new_mmu_with(backend);
        let mut space = mapped(&mmu, kind, 8);
        begin(&space, begun);
        let given = Cell::new(0);
        let (kernel, asid) = (mmu.kernel(), asid_of(kind));
        let mut gather = space.gather(|va, _| {
            let cached = kernel.may_be_cached(asid, va.as_u64());
            assert!(!cached, "{backend}, {begun:?}, {ended:?}: {va}");
            given.set(given.get() + 1);
        });
        gather.unmap(page(kind, 1)).unwrap();
        gather.unmap(page(kind, 3)).unwrap();
        then(&mmu, ended, || gather.finish());
        assert_eq!(given.get(), 2);
        close(&mmu);
        destroy(space);
    });
}

/// A tree is freed with bottom halves off while stores of the caller wait for it.
#[test]
fn a_space_is_destroyed_with_bottom_halves_off() {
    for backend in fake::backends() {
        for kind in KINDS {
            let mmu = new_mmu_with(backend);
            let mut space = mapped(&mmu, kind, 8);
            enable_fast(&space, pages(page(kind, 0).start().as_u64(), 16));
            let more = pages(page(kind, 8).start().as_u64(), 8);
            space.map(more, contiguous(99), data(kind)).unwrap();
            let waits = matches!(backend, Backend::DeferStores | Backend::Multicall);
            assert_eq!(mmu.kernel().is_batch_empty(), !waits, "{backend}");
            mmu.kernel().set_interrupt(true);
            mmu.kernel().teardown.set(true);
            // SAFETY: no CPU walks a table of the fake, and the caller is the only task.
            unsafe { space.destroy() };
            mmu.kernel().teardown.set(false);
            mmu.kernel().set_interrupt(false);
            // The fake refuses a store to a table that is gone.
            close(&mmu);
            assert_eq!(mmu.kernel().live_tables(), 0);
        }
    }
}

/// The token of one space says nothing about another one.
#[test]
fn r29_a_token_of_another_space_leaves_this_one_s_debt() {
    const A: SpaceKind = SpaceKind::User(Asid(1));
    const B: SpaceKind = SpaceKind::User(Asid(2));
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let (mut a, mut b) = (mapped(&mmu, A, 4), mapped(&mmu, B, 4));
        let of_a = a.unmap_no_invalidate(page(A, 1)).unwrap();
        let of_b = b.unmap_no_invalidate(page(B, 1)).unwrap();
        b.invalidate(of_a);
        assert!(!may_be_cached(&a, page(A, 1)), "{backend}");
        // The fake refuses a make before its invalidation (R27).
        b.map(page(B, 1), contiguous(9), data(B)).unwrap();
        b.invalidate(of_b);
        a.map(page(A, 1), contiguous(9), data(A)).unwrap();

        // Nor are they merged.
        let of_a = a.unmap_no_invalidate(page(A, 1)).unwrap();
        let mut of_b = b.unmap_no_invalidate(page(B, 2)).unwrap();
        let of_a = of_b.merge(of_a).expect_err("another space's");
        b.invalidate(of_b);
        a.invalidate(of_a);
        destroy(a);
        destroy(b);
    }
}

#[test]
fn neighbors_are_merged_in_either_order() {
    for backend in fake::backends() {
        let kind = SpaceKind::Kernel;
        let mmu = new_mmu_with(backend);
        let mut space = mapped(&mmu, kind, 8);
        for (first, second) in [(1, 2), (4, 3)] {
            let mut token = space.unmap_no_invalidate(page(kind, first)).unwrap();
            let other = space.unmap_no_invalidate(page(kind, second)).unwrap();
            token.merge(other).expect("they touch");
            space.invalidate(token);
            assert!(!may_be_cached(&space, page(kind, first)), "{backend}");
            assert!(!may_be_cached(&space, page(kind, second)), "{backend}");
        }
        let mut token = space.unmap_no_invalidate(page(kind, 5)).unwrap();
        let far = space.unmap_no_invalidate(page(kind, 7)).unwrap();
        let far = token.merge(far).expect_err("they do not touch");
        drop((token, far));
        destroy(space);
    }
}

/// More ranges than any list holds, each in a table of its own.
#[test]
fn r32_a_gather_of_any_number_of_ranges_frees_the_tables_that_it_empties() {
    for backend in fake::backends() {
        for kind in KINDS {
            for pieces in [1, 15, 16, 17, 20, 33, 40] {
                let mmu = new_mmu_with(backend);
                let mut space = new_space(&mmu, kind);
                let at = |i: u64| pages(kind.half().start() + (3 << 30) + i * (2 << 20), 1);
                for i in 0..pieces {
                    space.map(at(i), contiguous(64 + i), data(kind)).unwrap();
                }
                let tables = mmu.kernel().live_tables();
                assert_eq!(tables as u64, pieces + 3);
                let mut given = Vec::new();
                let mut gather = space.gather(|va, frame| {
                    mmu.kernel().give_back(asid_of(kind), va.as_u64(), frame);
                    given.push((va, frame));
                });
                // In an order in which no two neighbors follow each other.
                for i in (0..pieces).step_by(2).chain((1..pieces).step_by(2)) {
                    gather.unmap(at(i)).unwrap();
                }
                assert_eq!(
                    gather.finish_and_free_tables() as u64,
                    pieces + 2,
                    "{backend}, {pieces}"
                );
                given.sort_by_key(|(va, _)| *va);
                let all: Vec<_> = (0..pieces)
                    .map(|i| (at(i).start(), frame(64 + i)))
                    .collect();
                assert_eq!(given, all);
                assert_eq!(mmu.kernel().live_tables(), 1);
                destroy(space);
            }
        }
    }
}

/// With few ranges only the tables of these are freed; one barrier sequence serves the pages of all.
#[test]
fn a_gather_of_few_ranges_leaves_other_tables_alone() {
    let kind = SpaceKind::Kernel;
    let mmu = new_mmu_with(Backend::DeferBarriers);
    let mut space = new_space(&mmu, kind);
    let at = |i: u64| pages(kind.half().start() + (3 << 30) + i * (2 << 20), 1);
    for i in 0..3 {
        space.map(at(i), contiguous(64 + i), data(kind)).unwrap();
    }
    space.unmap(at(1)).unwrap();
    mmu.kernel().take_effects();
    let mut gather = space.gather(|_, _| ());
    gather.unmap(at(0)).unwrap();
    gather.unmap(at(2)).unwrap();
    assert_eq!(gather.finish_and_free_tables(), 2);
    let effects = mmu.kernel().take_effects();
    assert_eq!(
        tlbis(&effects),
        2 + 1 + 1,
        "two pages, then the tables of each"
    );
    assert!(
        effects
            .iter()
            .filter(|effect| **effect == Effect::DsbIsh)
            .count()
            == 3
    );
    assert!(space.last_level_table(at(1).start()).is_some());
    destroy(space);
}

/// A kernel that may be shared among threads, so that only the types of the library decide.
mod shared {
    use lazymmu::*;
    use std::ptr::NonNull;

    pub struct Shared;

    // SAFETY: nothing here is ever called.
    unsafe impl Hardware for Shared {
        fn dmb_ishst(&self) {}
        fn dsb_ishst(&self) {}
        fn dsb_ish(&self) {}
        fn isb(&self) {}
        fn tlbi(&self, _: TlbiOp, _: u64) {}
    }

    // SAFETY: nothing here is ever called.
    unsafe impl TableFrames for Shared {
        fn alloc_table(&self) -> Option<Frame> {
            None
        }
        unsafe fn free_table(&self, _: Frame) {}
        fn table_ptr(&self, _: Frame) -> NonNull<Table> {
            NonNull::dangling()
        }
    }

    // SAFETY: nothing here is ever called.
    unsafe impl Context for Shared {
        unsafe fn lazy(&self) -> &LazyMmuState {
            unreachable!("no method is called")
        }
        fn in_interrupt(&self) -> bool {
            false
        }
        unsafe fn counters(&self) -> &Counters {
            unreachable!("no method is called")
        }
        fn report(&self, _: LazyMmuError) {}
    }
}
use shared::Shared;

/// Does not compile if the type has the trait: then the compiler cannot tell which `Ambiguous` is meant.
macro_rules! has_not {
    ($type:ty: $($trait:path),+) => {
        $(const _: fn() = || {
            trait Ambiguous<A> {
                fn any() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            struct Has;
            impl<T: ?Sized + $trait> Ambiguous<Has> for T {}
            let _ = <$type as Ambiguous<_>>::any;
        };)+
    };
}

macro_rules! has {
    ($type:ty: $($trait:path),+) => {
        $(const _: fn() = || {
            fn needs<T: ?Sized + $trait>() {}
            let _ = needs::<$type>;
        };)+
    };
}

type Give = fn(VirtAddr, lazymmu::Frame);

/// A lock that threads share, and whose guards may move.
type Lock = spin::mutex::SpinMutex<()>;

// What belongs to a task or its CPU stays there.
has_not!(LazySection<'static, Shared>: Send, Sync);
has_not!(LazyPause<'static, Shared>: Send, Sync);
has_not!(LazySuspended<'static, Shared>: Send, Sync);
has_not!(PendingInvalidation<'static, Shared>: Send, Sync);
has_not!(MmuGather<'static, 'static, Shared, Give>: Send, Sync);
has_not!(FastPteRange<'static, 'static, Shared>: Send, Sync);
has_not!(PteRef<'static, Shared>: Send, Sync);
// What waits for a space waits on the CPU of its task; tasks share it through a lock that drains.
has_not!(AddressSpace<'static, Shared>: Send, Sync);
has!(LockedSpace<'static, Shared, Lock>: Send, Sync);
has_not!(LockedSpace<'static, Fake, Lock>: Send, Sync);
has_not!(SpaceGuard<'static, 'static, Shared, Lock>: Send, Sync);
// One task without interrupts is one thread.
has_not!(lazymmu::OneTask<Shared>: Send, Sync);
has_not!(Mmu<lazymmu::OneTask<Shared>>: Send, Sync);
// A kernel keeps these in a `static`.
has!(Mmu<Shared>: Send, Sync);
has!(lazymmu::LazyMmuState: Send, Sync);
has!(lazymmu::Counters: Send, Sync);
has!(lazymmu::Batch: Send, Sync);
has!(lazymmu::TablePool<4>: Send, Sync);
