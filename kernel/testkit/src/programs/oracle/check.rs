// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checks of the oracle after every step.

use super::{Run, alone};
use crate::fake::{asid_of, tables_below};
use lazymmu::{Desc, Level, Mapping, PAGE_SIZE, bits};

/// The number of pages of a contiguous group.
const GROUP: usize = 16;

impl Run<'_> {
    pub(super) fn check(&self) {
        let kernel = self.kernel();
        let state = self.mmu.lazy().state();
        assert_eq!((state.enable_count(), state.pause_count()), self.depth);
        let (announced, known) = (state.fast_pte_ranges(), self.announced.len());
        // A task has room for a few ranges. A further one is not kept.
        assert!(
            announced <= known,
            "{announced} ranges are announced, more than the {known} of open sections"
        );
        if !self.mmu.lazy().is_lazy_mmu_mode_active() {
            let nothing_owed = state.owed().is_empty();
            assert!(nothing_owed, "something is owed outside of a section");
            assert!(kernel.is_batch_empty(), "R23: something still waits");
        }
        let in_use = |space: &usize| self.is_shared || self.home(*space) == *space;
        for space in (0..self.spaces.len()).filter(in_use) {
            for page in 0..self.universe.pages() {
                self.check_page(space, page);
            }
        }
        if !self.may_wait() {
            self.check_invalidations();
        }
        if kernel.is_batch_empty() {
            self.check_tables();
            kernel.check_counters();
        }
        kernel.take_effects();
    }

    fn check_page(&self, space: usize, page: usize) {
        let (va, known) = (self.va(space, page), self.entry(space, page));
        let found = self.spaces[space].mm.query(va);
        let level = Level::L3;
        let expected = (known != Desc::INVALID).then_some(Mapping {
            entry: known,
            level,
        });
        if found == expected {
            return;
        }
        // Only the contiguous hint may differ, and only in a whole group.
        let without_hint = found.map(|found| Mapping {
            entry: alone(found.entry),
            ..found
        });
        assert_eq!(without_hint, expected, "{va}");
        assert!(
            !self.kernel().is_batch_empty() || self.is_group(space, page),
            "{va} is no part of a contiguous group: {found:?}"
        );
    }

    /// Whether the group of the page may be folded: its pages may be one entry of a TLB.
    fn is_group(&self, space: usize, page: usize) -> bool {
        let va = self.universe.va(space, page);
        let member = (va / PAGE_SIZE) as usize % GROUP;
        let Some(first) = page.checked_sub(member) else {
            return false;
        };
        let entries = &self.spaces[self.home(space)].entries;
        let Some(group) = entries.get(first..first + GROUP) else {
            return false;
        };
        let base = group[0].as_u64();
        let continues = |(i, entry): (usize, &Desc)| {
            let raw = entry.as_u64();
            raw == base + i as u64 * PAGE_SIZE
        };
        let is_aligned = (base & bits::ADDRESS).is_multiple_of(GROUP as u64 * PAGE_SIZE);
        // Kernel mappings are not folded.
        let is_foldable = asid_of(self.kind(space)).is_some();
        let start = self.universe.va(space, first);
        is_foldable
            && start + (member as u64) * PAGE_SIZE == va
            && is_aligned
            && group.iter().enumerate().all(continues)
    }

    /// Checks that a TLB may hold old entries only of pages whose invalidation was put off.
    fn check_invalidations(&self) {
        let is_put_off = |asid, va: u64| {
            self.pending.iter().any(|pending| {
                let pages = pending.pages;
                asid_of(self.kind(pending.space)) == asid
                    && va.wrapping_sub(pages.start().as_u64()) < pages.pages() * PAGE_SIZE
            })
        };
        let is_complete = self.kernel().all_invalidated_but(is_put_off);
        assert!(is_complete, "an invalidation is missing");
    }

    fn check_tables(&self) {
        let kernel = self.kernel();
        let spaces = self.spaces.iter().enumerate();
        let own = |(number, space): (usize, &super::Space<'_>)| {
            let tables = tables_below(kernel, space.mm.root().as_u64(), 0);
            // A space that shares the tables of another one has only the root of its own.
            if self.home(number) == number {
                tables
            } else {
                1
            }
        };
        let tables: usize = spaces.map(own).sum();
        assert_eq!(kernel.live_tables(), tables, "a table is lost");
    }
}
