// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scenes for the suites about backends: a script of steps that is executed with each strategy.
//!
//! A step changes marked pages of the vmap area, or expects something of them. The lock of the
//! kernel's space is held from the first step to the last, because its release drains what waits.
//! Steps are data and not calls, because every test runs with all five strategies. A failure names
//! the strategy and the step, counted from 1.

use core::fmt;
use core::ops::Range;

use lazymmu::{Backend, Backing, Counts, PageRange, Prot, PteRef, SpaceError};

use super::fixture::{Counting, Pages, apply, store, with};
use crate::arch::Arm64;
use crate::arch::percpu;
use crate::arch::probe::try_read_u64;
use crate::mm::MMU;
use crate::mm::kernel_space::{self, Space, SpaceGuard};
use crate::mm::terms::Terms;
use crate::selftest::prelude::*;

/// A change of an entry. Its arguments are the pages, the number of the page, and the entry.
pub(super) type Change = fn(&Pages, usize, &mut PteRef<'_, Arm64>) -> Result<(), SpaceError>;

/// Some pages of the scene, by number.
type Which = Range<usize>;

/// A step; see the module documentation.
pub(super) enum Step {
    /// Enters a section.
    Enter,
    /// Enters a section in which these pages are announced. Their table exists.
    Announce(Which),
    /// Leaves the innermost section.
    Leave,
    Pause,
    Resume,
    /// Maps pages to their frames, with one call for each.
    MapEach(Which),
    /// Changes each entry, in a range that is announced for that time.
    Entries(Which, Change),
    /// Makes every n-th page read-only, with one call for each.
    ProtectEach(Which, usize),
    Unmap(Which),
    /// Unmaps pages with one call for each, and invalidates all of them with one call.
    UnmapEach(Which),
    /// Invalidates the pages.
    Flush(Which),
    /// Releases the lock; the next step takes it again.
    Unlock,
    /// Expects that something waits with these strategies, and that nothing waits with the others.
    Waits(&'static [Backend]),
    /// Expects that page `i` shows the frame with the number that the function returns.
    Shows(Which, fn(usize) -> usize),
    /// Expects that no page can be read.
    Faults(Which),
    /// Expects that pages show their frames and cannot be written.
    ReadOnly(Which),
    /// Any other step. Its failure has a place of its own.
    Do(fn(&mut Scene) -> TestResult),
}

/// No strategy.
pub(super) const NONE: &[Backend] = &[];
/// The strategies with which makes in announced ranges wait.
pub(super) const OF_MAKES: &[Backend] = &[Backend::DeferStores, Backend::Multicall];
/// The strategies with which changes of live entries wait.
pub(super) const OF_CHANGES: &[Backend] = &[
    Backend::DeferStores,
    Backend::BatchInvalidations,
    Backend::Multicall,
];

/// Maps the page to frame `i`.
pub(super) fn put(pages: &Pages, i: usize, pte: &mut PteRef<'_, Arm64>) -> Result<(), SpaceError> {
    pte.set(pages.frames()[i], Prot::KERNEL)
}

/// Maps the page to its frame.
pub(super) const SET: Change = put;
/// Clears the entry. The caller must invalidate it.
pub(super) const CLEAR: Change = |_, _, pte| {
    pte.get_and_clear();
    Ok(())
};

/// The frame of page `i` if nothing was moved.
pub(super) const OWN: fn(usize) -> usize = |i| i;

/// The value at the start of frame `i`.
pub(super) const fn mark(i: usize) -> u64 {
    0x0bac_0000 + i as u64
}

/// A scene in progress. The drop leaves all sections, then drops the fields in their order.
pub(super) struct Scene {
    lock: Option<SpaceGuard>,
    pub(super) pages: Pages,
    _terms: Terms,
}

/// Why a step failed.
enum Why {
    Refused(SpaceError),
    /// The page is not in the expected state.
    Page(usize),
    /// Something waits that should not, or nothing waits although it should.
    Waits,
}

impl From<SpaceError> for Why {
    fn from(error: SpaceError) -> Self {
        Self::Refused(error)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Page(i) => write!(f, "page {i} is not as it should be"),
            Self::Waits => f.write_str("something waits that should not, or the other way round"),
        }
    }
}

/// Executes `steps` with each strategy, on `count` pages. The first `mapped` of them are mapped and
/// have been written to, so that they are in the TLB.
pub(super) fn play(mapped: usize, count: usize, steps: &[Step]) -> TestResult {
    for backend in Backend::ALL {
        let mut scene = Scene::new(backend, mapped, count)?;
        scene.play(steps)?;
    }
    Ok(())
}

impl Scene {
    pub(super) fn new(backend: Backend, mapped: usize, count: usize) -> Result<Self, Outcome> {
        let terms = expect_ok!(with(backend));
        let pages = expect_ok!(Pages::unmapped(count));
        for i in 0..count {
            pages.fill(i, mark(i));
        }
        let mut scene = Self {
            lock: None,
            pages,
            _terms: terms,
        };
        scene.play(&[Step::MapEach(0..mapped)])?;
        for i in 0..mapped {
            expect_ok!(store(scene.pages.virt(i), mark(i)));
        }
        Ok(scene)
    }

    /// Executes `steps`.
    pub(super) fn play(&mut self, steps: &[Step]) -> TestResult {
        for (i, step) in steps.iter().enumerate() {
            if let Step::Do(action) = step {
                action(self)?;
            } else if let Err(why) = self.step(step) {
                fail!("{}, step {}: {why}", MMU.backend(), i + 1);
            }
        }
        Ok(())
    }

    /// The counts of what `steps` execute.
    pub(super) fn counted(&mut self, steps: &[Step]) -> Result<Counts, Outcome> {
        let window = Counting::begin();
        let played = self.play(steps);
        let spent = window.end();
        played.map(|()| spent)
    }

    /// The kernel's space.
    pub(super) fn space(&mut self) -> &mut Space {
        self.lock.get_or_insert_with(kernel_space::lock)
    }

    pub(super) fn part(&self, which: &Which) -> Result<PageRange, SpaceError> {
        let (first, pages) = (which.start as u64, which.len() as u64);
        self.pages.area.part(first, pages)
    }

    fn step(&mut self, step: &Step) -> Result<(), Why> {
        let lazy = MMU.lazy();
        match step {
            Step::Enter => lazy.enable().map_err(SpaceError::from)?,
            Step::Announce(which) => self.announce(which)?,
            Step::Leave => lazy.disable().map_err(SpaceError::from)?,
            Step::Pause => lazy.pause().map_err(SpaceError::from)?,
            Step::Resume => lazy.resume().map_err(SpaceError::from)?,
            Step::MapEach(which) => {
                for i in which.clone() {
                    let page = self.part(&(i..i + 1))?;
                    let backing = Backing::Contiguous(self.pages.frames()[i]);
                    self.space().map(page, backing, Prot::KERNEL)?;
                }
            }
            Step::Entries(which, change) => self.entries(which, *change)?,
            Step::ProtectEach(which, step) => {
                for i in which.clone().step_by(*step) {
                    let page = self.part(&(i..i + 1))?;
                    self.space().protect(page, Prot::KERNEL_RO)?;
                }
            }
            Step::Unmap(which) => {
                let range = self.part(which)?;
                self.space().unmap(range)?;
            }
            Step::UnmapEach(which) => self.unmap_each(which)?,
            Step::Flush(which) => {
                let range = self.part(which)?;
                self.space().invalidate_range(range)?;
            }
            Step::Unlock => self.lock = None,
            Step::Waits(with) => {
                if percpu::current().batch().is_empty() == with.contains(&MMU.backend()) {
                    return Err(Why::Waits);
                }
            }
            Step::Shows(which, frame) => {
                self.each(which, |virt, i| try_read_u64(virt) == Ok(mark(frame(i))))?;
            }
            Step::Faults(which) => self.each(which, |virt, _| try_read_u64(virt).is_err())?,
            Step::ReadOnly(which) => self.each(which, |virt, i| {
                try_read_u64(virt) == Ok(mark(i)) && store(virt, 0).is_err()
            })?,
            // `play` has executed it.
            Step::Do(_) => {}
        }
        Ok(())
    }

    fn announce(&mut self, which: &Which) -> Result<(), SpaceError> {
        let range = self.part(which)?;
        let (start, end) = (range.start(), range.end());
        let space = self.space();
        let missing = SpaceError::NotMapped { va: start };
        let table = space.last_level_table(start).ok_or(missing)?;
        // SAFETY: only the drop of an area frees tables, and it waits for the lock. No scene
        // releases the lock in a section that announces a range.
        unsafe { MMU.lazy().enable_fast_pte_range(space, start, end, table) }
    }

    fn entries(&mut self, which: &Which, change: Change) -> Result<(), SpaceError> {
        let range = self.part(which)?;
        let mut numbers = which.clone();
        let Self { lock, pages, .. } = self;
        let space = lock.get_or_insert_with(kernel_space::lock);
        apply(space, range, &mut |pte| match numbers.next() {
            Some(i) => change(pages, i, pte),
            None => Ok(()),
        })
    }

    fn unmap_each(&mut self, which: &Which) -> Result<(), SpaceError> {
        let mut all = None;
        for i in which.clone() {
            let page = self.part(&(i..i + 1))?;
            let one = self.space().unmap_no_invalidate(page)?;
            match &mut all {
                None => all = Some(one),
                // A neighbor always merges. If one did not, the drop would invalidate it here.
                Some(all) => drop(all.merge(one)),
            }
        }
        if let Some(all) = all {
            self.space().invalidate(all);
        }
        Ok(())
    }

    /// Expects that `holds` is true for the address and number of each page.
    fn each(&self, which: &Which, holds: impl Fn(u64, usize) -> bool) -> Result<(), Why> {
        match which.clone().find(|i| !holds(self.pages.virt(*i), *i)) {
            Some(i) => Err(Why::Page(i)),
            None => Ok(()),
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // This is needed only after a failure, because each script is balanced. `disable` is
        // ignored during a pause.
        let lazy = MMU.lazy();
        for _ in 0..lazy.state().pause_count() {
            let _ = lazy.resume();
        }
        for _ in 0..lazy.state().enable_count() {
            let _ = lazy.disable();
        }
    }
}
