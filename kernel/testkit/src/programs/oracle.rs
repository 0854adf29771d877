// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces against a naive oracle: for each page, the entry that it must have.
//!
//! A program runs on the fake machine, in one task on one CPU. The oracle knows two things, what is
//! mapped and how deep the task is in sections and pauses, and says from them what each call must
//! return, with the exact error. After each step
//!
//! * every page of the universe is queried;
//! * nothing is owed, and nothing waits, outside of a section;
//! * no TLB may hold an old entry, but of pages whose flush the program has put off;
//! * where nothing waits, every population is recounted from raw tables, no table is lost,
//!   contiguous groups are whole, and the library's counters tell what was executed.
//!
//! The fake judges every store, barrier and TLBI on the way (R18, R27, R29, R32).
//!
//! Steps of other CPUs and tasks, and preemptions, are the machine model's ([`super::run()`]); the
//! oracle leaves them out.

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

/// A space, and what the oracle says of it.
struct Space<'m> {
    mm: AddressSpace<'m, Fake>,
    /// For each page of the universe its entry, [`Desc::INVALID`] if it is not mapped.
    entries: Vec<Desc>,
}

/// Pages that are not mapped any more and not invalidated yet.
struct Pending<'m> {
    space: usize,
    pages: PageRange,
    flush: PendingInvalidation<'m, Fake>,
}

/// Levels that the task has left for a while.
struct Suspended<'m> {
    depth: (u8, u8),
    announced: Vec<u8>,
    #[expect(dead_code, reason = "it is there to be dropped")]
    levels: LazySuspended<'m, Fake>,
}

/// A program at work.
struct Run<'m> {
    universe: &'m Universe,
    mmu: &'m Mmu<Fake>,
    spaces: Vec<Space<'m>>,
    frames: FrameSource,
    /// Sections and pauses, as the contract counts them.
    depth: (u8, u8),
    /// Depths of the sections that announce a range.
    announced: Vec<u8>,
    /// The last one comes first back.
    suspended: Vec<Suspended<'m>>,
    /// The oldest one is flushed first.
    pending: VecDeque<Pending<'m>>,
    /// Whether the step at hand may find no memory for tables.
    no_memory: bool,
    /// What the callback of the step at hand does.
    fault: Option<(Fault, u8)>,
    /// Whether the kernel spaces share their tables.
    is_shared: bool,
    /// The space of the last step that named one.
    actor: usize,
    /// Set if no invalidation is asked for that the strategy executes: ranges whose entries were written one by one, and which
    /// may have to be invalidated, and whether live ones were set.
    frugal: Option<Vec<(usize, Range, bool)>>,
    /// Set if ranges are not announced.
    plain: Option<Plain>,
}

/// Runs a program of `universe` with a strategy, on CPUs with these features: with FEAT_ETS2, under the policy for it.
///
/// # Errors
/// At which step the library and the oracle disagree, or the fake machine objects to a store,
/// barrier or TLBI.
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

/// The library on a fake machine with these features: with FEAT_ETS2, under the policy for it.
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

/// The step at hand, by number.
type Doing<'p> = Cell<Option<(usize, &'p Step)>>;

/// Does what panics if something is wrong, and says at which step.
fn attempt<'p, T>(work: impl FnOnce(&Doing<'p>) -> T) -> Result<T, Failure> {
    let doing = Cell::new(None);
    // Everything that the program has made is dropped by the panic.
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

/// The entry without the hint that it belongs to a contiguous group, which comes and goes.
fn alone(entry: Desc) -> Desc {
    Desc::from_u64(entry.as_u64() & !bits::CONT)
}

/// What a call must return that is refused for this reason, or not at all.
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
            // Numbers that use the upper bits of an address as well.
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

    /// What the pages of a range hold.
    fn entries(&self, space: usize, range: Range) -> Vec<Desc> {
        let pages = self.universe.pages_of(range);
        pages.map(|page| self.entry(space, page)).collect()
    }

    /// The first page of `range` for which `is_it` holds, with its address and entry.
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

    /// The addresses of a range, with the frames that they are mapped to.
    fn mapped(&self, space: usize, range: Range) -> Vec<(u64, lazymmu::Frame)> {
        let pages = self.universe.pages_of(range);
        let used = pages.map(|page| (page, self.entry(space, page)));
        used.filter(|(_, entry)| *entry != Desc::INVALID)
            .map(|(page, entry)| (self.universe.va(space, page), entry.frame()))
            .collect()
    }

    /// The pages of a range get these entries.
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

    /// Whether a TLB may still translate some page by what it held before.
    fn may_be_cached(&self, space: usize, pages: PageRange) -> bool {
        let asid = fake::asid_of(self.kind(space));
        let start = pages.start().as_u64();
        let mut all = (0..pages.pages()).map(|i| start + i * PAGE_SIZE);
        all.any(|va| self.kernel().may_be_cached(asid, va))
    }

    /// Whether what is invalidated now may wait for the end of a section.
    fn may_wait(&self) -> bool {
        self.mmu.lazy().is_lazy_mmu_mode_active() && self.mmu.backend().invalidates()
    }

    /// Whether the call is made where nothing may be drained.
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

    /// A call for `space`, whatever the operation says.
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

    /// Everything is closed and flushed.
    fn settle(&mut self) {
        self.close();
        self.check();
        while !self.pending.is_empty() {
            self.flush_pending(Place::Here);
        }
    }

    /// Everything is closed, flushed and given back.
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
