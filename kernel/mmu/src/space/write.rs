// SPDX-License-Identifier: MIT OR Apache-2.0
//! The writer: the one place of an address space that checks a leaf, stores it, and notes what the
//! store owes.
//!
//! # The long way
//!
//! [`Writer::write`], [`Writer::set_leaf`] and [`Writer::take_leaf`] are correct for every entry
//! and strategy, inside and outside of sections. In order:
//!
//! 1. **check**: the privilege of the attributes, and break-before-make (R29). A contiguous group
//!    of which only a part changes is unfolded. An address that was emptied and not invalidated is
//!    invalidated (R27, R29).
//! 2. **store**: the run goes to the strategy in use, which stores it now or lets it wait.
//! 3. **debt**: the strategy notes or pays the barriers. If the strategy does not invalidate what
//!    was live, [`Stale`] remembers the addresses until an invalidation covers them.
//!
//! # The short way
//!
//! In a loop over the entries of one table, nearly every check of the long way has the same result
//! as for the entry before. [`Writer::short_way`] does these checks once and returns a
//! [`ShortWay`]: a token that says which writes may skip the long way. Such a write loads the entry
//! (an empty one may be set, one outside of a group may be emptied), stores it, and then loads the
//! task's state word:
//!
//! * If the state word equals [`ShortWay::settled`], the store adds no debt, and nothing else is
//!   needed. With the classic policy that is the word of an active task that owes every barrier
//!   already. With Ets2, under which data owes nothing (R35), it is the word that the task had when
//!   the token was made.
//! * Otherwise the debt is noted or paid as in the long way.
//!
//! The word must be loaded after the store. `switch_out` completes the stores before it and clears
//! their debt in the word (R17):
//!
//! ```text
//! CPU 0, task:                  the word equals settled (the task owes both barriers)
//! CPU 0, interrupt, switch_out: DSB ISH; the task owes only the ISB now
//! CPU 1, task:                  store the entry       (no barrier executed so far covers it)
//! CPU 1, task:                  load the word: it differs from settled, so owe the DSB again
//! ```
//!
//! If the task loaded the word before the store, on CPU 0, it would still see the debt, and the
//! store on CPU 1 would have no barrier.
//!
//! Executable mappings have no short way, because they owe the pair under every policy. Neither
//! have memory types other than Normal write-back, which must be noted in the link of the table.
//! Counters are added up in [`Sums`] and settled once per table.
//!
//! # The last page
//!
//! Callers that map page by page, one call each, mostly stay in one table. The writer remembers the
//! table, the attributes and the token of the last single page ([`Last`]). If the next call is for
//! the same table with the same attributes, the only check left is that of the entry. The writer
//! forgets them when the result of a check could change: entries were emptied and not invalidated,
//! tables are freed, or the space is restricted.

use super::fold;
use super::kind::SpaceKind;
use super::leaf_table::LeafTable;
use super::links;
use super::ranges::Ranges;
use super::stale::Stale;
use crate::addr::{ENTRIES, Frame, Level, PageRange, VirtAddr};
use crate::backend::{self, Duty, Fill, Was, store};
use crate::bbm;
use crate::desc::{Desc, Prot};
use crate::error::SpaceError;
use crate::group::{self, GROUP};
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::{Mmu, Terms};
use crate::policy::Owed;
use crate::strategy::Backend;
use crate::table::Pte;
use crate::task::LazyMmuState;
use crate::tlbi::{Reach, Scope};
use core::cell::Cell;

/// Writes the leaves of one address space.
pub(super) struct Writer<'m, K> {
    pub(super) mmu: &'m Mmu<K>,
    kind: SpaceKind,
    stale: Stale,
    /// An address that the table in `last` translates, or [`NOWHERE`].
    last_va: Cell<u64>,
    last: Cell<Last>,
}

/// How a write changed the number of entries in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One more entry is in use.
    Taken,
    /// The number is the same.
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

/// The token that says which writes to the entries of one table may skip the long way; see the
/// module text. Only the writer makes one.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortWay {
    /// Whether empty entries may be set with a kernel's attributes.
    sets_kernel: bool,
    /// Whether empty entries may be set with a user's attributes.
    sets_user: bool,
    /// Whether emptying an entry outside of a group takes a swap and nothing else.
    swaps: bool,
    /// The value of the state word with which a store adds no debt.
    settled: u32,
    /// What a store owes if the word has another value.
    owed: Owed,
}

/// The table of the page that was mapped last by a call for a single page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    /// The level-2 table above it.
    pub(super) upper: Frame,
    /// The table.
    pub(super) table: Frame,
    prot: Prot,
    short: ShortWay,
    /// The strategy and policy for which `short` was made.
    terms: Terms,
}

/// The value of `last_va` if nothing is remembered: an address that no table translates.
const NOWHERE: u64 = 1 << 63;

impl<'m, K: Kernel> Writer<'m, K> {
    /// The writer of a new space.
    pub(super) const fn new(mmu: &'m Mmu<K>, kind: SpaceKind) -> Self {
        Self {
            mmu,
            kind,
            stale: Stale::new(),
            last_va: Cell::new(NOWHERE),
            last: Cell::new(Last {
                upper: Frame::ZERO,
                table: Frame::ZERO,
                prot: Prot::KERNEL,
                short: ShortWay::NEVER,
                terms: Terms::FIRST,
            }),
        }
    }

    #[inline(always)]
    pub(super) const fn mmu(&self) -> &'m Mmu<K> {
        self.mmu
    }

    #[inline(always)]
    pub(super) const fn kind(&self) -> SpaceKind {
        self.kind
    }

    #[inline(always)]
    const fn scope(&self) -> Scope {
        self.kind.scope()
    }

    /// Writes the piece of a table. Returns who must invalidate the old entries.
    #[inline(always)]
    pub(super) fn write(&self, found: &LeafTable<'_>, fill: Fill<'_>, was: Was) -> Duty {
        let run = found.run(self.scope());
        if was == Was::Live && group::is_foldable(run.scope) {
            self.unfold_parts(found);
        }
        backend::write_run(self.mmu, run, fill, was)
    }

    /// [`Writer::write`] out of line, for callers in which single instructions do not matter.
    #[inline(never)]
    pub(super) fn write_run(&self, found: &LeafTable<'_>, fill: Fill<'_>, was: Was) -> Duty {
        self.write(found, fill, was)
    }

    /// Unfolds the contiguous groups that lie in the piece only in part (R29). Groups that lie in
    /// it as a whole need no unfolding. If the stores wait, the drain unfolds groups instead.
    #[inline(never)]
    fn unfold_parts(&self, found: &LeafTable<'_>) {
        let run = found.run(self.scope());
        if backend::waits(self.mmu, &run) {
            return;
        }
        let last = run.ptes.len() - 1;
        for (i, whole) in [
            (0, run.first().is_multiple_of(GROUP)),
            (last, (run.first() + last + 1).is_multiple_of(GROUP)),
        ] {
            let is_split = !whole || run.ptes.len() < GROUP;
            if is_split && group::is_member(found.read(self.mmu, i)) {
                fold::unfold(self.mmu, found.table, run.pages.page(i), run.scope);
            }
        }
    }

    /// Sets the one entry of `found` with all checks. Linux: `set_pte_at()`.
    pub(super) fn set_leaf(
        &self,
        found: &LeafTable<'_>,
        frame: Frame,
        prot: Prot,
    ) -> Result<Change, SpaceError> {
        self.kind.check_prot(prot)?;
        let new = Desc::page(frame, prot);
        let va = found.piece.start();
        let old = found.read(self.mmu, 0);
        // `write_run` unfolds a group before it writes a member, so the check ignores the hint.
        bbm::check(Level::L3, group::alone(old), new)
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
        links::note_memory_type(self.mmu, found.parent, prot);
        self.write_run(found, fill, Was::Gone);
        // An entry that is invalid and not empty was gathered and is not counted any more.
        Ok(if counted { Change::Kept } else { Change::Taken })
    }

    /// Whether `new` would wait in a queue, and could no longer replace `old` in place if hardware
    /// set the access flag of the entry meanwhile. ([`Backend::DeferStores`] checks again when it
    /// drains.)
    fn may_become_live(&self, old: Desc, new: Desc) -> bool {
        let old = group::alone(old);
        self.mmu.backend() == Backend::Multicall
            && bbm::check(Level::L3, old.young(), new.young()).is_err()
    }

    /// Empties the one entry of `found`, and returns what it held. Linux: `ptep_get_and_clear()`.
    pub(super) fn take_leaf(&self, found: &LeafTable<'_>) -> Desc {
        let run = found.run(self.scope());
        if group::is_foldable(run.scope) {
            self.unfold_parts(found);
        }
        let (old, duty) = backend::take(self.mmu, run);
        if old.is_in_use() {
            self.owe_invalidation(duty, found.piece);
        }
        old
    }

    /// Sets the entries of the piece, which are empty, to `frame(0)`, `frame(1)`, ....
    /// `stores_each` is the result of [`Writer::stores_each`] before the first call of `frame`,
    /// because `frame` may pause the mode. If it is true, the loop only stores, and the entries are
    /// counted after it.
    #[inline(always)]
    pub(super) fn set_each(
        &self,
        found: &LeafTable<'_>,
        prot: Prot,
        stores_each: bool,
        mut frame: impl FnMut(usize) -> Frame,
    ) {
        let pages = found.ptes().len();
        if !stores_each {
            for i in 0..pages {
                let first = Desc::page(frame(i), prot);
                self.write_run(&found.nth(i), Fill::Contiguous { first }, Was::Gone);
            }
            return;
        }
        let kernel = self.mmu.kernel();
        // Eight entries per turn, so that most instructions are stores and not those of the loop.
        let (eights, rest) = found.ptes().as_chunks::<8>();
        let mut i = 0_usize;
        let mut set = |pte| {
            store::store(kernel, pte, Desc::page(frame(i), prot));
            i = i.wrapping_add(1);
        };
        for [a, b, c, d, e, f, g, h] in eights {
            set(a);
            set(b);
            set(c);
            set(d);
            set(e);
            set(f);
            set(g);
            set(h);
        }
        rest.iter().for_each(set);
        self.count_each(pages, prot);
    }

    /// Counts `pages` entries that [`Writer::set_each`] stored itself with `prot`, and notes or
    /// pays what they owe.
    #[inline(always)]
    pub(super) fn count_each(&self, pages: usize, prot: Prot) {
        if pages == 0 {
            return;
        }
        let owed = backend::account(self.mmu, pages, Desc::page(Frame::ZERO, prot));
        self.mmu.owe_or_pay(owed);
    }

    /// Whether [`Writer::set_each`] stores each entry of `found` itself and counts them together at
    /// the end: stores do not wait, and the strategy does not pay for each store. If so, stores
    /// that wait for these entries are drained first.
    #[inline(always)]
    pub(super) fn stores_each(&self, found: &LeafTable<'_>) -> bool {
        match self.mmu.backend() {
            Backend::DeferBarriers | Backend::BatchInvalidations => true,
            Backend::DeferStores | Backend::Multicall if self.mmu.is_active() => false,
            Backend::DeferStores | Backend::Multicall => {
                backend::drain_own_of_run(self.mmu, &found.run(self.scope()));
                true
            }
            Backend::Eager => false,
        }
    }

    /// Drains what waits, invalidates the leaves of `range`, and removes them from [`Stale`].
    pub(super) fn invalidate(&self, range: PageRange) {
        self.mmu.invalidate_range(range, self.scope(), Reach::Page);
        self.stale.invalidated(range);
    }

    /// Drains what waits, and invalidates `emptied` and everything that was emptied in `range`
    /// before.
    pub(super) fn invalidate_all_of(&self, range: PageRange, emptied: &Ranges) {
        backend::complete_invalidation(self.mmu, Duty::Backend, |_| self.invalidate(range));
        if !emptied.is_empty() {
            self.mmu
                .drain_and_invalidate(emptied.as_slice(), self.scope(), Reach::Page);
            emptied.iter().for_each(|range| self.invalidated(range));
        }
        self.invalidate_stale_in(range);
    }

    /// Empties an entry that translates nothing. No TLB can hold it, so nothing is invalidated.
    pub(super) fn discard(&self, pte: &Pte) {
        store::store(self.mmu.kernel(), pte, Desc::INVALID);
        self.mmu.kernel().current_counters().ptes(1);
    }

    /// Empties entries that were gathered: they are invalid already, and the TLBs do not hold them.
    pub(super) fn empty_gathered(&self, found: &LeafTable<'_>) {
        let kernel = self.mmu.kernel();
        store::store_run(kernel, found.ptes(), Fill::Zero);
        kernel.current_counters().late_stores(found.ptes().len());
    }

    /// Completes the invalidation of `range`: by invalidating it, or, if that is the strategy's
    /// duty, by a drain.
    #[inline(always)]
    pub(super) fn settle(&self, duty: Duty, range: PageRange) {
        match duty {
            Duty::Caller => self.invalidate(range),
            Duty::Backend => backend::drain(self.mmu),
        }
    }

    /// Invalidates what a TLB may still hold for `range`, before it is mapped again (R27, R29).
    #[inline]
    pub(super) fn invalidate_before_reuse(&self, range: PageRange) {
        self.invalidate_stale_in(range);
        backend::before_make(self.mmu, self.scope(), range);
    }

    /// Invalidates the hull of what was emptied and not invalidated yet, if it meets `range`.
    #[inline(always)]
    fn invalidate_stale_in(&self, range: PageRange) {
        if self.stale.meets(range) {
            self.invalidate_stale();
        }
    }

    /// Invalidates the hull of what was emptied and not invalidated yet.
    #[cold]
    pub(super) fn invalidate_stale(&self) {
        if let Some(hull) = self.stale.hull() {
            self.invalidate(hull);
        }
    }

    /// A copy of what was emptied and not invalidated yet.
    pub(super) fn stale(&self) -> Stale {
        self.stale.now()
    }

    /// Notes that everything that was emptied since the copy `before` is invalidated.
    pub(super) fn restore_stale(&self, before: &Stale) {
        self.stale.restore(before);
    }

    /// Notes that all of `range` was invalidated.
    pub(super) fn invalidated(&self, range: PageRange) {
        self.stale.invalidated(range);
    }

    /// Remembers that entries of `range` were emptied, if the caller must invalidate them (R27).
    pub(super) fn owe_invalidation(&self, duty: Duty, range: PageRange) {
        if duty == Duty::Caller {
            self.stale.widen(range);
            // A page of `range` has no short way until it is invalidated.
            self.forget_last();
        }
    }

    /// [`Writer::owe_invalidation`] for a range of several runs. If the caller must invalidate it,
    /// the strategy no longer invalidates parts of it.
    #[inline]
    pub(super) fn owe_invalidation_of_all(&self, duty: Duty, range: PageRange) {
        if duty == Duty::Caller {
            backend::leave_to_caller(self.mmu, self.scope(), range);
        }
        self.owe_invalidation(duty, range);
    }

    /// The token for `pages`, which lie in one table, in the present state.
    #[inline]
    pub(super) fn short_way(&self, pages: PageRange) -> ShortWay {
        self.short_way_under(self.mmu.terms(), pages)
    }

    /// [`Writer::short_way`] with the present terms, which the caller has read.
    #[inline]
    fn short_way_under(&self, terms: Terms, pages: PageRange) -> ShortWay {
        let kernel = self.mmu.kernel();
        // The strategy stores at once and records the debt in the state word.
        let is_plain = terms.backend() == Backend::DeferBarriers;
        let sets = is_plain && !self.stale.meets(pages) && !kernel.in_interrupt();
        let owed = terms.policy().owed_by_data();
        let state = kernel.current_lazy();
        ShortWay {
            sets_kernel: sets && self.kind == SpaceKind::Kernel,
            sets_user: sets && self.kind != SpaceKind::Kernel,
            swaps: !terms.backend().invalidates(),
            settled: if owed.is_empty() {
                state.word()
            } else {
                state.word_owing_all()
            },
            owed,
        }
    }

    /// Empties `pte`, an entry of `found`, by the short way if the token allows it, and returns
    /// what it held.
    #[inline(always)]
    pub(super) fn take_shortly(
        &self,
        found: &LeafTable<'_>,
        pte: &Pte,
        short: &mut ShortWay,
        sums: &mut Sums,
    ) -> Desc {
        let old = match short.take(self.mmu.kernel(), pte) {
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
        // An entry that is invalid and not empty was gathered and is not counted any more.
        sums.change -= isize::from(old.is_valid());
        *short = short.after_take();
        old
    }

    /// Remembers the table of a single page that was just mapped with `prot`.
    pub(super) fn remember(&self, found: &LeafTable<'_>, prot: Prot) {
        // Read once: the token is made for these terms, and the next call compares with them.
        let terms = self.mmu.terms();
        let short = self.short_way_under(terms, PageRange::of_table(found.piece.start()));
        if short.sets(prot) {
            self.last_va.set(found.piece.start().as_u64());
            self.last.set(Last {
                upper: found.upper,
                table: found.link.frame(),
                prot,
                short,
                terms,
            });
        }
    }

    /// Forgets the table of the last page.
    #[inline(always)]
    pub(super) fn forget_last(&self) {
        self.last_va.set(NOWHERE);
    }

    /// The table of the last page, if it translates `va` and that page was mapped with `prot`.
    #[inline(always)]
    pub(super) fn last(&self, va: VirtAddr, prot: Prot) -> Option<Last> {
        let last = self.last.get();
        let is_near = (va.as_u64() ^ self.last_va.get()) >> Level::L2.shift() == 0;
        (is_near && prot == last.prot).then_some(last)
    }

    /// Sets `pte`, an entry of the table of the last page, if it is empty and the terms are those
    /// of the last page. Returns whether it did. `parent` links the table.
    #[inline(always)]
    pub(super) fn set_like_last(&self, last: &Last, parent: &Pte, pte: &Pte, frame: Frame) -> bool {
        let kernel = self.mmu.kernel();
        let Some(counters) = kernel.current_task_counters() else {
            return false;
        };
        let link = kernel.load(parent);
        let has_room = link.population().is_some_and(|used| used < ENTRIES);
        if !has_room || last.terms != self.mmu.terms() || kernel.load(pte).is_in_use() {
            return false;
        }
        last.short
            .write(self.mmu, kernel.current_lazy(), pte, (frame, last.prot));
        links::add_one(self.mmu, parent, link);
        if last.prot.is_user() {
            counters.ptes(1);
        } else {
            counters.listed(1);
        }
        true
    }
}

impl ShortWay {
    /// The token that allows no write.
    const NEVER: Self = Self {
        sets_kernel: false,
        sets_user: false,
        swaps: false,
        settled: 0,
        owed: Owed::all(),
    };

    /// Whether `prot` has a short way in a kernel space: data in Normal write-back memory.
    #[inline(always)]
    const fn is_kernel_data(prot: Prot) -> bool {
        prot.is_normal() && !prot.is_user() && !prot.is_executable()
    }

    /// Whether empty entries may be set with `prot`.
    #[inline(always)]
    pub(super) const fn sets(self, prot: Prot) -> bool {
        if prot.is_user() {
            prot.is_normal() && self.sets_user
        } else {
            Self::is_kernel_data(prot) && self.sets_kernel
        }
    }

    /// The token after an entry was emptied. Its page may not be mapped again before the
    /// invalidation, so the token no longer allows setting.
    #[inline(always)]
    pub(super) const fn after_take(self) -> Self {
        Self {
            sets_kernel: false,
            sets_user: false,
            ..self
        }
    }

    /// Sets an entry if it is empty and `new` has a short way. Returns whether it did.
    #[inline(always)]
    pub(super) fn set<K: Kernel>(
        self,
        mmu: &Mmu<K>,
        state: &LazyMmuState,
        pte: &Pte,
        new: (Frame, Prot),
    ) -> bool {
        let is_short = self.sets(new.1) && !mmu.kernel().load(pte).is_in_use();
        if is_short {
            self.write(mmu, state, pte, new);
        }
        is_short
    }

    /// [`ShortWay::set`] for an entry that is known to be empty, with a token that is known to
    /// allow kernel data.
    #[inline(always)]
    pub(super) fn set_fresh<K: Kernel>(
        self,
        mmu: &Mmu<K>,
        state: &LazyMmuState,
        pte: &Pte,
        new: (Frame, Prot),
    ) -> bool {
        let is_short = Self::is_kernel_data(new.1);
        if is_short {
            self.write(mmu, state, pte, new);
        }
        is_short
    }

    /// Stores the entry, then notes the debt, in this order (see the module text). A user leaf owes
    /// nothing (R14).
    #[inline(always)]
    fn write<K: Kernel>(
        self,
        mmu: &Mmu<K>,
        state: &LazyMmuState,
        pte: &Pte,
        (frame, prot): (Frame, Prot),
    ) {
        store::store(mmu.kernel(), pte, Desc::page(frame, prot));
        if !prot.is_user() && state.word() != self.settled {
            owe(mmu, self.owed);
        }
    }

    /// Empties an entry and returns what it held, if that takes a swap and nothing else.
    #[inline(always)]
    fn take<K: Kernel>(self, kernel: &K, pte: &Pte) -> Option<Desc> {
        let is_short = self.swaps && !group::is_member(kernel.load(pte));
        is_short.then(|| store::swap(kernel, pte, Desc::INVALID))
    }
}

#[cold]
#[inline(never)]
fn owe<K: Kernel>(mmu: &Mmu<K>, owed: Owed) {
    mmu.owe_or_pay(owed);
}

/// The sums of a loop over the entries of one table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    /// Entries set by the short way.
    pub(super) short: usize,
    /// Entries emptied by the short way, including those that were empty before.
    taken: usize,
    /// Entries that the long way has taken into use, minus the entries emptied.
    pub(super) change: isize,
}

impl Sums {
    pub(super) const ZERO: Self = Self {
        short: 0,
        taken: 0,
        change: 0,
    };

    /// Adds the short writes to the task's counters, and returns by how much the number of entries
    /// in use has grown.
    #[inline]
    pub(super) fn settle<K: Kernel>(self, writer: &Writer<'_, K>) -> isize {
        let counters = writer.mmu.kernel().current_counters();
        if self.short > 0 {
            match writer.kind {
                // R14 lists every leaf that `check_prot` lets into a kernel's space.
                SpaceKind::Kernel => counters.listed(self.short),
                SpaceKind::User(_) => counters.ptes(self.short),
            }
        }
        if self.taken > 0 {
            counters.ptes(self.taken);
        }
        self.short as isize + self.change
    }
}
