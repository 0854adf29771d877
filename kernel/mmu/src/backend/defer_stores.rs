// SPDX-License-Identifier: MIT OR Apache-2.0
//! s390's `fast_pte_range`: entry writes in a known range wait, and their invalidations with them.
//!
//! Inside a range that was announced ([`crate::Lazy::enable_fast_pte_range`],
//! [`crate::AddressSpace::fast_pte_range`]) a new value goes into a *slot* of the CPU instead of
//! the table, and reads are answered from the slot (R20). The slot is drained when the section is
//! left, paused or flushed (R23), and until then it takes every write to that table. Where there is
//! neither a slot nor an announced range, everything is as with deferred barriers.
//!
//! # The drain
//!
//! Two passes over what waits, with one invalidation between them, for the whole table:
//!
//! 1. Live entries: those that may be replaced in place (R29) are replaced, the others are emptied.
//!    In both cases the drain takes over access and dirty bits that the walker set meanwhile (R24).
//! 2. `DSB ISHST`, TLBI, `DSB ISH`, for exactly the pages that were live.
//! 3. The rest is stored: makes, and the second half of each break-before-make.
//!
//! Contiguous groups of which a member waits are folded or unfolded on the way, once, whatever
//! happened to their members in between: their entries join the passes.
//!
//! A value that never reaches memory costs nothing. A page that is mapped and unmapped again inside
//! the range needs no TLBI here (R28), while a strategy that stores at once cannot avoid it (row
//! V1).
//!
//! # Entries are emptied at once
//!
//! s390 lets clears wait as well. On arm64 the walker may set access and dirty bits in an entry
//! until it is empty, and a caller that takes a value out of an entry must get the final bits. So a
//! clear is stored at once, and only its invalidation waits. This also keeps the population of a
//! table true: a table without entries in use may be freed.

use super::cpu_batch::with_batch;
use super::defer_barriers;
use super::preserve::News;
use super::run::{Duty, Fill, Run};
use super::store::{replace, store, swap};
use crate::addr::{ENTRIES, Frame, Level};
use crate::batch::{Slot, Slots};
use crate::bbm;
use crate::desc::Desc;
use crate::group::{self, GROUP, GROUPS};
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::policy::{self, Owed};
use crate::table::{Pte, Table};
use crate::tlbi::Reach;

/// The table in `frame`.
///
/// # Safety
/// It is a table of an address space, and is not freed while the reference lives.
unsafe fn table<K: Kernel>(mmu: &Mmu<K>, frame: Frame) -> &Table {
    // SAFETY: this function's contract.
    unsafe { mmu.kernel().table_ptr(frame).as_ref() }
}

/// The slot of the run's table: one that it has already, or a new one if the run is in an announced
/// range.
fn slot_of_run<'b, K: Kernel>(slots: &'b Slots, mmu: &Mmu<K>, run: &Run<'_>) -> Option<&'b Slot> {
    let start = run.pages.table_start();
    if let Some(slot) = slots.of(run.table, start, run.scope) {
        return Some(slot);
    }
    if !mmu
        .kernel()
        .current_lazy()
        .hints()
        .cover(run.table, run.pages)
    {
        return None;
    }
    let slot = slots.free().unwrap_or_else(|victim| {
        drain_slot(mmu, victim);
        victim
    });
    slot.table.set(Some(run.table));
    slot.start.set(start);
    slot.scope.set(run.scope);
    Some(slot)
}

/// Drains every slot (R23).
pub(super) fn drain<K: Kernel>(mmu: &Mmu<K>, slots: &Slots) {
    for slot in slots.iter() {
        if slot.table.get().is_some() {
            drain_slot(mmu, slot);
        }
    }
}

/// Whether what is written to the run waits for the drain.
pub(super) fn waits<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>) -> bool {
    in_slot(mmu, run, |_| ()).is_some()
}

/// Works on the slot of a run, if its stores may wait: the mode is active, and the run is in a
/// range that was announced, or its table has a slot already.
fn in_slot<K: Kernel, T>(mmu: &Mmu<K>, run: &Run<'_>, work: impl FnOnce(&Slot) -> T) -> Option<T> {
    if !mmu.is_active() {
        return None;
    }
    with_batch(mmu, |batch| {
        let slot = slot_of_run(&batch.slots, mmu, run)?;
        mmu.kernel().current_lazy().set_waiting();
        Some(work(slot))
    })
}

/// Takes the entry of a run of one out of memory and slot alike, if stores may wait there.
pub(super) fn take<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>) -> Option<Desc> {
    in_slot(mmu, &run, |slot| {
        let i = run.first();
        break_around(mmu, slot, &run);
        let waited = slot.waiting(i);
        slot.waiting.clear(i);
        let old = swap(mmu.kernel(), &run.ptes[0], Desc::INVALID);
        if old.is_valid() {
            slot.stale.set(i);
        }
        match waited {
            Some(value) => News::between(slot.seen[i].get(), old).told_to(value),
            None => old,
        }
    })
}

/// Writes a run: into a slot if there is one, otherwise as with deferred barriers.
pub(super) fn write_run<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>, fill: Fill<'_>, owed: Owed) -> Duty {
    let waits = in_slot(mmu, &run, |slot| write_to(mmu, slot, &run, fill));
    match waits {
        Some(()) => Duty::Backend,
        None => defer_barriers::write_run(mmu, run, fill, owed),
    }
}

fn write_to<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, run: &Run<'_>, fill: Fill<'_>) {
    let kernel = mmu.kernel();
    let makes = fill.sample().is_valid();
    if makes {
        kernel.current_counters().deferred(run.ptes.len());
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
            if swap(kernel, pte, new).is_valid() {
                slot.stale.set(i);
            }
        }
    }
}

/// Breaks a live contiguous group before a part of it is emptied (R29). The other members wait,
/// without the contiguous hint, for the drain. Access and dirty bits of one member are those of all
/// (R24).
fn break_around<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, run: &Run<'_>) {
    if !group::is_foldable(run.scope) {
        return;
    }
    let kernel = mmu.kernel();
    let end = run.first() + run.ptes.len();
    // SAFETY: the run's entries are borrowed from the table, so it is alive.
    let table = unsafe { table(mmu, run.table) };
    for number in run.first() / GROUP..=(end - 1) / GROUP {
        let members = number * GROUP..(number + 1) * GROUP;
        let whole = run.first() <= members.start && members.end <= end;
        if whole || !group::is_member(kernel.load(&table.entries()[members.start])) {
            continue;
        }
        let ptes = group::entries(table, number);
        let old: [Desc; GROUP] = core::array::from_fn(|i| swap(kernel, &ptes[i], Desc::INVALID));
        kernel.current_counters().late_stores(GROUP);
        let gathered = group::folded(&old).unwrap_or(old);
        for (i, old) in members.zip(gathered) {
            let value = match slot.waiting(i) {
                Some(value) => News::between(slot.seen[i].get(), old).told_to(value),
                None => old,
            };
            slot.stale.set(i);
            slot.put(i, old, group::alone(value));
            slot.seen[i].set(old);
        }
    }
}

#[cold]
#[inline(never)]
fn drain_slot<K: Kernel>(mmu: &Mmu<K>, slot: &Slot) {
    let kernel = mmu.kernel();
    kernel.current_counters().drains(1);
    let table = match slot.table.get() {
        // SAFETY: an entry whose value waits counts as in use, and only tables without entries in
        // use are freed, so this one is alive. `destroy` drains first, and requires that no other
        // task has a section in which the space was written.
        Some(frame) if !slot.waiting.is_empty() => Some(unsafe { table(mmu, frame) }),
        // Only invalidations wait, for which addresses are enough.
        _ => None,
    };
    if let Some(table) = table {
        if group::is_foldable(slot.scope.get()) {
            settle_groups(mmu, slot, table.entries());
        }
        replace_live(mmu, slot, table.entries());
    }
    if !slot.stale.is_empty() {
        let pages = slot.stale.runs().map(|(first, n)| slot.pages(first, n));
        mmu.invalidate(pages, slot.scope.get(), Reach::Page);
    }
    if let Some(table) = table {
        let mut owed = Owed::empty();
        let policy = mmu.policy();
        for i in slot.waiting.iter() {
            let value = slot.values[i].get();
            store(kernel, &table.entries()[i], value);
            owed |= policy::owed_by(policy, Level::L3, value);
        }
        kernel.current_counters().late_stores(slot.waiting.len());
        kernel.current_lazy().owe(owed);
    }
    slot.waiting.clear_all();
    slot.stale.clear_all();
    slot.table.set(None);
}

/// The first pass. A value that is replaced in place owes nothing more: the barriers of the
/// invalidation that follows complete the store.
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
            replace(kernel, &ptes[i], seen, new);
            slot.waiting.clear(i);
        } else {
            let old = swap(kernel, &ptes[i], Desc::INVALID);
            let news = News::between(seen, old);
            if group::is_member(old) || group::is_member(new) {
                of_groups[i / GROUP] = of_groups[i / GROUP].union(news);
            } else if old.frame() == new.frame() {
                slot.values[i].set(news.told_to(new));
            }
        }
        slot.stale.set(i);
    }
    kernel.current_counters().late_stores(stores);
    // An access or dirty bit set in one member counts for the whole group (R24).
    for i in slot.waiting.iter() {
        let new = slot.values[i].get();
        if slot.seen[i].get().frame() == new.frame() {
            slot.values[i].set(of_groups[i / GROUP].told_to(new));
        }
    }
}

/// Folds the groups whose members have become one, and unfolds those that are none any more.
fn settle_groups<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, ptes: &[Pte; ENTRIES]) {
    for group in 0..GROUPS {
        let first = group * GROUP;
        if (first..first + GROUP).all(|i| !slot.waiting.has(i)) {
            continue;
        }
        let now: [Desc; GROUP] = core::array::from_fn(|i| mmu.kernel().load(&ptes[first + i]));
        // An access or dirty bit set in one member counts for the whole group (R24).
        let known = match group::folded(&now) {
            Some(folded) if group::is_member(now[0]) => folded,
            _ => now,
        };
        let values: [Desc; GROUP] = core::array::from_fn(|i| match slot.waiting(first + i) {
            Some(value) => News::between(slot.seen[first + i].get(), known[i]).told_to(value),
            None => known[i],
        });
        let settled = match group::folded(&values) {
            Some(folded) => folded,
            None => values.map(|value| {
                if value.is_valid() {
                    group::alone(value)
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
