// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of the last single page, and what was asked about it.
//!
//! Callers that map page by page, one call each, mostly stay in one table, and all that such a call asks
//! has the same answer as before: half, window, privilege, backend, policy, the walk, what is owed. A
//! space remembers the answers of the last call that went the long way; if the next one is for the
//! same table with the same attributes, all that is left to look at is the entry. One call per page costs a
//! quarter of the long way.
//!
//! Forgotten whenever an answer could change: entries wait for their invalidation, tables are freed,
//! the window is set.

use super::AddressSpace;
use super::cursor::LeafTable;
use super::quick::Quick;
use crate::addr::{ENTRIES, Frame, Level, PageRange, VirtAddr};
use crate::desc::{Desc, Prot};
use crate::hardware::Kernel;
use crate::mmu::Terms;
use core::cell::Cell;

/// See the module text.
#[derive(Clone, Copy, Debug)]
struct Answers {
    /// The level-2 table above it.
    upper: Frame,
    /// The table.
    table: Frame,
    prot: Prot,
    quick: Quick,
    terms: Terms,
}

/// The answers, and for which table they are.
#[derive(Debug)]
pub(super) struct LastTable {
    /// An address that the table translates, or [`NOWHERE`].
    va: Cell<u64>,
    answers: Cell<Answers>,
}

/// No table translates this address.
const NOWHERE: u64 = 1 << 63;

impl LastTable {
    pub(super) const fn new() -> Self {
        Self {
            va: Cell::new(NOWHERE),
            answers: Cell::new(Answers {
                upper: Frame::ZERO,
                table: Frame::ZERO,
                prot: Prot::KERNEL,
                quick: Quick::NEVER,
                terms: Terms::FIRST,
            }),
        }
    }

    #[inline(always)]
    pub(super) fn forget(&self) {
        self.va.set(NOWHERE);
    }
}

impl<K: Kernel> AddressSpace<'_, K> {
    /// Remembers the table of a single page that was just mapped with `prot`.
    pub(super) fn remember(&self, found: &LeafTable<'_>, prot: Prot) {
        let pages = PageRange::of_table(found.piece.start());
        let inside = self.window.is_none_or(|window| window.covers(pages));
        // Of one moment: what is remembered is for these terms, and compared with them.
        let terms = self.mmu.terms();
        let quick = Quick::under(terms, self, pages);
        if inside && quick.sets(prot) {
            self.last.va.set(found.piece.start().as_u64());
            self.last.answers.set(Answers {
                upper: found.upper,
                table: found.link.frame(),
                prot,
                quick,
                terms,
            });
        }
    }

    /// Maps the page `va` to `frame` if everything is as it was for the last page.
    #[inline(always)]
    pub(super) fn map_like_last(&self, va: VirtAddr, frame: Frame, prot: Prot) -> bool {
        let last = self.last.answers.get();
        if (va.as_u64() ^ self.last.va.get()) >> Level::L2.shift() != 0 || prot != last.prot {
            return false;
        }
        let kernel = self.mmu.kernel();
        let Some(counters) = kernel.task_counters() else {
            return false;
        };
        let parent = &self.table(last.upper).entries()[Level::L2.index(va)];
        let link = self.load(parent);
        let room = link.population().is_some_and(|used| used < ENTRIES);
        let pte = &self.table(last.table).entries()[Level::L3.index(va)];
        if !room || last.terms != self.mmu.terms() || self.load(pte).is_in_use() {
            return false;
        }
        kernel.store(pte, Desc::page(frame, prot));
        last.quick.stored(self.mmu, kernel.lazy(), prot);
        kernel.store(parent, link.with_one_more());
        if prot.is_user() {
            counters.ptes(1);
        } else {
            counters.listed(1);
        }
        true
    }
}
