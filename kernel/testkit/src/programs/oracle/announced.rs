// SPDX-License-Identifier: MIT OR Apache-2.0
//! A comparison of the same program with and without announced ranges: announcing must not execute
//! more stores, DSB, ISB or TLBI.
//!
//! Two runs execute each step one after the other, each on a machine of its own. In the second run
//! a section that announces a range is a plain section, and a [`lazymmu::FastPteRange`] is a plain
//! section with calls for its pages. With [`Backend::DeferStores`], which does the same as
//! [`Backend::DeferBarriers`] outside of announced ranges, the second run uses the latter, because
//! [`lazymmu::AddressSpace::apply_to_page_range`] would announce ranges by itself.
//!
//! Neither run requests an invalidation of entries that it has changed one by one, unless nothing
//! waits and a TLB may hold their old values.
//!
//! The second run also folds the contiguous groups that announced ranges have made, so that both
//! runs change equal tables:
//!
//! * After a [`lazymmu::FastPteRange`] the second run folds the same range, and the fold is
//!   counted: one break, one invalidation and one make for all groups are what a range may cost
//!   beyond a plain section.
//! * A group that was made as one while its stores waited has cost nothing. In the second run its
//!   fold is not counted.

use super::entries::{prot_for, sets_live, write};
use super::{Run, Space, attempt, new_library};
use crate::fake::Executed;
use crate::programs::{
    Act, Bulk, Each, Failure, Fast, Frames, Op, Place, Program, Range, Scene, Universe,
};
use lazymmu::{
    Backend, Desc, Features, Level, Mapping, PAGE_SIZE, PageRange, PteRef, SpaceError, SpaceKind,
    bits,
};

/// What the two runs of a program have executed.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// The run with announced ranges.
    pub announced: Executed,
    /// The run with plain sections.
    pub plain: Executed,
}

/// The state of a run without announced ranges.
#[derive(Default)]
pub(super) struct Plain {
    /// What was executed to fold groups that have cost the other run nothing.
    not_charged: Executed,
    /// Whether such a fold has changed, or would have changed, what is executed later.
    is_unfair: bool,
}

/// Runs a program of `universe` with and without announced ranges.
///
/// Returns `None` if the costs cannot be compared: the first run has made a group in a section
/// whose debts the fold of the second run would have paid.
///
/// # Errors
/// The errors of [`super::run`].
pub fn compare(
    universe: &Universe,
    backend: Backend,
    features: Features,
    program: &Program,
) -> Result<Option<Compared>, Failure> {
    attempt(|doing| {
        let unannounced = match backend {
            Backend::DeferStores => Backend::DeferBarriers,
            other => other,
        };
        let mmu = new_library(backend, features);
        let other = new_library(unannounced, features);
        let (mut announced, mut plain) = (Run::new(universe, &mmu), Run::new(universe, &other));
        plain.plain = Some(Plain::default());
        for run in [&mut announced, &mut plain] {
            run.frugal = Some(Vec::new());
        }
        for step in program.0.iter().enumerate() {
            doing.set(Some(step));
            let empties_nothing = matches!(
                step.1.op,
                Op::Map(..)
                    | Op::MapEach(..)
                    | Op::Enable
                    | Op::EnableFast(..)
                    | Op::Disable
                    | Op::Flush
                    | Op::FlushPending(_)
            );
            if !empties_nothing {
                announced.leave_nothing_to_invalidate();
                plain.leave_nothing_to_invalidate();
            }
            let op = match step.1.op {
                // A merged token may cover pages inside and outside of an announced range. The end
                // of the section then invalidates some of them (R23), and the token all of them.
                Op::UnmapMerged(space, range) => Op::UnmapNoFlush(space, range),
                // If another space uses the token, the space that owes the invalidation executes it
                // again.
                Op::FlushPending(Place::OtherSpace) => Op::FlushPending(Place::Here),
                op => op,
            };
            let is_interrupt = matches!(op, Op::InterruptMap(_) | Op::InterruptBoth(_));
            let is_batch_empty = |run: &Run<'_>| run.kernel().is_batch_empty();
            // An interrupt is executed only while nothing waits in either run.
            if is_interrupt && !(is_batch_empty(&announced) && is_batch_empty(&plain)) {
                continue;
            }
            let mut step = *step.1;
            step.op = op;
            // Both runs must make the same calls: no callback goes wrong, and bottom halves are off
            // only while nothing waits in either run.
            step.fault = None;
            let are_empty = is_batch_empty(&announced) && is_batch_empty(&plain);
            if step.scene == Scene::BottomHalvesOff && !are_empty {
                step.scene = Scene::Plain;
            }
            announced.step(&step);
            announced.invalidate_rest();
            plain.step(&step);
            plain.invalidate_rest();
            plain.fold_as(&announced, op);
            announced.kernel().take_effects();
            plain.kernel().take_effects();
        }
        doing.set(None);
        for run in [&mut announced, &mut plain] {
            run.close();
            run.invalidate_rest();
            run.settle();
        }
        let Plain {
            not_charged,
            is_unfair,
        } = plain.plain.take().expect("it was set above");
        let compared = Compared {
            announced: announced.kernel().executed(),
            plain: plain.kernel().executed() - not_charged,
        };
        announced.finish();
        plain.finish();
        (!is_unfair).then_some(compared)
    })
}

impl Run<'_> {
    /// Executes the invalidations that the program has put off. A space remembers only the hull of
    /// such pages, and invalidates all of it when one of them is mapped again; the two runs could
    /// then execute different invalidations.
    fn leave_nothing_to_invalidate(&mut self) {
        for space in self
            .pending
            .iter()
            .map(|pending| pending.space)
            .collect::<Vec<_>>()
        {
            self.flush_pending(Place::Here);
            let half = self.kind(space).half();
            let all = PageRange::from_bounds(half.start(), half.end()).expect("whole pages");
            assert_eq!(self.spaces[space].mm.invalidate_range(all), Ok(()));
        }
    }

    /// If nothing waits, invalidates entries that were written one by one if they may still be
    /// cached. Live entries that were set are invalidated in any case, unless the strategy has done
    /// so.
    fn invalidate_rest(&mut self) {
        if !self.kernel().is_batch_empty() {
            return;
        }
        let put_off = self.frugal.replace(Vec::new()).unwrap_or_default();
        for (space, range, set_live) in put_off {
            let is_owed = set_live && self.mmu.backend() != Backend::DeferStores;
            if is_owed || self.may_be_cached(space, self.range(space, range)) {
                self.flush_range(space, range);
            }
        }
    }

    /// Whether nothing waits and nothing is owed.
    fn is_quiet(&self) -> bool {
        self.kernel().is_batch_empty() && self.mmu.lazy().state().owed().is_empty()
    }

    /// The folded groups, as space and pages.
    fn folded_groups(&self) -> Vec<(usize, PageRange)> {
        let mut groups = Vec::new();
        for (number, space) in self.spaces.iter().enumerate() {
            for page in 0..self.universe.pages() {
                let va = self.va(number, page);
                let is_member = |found: Mapping| found.entry.as_u64() & bits::CONT != 0;
                if va.as_u64().is_multiple_of(16 * PAGE_SIZE)
                    && space.mm.query(va).is_some_and(is_member)
                {
                    let pages = PageRange::new(va.as_u64(), 16).expect("a group");
                    groups.push((number, pages));
                }
            }
        }
        groups
    }

    /// Folds the groups that the step `op` has folded in the other run.
    fn fold_as(&mut self, other: &Self, op: Op) {
        let mine = self.folded_groups();
        let mut missing = other.folded_groups();
        missing.retain(|group| !mine.contains(group));
        if let Op::Fast(space, range, ..) = op {
            let space = usize::from(space);
            let pages = self.range(space, range);
            let is_near =
                |(of, group): &(usize, PageRange)| *of == space && overlaps(*group, pages);
            if missing.iter().any(is_near) {
                let folded = self.spaces[space].mm.fold_contiguous(pages);
                assert!(folded.is_ok(), "{folded:?}");
                missing.retain(|group| !is_near(group));
            }
        }
        let is_quiet = other.is_quiet();
        for (space, group) in missing {
            self.fold_for_free(space, group, is_quiet);
        }
    }

    /// Folds the groups of `pages` without counting what that executes.
    fn fold_for_free(&mut self, space: usize, pages: PageRange, is_quiet: bool) {
        let is_quiet = is_quiet && self.is_quiet();
        let before = self.kernel().executed();
        if is_quiet {
            let folded = self.spaces[space].mm.fold_contiguous(pages);
            assert_eq!(folded, Ok(pages.pages() as usize / 16), "{pages}");
        }
        let executed = self.kernel().executed() - before;
        let plain = self.plain.as_mut().expect("the run without announcements");
        plain.not_charged = plain.not_charged + executed;
        plain.is_unfair |= !is_quiet;
    }

    /// Does what [`Run::fast`] does, in a plain section.
    pub(super) fn fast_unannounced(&mut self, space: usize, range: Range, each: Each, how: Fast) {
        let (pages, kind) = (self.range(space, range), self.kind(space));
        let frames = self.frames.take(pages, Frames::Consecutive);
        let others = self.frames.take(pages, Frames::Consecutive);
        let bulk = self.frames.take(pages, Frames::Aligned);
        let at = how.part(bulk.len());
        let numbers = self.universe.pages_of(range);
        let first_va = pages.start().as_u64();
        let part = |first: usize, n: usize| {
            let start = first_va + first as u64 * PAGE_SIZE;
            PageRange::new(start, n as u64).expect("a part of the range")
        };
        if !pages.is_in_one_table(Level::L3) {
            return;
        }
        let section = self.mmu.lazy().section();
        let Space { mm, entries } = &mut self.spaces[space];
        // The table is built first. Without memory for it nothing is changed.
        let built = mm.apply_to_page_range(part(0, 1), |_| Ok::<(), SpaceError>(()));
        if built.is_err() {
            return;
        }
        let inner = (how.bulk == Bulk::Crossed).then(|| self.mmu.lazy().section());
        let entries = &mut entries[numbers.clone()];
        let prot = prot_for(kind, bulk[at.start]);
        match how.bulk {
            Bulk::None | Bulk::Crossed => {}
            Bulk::Run | Bulk::Each | Bulk::Frames => {
                let backing = &bulk[at.clone()];
                if mm.map(part(at.start, at.len()), backing, prot).is_ok() {
                    for i in at.clone() {
                        entries[i] = Desc::page(bulk[i], prot);
                    }
                    // `set_run` writes groups with the hint at once.
                    let head =
                        (first_va / PAGE_SIZE + at.start as u64).wrapping_neg() as usize % 16;
                    let groups = at.len().saturating_sub(head) / 16;
                    if how.bulk == Bulk::Run && kind != SpaceKind::Kernel && groups > 0 {
                        let groups = part(at.start + head, 16 * groups);
                        self.fold_for_free(space, groups, true);
                    }
                }
            }
            Bulk::Clear => {
                let clear = |entry: &mut PteRef<'_, _>| {
                    entry.get_and_clear();
                    Ok::<(), SpaceError>(())
                };
                mm.apply_to_page_range(part(at.start, at.len()), clear)
                    .expect("the table is there");
                entries[at].fill(Desc::INVALID);
            }
        }
        let Space { mm, entries } = &mut self.spaces[space];
        let entries = &mut entries[numbers];
        let n = entries.len();
        let mut set_live = false;
        for step in 0..n {
            let i = step * 521 % n;
            if each.act(i) == Act::Look {
                continue;
            }
            let known = (part(i, 1).start(), entries[i]);
            set_live |= sets_live(known.1, each.act(i));
            mm.apply_to_page_range(part(i, 1), |entry| {
                let pair = [frames[i], others[i]];
                entries[i] = write(entry, known, each.act(i), pair, kind);
                Ok::<(), SpaceError>(())
            })
            .expect("the table is there");
        }
        drop(section);
        drop(inner);
        self.invalidate_entries(space, range, set_live);
    }
}

/// Whether two ranges of one half have a page in common.
fn overlaps(a: PageRange, b: PageRange) -> bool {
    let (a_start, b_start) = (a.start().as_u64(), b.start().as_u64());
    a_start.max(b_start) < (a_start + a.pages() * PAGE_SIZE).min(b_start + b.pages() * PAGE_SIZE)
}
