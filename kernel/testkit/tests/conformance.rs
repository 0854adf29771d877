// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checks for a kernel's traits pass on the kernels of this crate, and each of them can fail.

use lazymmu::{
    Batch, Context, Counters, Desc, Frame, Hardware, LazyMmuError, LazyMmuState, Pte, Table,
    TableFrames, TlbiOp,
};
use lazymmu_testkit::conformance::{context, hardware, on_the_model, table_frames};
use lazymmu_testkit::fake::{Fake, Heap};
use lazymmu_testkit::model::world::Setup;
use lazymmu_testkit::model::{Modelled, Plan, Sabotage, Saboteur, Sim};
use std::cell::Cell;
use std::ptr::NonNull;
use std::thread::panicking;

fn sim() -> Sim {
    Setup::classic(lazymmu::Backend::DeferBarriers).sim()
}

/// A table of `frames`, whose frame is not given back.
fn scratch(frames: &impl TableFrames) -> &Table {
    let frame = frames.alloc_table().expect("there is memory");
    // SAFETY: the frame is allocated and never freed.
    unsafe { frames.table_ptr(frame).as_ref() }
}

#[test]
fn the_fake_keeps_its_promises() {
    let fake = Fake::default();
    assert_eq!(hardware(&fake, scratch(&fake)), Ok(()));
    assert_eq!(table_frames(&fake, 20), Ok(()));
    assert_eq!(context(&fake), Ok(()));
    fake.set_interrupt(true);
    assert_eq!(context(&fake), Ok(()));
    fake.start_hypervisor();
    fake.withdraw_batch();
    assert_eq!(context(&fake), Ok(()));
    assert_eq!(table_frames(&Heap::default(), 20), Ok(()));
}

#[test]
fn the_sim_keeps_its_promises() {
    let sim = sim();
    assert_eq!(hardware(&sim, scratch(&sim)), Ok(()));
    // Fewer than asked for: its pool ends.
    assert_eq!(table_frames(&sim, 1000), Ok(()));
    assert_eq!(context(&sim), Ok(()));
    sim.enter_interrupt();
    assert_eq!(context(&sim), Ok(()));
    assert_eq!(on_the_model(|sim| sim), Ok(()));
}

#[test]
fn the_saboteur_is_caught() {
    let nothing = |sim| Saboteur::new(sim, Plan::Nothing);
    assert_eq!(on_the_model(nothing), Ok(()));
    for what in Sabotage::ALL {
        let spoiled = |sim| Saboteur::new(sim, Plan::Every(what));
        let found = on_the_model(spoiled).expect_err("an instruction is missing");
        println!("{what:?}: {found}");
    }
}

/// Which method of a [`Wrong`] does what it should not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    /// An odd last entry is forgotten, as a loop of pairs may do.
    StoreZero,
    /// One entry too many.
    StoreFrames,
    /// The steps begin at the second entry.
    StoreLinear,
    /// `keep` is left out.
    UpdateRun,
    /// Returns the new value.
    Swap,
    /// Writes even if the entry holds another value.
    CompareExchange,
    Load,
    Store,
}

/// Entry accesses with a mistake.
struct Wrong(Mistake);

// SAFETY: it is wrong on purpose, and no CPU walks its tables.
unsafe impl Hardware for Wrong {
    fn load(&self, pte: &Pte) -> Desc {
        match self.0 {
            Mistake::Load => Desc::INVALID,
            _ => Heaped.load(pte),
        }
    }

    fn store(&self, pte: &Pte, desc: Desc) {
        let low = Desc::from_u64(desc.as_u64() & 0xffff_ffff & !0xf000);
        let stored = if self.0 == Mistake::Store { low } else { desc };
        Heaped.store(pte, stored);
    }

    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        let old = Heaped.swap(pte, desc);
        if self.0 == Mistake::Swap { desc } else { old }
    }

    fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
        let result = Heaped.compare_exchange(pte, old, new);
        if self.0 == Mistake::CompareExchange {
            Heaped.store(pte, new);
        }
        result
    }

    fn store_linear(&self, run: &[Pte], first: Desc, step: u64) {
        let skew = if self.0 == Mistake::StoreLinear {
            step
        } else {
            0
        };
        Heaped.store_linear(run, Desc::from_u64(first.as_u64() + skew), step);
    }

    fn store_frames(&self, run: &[Pte], frames: &[Frame], template: Desc) {
        let short = match self.0 {
            Mistake::StoreFrames => &run[..run.len().min(511)],
            _ => run,
        };
        Heaped.store_frames(short, frames, template);
    }

    fn update_run(&self, run: &[Pte], keep: u64, set: u64) {
        let keep = if self.0 == Mistake::UpdateRun {
            !0
        } else {
            keep
        };
        Heaped.update_run(run, keep, set);
    }

    fn store_zero(&self, run: &[Pte]) {
        let n = match self.0 {
            Mistake::StoreZero => run.len() & !1,
            _ => run.len(),
        };
        Heaped.store_zero(&run[..n]);
    }

    fn dmb_ishst(&self) {}
    fn dsb_ishst(&self) {}
    fn dsb_ish(&self) {}
    fn isb(&self) {}
    fn tlbi(&self, _: TlbiOp, _: u64) {}
}

/// The default bodies.
struct Heaped;

// SAFETY: its tables are on the heap, and no CPU walks them.
unsafe impl Hardware for Heaped {
    fn dmb_ishst(&self) {}
    fn dsb_ishst(&self) {}
    fn dsb_ish(&self) {}
    fn isb(&self) {}
    fn tlbi(&self, _: TlbiOp, _: u64) {}
}

#[test]
fn an_entry_access_that_does_something_else_is_found() {
    let table = Box::new(Table::new());
    assert_eq!(hardware(&Heaped, &table), Ok(()));
    for (mistake, found) in [
        (Mistake::Load, "load of entry 0: 0x0 instead of 0x800"),
        (
            Mistake::Store,
            "store to entry 1: entry 1 holds 0x1000800 instead of 0x1001800",
        ),
        (
            Mistake::Swap,
            "swap of entry 0: 0x2000800 instead of 0x1000800",
        ),
        (
            Mistake::CompareExchange,
            "compare_exchange of entry 0 that must fail: entry 0 holds 0x3000800 instead of 0x2000800",
        ),
        (
            Mistake::StoreLinear,
            "store_linear of 1 entries from 0 on: entry 0 holds 0x9001800 instead of 0x9000800",
        ),
        (
            Mistake::StoreFrames,
            "store_frames of 512 entries from 0 on: entry 511 holds 0x10021ff800 instead of 0x8c0",
        ),
        (
            Mistake::UpdateRun,
            "update_run of 1 entries from 0 on: entry 0 holds 0xac0 instead of 0x280",
        ),
        (
            Mistake::StoreZero,
            "store_zero of 1 entries from 0 on: entry 0 holds 0x280 instead of 0x0",
        ),
    ] {
        let result = hardware(&Wrong(mistake), &table);
        if !cfg!(miri) || mistake != Mistake::StoreFrames {
            assert_eq!(result, Err(found.into()), "{mistake:?}");
        }
    }
}

/// Tables with a mistake of the allocator.
struct Pool {
    heap: Heap,
    last: Cell<Option<Frame>>,
    mistake: Mislaid,
    frees: Cell<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mislaid {
    /// What was given back is given out again as it is.
    NotZeroed,
    /// The same frame for two tables.
    Twice,
    /// Where another table is.
    Elsewhere,
    /// What was given back cannot be had again.
    Lost,
    Nothing,
}

// SAFETY: it breaks these promises. That is seen by a check which reads and writes the tables only
// as atomic cells.
unsafe impl TableFrames for Pool {
    fn alloc_table(&self) -> Option<Frame> {
        if self.mistake == Mislaid::Lost && self.frees.get() > 0 || self.mistake == Mislaid::Nothing
        {
            return None;
        }
        let last = self.last.get();
        let again = self.mistake == Mislaid::Twice
            || self.mistake == Mislaid::NotZeroed && self.frees.get() > 0;
        let frame = last.filter(|_| again).or_else(|| self.heap.alloc_table());
        self.last.set(frame);
        frame
    }

    unsafe fn free_table(&self, _: Frame) {
        // All stay until the heap goes.
        self.frees.set(self.frees.get() + 1);
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        let frame = match self.mistake {
            Mislaid::Elsewhere => self.last.get().unwrap_or(frame),
            _ => frame,
        };
        self.heap.table_ptr(frame)
    }
}

#[test]
fn an_allocator_that_breaks_a_promise_is_found() {
    for (mistake, found) in [
        (Mislaid::NotZeroed, "is not zero"),
        (Mislaid::Twice, "is not zero"),
        (Mislaid::Elsewhere, "which was not written there"),
        (
            Mislaid::Lost,
            "3 tables were given back, and 0 can be had again",
        ),
        (Mislaid::Nothing, "there is not a single table"),
    ] {
        let pool = Pool {
            heap: Heap::default(),
            last: Cell::new(None),
            mistake,
            frees: Cell::new(0),
        };
        let what = table_frames(&pool, 3).expect_err("a promise is broken");
        assert!(what.contains(found), "{mistake:?}: {what}");
    }
}

/// Answers that change.
struct Restless {
    states: [LazyMmuState; 2],
    counters: [Counters; 2],
    asked: Cell<usize>,
    of: &'static str,
}

impl Restless {
    fn turn(&self, of: &str) -> usize {
        let asked = self.asked.get();
        if of != self.of {
            return 0;
        }
        self.asked.set(asked + 1);
        asked % 2
    }
}

// SAFETY: it is wrong on purpose, and nothing but the check uses it.
unsafe impl Context for Restless {
    unsafe fn lazy(&self) -> &LazyMmuState {
        &self.states[self.turn("lazy")]
    }

    fn in_interrupt(&self) -> bool {
        self.turn("in_interrupt") == 1
    }

    unsafe fn counters(&self) -> &Counters {
        &self.counters[self.turn("counters")]
    }

    unsafe fn task_counters(&self) -> Option<&Counters> {
        // SAFETY: the caller's promise is the one that is asked for here.
        (self.of != "task_counters").then(|| unsafe { self.counters() })
    }

    fn batch(&self) -> Option<&Batch> {
        None
    }

    fn report(&self, _: LazyMmuError) {}
}

#[test]
fn an_answer_that_changes_is_found() {
    let found = |of| {
        let restless = Restless {
            states: Default::default(),
            counters: [Counters::new(), Counters::new()],
            asked: Cell::new(0),
            of,
        };
        context(&restless)
    };
    assert_eq!(found("nothing"), Ok(()));
    for of in ["lazy", "in_interrupt", "counters"] {
        let what = found(of).expect_err("an answer changes");
        assert!(what.starts_with(of), "{what}");
    }
    let what = found("task_counters").expect_err("two answers differ");
    assert!(
        what.starts_with("task_counters returns none instead of"),
        "{what}"
    );
}

/// How a [`Mistaken`] answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Right,
    /// No CPU has a batch.
    NoBatch,
    /// The state of another task than the one that runs.
    OtherTask,
    /// A state of its own, of which `Modelled::lazy_of` knows nothing.
    OwnState,
    /// The right state until it has a section, and a state of its own from then on.
    Forgetful,
    /// The same, with a panic instead.
    Panics,
}

/// A [`Sim`] with answers of its own.
struct Mistaken {
    sim: Sim,
    own: LazyMmuState,
    answer: Answer,
}

// SAFETY: each method is the `Sim`'s, which has the effect that its name says.
unsafe impl Hardware for Mistaken {
    fn load(&self, pte: &Pte) -> Desc {
        self.sim.load(pte)
    }

    fn store(&self, pte: &Pte, desc: Desc) {
        self.sim.store(pte, desc);
    }

    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        self.sim.swap(pte, desc)
    }

    fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
        self.sim.compare_exchange(pte, old, new)
    }

    fn dmb_ishst(&self) {
        self.sim.dmb_ishst();
    }

    fn dsb_ishst(&self) {
        self.sim.dsb_ishst();
    }

    fn dsb_ish(&self) {
        self.sim.dsb_ish();
    }

    fn isb(&self) {
        self.sim.isb();
    }

    fn tlbi(&self, op: TlbiOp, operand: u64) {
        self.sim.tlbi(op, operand);
    }
}

// SAFETY: everything is the `Sim`'s, which keeps these promises.
unsafe impl TableFrames for Mistaken {
    fn alloc_table(&self) -> Option<Frame> {
        self.sim.alloc_table()
    }

    unsafe fn free_table(&self, frame: Frame) {
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { self.sim.free_table(frame) };
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        self.sim.table_ptr(frame)
    }
}

// SAFETY: it is wrong on purpose, and nothing but the check uses it.
unsafe impl Context for Mistaken {
    unsafe fn lazy(&self) -> &LazyMmuState {
        // SAFETY: no task of the model ends.
        let right = unsafe { self.sim.lazy() };
        match self.answer {
            Answer::OtherTask => self.sim.lazy_of(2),
            Answer::OwnState => &self.own,
            Answer::Forgetful if right.read().enable_count() > 0 => &self.own,
            Answer::Panics if right.read().enable_count() > 0 && !panicking() => {
                panic!("no such task")
            }
            _ => right,
        }
    }

    fn in_interrupt(&self) -> bool {
        self.sim.in_interrupt()
    }

    unsafe fn counters(&self) -> &Counters {
        // SAFETY: the caller's promise is the one that is asked for here.
        unsafe { self.sim.counters() }
    }

    fn batch(&self) -> Option<&Batch> {
        self.sim.batch().filter(|_| self.answer != Answer::NoBatch)
    }

    fn report(&self, error: LazyMmuError) {
        self.sim.report(error);
    }
}

impl Modelled for Mistaken {
    fn sim(&self) -> &Sim {
        &self.sim
    }
}

#[test]
fn a_context_that_does_not_fit_the_machine_is_found_and_nothing_panics() {
    let found = |answer| {
        on_the_model(|sim| Mistaken {
            sim,
            own: LazyMmuState::new(),
            answer,
        })
    };
    assert_eq!(found(Answer::Right), Ok(()));
    for (answer, expected) in [
        (
            Answer::NoBatch,
            "Context::batch() returns None, and defer-stores needs",
        ),
        (
            Answer::OtherTask,
            "Context::lazy on CPU 0 is not Modelled::lazy_of(0)",
        ),
        (
            Answer::OwnState,
            "Context::lazy on CPU 0 is not Modelled::lazy_of(0)",
        ),
        (
            Answer::Forgetful,
            "map_a_page, eager: the library reports: lazy MMU mode is disabled",
        ),
        (Answer::Panics, "map_a_page, eager: no such task"),
    ] {
        let what = found(answer).expect_err("an answer is wrong");
        assert!(what.starts_with(expected), "{answer:?}: {what}");
    }
}
