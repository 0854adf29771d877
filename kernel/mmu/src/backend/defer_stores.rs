// SPDX-License-Identifier: MIT OR Apache-2.0
//! s390's `fast_pte_range`: entry writes in a known range wait, and their invalidations with them.
//!
//! Inside a range that was announced ([`crate::Lazy::enable_fast_pte_range`],
//! [`crate::AddressSpace::fast_pte_range`]) a new value goes into a *slot* of the CPU instead of the
//! table, and reads are answered from there (R20). The slot is drained when the section is left,
//! paused or flushed (R23), and until then it serves the whole table. Where there is neither slot nor
//! announcement everything is as with deferred barriers.
//!
//! # The drain
//!
//! Two passes over what waits, with one invalidation between them, for the whole table:
//!
//! 1. live entries: what may be replaced in place (R29) is; what may not is emptied. Either way
//!    access and dirty bits that the walker set meanwhile are taken over (R24);
//! 2. `DSB ISHST`, TLBI, `DSB ISH`, for exactly the pages that were live;
//! 3. the rest is stored: makes, and the second half of each break-before-make.
//!
//! Contiguous groups are folded or dropped on the way, once, whatever happened to their members
//! in between: their entries join the passes.
//!
//! What never reaches memory costs nothing: a page that is mapped and unmapped again inside the range
//! needs no TLBI here (R28), while a backend that stores at once cannot avoid it (row V1).
//!
//! # Entries are emptied at once
//!
//! s390 lets clears wait, too. On arm64 the walker may set access and dirty bits in an entry until it is
//! gone, and whoever takes a value out of an entry must get the final ones. So a clear is executed,
//! and only its invalidation waits. It also keeps the count of entries in use true: a
//! table without any may be freed.

use super::bitmap::Bitmap;
use super::defer_barriers::DeferBarriers;
use super::preserve::{self, News};
use super::{Duty, Fill, Run, Strategy, Was};
use crate::addr::{ENTRIES, Frame, Level, PageRange, VirtAddr};
use crate::bbm;
use crate::contiguous::{self, GROUP, GROUPS};
use crate::desc::Desc;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::policy::{self, Owed};
use crate::table::Pte;
use crate::tlbi::{Reach, Scope};
use core::cell::Cell;
use core::fmt;

/// Tables with waiting stores at a time: source and destination, as in `move_ptes()`.
pub const DEFERRED_TABLES: usize = 2;

/// What waits for one table.
pub(super) struct Slot {
    table: Cell<Option<Frame>>,
    /// First address that the table translates.
    start: Cell<VirtAddr>,
    scope: Cell<Scope>,
    /// Entries whose value waits.
    waiting: Bitmap,
    values: [Cell<Desc>; ENTRIES],
    /// What the entry held when its first value began to wait.
    seen: [Cell<Desc>; ENTRIES],
    /// Entries that were emptied and not invalidated yet.
    stale: Bitmap,
}

/// The slots of a CPU.
pub(super) struct Slots {
    slots: [Slot; DEFERRED_TABLES],
    /// Which one is drained next if all are taken.
    victim: Cell<usize>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            table: Cell::new(None),
            start: Cell::new(VirtAddr::ZERO),
            scope: Cell::new(Scope::AllAsids),
            waiting: Bitmap::new(),
            values: [const { Cell::new(Desc::INVALID) }; ENTRIES],
            seen: [const { Cell::new(Desc::INVALID) }; ENTRIES],
            stale: Bitmap::new(),
        }
    }

    /// The value that waits for entry `i`.
    #[inline]
    pub(super) fn waiting(&self, i: usize) -> Option<Desc> {
        self.waiting.has(i).then(|| self.values[i].get())
    }

    /// Lets `new` wait for entry `i`; `now` is what the entry holds in memory.
    fn put(&self, i: usize, now: Desc, new: Desc) {
        if !self.waiting.has(i) {
            self.waiting.set(i);
            self.seen[i].set(now);
        }
        self.values[i].set(new);
    }

    fn pages(&self, first: usize, pages: usize) -> PageRange {
        PageRange::of_table(self.start.get()).part(first, pages)
    }
}

impl Slots {
    pub(super) const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; DEFERRED_TABLES],
            victim: Cell::new(0),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.table.get().is_none())
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.slots.iter().filter(|slot| slot.table.get().is_some());
        f.debug_list()
            .entries(used.map(|slot| (slot.start.get(), slot.waiting.len(), slot.stale.len())))
            .finish()
    }
}

#[derive(Debug)]
pub(super) struct DeferStores;

impl Slots {
    /// The slot of the run's table, if there is one or the run is in a range that was announced.
    fn of_run<K: Kernel>(&self, mmu: &Mmu<K>, run: &Run<'_>) -> Option<&Slot> {
        let start = run.pages.table_start();
        let same = |slot: &&Slot| {
            // A frame may have become another table since.
            slot.table.get() == Some(run.table)
                && slot.start.get() == start
                && slot.scope.get() == run.scope
        };
        if let Some(slot) = self.slots.iter().find(same) {
            return Some(slot);
        }
        if !mmu.kernel().lazy().hints().cover(run.table, run.pages) {
            return None;
        }
        let free = self.slots.iter().find(|slot| slot.table.get().is_none());
        let slot = free.unwrap_or_else(|| {
            let victim = self.victim.get();
            self.victim.set((victim + 1) % DEFERRED_TABLES);
            drain_slot(mmu, &self.slots[victim]);
            &self.slots[victim]
        });
        slot.table.set(Some(run.table));
        slot.start.set(start);
        slot.scope.set(run.scope);
        Some(slot)
    }

    /// Lets memory and TLBs catch up (R23).
    pub(super) fn drain<K: Kernel>(&self, mmu: &Mmu<K>) {
        for slot in &self.slots {
            if slot.table.get().is_some() {
                drain_slot(mmu, slot);
            }
        }
    }

    /// The value that waits for entry `index` of `table`.
    pub(super) fn waiting(&self, table: Frame, index: usize) -> Option<Desc> {
        let of_table = self
            .slots
            .iter()
            .filter(|slot| slot.table.get() == Some(table));
        of_table.filter_map(|slot| slot.waiting(index)).next()
    }
}

impl DeferStores {
    /// Whether what is written to the run waits for the drain.
    pub(super) fn waits<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>) -> bool {
        Self::in_slot(mmu, run, |_| ()).is_some()
    }

    /// Works on the slot of a run, if its stores may wait: the mode is active, and the run is in a range
    /// that was announced, or its table has a slot already.
    fn in_slot<K: Kernel, T>(
        mmu: &Mmu<K>,
        run: &Run<'_>,
        work: impl FnOnce(&Slot) -> T,
    ) -> Option<T> {
        if !mmu.lazy().is_lazy_mmu_mode_active() {
            return None;
        }
        mmu.with_batch(|batch| {
            let slot = batch.slots.of_run(mmu, run)?;
            mmu.kernel().lazy().wait();
            Some(work(slot))
        })
    }

    /// Takes the entry of a run of one out of memory and slot alike, if stores may wait there.
    pub(super) fn take<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>) -> Option<Desc> {
        Self::in_slot(mmu, &run, |slot| {
            let i = run.first();
            break_around(mmu, slot, &run);
            let waited = slot.waiting(i);
            slot.waiting.clear(i);
            let old = mmu.kernel().swap(&run.ptes[0], Desc::INVALID);
            if old.is_valid() {
                slot.stale.set(i);
            }
            match waited {
                Some(value) => News::between(slot.seen[i].get(), old).told_to(value),
                None => old,
            }
        })
    }
}

impl Strategy for DeferStores {
    fn write_run<K: Kernel>(
        mmu: &Mmu<K>,
        run: Run<'_>,
        fill: Fill<'_>,
        was: Was,
        owed: Owed,
    ) -> Duty {
        let waits = Self::in_slot(mmu, &run, |slot| write_to(mmu, slot, &run, fill));
        match waits {
            Some(()) => Duty::Backend,
            None => DeferBarriers::write_run(mmu, run, fill, was, owed),
        }
    }
}

fn write_to<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, run: &Run<'_>, fill: Fill<'_>) {
    let kernel = mmu.kernel();
    let makes = fill.sample().is_valid();
    if makes {
        kernel.counters().deferred(run.ptes.len());
    } else {
        break_around(mmu, slot, run);
    }
    for (at, pte) in run.ptes.iter().enumerate() {
        let i = run.first() + at;
        let now = kernel.load(pte);
        let new = fill.value(at, slot.waiting(i).unwrap_or(now));
        if makes {
            slot.put(i, now, new);
        } else {
            slot.waiting.clear(i);
            if kernel.swap(pte, new).is_valid() {
                slot.stale.set(i);
            }
        }
    }
}

/// Before a part of a live contiguous group is emptied, the group is broken; the other members wait,
/// alone, for the drain (R29). What hardware said of one member it said of all (R24).
fn break_around<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, run: &Run<'_>) {
    if !contiguous::is_foldable(run.scope) {
        return;
    }
    let kernel = mmu.kernel();
    let end = run.first() + run.ptes.len();
    // SAFETY: the run's entries are borrowed from the table, so it is alive.
    let table = unsafe { contiguous::table(mmu, run.table) };
    for group in run.first() / GROUP..=(end - 1) / GROUP {
        let members = group * GROUP..(group + 1) * GROUP;
        let whole = run.first() <= members.start && members.end <= end;
        if whole || !contiguous::is_member(kernel.load(&table.entries()[members.start])) {
            continue;
        }
        let ptes = contiguous::group_of(table, group);
        let old: [Desc; GROUP] = core::array::from_fn(|i| kernel.swap(&ptes[i], Desc::INVALID));
        kernel.counters().late_stores(GROUP);
        let gathered = contiguous::folded(&old).unwrap_or(old);
        for (i, old) in members.zip(gathered) {
            let value = match slot.waiting(i) {
                Some(value) => News::between(slot.seen[i].get(), old).told_to(value),
                None => old,
            };
            slot.stale.set(i);
            slot.put(i, old, contiguous::alone(value));
            slot.seen[i].set(old);
        }
    }
}

#[cold]
#[inline(never)]
fn drain_slot<K: Kernel>(mmu: &Mmu<K>, slot: &Slot) {
    let kernel = mmu.kernel();
    kernel.counters().drains(1);
    let table = match slot.table.get() {
        // SAFETY: an entry whose value waits counts as in use, and only tables without any are
        // freed, so this one is alive; `destroy` drains first, and asks that nobody else has a section in
        // which the space was written.
        Some(frame) if !slot.waiting.is_empty() => Some(unsafe { contiguous::table(mmu, frame) }),
        // Only invalidations wait, for which addresses are enough.
        _ => None,
    };
    if let Some(table) = table {
        if contiguous::is_foldable(slot.scope.get()) {
            settle_groups(mmu, slot, table.entries());
        }
        replace_live(mmu, slot, table.entries());
    }
    if !slot.stale.is_empty() {
        let pages = slot.stale.runs().map(|(first, n)| slot.pages(first, n));
        mmu.invalidate(pages, slot.scope.get(), Reach::Leaf);
    }
    if let Some(table) = table {
        let mut owed = Owed::empty();
        let policy = mmu.policy();
        for i in slot.waiting.iter() {
            let value = slot.values[i].get();
            kernel.store(&table.entries()[i], value);
            owed |= policy::owed_by(policy, Level::L3, value);
        }
        kernel.counters().late_stores(slot.waiting.len());
        kernel.lazy().owe(owed);
    }
    slot.waiting.clear_all();
    slot.stale.clear_all();
    slot.table.set(None);
}

/// The first pass. What is replaced in place owes nothing beyond the invalidation behind it, whose
/// barriers complete the stores.
fn replace_live<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, ptes: &[Pte; ENTRIES]) {
    let kernel = mmu.kernel();
    let mut stores = 0;
    let mut of_groups = [News::default(); GROUPS];
    for i in slot.waiting.iter() {
        let (seen, new) = (slot.seen[i].get(), slot.values[i].get());
        let now = kernel.load(&ptes[i]);
        if !now.is_valid() {
            continue;
        }
        stores += 1;
        // An entry without access flag may gain it while this goes on, so it is no exception here.
        if bbm::check(Level::L3, now.young(), new.young()).is_ok() {
            preserve::replace(kernel, &ptes[i], seen, new);
            slot.waiting.clear(i);
        } else {
            let old = kernel.swap(&ptes[i], Desc::INVALID);
            let news = News::between(seen, old);
            if contiguous::is_member(old) || contiguous::is_member(new) {
                of_groups[i / GROUP] = of_groups[i / GROUP].and(news);
            } else if old.frame() == new.frame() {
                slot.values[i].set(news.told_to(new));
            }
        }
        slot.stale.set(i);
    }
    kernel.counters().late_stores(stores);
    // What hardware says of one member it says of the group.
    for i in slot.waiting.iter() {
        let new = slot.values[i].get();
        if slot.seen[i].get().frame() == new.frame() {
            slot.values[i].set(of_groups[i / GROUP].told_to(new));
        }
    }
}

/// Folds the groups whose members have become one, and drops those that are none any more.
fn settle_groups<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, ptes: &[Pte; ENTRIES]) {
    for group in 0..GROUPS {
        let first = group * GROUP;
        if (first..first + GROUP).all(|i| !slot.waiting.has(i)) {
            continue;
        }
        let now: [Desc; GROUP] = core::array::from_fn(|i| mmu.kernel().load(&ptes[first + i]));
        // What hardware said of one member of a group it said of all (R24).
        let known = match contiguous::folded(&now) {
            Some(folded) if contiguous::is_member(now[0]) => folded,
            _ => now,
        };
        let values: [Desc; GROUP] = core::array::from_fn(|i| match slot.waiting(first + i) {
            Some(value) => News::between(slot.seen[first + i].get(), known[i]).told_to(value),
            None => known[i],
        });
        let settled = match contiguous::folded(&values) {
            Some(folded) => folded,
            None => values.map(|value| {
                if value.is_valid() {
                    contiguous::alone(value)
                } else {
                    value
                }
            }),
        };
        for i in 0..GROUP {
            if settled[i] != values[i] || slot.waiting.has(first + i) {
                slot.put(first + i, now[i], settled[i]);
            }
        }
    }
}
