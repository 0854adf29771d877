// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls of the library for whole ranges, each followed by what the contract says about it.
//! (`entries.rs` has the calls for single entries.)
//!
//! The values in the contract decide whether a call must succeed: a program fails if a call is
//! refused that is possible, and if one succeeds that is not. Frames are given back to the machine
//! when the contract of the call says that they may be.

use super::contract::{Made, State};
use super::run::{Failure, Pending, Run, prot, va};
use super::{Frames, Op, Range};
use crate::model::Modelled;
use lazymmu::{Backend, Backing, Frame, Prot, SpaceError, VirtAddr};

/// The caller: the task, and the CPU on which it runs.
#[derive(Clone, Copy)]
pub struct Caller {
    pub task: usize,
    pub cpu: usize,
}

/// Whether a gather frees tables that it leaves empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    Stay,
    AreFreed,
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
    pub(super) fn frames(&mut self, range: Range, how: Frames) -> Vec<Frame> {
        // Frames may be aligned like the addresses. The alignment is the same in each space.
        self.frames.take(range.of(0), how)
    }

    fn all_mapped(&self, space: usize, range: Range) -> bool {
        range.pages().all(|page| self.value(space, page).is_some())
    }

    fn none_mapped(&self, space: usize, range: Range) -> bool {
        range.pages().all(|page| self.value(space, page).is_none())
    }

    /// The task whose section defers what is written now, if there is one. The strategy `Eager`
    /// defers nothing: a write is complete at once, on the CPU that writes.
    pub(super) fn deferred_by(&self, by: Caller) -> Option<usize> {
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
                // A page that was emptied before is mapped again, and is invalidated by now.
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

    /// Notes that the pages are unmapped and invalidated on every CPU, and reuses their frames.
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

    /// Unmaps what is mapped in two ranges, with one invalidation.
    fn gather_existing(
        &mut self,
        space: usize,
        ranges: [Range; 2],
        by: Caller,
    ) -> Result<(), Failure> {
        let (sim, root) = (self.sim(), self.roots[space]);
        // Pages that another task has deferred or not invalidated must not be touched, mapped or
        // not.
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
                // A page of both ranges is handled once.
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

    /// Unmaps two ranges with one invalidation. If the second is refused, the first is still
    /// unmapped.
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
            // Pages that another task has deferred or not invalidated must not be touched, mapped
            // or not.
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

    /// Unmaps a range without an invalidation, in one or two calls (`parts`). The tokens of two
    /// calls are merged.
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
                    return Err(format!(
                        "two tokens of neighboring ranges did not merge: {flush:?}"
                    ));
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

    /// Executes the oldest invalidation that the task has put off, if there is one.
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
        // If the invalidation waits for the section's end, the change takes effect there.
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

    /// Notes that the pages have the attributes of this number now, and that their invalidation is
    /// complete or waits.
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
}

/// Checks that the library has refused a call exactly if it is not possible.
pub(super) fn expect(result: Result<(), SpaceError>, possible: bool) -> Result<(), Failure> {
    match (result, possible) {
        (Ok(()), true) | (Err(_), false) => Ok(()),
        (Ok(()), false) => Err("a call succeeded that must be refused".into()),
        (Err(error), true) => Err(format!("a possible call was refused: {error}")),
    }
}
