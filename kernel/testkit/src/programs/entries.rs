// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that write entries one by one, by a callback or through a fast range, each followed by
//! what the contract says about it.

use super::calls::{Caller, expect};
use super::contract::{Made, State};
use super::run::{Failure, Run, prot};
use super::{Act, Bulk, Each, Fast, Frames, Range};
use crate::model::Modelled;
use lazymmu::{Frame, Kernel, Prot, PteRef, SpaceError};

/// The changes that a call was to make to single entries of a range, and their results.
struct Written<'a> {
    range: Range,
    each: Each,
    frames: &'a [Frame],
    /// For each entry, whether its `set` has succeeded; `true` if there was none.
    granted: Vec<bool>,
    result: Result<(), SpaceError>,
}

/// Does to an entry what a callback is asked to, and returns whether its `set` has succeeded; `true`
/// if there was none.
fn change<K: Kernel>(entry: &mut PteRef<'_, K>, act: Act, frame: Frame, prot: Prot) -> bool {
    if matches!(act, Act::Clear | Act::Replace) {
        entry.get_and_clear();
    }
    match act {
        Act::Set | Act::Replace => entry.set(frame, prot).is_ok(),
        _ => true,
    }
}

impl<K: Modelled> Run<'_, K> {
    pub(super) fn apply(
        &mut self,
        space: usize,
        range: Range,
        each: Each,
        by: Caller,
    ) -> Result<(), Failure> {
        let frames = self.frames(range, Frames::Consecutive);
        let deferred_by = self.deferred_by(by);
        let mut done = Vec::new();
        let result = self.spaces[space].apply_to_page_range(range.of(space), |entry| {
            let i = done.len();
            done.push(change(entry, each.act(i), frames[i], prot(space, 0)));
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

    /// [`Run::apply`] for the pages that are mapped. The others are not changed.
    pub(super) fn apply_existing(
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
            done.push((i, change(entry, each.act(i), frames[i], prot(space, 0))));
            Ok::<(), SpaceError>(())
        });
        let by = self.returned(by);
        expect(result, true)?;
        let pages: Vec<usize> = range.pages().collect();
        let mapped = |i: &usize| self.value(space, pages[*i]).is_some();
        let all: Vec<usize> = (0..pages.len()).filter(mapped).collect();
        if !all.iter().eq(done.iter().map(|(i, _)| i)) {
            return Err(format!("the callback saw {done:?} instead of {all:?}"));
        }
        for (i, granted) in done {
            let at = (space, pages[i]);
            self.noted_one(at, each.act(i), (frames[i], granted), deferred_by, by)?;
        }
        Ok(())
    }

    pub(super) fn fast(
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
        // The end of the range also ends what the task has deferred in other spaces.
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
        // The section of the range has ended, which flushes at any depth (R5).
        if !was_paused && result.is_ok() {
            self.contract.section_paid(by.task, by.cpu);
        }
        noted
    }

    /// Notes that a page that was not mapped is mapped with the first protection.
    fn set_empty(
        &mut self,
        (space, page): (usize, usize),
        frame: Frame,
        deferred_by: Option<usize>,
        by: Caller,
    ) {
        // A page that was emptied before is mapped again, and is invalidated by now.
        let made = match self.contract.page(space, page).state {
            State::Stale(..) => Made::Emptied,
            _ => Made::Fresh,
        };
        let value = Some((frame.as_u64(), 0));
        self.contract
            .changed((space, page), value, by.cpu, made, deferred_by);
    }

    /// Notes what a call has changed in single entries, and checks which changes have succeeded.
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

    /// [`Run::noted`] for one page, which was to get `frame`; `granted` says whether it did.
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
        // A mapped entry may be set in place only to the same frame, and `frame` is a new one.
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
