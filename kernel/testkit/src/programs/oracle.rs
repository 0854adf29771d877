// SPDX-License-Identifier: MIT OR Apache-2.0
//! The oracle: a naive model of address spaces that knows, for each page, the entry that it must
//! have.
//!
//! A program runs on the fake machine, in one task on one CPU. The oracle knows what is mapped and
//! how deep the task is in sections and pauses. From that it computes what each call must return,
//! down to the exact error. After each step it checks that
//!
//! * every page of the universe has the expected entry;
//! * nothing is owed, and nothing waits, outside of a section;
//! * no TLB may hold an old entry, except of pages whose invalidation the program has put off;
//! * if nothing waits: the population of every table is correct, no table is lost, contiguous
//!   groups are whole, and the library's counters equal what was executed.
//!
//! The fake machine checks every store, barrier and TLBI (R18, R27, R29, R32).
//!
//! The oracle leaves out steps of other CPUs and tasks, and preemptions. The machine model executes
//! those ([`super::run()`]).

mod announced;
mod callback;
mod check;
mod entries;
mod gathers;
mod lazy;
mod requests;
mod sharing;

pub use announced::{Compared, compare};

use self::announced::Plain;
use super::frames::FrameSource;
use super::{Failure, Fault, Op, Place, Program, Range, Scene, Step, Universe};
use crate::fake::{self, Choose, Fake, new_mmu, new_space};
use lazymmu::{
    AddressSpace, Backend, BarrierPolicy, Context, Desc, Features, LazySuspended, Mmu, PAGE_SIZE,
    PageRange, PendingInvalidation, Prot, SpaceError, SpaceKind, VirtAddr, bits,
};
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};

/// A space, and the oracle's model of it.
struct Space<'m> {
    mm: AddressSpace<'m, Fake>,
    /// The entry of each page of the universe, [`Desc::INVALID`] if the page is not mapped.
    entries: Vec<Desc>,
}

/// Pages that were unmapped and are not invalidated yet.
struct Pending<'m> {
    space: usize,
    pages: PageRange,
    flush: PendingInvalidation<'m, Fake>,
}

/// A suspension of the task.
struct Suspended<'m> {
    depth: (u8, u8),
    announced: Vec<u8>,
    #[expect(dead_code, reason = "it is there to be dropped")]
    levels: LazySuspended<'m, Fake>,
}

/// The execution of a program.
struct Run<'m> {
    universe: &'m Universe,
    mmu: &'m Mmu<Fake>,
    spaces: Vec<Space<'m>>,
    frames: FrameSource,
    /// Sections and pauses, as the contract counts them.
    depth: (u8, u8),
    /// The depths of the sections that announce a range.
    announced: Vec<u8>,
    /// The suspensions of the task. The last one ends first.
    suspended: Vec<Suspended<'m>>,
    /// The invalidations that were put off. The oldest one is executed first.
    pending: VecDeque<Pending<'m>>,
    /// Whether the present step may find no memory for tables.
    no_memory: bool,
    /// The fault of the callback of the present step.
    fault: Option<(Fault, u8)>,
    /// Whether the kernel spaces share their tables.
    is_shared: bool,
    /// The space of the last step that named one.
    actor: usize,
    /// Set if the run requests no invalidation that the strategy executes by itself. Holds the
    /// ranges whose entries were written one by one and which may have to be invalidated, with
    /// their spaces and whether live entries were set.
    frugal: Option<Vec<(usize, Range, bool)>>,
    /// Set if the run does not announce ranges.
    plain: Option<Plain>,
}

/// Runs a program of `universe` with a strategy, on CPUs with these features. With FEAT_ETS2 the
/// policy is [`BarrierPolicy::Ets2`].
///
/// # Errors
/// The first step at which the library and the oracle disagree, or at which the fake machine finds
/// a wrong store, barrier or TLBI.
pub fn run(
    universe: &Universe,
    backend: Backend,
    features: Features,
    program: &Program,
) -> Result<(), Failure> {
    attempt(|doing| {
        let mmu = new_library(backend, features);
        let mut run = Run::new(universe, &mmu);
        for step in program.0.iter().enumerate() {
            doing.set(Some(step));
            run.step(step.1);
            run.check();
        }
        doing.set(None);
        run.finish();
    })
}

/// The library on a fake machine with these features. With FEAT_ETS2 the policy is
/// [`BarrierPolicy::Ets2`].
fn new_library(backend: Backend, features: Features) -> Mmu<Fake> {
    let mmu = new_mmu();
    mmu.choose_features(features);
    mmu.choose_backend(backend).expect("outside any section");
    if features.ets2 {
        mmu.set_policy(BarrierPolicy::Ets2)
            .expect("the features allow it");
    }
    mmu
}

/// The number of the present step, and the step.
type Doing<'p> = Cell<Option<(usize, &'p Step)>>;

/// Calls `work`, which panics if a check fails. Returns the text of the panic with the step at
/// which it happened.
fn attempt<'p, T>(work: impl FnOnce(&Doing<'p>) -> T) -> Result<T, Failure> {
    let doing = Cell::new(None);
    // The panic drops everything that the program has made.
    let panic = match panic::catch_unwind(AssertUnwindSafe(|| work(&doing))) {
        Ok(done) => return Ok(done),
        Err(panic) => panic,
    };
    let what = panic.downcast_ref::<String>().map(String::as_str);
    let what = what.or(panic.downcast_ref::<&str>().copied());
    let what = what.unwrap_or("it panics");
    Err(match doing.get() {
        Some((i, step)) => format!("step {i}, {:?}: {what}", step.op),
        None => format!("at the end: {what}"),
    })
}

/// The entry without the contiguous hint, which the oracle does not predict.
fn alone(entry: Desc) -> Desc {
    Desc::from_u64(entry.as_u64() & !bits::CONT)
}

/// The result of a call that must be refused for the reason `refused`, or succeed if there is none.
fn verdict(refused: Option<SpaceError>) -> Result<(), SpaceError> {
    refused.map_or(Ok(()), Err)
}

impl<'m> Run<'m> {
    fn new(universe: &'m Universe, mmu: &'m Mmu<Fake>) -> Self {
        let space = |(_, kind): &(u8, SpaceKind)| Space {
            mm: new_space(mmu, *kind),
            entries: vec![Desc::INVALID; universe.pages()],
        };
        Self {
            universe,
            mmu,
            spaces: universe.spaces.iter().map(space).collect(),
            // Frames whose addresses use the upper bits as well.
            frames: FrameSource::repeating(0x5_a5a5_0000),
            depth: (0, 0),
            announced: Vec::new(),
            suspended: Vec::new(),
            pending: VecDeque::new(),
            no_memory: false,
            fault: None,
            is_shared: false,
            actor: 0,
            frugal: None,
            plain: None,
        }
    }

    fn kernel(&self) -> &Fake {
        self.mmu.kernel()
    }

    fn kind(&self, space: usize) -> SpaceKind {
        self.universe.spaces[space].1
    }

    fn prot(&self, space: usize, index: u8) -> Prot {
        super::prot(self.kind(space), index)
    }

    fn range(&self, space: usize, range: Range) -> PageRange {
        self.universe.range_of(space, range)
    }

    fn va(&self, space: usize, page: usize) -> VirtAddr {
        fake::va(self.universe.va(space, page))
    }

    fn entry(&self, space: usize, page: usize) -> Desc {
        self.spaces[self.home(space)].entries[page]
    }

    /// The entries of the pages of a range.
    fn entries(&self, space: usize, range: Range) -> Vec<Desc> {
        let pages = self.universe.pages_of(range);
        pages.map(|page| self.entry(space, page)).collect()
    }

    /// The address and the entry of the first page of `range` for which `is_it` is true.
    fn first(
        &self,
        space: usize,
        range: Range,
        is_it: impl Fn(Desc) -> bool,
    ) -> Option<(VirtAddr, Desc)> {
        let mut pages = self.universe.pages_of(range);
        let page = pages.find(|page| is_it(self.entry(space, *page)))?;
        Some((self.va(space, page), self.entry(space, page)))
    }

    /// The addresses of the mapped pages of a range, with their frames.
    fn mapped(&self, space: usize, range: Range) -> Vec<(u64, lazymmu::Frame)> {
        let pages = self.universe.pages_of(range);
        let used = pages.map(|page| (page, self.entry(space, page)));
        used.filter(|(_, entry)| *entry != Desc::INVALID)
            .map(|(page, entry)| (self.universe.va(space, page), entry.frame()))
            .collect()
    }

    /// Sets the oracle's entries of the pages of a range.
    fn set(&mut self, space: usize, range: Range, entries: impl IntoIterator<Item = Desc>) {
        let pages = self.universe.pages_of(range);
        let home = self.home(space);
        let all = &mut self.spaces[home].entries;
        for (page, entry) in pages.zip(entries) {
            all[page] = entry;
        }
    }

    fn forget(&mut self, space: usize, range: Range) {
        self.set(space, range, std::iter::repeat(Desc::INVALID));
    }

    /// Whether a TLB may still translate one of the pages by an old entry.
    fn may_be_cached(&self, space: usize, pages: PageRange) -> bool {
        let asid = fake::asid_of(self.kind(space));
        let start = pages.start().as_u64();
        let mut all = (0..pages.pages()).map(|i| start + i * PAGE_SIZE);
        all.any(|va| self.kernel().may_be_cached(asid, va))
    }

    /// Whether an invalidation may now wait for the end of a section.
    fn may_wait(&self) -> bool {
        self.mmu.lazy().is_lazy_mmu_mode_active() && self.mmu.backend().invalidates()
    }

    /// Whether the step is in interrupt context, where nothing may be drained.
    fn in_interrupt(&self) -> bool {
        self.kernel().in_interrupt()
    }

    fn step(&mut self, step: &Step) {
        self.fault = step.fault;
        let is_made_by_interrupt = matches!(step.op, Op::InterruptMap(_) | Op::InterruptBoth(_));
        let leaves_levels = matches!(step.op, Op::Suspend | Op::SuspendBegin | Op::SuspendEnd);
        match step.scene {
            Scene::Plain => self.call(step.op),
            Scene::BottomHalvesOff if is_made_by_interrupt || leaves_levels => self.call(step.op),
            Scene::BottomHalvesOff => {
                self.kernel().set_interrupt(true);
                self.call(step.op);
                self.kernel().set_interrupt(false);
            }
            Scene::Paused => self.between(Op::Pause, step.op, Op::Resume),
            Scene::Section => self.between(Op::Enable, step.op, Op::Disable),
            Scene::Nested => {
                self.lazy(Op::Enable);
                self.between(Op::Enable, step.op, Op::Disable);
                self.lazy(Op::Disable);
            }
        }
    }

    fn between(&mut self, before: Op, op: Op, after: Op) {
        self.lazy(before);
        self.call(op);
        self.lazy(after);
    }

    fn call(&mut self, op: Op) {
        match op {
            Op::NoMemory(tables) => {
                self.kernel().set_budget(tables.into());
                self.no_memory = true;
                return;
            }
            Op::InterruptMap(range) | Op::InterruptBoth(range) => {
                let and_back = matches!(op, Op::InterruptBoth(_));
                self.interrupt(range, and_back);
            }
            Op::FlushPending(place) => self.flush_pending(place),
            Op::Suspend => self.suspend(),
            Op::SuspendBegin => self.suspend_begin(),
            Op::SuspendEnd => self.suspend_end(),
            Op::Enable | Op::Disable | Op::Pause | Op::Resume | Op::Flush | Op::Drain => {
                self.lazy(op);
            }
            Op::Switch(_) | Op::Preempt(_) | Op::Tell(_) | Op::Publish(_) => {}
            Op::Map(space, ..)
            | Op::MapEach(space, ..)
            | Op::Fold(space, _)
            | Op::Unmap(space, _)
            | Op::UnmapExisting(space, _)
            | Op::UnmapFrames(space, _)
            | Op::UnmapNoFlush(space, _)
            | Op::UnmapMerged(space, _)
            | Op::FlushRange(space, _)
            | Op::Protect(space, ..)
            | Op::Remap(space, ..)
            | Op::Gather(space, ..)
            | Op::GatherTables(space, ..)
            | Op::GatherExisting(space, ..)
            | Op::GatherEach(space, ..)
            | Op::Apply(space, ..)
            | Op::ApplyExisting(space, ..)
            | Op::Fast(space, ..)
            | Op::FreeEmptyTables(space, _)
            | Op::EnableFast(space, _)
            | Op::Share(space, _)
            | Op::CrossTokens(space, _) => {
                let space = self.acts(space.into());
                self.call_of(space, op);
            }
        }
        self.kernel().set_budget(usize::MAX);
        self.no_memory = false;
    }

    /// Executes the call of `op` for `space` instead of the space that `op` names.
    fn call_of(&mut self, space: usize, op: Op) {
        match op {
            Op::Map(_, range, prot, frames) => self.map(space, range, prot, frames),
            Op::MapEach(_, range, prot, frames) => self.map_each(space, range, prot, frames),
            Op::Fold(_, range) => self.fold(space, range),
            Op::Unmap(_, range) => self.unmap(space, range),
            Op::UnmapExisting(_, range) => self.unmap_existing(space, range),
            Op::UnmapFrames(_, range) => self.unmap_frames(space, range),
            Op::UnmapNoFlush(_, range) => self.unmap_no_invalidate(space, range),
            Op::UnmapMerged(_, range) => self.unmap_merged(space, range),
            Op::FlushRange(_, range) => self.flush_range(space, range),
            Op::Protect(_, range, prot) => self.protect(space, range, prot),
            Op::Remap(_, range, prot) => self.remap(space, range, prot),
            Op::Gather(_, first, second) => self.gather(space, [first, second], false),
            Op::GatherTables(_, first, second) => self.gather(space, [first, second], true),
            Op::GatherExisting(_, first, second) => self.gather_existing(space, [first, second]),
            Op::GatherEach(_, range, pieces, place, frees) => {
                self.gather_each(space, range, pieces, (place, frees));
            }
            Op::Apply(_, range, each) => self.apply(space, range, each),
            Op::ApplyExisting(_, range, each) => self.apply_existing(space, range, each),
            Op::Fast(_, range, each, fast) => self.fast(space, range, each, fast),
            Op::FreeEmptyTables(_, range) => self.free_empty_tables(space, range),
            Op::EnableFast(_, range) => self.enable_fast(space, range),
            Op::Share(_, range) => self.share(space, range),
            Op::CrossTokens(_, range) => self.cross_tokens(space, range),
            _ => unreachable!("{op:?} names no space"),
        }
    }

    /// Closes every level and executes every invalidation that was put off.
    fn settle(&mut self) {
        self.close();
        self.check();
        while !self.pending.is_empty() {
            self.flush_pending(Place::Here);
        }
    }

    /// Ends the program: closes and invalidates everything, and destroys the spaces.
    fn finish(mut self) {
        self.settle();
        self.check();
        let invalidated = self.kernel().all_invalidated();
        assert!(invalidated, "an invalidation is missing at the end");
        self.give_back_roots();
        for space in self.spaces {
            fake::destroy(space.mm);
        }
        assert_eq!(self.mmu.kernel().live_tables(), 0, "a table is lost");
    }
}
