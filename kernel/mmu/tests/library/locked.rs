// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`LockedSpace`]: whoever takes the lock finds memory as the holder before left it (R40, R43).

use lazymmu::{Backend, LockedSpace, Mmu, Owed, PAGE_SIZE, Prot, SpaceGuard, SpaceKind};
use lazymmu_testkit::fake::{
    self, Fake, KINDS, USER, close, contiguous, data, enable_fast, new_mmu_with,
    new_space_with_tables, pages, va,
};
use lock_api::{GuardNoSend, RawMutex};
use std::cell::Cell;

thread_local! {
    /// The machine whose batch is looked at when a lock is released.
    static MACHINE: Cell<Option<&'static Fake>> = const { Cell::new(None) };
    /// Releases that were looked at.
    static RELEASED: Cell<usize> = const { Cell::new(0) };
}

/// A lock of one thread. When it is released nothing may wait on the CPU.
struct Checked(Cell<bool>);

// SAFETY: it is used by one thread, and taken once at a time.
unsafe impl RawMutex for Checked {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait has it")]
    const INIT: Self = Self(Cell::new(false));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        assert!(self.try_lock(), "taken twice");
    }

    fn try_lock(&self) -> bool {
        !self.0.replace(true)
    }

    unsafe fn unlock(&self) {
        if let Some(machine) = MACHINE.get() {
            assert!(machine.is_batch_empty(), "R43: something waits");
            RELEASED.set(RELEASED.get() + 1);
        }
        self.0.set(false);
    }
}

type Guard<'a> = SpaceGuard<'a, 'static, Fake, Checked>;

/// What is done under the lock.
type Work = (&'static str, fn(&mut Guard<'_>, u64));

const WORK: [Work; 4] = [
    ("protect", |space, at| {
        let range = pages(at, 4);
        let prot = read_only(space.kind());
        space.protect(range, prot).unwrap();
    }),
    ("unmap", |space, at| space.unmap(pages(at, 4)).unwrap()),
    ("map", |space, at| {
        let prot = data(space.kind());
        let range = pages(at + 8 * PAGE_SIZE, 4);
        space.map(range, contiguous(8), prot).unwrap();
    }),
    ("unmap without an invalidation", |space, at| {
        let pending = space.unmap_no_invalidate(pages(at, 4)).unwrap();
        space.invalidate(pending);
    }),
];

fn read_only(kind: SpaceKind) -> Prot {
    match kind {
        SpaceKind::Kernel => Prot::KERNEL_RO,
        SpaceKind::User(_) => Prot::USER_RO,
    }
}

/// How the holder comes to release it.
type Release = (&'static str, fn(&Mmu<Fake>));

const RELEASES: [Release; 3] = [
    ("in the section", |_| ()),
    ("in a nested section", |mmu| mmu.lazy().enable().unwrap()),
    ("with bottom halves off", |mmu| {
        mmu.kernel().set_interrupt(true)
    }),
];

/// Makes a machine with a mapped space behind a lock.
fn machine(
    backend: Backend,
    kind: SpaceKind,
) -> (&'static Mmu<Fake>, LockedSpace<'static, Fake, Checked>, u64) {
    let mmu: &'static Mmu<Fake> = Box::leak(Box::new(new_mmu_with(backend)));
    MACHINE.set(Some(mmu.kernel()));
    let at = kind.half().start();
    let mut space = new_space_with_tables(mmu, kind, pages(at, 512));
    let prot = data(kind);
    space.map(pages(at, 8), contiguous(0), prot).unwrap();
    (mmu, LockedSpace::new(space), at)
}

#[test]
fn r40_r43_nothing_waits_when_the_lock_is_released() {
    let mut waited = 0;
    for backend in fake::backends() {
        for kind in KINDS {
            for (what, work) in WORK {
                for (how, release) in RELEASES {
                    let (mmu, locked, at) = machine(backend, kind);
                    RELEASED.set(0);
                    mmu.lazy().enable().unwrap();
                    let mut guard = locked.lock();
                    enable_fast(&guard, pages(at, 16));
                    work(&mut guard, at);
                    waited += usize::from(!mmu.kernel().is_batch_empty());
                    let before = (0..16)
                        .map(|i| guard.query(va(at + i * PAGE_SIZE)))
                        .collect::<Vec<_>>();
                    release(mmu);
                    drop(guard);
                    assert_eq!(RELEASED.get(), 1);
                    mmu.kernel().set_interrupt(false);

                    // Another CPU reads memory.
                    mmu.kernel().go_to(1);
                    let guard = locked.lock();
                    for (i, known) in before.iter().enumerate() {
                        let found = guard.query(va(at + i as u64 * PAGE_SIZE));
                        assert_eq!(found, *known, "{backend}, {what}, {how}: page {i}");
                    }
                    drop(guard);
                    mmu.kernel().go_to(0);
                    close(mmu);
                    fake::destroy(locked.into_inner());
                }
            }
        }
    }
    assert!(waited > 10, "the releases had something to drain: {waited}");
}

#[test]
fn r43_what_waits_is_drained_when_the_space_goes_behind_its_lock() {
    let mut waited = 0;
    for backend in fake::backends() {
        for in_interrupt in [false, true] {
            let mmu: &'static Mmu<Fake> = Box::leak(Box::new(new_mmu_with(backend)));
            MACHINE.set(Some(mmu.kernel()));
            let mut space = new_space_with_tables(mmu, USER, pages(0, 16));
            space.map(pages(0, 16), contiguous(0), Prot::USER).unwrap();
            mmu.lazy().enable().unwrap();
            enable_fast(&space, pages(0, 16));
            space.protect(pages(0, 16), Prot::USER_RO).unwrap();
            waited += usize::from(!mmu.kernel().is_batch_empty());
            mmu.kernel().set_interrupt(in_interrupt);
            let locked: LockedSpace<'_, _, Checked> = LockedSpace::new(space);
            assert!(mmu.kernel().is_batch_empty(), "{backend}");
            mmu.kernel().set_interrupt(false);
            close(mmu);
            fake::destroy(locked.into_inner());
        }
    }
    assert!(waited >= 4, "{waited}");
}

/// The barriers of makes are the task's own, and stay deferred with its section.
#[test]
fn r5_r16_barriers_stay_deferred_under_a_lock_that_is_released() {
    let (mmu, locked, at) = machine(Backend::DeferBarriers, SpaceKind::Kernel);
    mmu.lazy().enable().unwrap();
    mmu.kernel().take_effects();
    for i in 0..4 {
        let page = pages(at + (8 + i) * PAGE_SIZE, 1);
        locked
            .lock()
            .map(page, contiguous(8 + i), Prot::KERNEL)
            .unwrap();
    }
    let effects = mmu.kernel().take_effects();
    assert!(!effects.iter().any(fake::is_maintenance), "{effects:?}");
    assert_eq!(mmu.lazy().state().owed(), Owed::all());
    mmu.lazy().disable().unwrap();
    fake::destroy(locked.into_inner());
}

/// A report and an interrupt handler leave alone what waits for another space of the task.
#[test]
fn r12_a_look_and_an_interrupt_leave_the_batch_alone() {
    for backend in fake::backends() {
        let (mmu, locked, at) = machine(backend, USER);
        MACHINE.set(None);
        let mut other = new_space_with_tables(mmu, KINDS[0], pages(KINDS[0].half().start(), 16));
        let there = pages(KINDS[0].half().start(), 4);
        let prot = data(KINDS[0]);
        other.map(there, contiguous(20), prot).unwrap();
        mmu.lazy().enable().unwrap();
        enable_fast(&other, there);
        other.protect(there, read_only(KINDS[0])).unwrap();
        let waits = !mmu.kernel().is_batch_empty();
        assert_eq!(waits, backend.invalidates(), "{backend}");

        let view = locked.try_look().expect("it is free");
        assert!(view.query(va(at)).is_some());
        assert!(locked.try_lock().is_none());
        drop(view);
        assert_eq!(!mmu.kernel().is_batch_empty(), waits, "{backend}: a look");

        mmu.kernel().set_interrupt(true);
        locked
            .try_lock()
            .expect("it is free")
            .unmap(pages(at, 4))
            .unwrap();
        assert_eq!(!mmu.kernel().is_batch_empty(), waits, "{backend}: R12");
        mmu.kernel().set_interrupt(false);
        close(mmu);
        fake::destroy(other);
        fake::destroy(locked.into_inner());
    }
}
