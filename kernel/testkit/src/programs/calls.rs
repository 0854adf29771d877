// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library's calls, each followed by what the contract says about it.
//!
//! Whether a call must be granted follows from the values that the contract holds: a refusal of
//! what is possible fails the program, and so does the reverse. Frames are given back
//! to the machine when the call's contract says that they may be.

use super::contract::{Made, State};
use super::run::{Failure, Pending, Run, prot, va};
use super::{Act, Bulk, Each, Fast, Frames, Op, Range};
use crate::model::Modelled;
use lazymmu::{Backend, Backing, Frame, Prot, SpaceError, VirtAddr};

/// Who calls: the task, and the CPU that it runs on.
#[derive(Clone, Copy)]
pub struct Caller {
    pub task: usize,
    pub cpu: usize,
}

/// What a gather does with tables that it leaves empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    Stay,
    AreFreed,
}

/// What was asked of the entries of a range one by one, and what came of it.
struct Written<'a> {
    range: Range,
    each: Each,
    frames: &'a [Frame],
    /// Whether each `set` was granted; `true` where there was none.
    granted: Vec<bool>,
    result: Result<(), SpaceError>,
}

impl<K: Modelled> Run<'_, K> {
    pub fn call(&mut self, op: Op, space: usize, by: Caller) -> Result<(), Failure> {
        match op {
            Op::Map(_, range, prot, frames) => self.map(space, range, (prot, frames), by),
            Op::MapEach(_, range, prot, frames) => self.map_each(space, range, (prot, frames), by),
            Op::Fold(_, range) => {
                let result = self.spaces[space].fold_contiguous(range.of(space));
                self.returned(by);
                expect(result.map(|_| ()), true)
            }
            Op::Unmap(_, range) => self.unmap(space, range, by),
            Op::UnmapExisting(_, range) => self.unmap_existing(space, range, by),
            Op::ApplyExisting(_, range, each) => self.apply_existing(space, range, each, by),
            Op::GatherExisting(_, first, second) => {
                self.gather_existing(space, [first, second], by)
            }
            Op::UnmapFrames(_, range) => self.unmap_frames(space, range, by),
            Op::Gather(_, first, second) => self.gather(space, [first, second], Tables::Stay, by),
            Op::GatherTables(_, first, second) => {
                self.gather(space, [first, second], Tables::AreFreed, by)
            }
            Op::UnmapNoFlush(_, range) => self.unmap_no_invalidate(space, range, 1, by),
            Op::UnmapMerged(_, range) => self.unmap_no_invalidate(space, range, 2, by),
            Op::FlushRange(_, range) => {
                let result = self.spaces[space].invalidate_range(range.of(space));
                let by = self.returned(by);
                let covers = |page, _| range.pages().any(|p| p == page);
                self.contract.invalidated(space, by.cpu, covers);
                expect(result, true)
            }
            Op::Protect(_, range, prot) => self.protect(space, range, prot, by),
            Op::Remap(_, range, prot) => self.remap(space, range, prot, by),
            Op::Apply(_, range, each) => self.apply(space, range, each, by),
            Op::Fast(_, range, each, how) => self.fast(space, range, (each, how), by),
            Op::FreeEmptyTables(_, range) => {
                let result = self.spaces[space].free_empty_tables(range.of(space));
                expect(result.map(|_| ()), true)
            }
            _ => Ok(()),
        }
    }

    /// New frames for the pages of `range`.
    fn frames(&mut self, range: Range, how: Frames) -> Vec<Frame> {
        // Where they are aligned like the addresses, which space it is does not matter.
        self.frames.take(range.of(0), how)
    }

    fn all_mapped(&self, space: usize, range: Range) -> bool {
        range.pages().all(|page| self.value(space, page).is_some())
    }

    fn none_mapped(&self, space: usize, range: Range) -> bool {
        range.pages().all(|page| self.value(space, page).is_none())
    }

    /// The task whose section defers what is written now, if there is one. The yardstick
    /// defers nothing: what it writes is complete at once, on the CPU that writes.
    fn deferred_by(&self, by: Caller) -> Option<usize> {
        let defers = self.mmu.backend() != Backend::Eager;
        (defers && self.is_active()).then_some(by.task)
    }

    pub fn map(
        &mut self,
        space: usize,
        range: Range,
        (index, how): (u8, Frames),
        by: Caller,
    ) -> Result<(), Failure> {
        let frames = self.frames(range, how);
        let backing = match how {
            Frames::Scattered => Backing::Scattered(&frames),
            _ => Backing::Contiguous(frames[0]),
        };
        self.map_to(space, range, (&frames, backing), index, by)
    }

    fn map_each(
        &mut self,
        space: usize,
        range: Range,
        (index, how): (u8, Frames),
        by: Caller,
    ) -> Result<(), Failure> {
        let frames = self.frames(range, how);
        for (page, frame) in range.by_page().zip(frames) {
            let by = self.returned(by);
            self.map_to(space, page, (&[frame], frame.into()), index, by)?;
        }
        Ok(())
    }

    fn map_to(
        &mut self,
        space: usize,
        range: Range,
        (frames, backing): (&[Frame], Backing<'_>),
        index: u8,
        by: Caller,
    ) -> Result<(), Failure> {
        let deferred_by = self.deferred_by(by);
        let result = self.spaces[space].map(range.of(space), backing, prot(space, index));
        let by = self.returned(by);
        if self.no_memory && matches!(result, Err(SpaceError::OutOfTables { .. })) {
            return Ok(());
        }
        expect(result, self.none_mapped(space, range))?;
        if result.is_ok() {
            for (page, frame) in range.pages().zip(frames) {
                let value = Some((frame.as_u64(), index));
                // What is mapped again had been emptied, and is invalidated by now.
                let made = match self.contract.page(space, page).state {
                    State::Stale(..) => Made::Emptied,
                    _ => Made::Fresh,
                };
                self.contract
                    .changed((space, page), value, by.cpu, made, deferred_by);
            }
        }
        Ok(())
    }

    /// Takes note that the pages are gone for everybody, and reuses their frames.
    fn gone(&mut self, space: usize, range: Range, by: Caller) {
        for page in range.pages() {
            if let Some((frame, _)) = self.value(space, page) {
                self.sim().reuse(self.roots[space], va(space, page), frame);
            }
            let made = Made::Invalidated;
            self.contract
                .changed((space, page), None, by.cpu, made, None);
        }
    }

    pub fn unmap(&mut self, space: usize, range: Range, by: Caller) -> Result<(), Failure> {
        let result = self.spaces[space].unmap(range.of(space));
        let by = self.returned(by);
        expect(result, self.all_mapped(space, range))?;
        if result.is_ok() {
            self.gone(space, range, by);
        }
        Ok(())
    }

    fn mapped(&self, space: usize, range: Range) -> Vec<Range> {
        let is_mapped = |page: &Range| self.all_mapped(space, *page);
        range.by_page().filter(is_mapped).collect()
    }

    fn unmap_existing(&mut self, space: usize, range: Range, by: Caller) -> Result<(), Failure> {
        let mapped = self.mapped(space, range);
        let result = self.spaces[space].unmap_existing(range.of(space));
        let by = self.returned(by);
        if result != Ok(mapped.len() as u64) {
            return Err(format!("{result:?} of {} pages", mapped.len()));
        }
        for page in mapped {
            self.gone(space, page, by);
        }
        Ok(())
    }

    /// What is mapped in two ranges, with one invalidation.
    fn gather_existing(
        &mut self,
        space: usize,
        ranges: [Range; 2],
        by: Caller,
    ) -> Result<(), Failure> {
        let (sim, root) = (self.sim(), self.roots[space]);
        // What another task has at hand is not to be touched, whether it is mapped or not.
        let free = ranges.map(|range| self.is_free(space, range, by.task));
        let mapped = ranges.map(|range| self.mapped(space, range));
        let mut gather = self.spaces[space].gather(|va: VirtAddr, frame: Frame| {
            sim.reuse(root, va.as_u64(), frame.as_u64());
        });
        for (range, _) in ranges.iter().zip(free).filter(|(_, free)| *free) {
            let result = gather.unmap_existing(range.of(space));
            expect(result.map(|_| ()), true)?;
        }
        gather.finish();
        let by = self.returned(by);
        for (pages, _) in mapped.into_iter().zip(free).filter(|(_, free)| *free) {
            for page in pages {
                // Unless it was one of the first range as well.
                if self.all_mapped(space, page) {
                    self.gone(space, page, by);
                }
            }
        }
        Ok(())
    }

    fn unmap_frames(&mut self, space: usize, range: Range, by: Caller) -> Result<(), Failure> {
        let (sim, root) = (self.sim(), self.roots[space]);
        let give_back = |va: VirtAddr, frame: Frame| {
            sim.reuse(root, va.as_u64(), frame.as_u64());
        };
        let result = self.spaces[space].unmap_frames(range.of(space), give_back);
        let by = self.returned(by);
        expect(result, self.all_mapped(space, range))?;
        if result.is_ok() {
            self.gone(space, range, by);
        }
        Ok(())
    }

    /// Two ranges with one invalidation. The second may be refused, and the first is gone all the same.
    fn gather(
        &mut self,
        space: usize,
        ranges: [Range; 2],
        tables: Tables,
        by: Caller,
    ) -> Result<(), Failure> {
        let (sim, root) = (self.sim(), self.roots[space]);
        let possible: Vec<bool> = ranges
            .iter()
            .enumerate()
            .map(|(i, range)| {
                let again = |page| i == 1 && ranges[0].pages().any(|other| other == page);
                let first = self.all_mapped(space, ranges[0]);
                self.all_mapped(space, *range)
                    && self.is_free(space, *range, by.task)
                    && !(first && range.pages().any(again))
            })
            .collect();
        let mut gather = self.spaces[space].gather(|va: VirtAddr, frame: Frame| {
            sim.reuse(root, va.as_u64(), frame.as_u64());
        });
        let mut gone = Vec::new();
        for (range, possible) in ranges.into_iter().zip(possible) {
            // What another task has at hand is not to be touched, whether it is mapped or not.
            if possible {
                expect(gather.unmap(range.of(space)), true)?;
                gone.push(range);
            }
        }
        match tables {
            Tables::Stay => gather.finish(),
            Tables::AreFreed => {
                gather.finish_and_free_tables();
            }
        }
        let by = self.returned(by);
        for range in gone {
            self.gone(space, range, by);
        }
        Ok(())
    }

    /// In `parts` calls, one or two. The flushes of neighbors are merged.
    fn unmap_no_invalidate(
        &mut self,
        space: usize,
        range: Range,
        parts: u8,
        by: Caller,
    ) -> Result<(), Failure> {
        let (first, second) = range.halves();
        let second = second.filter(|_| parts == 2);
        let first = if second.is_some() { first } else { range };
        let deferred_by = self.deferred_by(by);
        let result = self.spaces[space].unmap_no_invalidate(first.of(space));
        expect(
            result.as_ref().map(|_| ()).map_err(|e| *e),
            self.all_mapped(space, first),
        )?;
        let Ok(mut flush) = result else { return Ok(()) };
        let token = self.next_token;
        self.next_token += 1;
        let mut gone = vec![first];
        if let Some(second) = second {
            let result = self.spaces[space].unmap_no_invalidate(second.of(space));
            expect(
                result.as_ref().map(|_| ()).map_err(|e| *e),
                self.all_mapped(space, second),
            )?;
            if let Ok(mut other) = result {
                if let Err(flush) = other.merge(flush) {
                    return Err(format!("did not merge {flush:?}"));
                }
                flush = other;
                gone.push(second);
            }
        }
        let by = self.returned(by);
        let mut frames = Vec::new();
        for page in gone.into_iter().flat_map(Range::pages) {
            let (frame, _) = self.value(space, page).unwrap_or_default();
            frames.push((va(space, page), frame));
            let at = (space, page);
            self.contract
                .emptied(at, (by.task, by.cpu), Some(token), deferred_by);
        }
        self.pending.push_back(Pending {
            task: by.task,
            space,
            token,
            frames,
            flush,
        });
        Ok(())
    }

    /// The oldest flush that the task owes, if there is one.
    pub fn flush_pending(&mut self, by: Caller) {
        let Some(i) = self.pending.iter().position(|p| p.task == by.task) else {
            return;
        };
        let Some(pending) = self.pending.remove(i) else {
            return;
        };
        let space = pending.space;
        self.locked(space, by.cpu, |run| {
            run.spaces[space].invalidate(pending.flush);
            let by = run.returned(by);
            run.contract.flushed(space, by.cpu, pending.token);
        });
        for (va, frame) in pending.frames {
            self.sim().reuse(self.roots[space], va, frame);
        }
    }

    fn protect(
        &mut self,
        space: usize,
        range: Range,
        index: u8,
        by: Caller,
    ) -> Result<(), Failure> {
        let new = prot(space, index);
        let memory = |prot: Prot| prot.as_u64() & lazymmu::bits::ATTR_INDX;
        let in_place = range.pages().all(|page| {
            let value = self.value(space, page);
            value.is_some_and(|(_, old)| memory(prot(space, old)) == memory(new))
        });
        // Where the invalidation waits for the section, so does what it is for.
        let batches = self.mmu.backend().invalidates();
        let deferred_by = self.deferred_by(by).filter(|_| batches);
        let result = self.spaces[space].protect(range.of(space), new);
        let by = self.returned(by);
        expect(result, in_place)?;
        if result.is_ok() {
            self.given_attributes(space, range, index, by, deferred_by);
        }
        Ok(())
    }

    /// The pages have the attributes of this number now, and their invalidation is done or waits.
    fn given_attributes(
        &mut self,
        space: usize,
        range: Range,
        index: u8,
        by: Caller,
        deferred_by: Option<usize>,
    ) {
        for page in range.pages() {
            let value = self.value(space, page).map(|(frame, _)| (frame, index));
            let made = Made::Invalidated;
            self.contract
                .changed((space, page), value, by.cpu, made, deferred_by);
        }
    }

    fn remap(&mut self, space: usize, range: Range, index: u8, by: Caller) -> Result<(), Failure> {
        let deferred_by = self.deferred_by(by);
        let result = self.spaces[space].remap(range.of(space), prot(space, index));
        let by = self.returned(by);
        expect(result, self.all_mapped(space, range))?;
        if result.is_ok() {
            self.given_attributes(space, range, index, by, deferred_by);
        }
        Ok(())
    }

    fn apply(&mut self, space: usize, range: Range, each: Each, by: Caller) -> Result<(), Failure> {
        let frames = self.frames(range, Frames::Consecutive);
        let deferred_by = self.deferred_by(by);
        let mut done = Vec::new();
        let result = self.spaces[space].apply_to_page_range(range.of(space), |entry| {
            let i = done.len();
            let act = each.act(i);
            if matches!(act, Act::Clear | Act::Replace) {
                entry.get_and_clear();
            }
            let set = match act {
                Act::Set | Act::Replace => entry.set(frames[i], prot(space, 0)),
                _ => Ok(()),
            };
            done.push(set.is_ok());
            Ok::<(), SpaceError>(())
        });
        let by = self.returned(by);
        let written = Written {
            range,
            each,
            frames: &frames,
            granted: done,
            result,
        };
        self.noted(space, &written, deferred_by, by)
    }

    /// The same for what is mapped. Nothing is set where nothing is.
    fn apply_existing(
        &mut self,
        space: usize,
        range: Range,
        each: Each,
        by: Caller,
    ) -> Result<(), Failure> {
        let frames = self.frames(range, Frames::Consecutive);
        let deferred_by = self.deferred_by(by);
        let start = range.of(space).start().as_u64();
        let mut done = Vec::new();
        let result = self.spaces[space].apply_to_existing_page_range(range.of(space), |entry| {
            let i = ((entry.va().as_u64() - start) / lazymmu::PAGE_SIZE) as usize;
            let act = each.act(i);
            if matches!(act, Act::Clear | Act::Replace) {
                entry.get_and_clear();
            }
            let set = match act {
                Act::Set | Act::Replace => entry.set(frames[i], prot(space, 0)),
                _ => Ok(()),
            };
            done.push((i, set.is_ok()));
            Ok::<(), SpaceError>(())
        });
        let by = self.returned(by);
        expect(result, true)?;
        let pages: Vec<usize> = range.pages().collect();
        let mapped = |i: &usize| self.value(space, pages[*i]).is_some();
        let all: Vec<usize> = (0..pages.len()).filter(mapped).collect();
        if !all.iter().eq(done.iter().map(|(i, _)| i)) {
            return Err(format!("{done:?} were shown of {all:?}"));
        }
        for (i, granted) in done {
            let at = (space, pages[i]);
            self.noted_one(at, each.act(i), (frames[i], granted), deferred_by, by)?;
        }
        Ok(())
    }

    fn fast(
        &mut self,
        space: usize,
        range: Range,
        (each, how): (Each, Fast),
        by: Caller,
    ) -> Result<(), Failure> {
        let frames = self.frames(range, Frames::Aligned);
        let before = self.frames(range, Frames::Aligned);
        let whole = range.of(space).is_in_one_table(lazymmu::Level::L3);
        let prot = prot(space, 0);
        let mut done = Vec::new();
        let at = how.part(before.len());
        let (first, n) = (at.start, at.len());
        let pages = range.pages().zip(before.iter().copied());
        let part = pages.skip(first).take(n);
        let (mut set_first, mut cleared) = (None, None);
        // Its end is one of whatever the task has deferred elsewhere, too.
        let others = self
            .contract
            .spaces_of(by.task)
            .filter(move |s| *s != space);
        for other in others.clone() {
            self.lock(other, by.cpu);
        }
        let lazy = self.mmu.lazy();
        let result = self.spaces[space].fast_pte_range(range.of(space));
        let result = result.map(|mut fast| {
            let inner = (how.bulk == Bulk::Crossed).then(|| lazy.section());
            match how.bulk {
                Bulk::Run => set_first = Some(fast.set_run(first, n, before[first], prot)),
                Bulk::Each => set_first = Some(fast.set_each(first, n, prot, |i| before[i])),
                Bulk::Frames => set_first = Some(fast.set_frames(first, &before[at], prot)),
                Bulk::Clear => cleared = Some(fast.clear_run(first, n)),
                Bulk::None | Bulk::Crossed => {}
            }
            for (i, frame) in frames.iter().enumerate() {
                let act = each.act(i);
                if matches!(act, Act::Clear | Act::Replace) {
                    fast.get_and_clear(i);
                }
                let set = match act {
                    Act::Set | Act::Replace => fast.set(i, *frame, prot),
                    _ => Ok(()),
                };
                done.push(set.is_ok());
            }
            drop(fast);
            drop(inner);
        });
        let was_paused = self.mmu.lazy().state().pause_count() > 0;
        let by = self.returned(by);
        for other in others {
            self.unlock(other, by.cpu);
        }
        if !whole && matches!(result, Err(SpaceError::Range(_))) {
            return Ok(());
        }
        if let Some(set) = set_first {
            let mut pages = part.clone();
            expect(
                set,
                pages.all(|(page, _)| self.value(space, page).is_none()),
            )?;
            if set.is_ok() {
                for (page, frame) in part.clone() {
                    self.set_empty((space, page), frame, None, by);
                }
            }
        }
        if let Some(cleared) = cleared {
            let used = |(page, _): &(usize, Frame)| self.value(space, *page).is_some();
            let mapped: Vec<_> = part.filter(used).collect();
            if cleared != mapped.len() {
                return Err(format!(
                    "emptied {cleared} pages of {range:?}, not {mapped:?}"
                ));
            }
            for (page, _) in mapped {
                let at = (space, page);
                self.contract.emptied(at, (by.task, by.cpu), None, None);
            }
        }
        let written = Written {
            range,
            each,
            frames: &frames,
            granted: done,
            result,
        };
        let noted = self.noted(space, &written, None, by);
        // Its own section has ended, at whatever depth (R5).
        if !was_paused && result.is_ok() {
            self.contract.section_paid(by.task, by.cpu);
        }
        noted
    }

    /// A page that was not mapped is mapped with the first protection.
    fn set_empty(
        &mut self,
        (space, page): (usize, usize),
        frame: Frame,
        deferred_by: Option<usize>,
        by: Caller,
    ) {
        // What is mapped again had been emptied, and is invalidated by now.
        let made = match self.contract.page(space, page).state {
            State::Stale(..) => Made::Emptied,
            _ => Made::Fresh,
        };
        let value = Some((frame.as_u64(), 0));
        self.contract
            .changed((space, page), value, by.cpu, made, deferred_by);
    }

    /// What entry-by-entry calls have done to the pages.
    fn noted(
        &mut self,
        space: usize,
        written: &Written<'_>,
        deferred_by: Option<usize>,
        by: Caller,
    ) -> Result<(), Failure> {
        let Written { range, each, .. } = *written;
        if self.no_memory && matches!(written.result, Err(SpaceError::OutOfTables { .. })) {
            return Ok(());
        }
        expect(written.result, true)?;
        for (i, page) in range.pages().enumerate() {
            let frame = (written.frames[i], written.granted[i]);
            self.noted_one((space, page), each.act(i), frame, deferred_by, by)?;
        }
        Ok(())
    }

    /// The same of one page, which was to get `frame`, and did if `granted` says so.
    fn noted_one(
        &mut self,
        (space, page): (usize, usize),
        act: Act,
        (frame, granted): (Frame, bool),
        deferred_by: Option<usize>,
        by: Caller,
    ) -> Result<(), Failure> {
        let old = self.contract.page(space, page);
        let (used, stale) = (old.value.is_some(), matches!(old.state, State::Stale(..)));
        // In place, only the same frame could be set again.
        let may_set = !used || act == Act::Replace;
        if matches!(act, Act::Set | Act::Replace) && granted != may_set {
            return Err(format!("set of page {page}: {granted}"));
        }
        match act {
            Act::Clear if used => {
                let at = (space, page);
                self.contract
                    .emptied(at, (by.task, by.cpu), None, deferred_by);
            }
            Act::Set | Act::Replace if may_set => {
                let made = if stale || used {
                    Made::Emptied
                } else {
                    Made::Fresh
                };
                let value = Some((frame.as_u64(), 0));
                self.contract
                    .changed((space, page), value, by.cpu, made, deferred_by);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The library must refuse what cannot be done, and nothing else.
fn expect(result: Result<(), SpaceError>, possible: bool) -> Result<(), Failure> {
    match (result, possible) {
        (Ok(()), true) | (Err(_), false) => Ok(()),
        (Ok(()), false) => Err("granted what it should refuse".into()),
        (Err(error), true) => Err(format!("refused: {error}")),
    }
}
