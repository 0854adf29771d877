// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls for a whole range: the oracle knows which of them must be refused, and why.

use super::callback::{Callback, caught};
use super::{Pending, Run, alone, verdict};
use crate::fake::{self, Fake};
use crate::programs::{Frames, Pieces, Place, Range};
use lazymmu::bbm::Violation;
use lazymmu::{
    Backing, Desc, Frame, Level, PAGE_SIZE, PageRange, PendingInvalidation, Prot, SpaceError,
    VirtAddr, bits,
};

impl<'m> Run<'m> {
    fn no_tables<T>(&self, result: &Result<T, SpaceError>) -> bool {
        self.no_memory && matches!(result, Err(SpaceError::OutOfTables { .. }))
    }

    /// The first page that is not mapped, as the reason for a refusal.
    fn not_mapped(&self, space: usize, range: Range) -> Option<SpaceError> {
        let (va, _) = self.first(space, range, |entry| entry == Desc::INVALID)?;
        Some(SpaceError::NotMapped { va })
    }

    /// The first page that is mapped, as the reason for a refusal.
    pub(super) fn already_mapped(&self, space: usize, range: Range) -> Option<SpaceError> {
        let (va, entry) = self.first(space, range, |entry| entry != Desc::INVALID)?;
        let level = Level::L3;
        Some(SpaceError::AlreadyMapped { va, entry, level })
    }

    pub(super) fn map(&mut self, space: usize, range: Range, prot: u8, how: Frames) {
        let (pages, prot) = (self.range(space, range), self.prot(space, prot));
        let frames = self.frames.take(pages, how);
        let backing = match how {
            Frames::Scattered => Backing::Scattered(&frames),
            _ => Backing::Contiguous(frames[0]),
        };
        self.map_to(space, range, (&frames, backing), prot);
    }

    /// Each page by a call of its own.
    pub(super) fn map_each(&mut self, space: usize, range: Range, prot: u8, how: Frames) {
        let (pages, prot) = (self.range(space, range), self.prot(space, prot));
        let frames = self.frames.take(pages, how);
        for (page, frame) in range.by_page().zip(frames) {
            self.map_to(space, page, (&[frame], frame.into()), prot);
        }
    }

    fn map_to(
        &mut self,
        space: usize,
        range: Range,
        (frames, backing): (&[Frame], Backing<'_>),
        prot: Prot,
    ) {
        let pages = self.range(space, range);
        let expected = verdict(self.already_mapped(space, range));
        let result = self.spaces[space].mm.map(pages, backing, prot);
        if self.no_tables(&result) {
            assert_eq!(expected, Ok(()), "memory is asked for in vain");
            return;
        }
        assert_eq!(result.map_err(without_hint), expected);
        if expected.is_ok() {
            let entries = frames.iter().map(|frame| Desc::page(*frame, prot));
            self.set(space, range, entries);
        }
    }

    /// Contiguous groups change what the hardware may cache and nothing else.
    pub(super) fn fold(&mut self, space: usize, range: Range) {
        let pages = self.range(space, range);
        let folded = self.spaces[space].mm.fold_contiguous(pages);
        let most = pages.pages() as usize / 16 + 2;
        assert!(folded.is_ok_and(|groups| groups <= most), "{folded:?}");
    }

    pub(super) fn unmap(&mut self, space: usize, range: Range) {
        let expected = verdict(self.not_mapped(space, range));
        let pages = self.range(space, range);
        assert_eq!(self.spaces[space].mm.unmap(pages), expected);
        if expected.is_ok() {
            self.gone(space, range);
        }
    }

    /// What is mapped goes, and no page of the range may be cached, whenever it was emptied.
    pub(super) fn unmap_existing(&mut self, space: usize, range: Range) {
        let pages = self.range(space, range);
        let mapped = self.mapped(space, range).len() as u64;
        assert_eq!(self.spaces[space].mm.unmap_existing(pages), Ok(mapped));
        self.gone(space, range);
    }

    /// The pages are not mapped any more, and their invalidation is complete.
    fn gone(&mut self, space: usize, range: Range) {
        self.forget(space, range);
        let cached = self.may_be_cached(space, self.range(space, range));
        assert!(!cached, "R27: {range:?} may be cached");
    }

    pub(super) fn unmap_frames(&mut self, space: usize, range: Range) {
        let expected = verdict(self.not_mapped(space, range));
        let (pages, all) = (self.range(space, range), self.mapped(space, range));
        let mut given = Vec::new();
        let callback = Callback::new(self.fault);
        let (kernel, asid) = (self.mmu.kernel(), fake::asid_of(self.kind(space)));
        let take = callback.taking(taker(kernel, asid, &mut given));
        let mm = &mut self.spaces[space].mm;
        let result = caught(|| mm.unmap_frames(pages, take));
        if expected.is_err() {
            assert_eq!((result, given), (Some(expected), Vec::new()));
            return;
        }
        let (reached, panics) = callback.reaches(all.len());
        assert_eq!(result, (!panics).then_some(Ok(())));
        assert_eq!(given, all[..reached]);
        self.gone(space, range);
    }

    /// Empties the pages without a flush.
    fn take(&mut self, space: usize, range: Range) -> Option<PendingInvalidation<'m, Fake>> {
        let expected = verdict(self.not_mapped(space, range));
        let pages = self.range(space, range);
        match self.spaces[space].mm.unmap_no_invalidate(pages) {
            Ok(flush) => {
                assert_eq!(expected, Ok(()));
                self.forget(space, range);
                Some(flush)
            }
            Err(error) => {
                assert_eq!(expected, Err(error));
                None
            }
        }
    }

    fn put_off(&mut self, space: usize, pages: PageRange, flush: PendingInvalidation<'m, Fake>) {
        let asid = fake::asid_of(self.kind(space));
        let cached = |i| {
            let va = pages.start().as_u64() + i * PAGE_SIZE;
            self.kernel().may_be_cached(asid, va)
        };
        let left_to_caller = !self.mmu.backend().invalidates();
        assert!(
            !left_to_caller || (0..pages.pages()).all(cached),
            "invalidated before the flush"
        );
        self.pending.push_back(Pending {
            space,
            pages,
            flush,
        });
    }

    pub(super) fn unmap_no_invalidate(&mut self, space: usize, range: Range) {
        if let Some(flush) = self.take(space, range) {
            self.put_off(space, self.range(space, range), flush);
        }
    }

    /// In two halves, whose flushes are merged.
    pub(super) fn unmap_merged(&mut self, space: usize, range: Range) {
        let (half, second) = range.halves();
        let Some(mut flush) = self.take(space, half) else {
            return;
        };
        let mut pages = self.range(space, half);
        if let Some(second) = second
            && let Some(mut other) = self.take(space, second)
        {
            other.merge(flush).expect("it comes right before");
            flush = other;
            pages = self.range(space, range);
        }
        self.put_off(space, pages, flush);
    }

    /// The oldest flush that was put off, if there is one.
    pub(super) fn flush_pending(&mut self, place: Place) {
        let Some(Pending {
            space,
            pages,
            flush,
        }) = self.pending.pop_front()
        else {
            return;
        };
        match place {
            Place::Here => {
                self.spaces[space].mm.invalidate(flush);
                self.is_flushed(space, pages);
            }
            Place::OtherSpace => {
                let other = (space + 1) % self.spaces.len();
                self.spaces[other].mm.invalidate(flush);
                self.is_flushed(space, pages);
            }
            Place::BottomHalvesOff => {
                let was_off = self.in_interrupt();
                self.kernel().set_interrupt(true);
                self.spaces[space].mm.invalidate(flush);
                self.kernel().set_interrupt(was_off);
                let cached = self.may_be_cached(space, pages);
                assert!(!cached, "R25: {pages} may be cached after its flush");
            }
        }
    }

    /// A token of another space is executed all the same, and pays nothing of what this space owes.
    pub(super) fn cross_tokens(&mut self, space: usize, range: Range) {
        let other = (space + 1) % self.spaces.len();
        if self.home(other) == self.home(space) {
            return;
        }
        for space in [space, other] {
            for page in range.by_page() {
                if self.not_mapped(space, page).is_some() {
                    self.map(space, page, 0, Frames::Aligned);
                }
            }
        }
        let Some(token) = self.take(space, range) else {
            return;
        };
        self.unmap_no_invalidate(other, range);
        self.spaces[other].mm.invalidate(token);
        self.is_flushed(space, self.range(space, range));
        self.map(other, range, 0, Frames::Scattered);
    }

    /// A flush that is dropped is one as well.
    pub(super) fn drop_pending(&mut self) {
        while let Some(Pending {
            space,
            pages,
            flush,
        }) = self.pending.pop_front()
        {
            drop(flush);
            self.is_flushed(space, pages);
        }
    }

    pub(super) fn flush_range(&self, space: usize, range: Range) {
        let pages = self.range(space, range);
        assert_eq!(self.spaces[space].mm.invalidate_range(pages), Ok(()));
        self.is_flushed(space, pages);
    }

    /// A flush invalidates there and then, in a section as well, and what waits is executed before
    /// (R26).
    fn is_flushed(&self, space: usize, pages: PageRange) {
        let is_drained = self.kernel().is_batch_empty() || self.in_interrupt();
        assert!(is_drained, "R26: something waits");
        let cached = self.may_be_cached(space, pages);
        assert!(!cached, "R27: {pages} may be cached after its flush");
    }

    pub(super) fn protect(&mut self, space: usize, range: Range, prot: u8) {
        let prot = self.prot(space, prot);
        let memory_type = |raw: u64| raw & bits::ATTR_INDX;
        let other = |entry: Desc| memory_type(entry.as_u64()) != memory_type(prot.as_u64());
        let refused = self.not_mapped(space, range).or_else(|| {
            let (va, _) = self.first(space, range, other)?;
            let violation = Violation::MemoryType;
            Some(SpaceError::BreakBeforeMake { va, violation })
        });
        let pages = self.range(space, range);
        let result = self.spaces[space].mm.protect(pages, prot);
        assert_eq!(result, verdict(refused));
        if refused.is_none() {
            self.recolor(space, range, prot);
        }
    }

    pub(super) fn remap(&mut self, space: usize, range: Range, prot: u8) {
        let prot = self.prot(space, prot);
        let refused = self.not_mapped(space, range);
        let pages = self.range(space, range);
        let result = self.spaces[space].mm.remap(pages, prot);
        assert_eq!(result, verdict(refused));
        if refused.is_none() {
            self.recolor(space, range, prot);
        }
    }

    fn recolor(&mut self, space: usize, range: Range, prot: Prot) {
        let frames = self.mapped(space, range);
        let entries = frames.iter().map(|(_, frame)| Desc::page(*frame, prot));
        self.set(space, range, entries);
    }

    /// Two ranges with one invalidation. With `frees`, tables that became empty are freed after it.
    pub(super) fn gather(&mut self, space: usize, ranges: [Range; 2], frees: bool) {
        let mut refused = ranges.map(|range| self.not_mapped(space, range));
        let first = self.universe.pages_of(ranges[0]);
        let mut again = self.universe.pages_of(ranges[1]);
        if refused == [None; 2] {
            // What the first range took is not there for the second.
            let va = again.find(|page| first.contains(page));
            let va = va.map(|page| self.va(space, page));
            refused[1] = va.map(|va| SpaceError::NotMapped { va });
        } else if refused[0].is_none() {
            let taken = again
                .find(|page| first.contains(page) || self.entry(space, *page) == Desc::INVALID);
            let va = taken.map(|page| self.va(space, page));
            refused[1] = va.map(|va| SpaceError::NotMapped { va });
        }
        let pieces: Vec<_> = ranges.into_iter().zip(refused.map(verdict)).collect();
        self.gather_pieces(space, &pieces, (Place::Here, frees));
    }

    /// What is mapped in two ranges, with one invalidation.
    pub(super) fn gather_existing(&mut self, space: usize, ranges: [Range; 2]) {
        let (kernel, asid) = (self.mmu.kernel(), fake::asid_of(self.kind(space)));
        let pages = ranges.map(|range| self.range(space, range));
        let mut expected: Vec<_> = ranges.map(|range| self.mapped(space, range)).concat();
        let first = self.mapped(space, ranges[0]).len() as u64;
        expected.sort_unstable();
        expected.dedup();
        let second = expected.len() as u64 - first;
        let mut given = Vec::new();
        let callback = Callback::new(self.fault);
        let (reached, panics) = callback.reaches(expected.len());
        let take = callback.taking(taker(kernel, asid, &mut given));
        let mm = &mut self.spaces[space].mm;
        let finished = caught(|| {
            let mut gather = mm.gather(take);
            assert_eq!(gather.unmap_existing(pages[0]), Ok(first));
            assert_eq!(gather.unmap_existing(pages[1]), Ok(second));
            gather.finish();
        });
        assert_eq!(finished.is_none(), panics, "of the taker of frames");
        assert_eq!(given.len(), reached, "frames are given back");
        given.sort_unstable();
        assert!(given.iter().all(|mapping| expected.contains(mapping)));
        assert!(panics || given == expected);
        for (va, _) in expected {
            assert!(
                !kernel.may_be_cached(asid, va),
                "R27: {va:#x} may be cached"
            );
        }
        for range in ranges {
            self.forget(space, range);
        }
    }

    /// Some pages of a range, each by a call of its own: more of them than any list holds.
    pub(super) fn gather_each(
        &mut self,
        space: usize,
        range: Range,
        how: Pieces,
        end: (Place, bool),
    ) {
        let mut pieces = Vec::new();
        for (i, page) in range.by_page().enumerate() {
            let is_mapped = self.not_mapped(space, page).is_none();
            let is_gathered = i % usize::from(how.stride) == 0;
            if is_gathered {
                pieces.push(page);
            }
            if is_gathered && !is_mapped {
                self.map(space, page, 0, Frames::Consecutive);
            } else if !is_gathered && is_mapped {
                self.unmap(space, page);
            }
        }
        let in_order = how.order(pieces.len()).map(|i| {
            let page = pieces[i];
            (page, verdict(self.not_mapped(space, page)))
        });
        let in_order: Vec<_> = in_order.collect();
        self.gather_pieces(space, &in_order, end);
    }

    /// Gathers ranges, of which some are refused. If the last one says so, tables that become empty are freed.
    fn gather_pieces(
        &mut self,
        space: usize,
        pieces: &[(Range, Result<(), SpaceError>)],
        (place, frees): (Place, bool),
    ) {
        let frees = frees && self.may_free_tables();
        let accepted = pieces.iter().filter(|(_, verdict)| verdict.is_ok());
        let frames = accepted.map(|(range, _)| self.mapped(space, *range).len());
        let callback = Callback::new(self.fault);
        let (reached, panics) = callback.reaches(frames.sum());
        let pages: Vec<_> = pieces
            .iter()
            .map(|piece| self.range(space, piece.0))
            .collect();
        let (kernel, asid) = (self.mmu.kernel(), fake::asid_of(self.kind(space)));
        let (mut given, mut results) = (Vec::new(), Vec::new());
        let before = kernel.live_tables();
        let was_off = self.in_interrupt();
        let take = callback.taking(taker(kernel, asid, &mut given));
        let mm = &mut self.spaces[space].mm;
        // What it returns is looked at when the gather is gone: its end may panic.
        let freed = caught(|| {
            let mut gather = mm.gather(take);
            for pages in pages {
                results.push(gather.unmap(pages));
            }
            kernel.set_interrupt(was_off || place == Place::BottomHalvesOff);
            if frees {
                gather.finish_and_free_tables()
            } else {
                gather.finish();
                0
            }
        });
        assert_eq!(freed.is_none(), panics, "of the taker of frames");
        assert_eq!(kernel.live_tables(), before - freed.unwrap_or(0));
        assert!(panics || results.len() == pieces.len());
        let mut expected = Vec::new();
        let mut emptied = Vec::new();
        for (result, (range, verdict)) in results.into_iter().zip(pieces) {
            assert_eq!(result, *verdict);
            if result.is_ok() {
                expected.extend(self.mapped(space, *range));
                emptied.push(*range);
            }
        }
        assert_eq!(given.len(), reached, "frames are given back");
        given.sort_by_key(|(va, _)| *va);
        if panics {
            expected.retain(|mapping| given.contains(mapping));
        }
        // Neighbors are one range, in whichever order they came.
        expected.sort_by_key(|(va, _)| *va);
        assert_eq!(given, expected, "each frame once, with its address");
        for range in emptied {
            self.gone(space, range);
            let looked_at = self.universe.pages_of(range).filter(|_| frees && !panics);
            looked_at.for_each(|page| self.is_kept_for_a_reason(space, page));
        }
        self.kernel().set_interrupt(was_off);
    }

    /// What is mapped in an interrupt takes effect at once (R3). It leaves alone what the task has
    /// deferred.
    pub(super) fn interrupt(&mut self, range: Range, and_back: bool) {
        if !self.kernel().is_batch_empty() || self.kind(0).half() != lazymmu::Half::Upper {
            return;
        }
        let kernel = self.mmu.kernel();
        let state = || self.mmu.lazy().state();
        let before = state();
        kernel.set_interrupt(true);
        self.map(0, range, 0, Frames::Aligned);
        assert!(kernel.is_batch_empty(), "R3: something waits");
        if and_back {
            self.unmap(0, range);
        }
        kernel.set_interrupt(false);
        assert_eq!(state(), before, "R3: the state of the task has changed");
    }

    /// Frees empty tables, unless one of them may be that of a range in force.
    pub(super) fn free_empty_tables(&mut self, space: usize, range: Range) {
        if !self.may_free_tables() {
            return;
        }
        let kernel = self.mmu.kernel();
        let (pages, before) = (self.range(space, range), kernel.live_tables());
        let freed = self.spaces[space].mm.free_empty_tables(pages);
        assert_eq!(freed, Ok(before - kernel.live_tables()));
        for page in self.universe.pages_of(range) {
            self.is_kept_for_a_reason(space, page);
        }
    }

    /// The table in which the walk to the page ends translates something.
    fn is_kept_for_a_reason(&self, space: usize, page: usize) {
        let mm = &self.spaces[space].mm;
        let va = self.va(space, page);
        let mut walk = Vec::new();
        mm.walk(va, |level, entry| walk.push((level, entry)));
        let Some(&(level, entry)) = walk.last() else {
            panic!("a walk has no root");
        };
        if level == Level::L0 || entry.is_in_use() {
            return;
        }
        let first = va.as_u64() & !(level.table_span() - 1);
        let is_neighbor = |page: &usize| {
            let va = self.universe.va(space, *page);
            va & !(level.table_span() - 1) == first
        };
        let uses = (0..self.universe.pages()).filter(is_neighbor).any(|page| {
            let mut is_used = false;
            mm.walk(self.va(space, page), |at, entry| {
                is_used |= at == level && entry.is_in_use();
            });
            is_used
        });
        assert!(uses, "an empty table is left at {va}: {walk:?}");
    }
}

/// The error without the contiguous hint of the entry that it names.
pub(super) fn without_hint(error: SpaceError) -> SpaceError {
    match error {
        SpaceError::AlreadyMapped { va, entry, level } => SpaceError::AlreadyMapped {
            va,
            entry: alone(entry),
            level,
        },
        error => error,
    }
}

/// Takes frames back into `given`, each with the address that no TLB may translate to it any more
/// (R25).
fn taker(
    kernel: &Fake,
    asid: Option<u16>,
    given: &mut Vec<(u64, Frame)>,
) -> impl FnMut(VirtAddr, Frame) {
    move |va, frame| {
        let va = va.as_u64();
        kernel.give_back(asid, va, frame);
        given.push((va, frame));
    }
}
