// SPDX-License-Identifier: MIT OR Apache-2.0
//! A timer interrupt inside the library's calls: whoever loses the CPU there loses nothing else
//! (R11, R17, R23, R38).

use lazymmu::{Asid, Backend, LazyMmuError, Mmu, Owed, PAGE_SIZE, Prot, SpaceKind};
use lazymmu_testkit::fake::interrupts::{Moment, nth, preempt_when};
use lazymmu_testkit::fake::{
    self, BASE, Effect, Fake, KINDS, USER, contiguous, data, enable_fast, frame, is_leaf, new_mmu,
    new_mmu_with, new_space, new_space_with_tables, pages, va, visible,
};
use std::mem::forget;
use std::rc::Rc;

const AT: u64 = 1 << 30;

/// What another task does meanwhile: a section of its own, in a space of its own.
fn works(mmu: &Mmu<Fake>) {
    let mut own = new_space(mmu, SpaceKind::User(Asid(9)));
    let section = mmu.lazy().section().unwrap();
    own.map(pages(AT, 4), contiguous(700), Prot::USER).unwrap();
    own.protect(pages(AT, 2), Prot::USER_RO).unwrap();
    own.unmap(pages(AT + 2 * PAGE_SIZE, 1)).unwrap();
    drop(section);
    let mut pages_left = Vec::new();
    own.for_each_leaf(|va, _, entry| pages_left.push((va - AT, entry.frame())));
    let expected = [0, 1, 3].map(|i| (i * PAGE_SIZE, frame(700 + i)));
    assert_eq!(pages_left, expected);
    assert!(mmu.kernel().is_batch_empty());
    fake::destroy(own);
}

/// A way to be in no section any more, and its name.
type End = (&'static str, fn(&Mmu<Fake>));

fn ends() -> [End; 3] {
    [
        ("disable", |mmu| mmu.lazy().disable().unwrap()),
        ("pause", |mmu| mmu.lazy().pause().unwrap()),
        ("suspend", |mmu| forget(mmu.lazy().suspend_all())),
    ]
}

/// The mode is inactive from the first instruction of the end on (R10), and what waits on the CPU
/// is executed by a later one.
#[test]
fn r38_a_section_that_ends_keeps_its_cpu_until_the_drain() {
    for backend in fake::backends() {
        for (end, leave) in ends() {
            let mut moments = 0;
            loop {
                let mmu = Rc::new(new_mmu_with(backend));
                let mut space = new_space(&mmu, USER);
                space.map(pages(AT, 2), contiguous(1), Prot::USER).unwrap();
                enable_fast(&space, pages(AT, 2));
                space.protect(pages(AT, 2), Prot::USER_RO).unwrap();
                let waits = !mmu.kernel().is_batch_empty();
                assert_eq!(waits, backend.invalidates(), "{backend}");
                let mut is_nth = nth(moments);
                let came = preempt_when(
                    &mmu,
                    move |kernel, moment| {
                        !kernel.current_state().is_active() && is_nth(kernel, moment)
                    },
                    |mmu| {
                        assert!(mmu.kernel().is_batch_empty(), "what waits is this CPU's");
                        works(mmu);
                    },
                );
                leave(&mmu);
                let entry = space.query(va(AT)).unwrap().entry;
                assert!(!entry.is_writable(), "{backend}, {end}: R23");
                assert!(mmu.kernel().is_batch_empty(), "{backend}, {end}: R23");
                let Some(left) = came.get() else { break };
                // The first moment is before the drain.
                let stays = moments == 0 && !backend.is_preemptible();
                assert!(!stays || left.is_err(), "{backend}, {end}");
                assert!(
                    left.is_ok() || backend.invalidates(),
                    "{backend}, {end}: nothing waits on the CPU"
                );
                moments += fake::stride(7);
            }
            assert!(moments > 0, "{backend}, {end}");
        }
    }
}

/// Between the look at the task's state and the store that owes a barrier: the barrier of the switch
/// comes too early for this store.
#[test]
fn r17_a_store_behind_the_switch_owes_what_the_switch_forgave() {
    // Whether the table is known to be empty, which is a short way of its own.
    for others in [0, 1] {
        let mmu = Rc::new(new_mmu());
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        for page in 0..others {
            let range = pages(BASE + (100 + page) * PAGE_SIZE, 1);
            space.map(range, contiguous(50), Prot::KERNEL).unwrap();
        }
        let section = mmu.lazy().section().unwrap();
        space
            .apply_to_page_range(pages(BASE, 3), |entry| {
                let n = (entry.va().as_u64() - BASE) / PAGE_SIZE;
                let is_store = |_: &Fake, moment| moment == Moment::Store;
                let came =
                    (n == 2).then(|| preempt_when(&mmu, is_store, |mmu| mmu.kernel().note(7)));
                let set = entry.set(frame(n), Prot::KERNEL);
                assert!(came.is_none_or(|came| came.get() == Some(Ok(()))));
                set
            })
            .unwrap();
        drop(section);
        let effects = visible(mmu.kernel().take_effects());
        let at = effects.iter().position(|e| *e == Effect::Note(7)).unwrap();
        // The other task's way back, the store, and what it owes.
        assert_eq!(effects[at + 1], Effect::DsbIsh);
        assert!(is_leaf(&effects[at + 2]));
        let owed = [Effect::DsbIshst, Effect::Isb];
        assert_eq!(effects[at + 3..], owed, "R16, R17");
    }
}

/// A queue that is drained is neither full nor empty.
#[test]
fn r23_r38_a_drain_is_not_interrupted_by_another_task() {
    for backend in [
        Backend::DeferStores,
        Backend::BatchInvalidations,
        Backend::Multicall,
    ] {
        let mut refused = 0;
        for moments in (0..).step_by(fake::stride(7)) {
            let mmu = Rc::new(new_mmu_with(backend));
            let mut space = new_space(&mmu, USER);
            space.map(pages(AT, 4), contiguous(1), Prot::USER).unwrap();
            mmu.lazy().enable().unwrap();
            let mut fast = space.fast_pte_range(pages(AT, 8)).unwrap();
            fast.get_and_clear(1);
            fast.set(5, frame(9), Prot::USER).unwrap();
            fast.set(6, frame(3), Prot::USER).unwrap();
            let mut is_nth = nth(moments);
            let in_section = move |kernel: &Fake, moment| {
                kernel.current_state().is_active() && is_nth(kernel, moment)
            };
            let came = preempt_when(&mmu, in_section, works);
            mmu.lazy().flush();
            let done = mmu.kernel().is_batch_empty();
            assert!(done, "{backend}");
            drop(fast);
            mmu.lazy().disable().unwrap();
            for (page, expected) in [(0, 1), (5, 9), (6, 3)] {
                let found = space.query(va(AT + page * PAGE_SIZE)).unwrap();
                assert_eq!(found.entry.frame(), frame(expected), "{backend}");
            }
            match came.get() {
                None => break,
                Some(Err(error)) => {
                    assert_eq!(error, LazyMmuError::NotPreemptible);
                    refused += 1;
                }
                Some(Ok(())) => assert!(backend.is_preemptible(), "{backend}: R38"),
            }
        }
        assert!(refused > 0, "{backend}: no moment was inside the drain");
    }
}

/// Some of everything, and what it leaves.
fn program(mmu: &Mmu<Fake>, kind: SpaceKind) -> Vec<(u64, u64)> {
    let start = kind.half().start() + (1 << 30);
    let part = |first: u64, n: u64| pages(start + first * PAGE_SIZE, n);
    let prot = data(kind);
    let read_only = match kind {
        SpaceKind::Kernel => Prot::KERNEL_RO,
        SpaceKind::User(_) => Prot::USER_RO,
    };
    let mut space = new_space_with_tables(mmu, kind, part(0, 32));
    let section = mmu.lazy().section().unwrap();
    space.map(part(0, 4), contiguous(1), prot).unwrap();
    space.map(part(4, 1), contiguous(5), prot).unwrap();
    space.map(part(5, 1), contiguous(6), prot).unwrap();
    space.protect(part(1, 2), read_only).unwrap();
    let mut fast = space.fast_pte_range(part(8, 24)).unwrap();
    fast.set_run(8, 16, frame(16), prot).unwrap();
    fast.set(0, frame(30), prot).unwrap();
    fast.get_and_clear(9);
    assert_eq!(fast.get(0).frame(), frame(30), "R20");
    drop(fast);
    let suspended = mmu.lazy().suspend_all();
    space.unmap(part(4, 1)).unwrap();
    drop(suspended);
    space
        .apply_to_page_range(part(4, 2), |entry| {
            if entry.get().is_valid() {
                entry.get_and_clear();
            }
            entry.set(frame(40), prot)
        })
        .unwrap();
    space.unmap(part(1, 1)).unwrap();
    space.remap(part(2, 1), prot).unwrap();
    drop(section);
    let mut leaves = Vec::new();
    space.for_each_leaf(|va, _, entry| leaves.push((va, entry.as_u64())));
    assert!(mmu.kernel().is_batch_empty(), "R23");
    assert_eq!(mmu.lazy().state().owed(), Owed::empty(), "R16");
    mmu.kernel().strike_no_more();
    fake::destroy(space);
    leaves
}

/// At every single moment of it: the task that is preempted and the one that comes in between both find
/// what they wrote, and where the task is refused its leave, nothing else happens.
#[test]
fn r11_r23_preemption_at_every_moment_changes_nothing() {
    // All of them in a release build; else of so many one.
    let step = match (cfg!(miri), cfg!(debug_assertions)) {
        (true, _) => 4001,
        (false, true) => 23,
        (false, false) => 1,
    };
    for backend in fake::backends() {
        for kind in KINDS {
            let expected = program(&new_mmu_with(backend), kind);
            let mut left = 0;
            for n in (0..).step_by(step) {
                let mmu = Rc::new(new_mmu_with(backend));
                let came = preempt_when(&mmu, nth(n), works);
                let leaves = program(&mmu, kind);
                assert_eq!(leaves, expected, "{backend}, {kind:?}, moment {n}");
                match came.get() {
                    None => break,
                    Some(result) => left += usize::from(result.is_ok()),
                }
            }
            assert!(left > 0, "{backend}, {kind:?}");
        }
    }
}
