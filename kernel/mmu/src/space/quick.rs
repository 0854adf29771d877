// SPDX-License-Identifier: MIT OR Apache-2.0
//! The short way of a single entry.
//!
//! In a loop over entries of one table nearly everything that a write has to ask is the same as for the
//! entry before: backend, policy, interrupt, privilege, pending invalidations. A [`Quick`] has asked
//! once. What is left is the entry, which must be empty, and *behind the store* a look at the task's lazy
//! state: if it is the word in which a store owes nothing new, that is all. With the classic policy that is the word of an
//! active task that owes everything; with Ets2, whose data owes nothing (R35), the word that was there to begin
//! with. (Behind it, because a context switch before the store completes the stores that were there and
//! forgives their barrier, and this one was not; R17.) What the kernel executes has no short way, because it owes
//! something else than data. Counting is a sum that is settled at the
//! end of the table. Anything else goes the long way ([`AddressSpace::set_leaf`]), which is always right.

use super::{AddressSpace, SpaceKind};
use crate::addr::{Frame, PageRange};
use crate::backend::Backend;
use crate::contiguous;
use crate::desc::{Desc, Prot};
use crate::hardware::Kernel;
use crate::lazy::LazyMmuState;
use crate::mmu::{Mmu, Terms};
use crate::policy::Owed;
use crate::table::Pte;

/// See the module text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quick {
    /// Whether empty entries may be set with a kernel's attributes, and with a user's.
    sets_kernel: bool,
    sets_user: bool,
    /// Whether entries are emptied by a swap and nothing else.
    swaps: bool,
    /// The lazy state in which a store owes nothing new,
    settled: u32,
    /// and what it owes in any other.
    owed: Owed,
}

impl Quick {
    /// Never quick.
    pub(super) const NEVER: Self = Self {
        sets_kernel: false,
        sets_user: false,
        swaps: false,
        settled: 0,
        owed: Owed::all(),
    };

    /// What holds now in `pages`, part of one table.
    #[inline]
    pub(super) fn of<K: Kernel>(space: &AddressSpace<'_, K>, pages: PageRange) -> Self {
        Self::under(space.mmu.terms(), space, pages)
    }

    /// The same under `terms`, those of now.
    #[inline]
    pub(super) fn under<K: Kernel>(
        terms: Terms,
        space: &AddressSpace<'_, K>,
        pages: PageRange,
    ) -> Self {
        let kernel = space.mmu.kernel();
        // Where stores happen at once and a mark is left of what they owe.
        let is_plain = terms.backend() == Backend::DeferBarriers;
        let sets = is_plain && !space.unflushed.meets(pages) && !kernel.in_interrupt();
        let owed = terms.policy().owed_by_data();
        let state = kernel.lazy();
        Self {
            sets_kernel: sets && space.kind == SpaceKind::Kernel,
            sets_user: sets && space.kind != SpaceKind::Kernel,
            swaps: !terms.backend().invalidates(),
            settled: if owed.is_empty() {
                state.word()
            } else {
                state.word_owing_all()
            },
            owed,
        }
    }

    /// Whether entries may be set with `prot`: of the privilege, and of the memory type that takes no
    /// note ([`AddressSpace::note_memory_type`]).
    #[inline(always)]
    pub(super) const fn sets(self, prot: Prot) -> bool {
        prot.is_normal()
            && if prot.is_user() {
                self.sets_user
            } else {
                self.sets_kernel && !prot.is_executable()
            }
    }

    /// The same after an entry was emptied, whose page cannot be mapped again before its invalidation.
    #[inline(always)]
    pub(super) const fn after_take(self) -> Self {
        Self {
            sets_kernel: false,
            sets_user: false,
            ..self
        }
    }

    /// Sets an empty entry, if the short way is right for it.
    #[inline(always)]
    pub(super) fn set<K: Kernel>(
        self,
        mmu: &Mmu<K>,
        state: &LazyMmuState,
        pte: &Pte,
        (frame, prot): (Frame, Prot),
    ) -> bool {
        let is_quick = self.sets(prot) && !mmu.kernel().load(pte).is_in_use();
        if is_quick {
            mmu.kernel().store(pte, Desc::page(frame, prot));
            self.stored(mmu, state, prot);
        }
        is_quick
    }

    /// The same where it is known that it is.
    #[inline(always)]
    pub(super) fn set_fresh<K: Kernel>(
        self,
        mmu: &Mmu<K>,
        state: &LazyMmuState,
        pte: &Pte,
        (frame, prot): (Frame, Prot),
    ) {
        mmu.kernel().store(pte, Desc::page(frame, prot));
        self.stored(mmu, state, prot);
    }

    /// Behind a store: what it owes, if it is not owed already. A user's leaf owes nothing (R14).
    #[inline(always)]
    pub(super) fn stored<K: Kernel>(self, mmu: &Mmu<K>, state: &LazyMmuState, prot: Prot) {
        if !prot.is_user() && state.word() != self.settled {
            owe(mmu, self.owed);
        }
    }

    /// Empties an entry, if the short way is right for it.
    #[inline(always)]
    pub(super) fn take<K: Kernel>(self, kernel: &K, pte: &Pte) -> Option<Desc> {
        let is_quick = self.swaps && !contiguous::is_member(kernel.load(pte));
        is_quick.then(|| kernel.swap(pte, Desc::INVALID))
    }
}

#[cold]
#[inline(never)]
fn owe<K: Kernel>(mmu: &Mmu<K>, owed: Owed) {
    mmu.owe_or_pay(owed);
}

/// What a loop over the entries of one table adds up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    /// Entries set the short way.
    pub(super) quick: usize,
    /// Entries emptied the short way, empty ones included.
    pub(super) taken: usize,
    /// Entries taken into use the long way, minus entries emptied.
    pub(super) change: isize,
}

impl Sums {
    pub(super) const ZERO: Self = Self {
        quick: 0,
        taken: 0,
        change: 0,
    };

    /// Counts the short writes, and returns by how much the number of entries in use grew.
    #[inline]
    pub(super) fn settle<K: Kernel>(self, space: &AddressSpace<'_, K>) -> isize {
        let counters = space.mmu.kernel().counters();
        if self.quick > 0 {
            match space.kind {
                // R14 lists every leaf that `check_prot` lets into a kernel's space.
                SpaceKind::Kernel => counters.listed(self.quick),
                SpaceKind::User(_) => counters.ptes(self.quick),
            }
        }
        if self.taken > 0 {
            counters.ptes(self.taken);
        }
        self.quick as isize + self.change
    }
}
