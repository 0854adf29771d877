// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaves: the one place of an address space where they are written.
//!
//! A run goes to the backend as it is. What stands before that is said here: attributes of the right
//! privilege, break-before-make (R29), and contiguous groups, which are dropped before a part
//! of them changes.

use super::AddressSpace;
use super::cursor::LeafTable;
use super::quick::{Quick, Sums};
use crate::addr::{Frame, Level, PageRange};
use crate::backend::{self, Backend, Duty, Fill, Was};
use crate::bbm;
use crate::contiguous::{self, GROUP};
use crate::desc::{Desc, Prot};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::table::Pte;

/// What a write did to the number of entries in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One more is in use.
    Taken,
    /// The same are.
    Kept,
}

impl Change {
    pub(super) const fn count(self) -> isize {
        match self {
            Self::Taken => 1,
            Self::Kept => 0,
        }
    }
}

impl<K: Kernel> AddressSpace<'_, K> {
    /// Writes the piece of a table.
    #[inline(always)]
    pub(super) fn write(&self, found: &LeafTable<'_>, fill: Fill<'_>, was: Was) -> Duty {
        let run = found.run(self.kind.scope());
        if was == Was::Live && contiguous::is_foldable(run.scope) {
            self.drop_groups(found);
        }
        backend::write_run(self.mmu, run, fill, was)
    }

    /// The same out of line, for callers that are not about single instructions.
    #[inline(never)]
    pub(super) fn write_run(&self, found: &LeafTable<'_>, fill: Fill<'_>, was: Was) -> Duty {
        self.write(found, fill, was)
    }

    /// R29: splits the contiguous groups that the piece is only a part of. Whole groups change as
    /// one, and where stores wait, the drain looks at what has become of the groups.
    #[inline(never)]
    fn drop_groups(&self, found: &LeafTable<'_>) {
        let run = found.run(self.kind.scope());
        if backend::waits(self.mmu, &run) {
            return;
        }
        let last = run.ptes.len() - 1;
        for (i, whole) in [
            (0, run.first().is_multiple_of(GROUP)),
            (last, (run.first() + last + 1).is_multiple_of(GROUP)),
        ] {
            let is_split = !whole || run.ptes.len() < GROUP;
            if is_split && contiguous::is_member(self.read(found, i)) {
                let table = self.table(run.table);
                contiguous::unfold(self.mmu, table, run.pages.page(i), run.scope);
            }
        }
    }

    /// Sets the one entry of `found`, by every rule. Linux: `set_pte_at()`.
    pub(super) fn set_leaf(
        &self,
        found: &LeafTable<'_>,
        frame: Frame,
        prot: Prot,
    ) -> Result<Change, SpaceError> {
        self.kind.check_prot(prot)?;
        let new = Desc::page(frame, prot);
        let va = found.piece.start();
        let old = self.read(found, 0);
        // As a member of a group that is dropped before.
        bbm::check(Level::L3, contiguous::alone(old), new)
            .map_err(|violation| SpaceError::BreakBeforeMake { va, violation })?;
        let fill = Fill::Contiguous { first: new };
        if old.is_valid() && !self.may_become_live(old, new) {
            self.write_run(found, fill, Was::Live);
            return Ok(Change::Kept);
        }
        let counted = old.is_valid();
        if counted {
            self.take_leaf(found);
        }
        self.invalidate_before_reuse(found.piece);
        self.note_memory_type(found, prot);
        self.write_run(found, fill, Was::Gone);
        // An entry that is invalid and not empty was gathered and is not counted any more.
        Ok(if counted { Change::Kept } else { Change::Taken })
    }

    /// Whether `new` may replace `old` only for as long as hardware sets no access flag, and would wait in a
    /// queue meanwhile. ([`Backend::DeferStores`] looks again when it drains.)
    fn may_become_live(&self, old: Desc, new: Desc) -> bool {
        let old = contiguous::alone(old);
        self.mmu.backend() == Backend::Multicall
            && bbm::check(Level::L3, old.young(), new.young()).is_err()
    }

    /// Takes note, in the entry that links the table, that a leaf of a special memory type comes in.
    /// Hardware ignores the bit, so the store owes nothing.
    #[inline(always)]
    pub(super) fn note_memory_type(&self, found: &LeafTable<'_>, prot: Prot) {
        if !prot.is_normal() {
            let link = self.load(found.parent).with_mixed_leaves();
            self.mmu.kernel().store(found.parent, link);
        }
    }

    /// Empties `pte`, an entry of `found`, the short way if there is one, and returns what it held.
    #[inline(always)]
    pub(super) fn take_quickly(
        &self,
        found: &LeafTable<'_>,
        pte: &Pte,
        quick: &mut Quick,
        sums: &mut Sums,
    ) -> Desc {
        let old = match quick.take(self.mmu.kernel(), pte) {
            Some(old) => {
                sums.taken += 1;
                if old.is_in_use() {
                    let page = found.nth(found.index_of(pte)).piece;
                    self.owe_invalidation(Duty::Caller, page);
                }
                old
            }
            None => self.take_leaf(&found.nth(found.index_of(pte))),
        };
        // One that is invalid and not empty was gathered and is not counted any more.
        sums.change -= isize::from(old.is_valid());
        *quick = quick.after_take();
        old
    }

    /// Empties the one entry of `found`, and returns what it held. Linux: `ptep_get_and_clear()`.
    pub(super) fn take_leaf(&self, found: &LeafTable<'_>) -> Desc {
        let run = found.run(self.kind.scope());
        if contiguous::is_foldable(run.scope) {
            self.drop_groups(found);
        }
        let (old, duty) = backend::take(self.mmu, run);
        if old.is_in_use() {
            self.owe_invalidation(duty, found.piece);
        }
        old
    }

    /// The operation's part of invalidating runs of `range`, not executed yet: what was emptied
    /// is remembered (R27).
    pub(super) fn owe_invalidation(&self, duty: Duty, range: PageRange) {
        if duty == Duty::Caller {
            self.unflushed.widen(range);
            // A page there cannot be mapped the short way.
            self.last.forget();
        }
    }
}
