// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls for whole ranges. The oracle computes which of them must be refused, and with which error.

use super::callback::{Callback, caught};
use super::{Pending, Run, alone, verdict};
use crate::fake::{self, Fake};
use crate::programs::{Frames, Place, Range};
use lazymmu::bbm::Violation;
use lazymmu::{
    Backing, Desc, Frame, Level, PAGE_SIZE, PageRange, PendingInvalidation, Prot, SpaceError,
    VirtAddr, bits,
};

impl<'m> Run<'m> {
    fn no_tables<T>(&self, result: &Result<T, SpaceError>) -> bool {
        self.no_memory && matches!(result, Err(SpaceError::OutOfTables { .. }))
    }

    /// The error of a call that needs mapped pages, if a page of the range is not mapped.
    pub(super) fn not_mapped(&self, space: usize, range: Range) -> Option<SpaceError> {
        let (va, _) = self.first(space, range, |entry| entry == Desc::INVALID)?;
        Some(SpaceError::NotMapped { va })
    }

    /// The error of a call that needs empty pages, if a page of the range is mapped.
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

    /// Maps a range with one call for each page.
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
            assert_eq!(
                expected,
                Ok(()),
                "tables were needed for a call that must be refused"
            );
            return;
        }
        assert_eq!(result.map_err(without_hint), expected);
        if expected.is_ok() {
            let entries = frames.iter().map(|frame| Desc::page(*frame, prot));
            self.set(space, range, entries);
        }
    }

    /// Folds contiguous groups, which changes no entry except for the hint.
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

    /// Unmaps what is mapped. Afterwards no page of the range may be cached, also if it was emptied
    /// before.
    pub(super) fn unmap_existing(&mut self, space: usize, range: Range) {
        let pages = self.range(space, range);
        let mapped = self.mapped(space, range).len() as u64;
        assert_eq!(self.spaces[space].mm.unmap_existing(pages), Ok(mapped));
        self.gone(space, range);
    }

    /// Notes that the pages are not mapped any more, and checks that their invalidation is
    /// complete.
    pub(super) fn gone(&mut self, space: usize, range: Range) {
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

    /// Unmaps the pages without an invalidation. Returns the token.
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
            "a page was invalidated before its token was used"
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

    /// Unmaps two halves of a range without an invalidation, and merges the tokens.
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

    /// Uses the oldest token, if there is one.
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
                assert!(!cached, "R25: {pages} may be cached after its invalidation");
            }
        }
    }

    /// Uses the token of one space in another one. It is executed, and does not count as the
    /// invalidation that the other space needs.
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

    /// Drops all tokens, which invalidates as well.
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

    /// Checks an invalidation that the program has requested: it takes effect at once, also in a
    /// section, after what waits (R26).
    fn is_flushed(&self, space: usize, pages: PageRange) {
        let is_drained = self.kernel().is_batch_empty() || self.in_interrupt();
        assert!(is_drained, "R26: something waits");
        let cached = self.may_be_cached(space, pages);
        assert!(!cached, "R27: {pages} may be cached after its invalidation");
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

    /// Maps, and with `and_back` unmaps, in an interrupt. It takes effect at once (R3), and does
    /// not change what the task has deferred.
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

    /// Frees empty tables, unless a range is announced or tables are shared.
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

    /// Checks that the table in which the walk to the page ends has an entry in use.
    pub(super) fn is_kept_for_a_reason(&self, space: usize, page: usize) {
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

/// The same error without the contiguous hint in the entry that it contains.
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

/// A callback that takes frames: checks that no TLB may translate the address to the frame any more
/// (R25), and adds both to `given`.
pub(super) fn taker(
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
