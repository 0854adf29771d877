// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks that lose their CPU in a section and continue on another one, on the machine model (R11,
//! R17, R38).
//!
//! The tests switch as `lazy/switch.rs` asks a kernel to: the run queue's lock hands a task over,
//! [`lazymmu::Lazy::switch_out`] follows the acquisition of the lock, and a task that has moved
//! executes an `ISB` or an exception return first. What the task did must then hold on the CPU on
//! which its section ends, and on the CPU that it left, for every task there that learns of it.
//! Other tests leave out or misplace each of the two barriers, that of the CPU that the task leaves
//! and that of the CPU that takes it over, and the model says what happens.

use Kind::{Fetch, Read, Write};
use lazymmu::{AddressSpace, Backend, LazyMmuError, Mmu, PAGE_SIZE, Prot, SpaceError};
use lazymmu_testkit::model::world::{
    KERNEL, Setup, access, backing, kernel_space, no_hazards, page, pages,
};
use lazymmu_testkit::model::{CPUS, Kind, Outcome, Plan, RootId, Sabotage, Saboteur, Sim, Switch};
use std::cell::Cell;
use std::rc::Rc;

/// A task that waits, to take over the CPU that another leaves.
const IDLE: usize = CPUS;

fn good<T>(result: Result<T, SpaceError>) -> T {
    result.expect("the test asks for nothing that is refused")
}

/// What is done in the section, and what an access must give afterwards.
struct Work {
    name: &'static str,
    /// What is mapped long before.
    before: Option<Prot>,
    run: fn(&mut AddressSpace<'_, Saboteur>, RootId),
    kind: Kind,
    /// `None`: a translation fault.
    expected: fn() -> Option<Outcome>,
    /// What it stores last is a make of data, of text, or no make at all.
    last: Last,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Data,
    Text,
    Invalidated,
}

fn map(space: &mut AddressSpace<'_, Saboteur>, n: u64, prot: Prot) {
    good(space.map(pages(KERNEL, 1), backing(n), prot));
}

const WORKS: [Work; 6] = [
    Work {
        name: "map",
        before: None,
        run: |space, _| map(space, 5, Prot::KERNEL),
        kind: Read,
        expected: || Some(page(5, Prot::KERNEL)),
        last: Last::Data,
    },
    Work {
        name: "map text",
        before: None,
        run: |space, _| map(space, 5, Prot::KERNEL_ROX),
        kind: Fetch,
        expected: || Some(page(5, Prot::KERNEL_ROX)),
        last: Last::Text,
    },
    Work {
        name: "unmap",
        before: Some(Prot::KERNEL),
        run: |space, _| good(space.unmap(pages(KERNEL, 1))),
        kind: Read,
        expected: || None,
        last: Last::Invalidated,
    },
    Work {
        name: "give back",
        before: Some(Prot::KERNEL),
        run: |space, root| {
            let sim = &space.mmu().kernel().sim;
            let give_back = |va: lazymmu::VirtAddr, frame: lazymmu::Frame| {
                sim.reuse(root, va.as_u64(), frame.as_u64());
            };
            good(space.unmap_frames(pages(KERNEL, 1), give_back));
        },
        kind: Read,
        expected: || None,
        last: Last::Invalidated,
    },
    Work {
        name: "restrict",
        before: Some(Prot::KERNEL),
        run: |space, _| good(space.protect(pages(KERNEL, 1), Prot::KERNEL_RO)),
        kind: Write,
        expected: || Some(Outcome::Permission),
        last: Last::Invalidated,
    },
    Work {
        name: "move",
        before: Some(Prot::KERNEL),
        run: |space, _| {
            good(space.unmap(pages(KERNEL, 1)));
            map(space, 6, Prot::KERNEL);
        },
        kind: Read,
        expected: || Some(page(6, Prot::KERNEL)),
        last: Last::Data,
    },
];

impl Work {
    /// The kernel's space, as it is when the section begins.
    fn prepare<'m>(&self, mmu: &'m Mmu<Saboteur>) -> (AddressSpace<'m, Saboteur>, RootId) {
        let (mut space, root) = kernel_space(mmu);
        if let Some(prot) = self.before {
            map(&mut space, 5, prot);
            mmu.kernel().sim.settle();
        }
        (space, root)
    }

    /// Demands the expected outcome, and no other, on `cpu`.
    fn check(&self, mmu: &Mmu<Saboteur>, cpu: usize) -> Result<(), String> {
        let out = access(mmu, cpu, KERNEL, self.kind);
        let expected = (self.expected)();
        let is_right = match expected {
            None => out.only_faults(),
            Some(outcome) => out.is_only(outcome),
        };
        if is_right {
            return Ok(());
        }
        Err(format!(
            "{}, CPU {cpu}: {out:?} instead of {expected:?}",
            self.name
        ))
    }

    /// After the section, on the CPU where its task is, and on the one that it left.
    fn check_both(&self, mmu: &Mmu<Saboteur>, told: Told) -> Result<(), String> {
        let sim = &mmu.kernel().sim;
        no_hazards(mmu)?;
        let here = sim.cpu();
        let there = 1 - here;
        self.check(mmu, here)?;
        match told {
            Told::ByAnException => {
                sim.acquire(there, &sim.release(here));
                sim.synchronize(there);
            }
            Told::WithABarrier => sim.synchronize_with(here, there),
        }
        self.check(mmu, there)
    }
}

/// What the CPU that was left does about what it learns.
#[derive(Clone, Copy)]
enum Told {
    /// Enough for what was executed there.
    ByAnException,
    /// Whoever executed it (row X3).
    WithABarrier,
}

/// What a context switch of the kernel does beside changing tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// The next task is picked, then [`lazymmu::Lazy::switch_out`].
    Right,
    /// `switch_out` before the next task is picked.
    Early,
    /// It asks whether the task may leave, and forgets the barrier.
    Bare,
}

/// `cpu` goes over to `next`, if its task may leave.
fn switch(mmu: &Mmu<Saboteur>, cpu: usize, next: usize, order: Order) -> bool {
    let sim: &Sim = &mmu.kernel().sim;
    sim.on(cpu);
    let pick_early = order != Order::Early;
    if pick_early {
        sim.pick(cpu, next);
    }
    let left = match order {
        Order::Bare => mmu.lazy().might_sleep(),
        _ => mmu.lazy().switch_out(),
    };
    if left.is_err() {
        assert_eq!(left, Err(LazyMmuError::NotPreemptible));
        return false;
    }
    if !pick_early {
        sim.pick(cpu, next);
    }
    assert!(order == Order::Bare || sim.is_batch_empty(cpu), "R11");
    sim.switch(cpu, next, Switch::Bare);
    true
}

/// The task on CPU 0 goes on on CPU 1, whose task makes room, if it may leave.
fn move_on(mmu: &Mmu<Saboteur>) -> bool {
    let sim = &mmu.kernel().sim;
    let task = sim.running(0);
    mmu.kernel().arm();
    let left = switch(mmu, 0, IDLE, Order::Right);
    mmu.kernel().disarm();
    if left {
        assert!(switch(mmu, 1, task, Order::Right), "CPU 1 is in no section");
        sim.synchronize(1);
    }
    left
}

/// The work in a section that begins on CPU 0 and ends on CPU 1, if the backend allows it.
fn migrate_in_a_section(mmu: &Mmu<Saboteur>, work: &Work) -> Result<(), String> {
    let (mut space, root) = work.prepare(mmu);
    mmu.lazy().enable().expect("depth 0");
    (work.run)(&mut space, root);
    let moved = move_on(mmu);
    assert_eq!(moved, mmu.backend().is_preemptible(), "R38");
    mmu.lazy().disable().expect("a section is open");
    if !moved {
        assert!(move_on(mmu), "no section is open");
    }
    work.check_both(mmu, Told::ByAnException)
}

/// Whether the switch's barrier is the only one behind the last store.
fn needs_the_barrier(setup: Setup, work: &Work) -> bool {
    let is_owed = match work.last {
        Last::Data => !setup.model.ets2,
        Last::Text => true,
        Last::Invalidated => false,
    };
    let defers = setup.backend.is_preemptible() && setup.backend != Backend::Eager;
    is_owed && defers
}

#[test]
fn r17_a_section_that_ends_on_another_cpu_takes_effect_on_both() {
    for setup in [Setup::classic, Setup::ets2] {
        for backend in Backend::ALL {
            for work in &WORKS {
                let setup = setup(backend);
                let mmu = setup.build(Plan::Nothing);
                let result = migrate_in_a_section(&mmu, work);
                assert_eq!(result, Ok(()), "{setup:?}");
                // The switch's barrier is the last in its window.
                let barriers = mmu.kernel().targets(Sabotage::SkipDsbIsh);
                let without = Plan::Nth(Sabotage::SkipDsbIsh, barriers - 1);
                let mmu = setup.build(without);
                let result = migrate_in_a_section(&mmu, work);
                let expected = needs_the_barrier(setup, work);
                let name = work.name;
                assert_eq!(result.is_err(), expected, "{name}, {setup:?}: {result:?}");
            }
        }
    }
}

/// An interrupt at the `n`-th moment of the work takes the task to CPU 1. `None`: there are not so many
/// moments.
fn migrate_in_mid_call(
    setup: Setup,
    work: &Work,
    n: u32,
    order: Order,
) -> Option<Result<(), String>> {
    let mmu = Rc::new(setup.build(Plan::Nothing));
    let (mut space, root) = work.prepare(&mmu);
    let struck = Rc::new(Cell::new(false));
    let (at, has_struck) = (Rc::downgrade(&mmu), struck.clone());
    let sim = &mmu.kernel().sim;
    sim.on_strike(move || {
        let mmu = at.upgrade().expect("the moment is one of its calls");
        has_struck.set(true);
        let sim = &mmu.kernel().sim;
        sim.enter_interrupt();
        let left = switch(&mmu, 0, IDLE, order);
        sim.leave_interrupt();
        if left {
            sim.on(1);
            sim.enter_interrupt();
            assert!(switch(&mmu, 1, 0, order), "it is in no section");
            sim.leave_interrupt();
        }
    });
    sim.strike_at(n);
    mmu.lazy().enable().expect("depth 0");
    (work.run)(&mut space, root);
    mmu.lazy().disable().expect("a section is open");
    sim.strike_at(0);
    struck
        .get()
        .then(|| work.check_both(&mmu, Told::WithABarrier))
}

#[test]
#[cfg_attr(
    miri,
    ignore = "thousands of runs; `preemption` has the library's pointers in them"
)]
fn r11_r17_a_call_that_moves_at_any_moment_takes_effect_on_both_cpus() {
    for setup in [Setup::classic, Setup::ets2] {
        for backend in Backend::ALL {
            let setup = setup(backend);
            for work in &WORKS {
                let mut noticed = [0; 2];
                for n in 1.. {
                    let Some(result) = migrate_in_mid_call(setup, work, n, Order::Right) else {
                        assert!(n > 10, "{}: {n} moments", work.name);
                        break;
                    };
                    assert_eq!(result, Ok(()), "moment {n}, {setup:?}");
                    for (order, noticed) in
                        [Order::Early, Order::Bare].into_iter().zip(&mut noticed)
                    {
                        let result = migrate_in_mid_call(setup, work, n, order);
                        *noticed += u32::from(result.is_some_and(|result| result.is_err()));
                    }
                }
                // Between an entry's store and its TLBI: the one is CPU 0's, the other would be CPU 1's.
                // (DeferStores leaves no section in its middle; where an invalidation waits, it is done on
                // one CPU.)
                let invalidates = work.last == Last::Invalidated || work.before.is_some();
                let at_once = matches!(backend, Backend::Eager | Backend::DeferBarriers);
                let early = invalidates && at_once;
                // And between the TLBI and its barrier; or a queue is left behind.
                let bare = match backend {
                    Backend::DeferStores => false,
                    Backend::Multicall => true,
                    _ => invalidates,
                };
                let noticed = noticed.map(|noticed| noticed > 0);
                assert_eq!(noticed, [early, bare], "{}, {setup:?}", work.name);
            }
        }
    }
}

/// The section goes on where its task is, and what it writes there is a debt of there.
#[test]
fn r16_r17_a_section_with_a_part_on_each_cpu_ends_with_both() {
    for backend in Backend::ALL.into_iter().filter(|b| b.is_preemptible()) {
        let mmu = Setup::classic(backend).build(Plan::Nothing);
        let (mut space, _) = kernel_space(&mmu);
        let second = KERNEL + PAGE_SIZE;
        let section = mmu.lazy().section().expect("depth 0");
        map(&mut space, 5, Prot::KERNEL);
        assert!(move_on(&mmu), "the backend allows it");
        good(space.map(pages(second, 1), backing(6), Prot::KERNEL));
        drop(section);
        for (va, n) in [(KERNEL, 5), (second, 6)] {
            let out = access(&mmu, 1, va, Read);
            assert!(out.is_only(page(n, Prot::KERNEL)), "{backend}: {out:?}");
        }
    }
}
