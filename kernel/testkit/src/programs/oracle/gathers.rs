// SPDX-License-Identifier: MIT OR Apache-2.0
//! Gathers of two ranges, and of more separate pages than a gather has room for. The callback that
//! takes the frames may panic.

use super::callback::{Callback, caught};
use super::requests::taker;
use super::{Run, verdict};
use crate::fake;
use crate::programs::{Frames, Pieces, Place, Range};
use lazymmu::{Desc, SpaceError};

impl Run<'_> {
    /// Unmaps two ranges with one invalidation. With `frees`, tables that become empty are freed.
    pub(super) fn gather(&mut self, space: usize, ranges: [Range; 2], frees: bool) {
        let mut refused = ranges.map(|range| self.not_mapped(space, range));
        let first = self.universe.pages_of(ranges[0]);
        let mut again = self.universe.pages_of(ranges[1]);
        if refused == [None; 2] {
            // A page of both ranges is not mapped any more for the second call.
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

    /// Unmaps what is mapped in two ranges, with one invalidation.
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
        // The number of calls that have returned.
        let mut done = 0;
        let finished = caught(|| {
            let mut gather = mm.gather(take);
            for (pages, count) in pages.into_iter().zip([first, second]) {
                assert_eq!(gather.unmap_existing(pages), Ok(count));
                done += 1;
            }
            gather.finish();
        });
        assert_eq!(
            finished.is_none(),
            panics,
            "whether the callback has panicked"
        );
        assert_eq!(given.len(), reached, "the number of frames given back");
        given.sort_unstable();
        assert!(given.iter().all(|mapping| expected.contains(mapping)));
        assert!(panics || given == expected);
        // If the second call panics while it makes room on the list, its range is unchanged.
        let ranges = &ranges[..done];
        let expected = ranges.iter().flat_map(|range| self.mapped(space, *range));
        for (va, _) in expected {
            assert!(
                !kernel.may_be_cached(asid, va),
                "R27: {va:#x} may be cached"
            );
        }
        for &range in ranges {
            self.forget(space, range);
        }
    }

    /// Unmaps some pages of a range, one call for each. There may be more of them than a gather has
    /// room for.
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

    /// Gathers ranges, some of which must be refused. If the last argument says so, tables that
    /// become empty are freed.
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
        // The results are checked after the gather has ended, because its end may panic.
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
        assert_eq!(freed.is_none(), panics, "whether the callback has panicked");
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
        assert_eq!(given.len(), reached, "the number of frames given back");
        given.sort_by_key(|(va, _)| *va);
        if panics {
            expected.retain(|mapping| given.contains(mapping));
        }
        // Neighboring ranges are joined in any order, so the order of frames is not checked.
        expected.sort_by_key(|(va, _)| *va);
        assert_eq!(
            given, expected,
            "each frame must be given back once, with its address"
        );
        for range in emptied {
            self.gone(space, range);
            let looked_at = self.universe.pages_of(range).filter(|_| frees && !panics);
            looked_at.for_each(|page| self.is_kept_for_a_reason(space, page));
        }
        self.kernel().set_interrupt(was_off);
    }
}
