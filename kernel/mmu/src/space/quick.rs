// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short way of a single entry.
//!
//! In a loop over entries of one table nearly everything that a write has to ask is the same as for the
//! entry before: backend, policy, interrupt, privilege, what is owed. A [`Quick`] has asked once, and
//! boils it down to one comparison: *the entry is empty, and the task's lazy state is the word that it was,
//! active and owing everything already*. Then a store is all that is left, and counting is a sum that
//! is settled at the end of the table. Anything else goes the long way
//! ([`AddressSpace::set_leaf`]), which is always right.

use super::leaf::Change;
use super::{AddressSpace, SpaceKind};
use crate::addr::PageRange;
use crate::backend::Backend;
use crate::desc::{Desc, Prot};
use crate::hardware::Kernel;
use crate::policy::BarrierPolicy;
use crate::table::Pte;

/// See the module text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quick {
    kind: SpaceKind,
    /// The state in which nothing but a store is to be done, as far as it matters.
    word: u32,
    mask: u32,
}

impl Quick {
    /// Never quick.
    pub(super) const fn never(kind: SpaceKind) -> Self {
        Self {
            kind,
            word: 1,
            mask: 0,
        }
    }

    /// What holds now for makes in `pages`, part of one table.
    pub(super) fn of<K: Kernel>(space: &AddressSpace<'_, K>, pages: PageRange) -> Self {
        let mmu = space.mmu;
        let kernel = mmu.kernel();
        let plain = mmu.backend() == Backend::DeferBarriers
            && mmu.policy() == BarrierPolicy::Classic
            && !space.unflushed.meets(pages)
            && !kernel.in_interrupt();
        let kind = space.kind;
        match (kind, kernel.lazy().word_owing_all()) {
            // R14: a user's leaf owes nothing, whatever the state.
            (SpaceKind::User(_), _) if plain => Self {
                kind,
                word: 0,
                mask: 0,
            },
            (SpaceKind::Kernel, Some(word)) if plain => Self {
                kind,
                word,
                mask: u32::MAX,
            },
            _ => Self::never(kind),
        }
    }

    /// Sets an empty entry, if the short way is right for it now.
    #[inline(always)]
    pub(super) fn set<K: Kernel>(self, kernel: &K, pte: &Pte, new: Desc, prot: Prot) -> bool {
        let fits = self.kind.check_prot(prot).is_ok();
        let is_quick =
            fits && kernel.lazy().word() & self.mask == self.word && !kernel.load(pte).is_in_use();
        if is_quick {
            kernel.store(pte, new);
        }
        is_quick
    }
}

/// What a loop over the entries of one table adds up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    /// Entries set the short way.
    pub(super) quick: usize,
    /// Entries taken into use minus entries emptied, the long way.
    pub(super) change: isize,
}

impl Sums {
    pub(super) const ZERO: Self = Self {
        quick: 0,
        change: 0,
    };

    #[inline]
    pub(super) const fn add(&mut self, change: Change) {
        self.change += change.count();
    }

    /// Counts the short writes, and returns by how much the number of entries in use grew.
    #[inline]
    pub(super) fn settle<K: Kernel>(self, space: &AddressSpace<'_, K>) -> isize {
        if self.quick > 0 {
            let counters = space.mmu.kernel().counters();
            counters.ptes(self.quick);
            if space.kind == SpaceKind::Kernel {
                // R14 lists every leaf that `check_prot` lets into a kernel's space.
                counters.requested(self.quick);
            }
        }
        self.quick as isize + self.change
    }
}
