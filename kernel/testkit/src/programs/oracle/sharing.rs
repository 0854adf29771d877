// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spaces that share tables. For user spaces the call is refused. If the universe has a second
//! kernel space, it is used after it shares the tables of the first one; until then, calls for it
//! go to the first one.

use super::callback::Stop;
use super::{Run, Space};
use crate::programs::Range;
use lazymmu::{PageRange, SpaceError, SpaceKind, TableFrames};

impl Run<'_> {
    /// Whether the space is one that uses the tables of another one, now or later.
    fn borrows(&self, space: usize) -> bool {
        space > 0 && [self.kind(space), self.kind(0)] == [SpaceKind::Kernel; 2]
    }

    /// The space whose entries are those of `space`.
    pub(super) fn home(&self, space: usize) -> usize {
        if self.borrows(space) { 0 } else { space }
    }

    /// The space that executes a call for `space`. If the last call was for another space with the
    /// same tables, what that one has emptied is invalidated first, as
    /// [`lazymmu::AddressSpace::share_tables`] requires.
    pub(super) fn acts(&mut self, space: usize) -> usize {
        let space = if self.is_shared {
            space
        } else {
            self.home(space)
        };
        if space != self.actor && self.home(space) == self.home(self.actor) {
            self.drop_pending();
        }
        self.actor = space;
        space
    }

    /// All windows of the universe as ranges.
    fn windows(&self) -> Vec<Range> {
        let windows = (0..).zip(self.universe.windows);
        windows
            .map(|(number, window)| Range::new(number, 0, window.pages))
            .collect()
    }

    /// Shares the tables of a space with the next one.
    pub(super) fn share(&mut self, space: usize, range: Range) {
        let other = (space + 1) % self.spaces.len();
        if other == space {
            return;
        }
        if !self.borrows(other) {
            let pages = self.range(space, range);
            if self.borrows(space) || self.universe.spaces.len() == 1 {
                return;
            }
            let refused = self.share_with(space, other, pages);
            assert_eq!(refused, Err(SpaceError::SharedByUsers));
            return;
        }
        if self.is_shared {
            let pages = self.range(space, range);
            let again = self.share_with(space, other, pages);
            assert!(
                matches!(again, Err(SpaceError::AlreadyMapped { .. })),
                "{again:?}"
            );
            return;
        }
        // The second space must not link tables, so all of them are built first.
        self.kernel().set_budget(usize::MAX);
        for window in self.windows() {
            let pages = self.range(space, window);
            let mm = &mut self.spaces[space].mm;
            let built = mm.apply_to_page_range(pages, |_| Ok::<(), Stop>(()));
            assert_eq!(built, Ok(()));
        }
        for window in self.windows() {
            let pages = self.range(space, window);
            match self.share_with(space, other, pages) {
                Ok(copied) => assert!(copied > 0, "{pages}: every table exists"),
                // Two windows may lie below one entry of the root.
                Err(SpaceError::AlreadyMapped { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        self.is_shared = true;
    }

    fn share_with(
        &mut self,
        space: usize,
        other: usize,
        pages: PageRange,
    ) -> Result<usize, SpaceError> {
        let [from, to] = self
            .spaces
            .get_disjoint_mut([space, other])
            .expect("two different spaces");
        let Space { mm: from, .. } = from;
        // SAFETY: one task uses both spaces. All tables of the universe exist, so neither space
        // links one, and none is freed while they are shared. `acts` invalidates what one space has
        // emptied before the other one maps there.
        unsafe { to.mm.share_tables(from, pages) }
    }

    /// Whether tables of the space may be freed: none of them is announced or shared.
    pub(super) fn may_free_tables(&self) -> bool {
        !self.is_announced() && !self.is_shared
    }

    /// Frees the roots of the spaces that share the tables of another one. The other tables are not
    /// theirs.
    pub(super) fn give_back_roots(&mut self) {
        for space in (1..self.spaces.len()).rev() {
            if !self.borrows(space) {
                continue;
            }
            let Space { mm, .. } = self.spaces.remove(space);
            let kernel = self.mmu.kernel();
            kernel.teardown.set(true);
            // SAFETY: no CPU walks the tables of the fake, and nothing else is left of the space.
            unsafe { kernel.free_table(mm.root()) };
            kernel.teardown.set(false);
        }
    }
}
