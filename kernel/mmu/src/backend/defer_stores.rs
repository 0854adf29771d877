// SPDX-License-Identifier: MIT OR Apache-2.0
//! s390's `fast_pte_range`: entry writes in a known range wait, and their invalidations with them.
//!
//! Inside a range that was announced ([`crate::Lazy::enable_fast_pte_range`],
//! [`crate::AddressSpace::fast_pte_range`]) a new value goes into a *slot* of the CPU's batch
//! instead of the table, and a read returns the value in the slot (R20). The slot is drained when
//! the section is left, paused or flushed (R23). Until then it takes every write to that table. A
//! write without slot and announced range is done as by [`super::defer_barriers`].
//!
//! # The drain
//!
//! A drain makes two passes over what waits, with one invalidation between them, for all slots
//! together:
//!
//! 1. It replaces live entries for which this is allowed (R29), and empties the others. In both
//!    cases it takes over access and dirty bits that the walker has set meanwhile (R24). Then it
//!    stores the makes that need not wait for an invalidation.
//! 2. `DSB ISHST`, TLBI, `DSB ISH`, for exactly the pages that were live: once per address space.
//! 3. It stores the rest: the second half of each break-before-make.
//!
//! A drain executes no store, barrier or TLBI that the same writes would not have executed in a
//! plain section:
//!
//! * Makes come before the invalidation, whose barriers then pay for them, as in a plain section.
//! * An invalidation that the caller has asked for (R26) is executed together with that of step 2,
//!   if nothing is left for step 3.
//! * A contiguous group is folded only if that needs no break of its own: all of its entries wait,
//!   and each of them is empty or must be broken anyway. It is then stored with the hint. A live
//!   group of which a part changes is unfolded.
//! * If every slot is taken, a slot that owes no invalidation is drained to make room for another
//!   table. If there is none, makes in the other table do not wait.
//!
//! A value that is overtaken before the drain is never stored. A page that is mapped and unmapped
//! again inside the range needs no TLBI here (R28), while a strategy that stores at once cannot
//! avoid it (row V1).
//!
//! # Entries are emptied at once
//!
//! On s390 clears wait as well. On arm64 the walker may set access and dirty bits in an entry until
//! it is empty, and a caller that takes a value out of an entry must get the final bits. So a clear
//! is stored at once, and only its invalidation waits. This also keeps the population of a table
//! correct, by which tables without entries in use are freed.

use super::cpu_batch::with_batch;
use super::defer_barriers;
use super::own;
use super::preserve::News;
use super::request::Request;
use super::run::{Duty, Fill, Run, Was};
use super::store::{replace, store, swap};
use crate::addr::{ENTRIES, Frame, Level, PageRange};
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
/// `frame` holds a table of an address space, which is not freed while the reference lives.
unsafe fn table<K: Kernel>(mmu: &Mmu<K>, frame: Frame) -> &Table {
    // SAFETY: this function has the same contract.
    unsafe { mmu.kernel().table_ptr(frame).as_ref() }
}

/// The slot of the run's table: the one that the table has already, or a new one if the run is in
/// an announced range and there is room.
fn slot_of_run<'b, K: Kernel>(
    slots: &'b Slots,
    mmu: &Mmu<K>,
    run: &Run<'_>,
    was: Was,
) -> Option<&'b Slot> {
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
    let slot = slots.free().or_else(|| room_for_another(slots, mmu, was))?;
    slot.table.set(Some(run.table));
    slot.start.set(start);
    slot.scope.set(run.scope);
    Some(slot)
}

/// Frees a slot by a drain that executes no invalidation. If there is no such slot, all slots are
/// drained if the run empties or changes live entries; if it makes entries, no slot is freed, and
/// the run does not wait.
#[cold]
fn room_for_another<'b, K: Kernel>(slots: &'b Slots, mmu: &Mmu<K>, was: Was) -> Option<&'b Slot> {
    if let Some(slot) = slots.next_in_turn(|slot| !owes_invalidation(mmu, slot)) {
        drain_slots(mmu, &[slot], None);
    } else if was == Was::Live {
        drain(mmu, slots, None);
    }
    slots.free()
}

/// Whether a drain of the slot would execute an invalidation.
fn owes_invalidation<K: Kernel>(mmu: &Mmu<K>, slot: &Slot) -> bool {
    let is_live = |table: &Table| {
        let mut waiting = slot.waiting.iter();
        waiting.any(|i| mmu.kernel().load(&table.entries()[i]).is_valid())
    };
    !slot.stale.is_empty() || table_of(mmu, slot).is_some_and(is_live)
}

/// Drains every slot (R23), and then executes `request` as [`Mmu::invalidate`] does.
pub(super) fn drain<K: Kernel>(mmu: &Mmu<K>, slots: &Slots, request: Option<Request<'_>>) {
    if !slots.is_empty() {
        drain_slots(mmu, &slots.by_address(), request);
    } else if let Some(request) = request {
        request.execute(mmu, core::iter::empty());
    }
}

/// Whether what is written to the run waits for the drain.
pub(super) fn waits<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>) -> bool {
    in_slot(mmu, run, Was::Live, |_| ()).is_some()
}

/// Drains the slots if something waits there for the run, outside of an active section.
#[inline(always)]
pub(super) fn drain_own<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>) {
    own::drain_of_run(mmu, run, |batch| drain(mmu, &batch.slots, None));
}

/// Calls `work` with the slot of a run if its stores may wait: the mode is active, and the run is
/// in an announced range or its table has a slot already. Otherwise returns `None`.
fn in_slot<K: Kernel, T>(
    mmu: &Mmu<K>,
    run: &Run<'_>,
    was: Was,
    work: impl FnOnce(&Slot) -> T,
) -> Option<T> {
    if !mmu.is_active() {
        drain_own(mmu, run);
        return None;
    }
    with_batch(mmu, |batch| {
        let slot = slot_of_run(&batch.slots, mmu, run, was)?;
        mmu.kernel().current_lazy().set_waiting();
        Some(work(slot))
    })
}

/// Empties the entry of a run of one, in memory and in the slot, and returns its value, if stores
/// may wait for it.
pub(super) fn take<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>) -> Option<Desc> {
    in_slot(mmu, &run, Was::Live, |slot| {
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

/// Writes a run into its slot if there is one, and otherwise as [`super::defer_barriers`] does.
pub(super) fn write_run<K: Kernel>(
    mmu: &Mmu<K>,
    run: Run<'_>,
    fill: Fill<'_>,
    was: Was,
    owed: Owed,
) -> Duty {
    let waits = in_slot(mmu, &run, was, |slot| write_to(mmu, slot, &run, fill));
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

/// Breaks the live contiguous groups of which `run` empties a part (R29). The other members wait
/// for the drain, without the contiguous hint. Access and dirty bits of one member count for all of
/// them (R24).
fn break_around<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, run: &Run<'_>) {
    if !group::is_foldable(run.scope) {
        return;
    }
    let kernel = mmu.kernel();
    let end = run.first() + run.ptes.len();
    // SAFETY: the run's entries are borrowed from the table, so it is not freed.
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

/// Drains `slots` in three steps; see the module text.
#[cold]
#[inline(never)]
fn drain_slots<K: Kernel>(mmu: &Mmu<K>, slots: &[&Slot], mut request: Option<Request<'_>>) {
    let slots = || slots.iter().filter(|slot| slot.table.get().is_some());
    let of_scope = |scope| slots().filter(move |slot| slot.scope.get() == scope);
    let stale_of = |scope| {
        let runs = of_scope(scope)
            .flat_map(|slot| slot.stale.runs().map(|(first, n)| slot.pages(first, n)));
        PageRange::all_joined(runs)
    };
    for slot in slots() {
        begin_drain(mmu, slot);
    }
    // R26: the request is executed after the last store. If no store is left, that is now.
    if slots().all(|slot| slot.waiting.is_empty())
        && let Some(request) = request.take()
    {
        for slot in slots() {
            request.covers_in(slot);
        }
        request.execute(mmu, stale_of(request.scope));
        of_scope(request.scope).for_each(|slot| slot.stale.clear_all());
    }
    for slot in slots() {
        if !slot.stale.is_empty() {
            let scope = slot.scope.get();
            mmu.invalidate(stale_of(scope), scope, Reach::Page);
            of_scope(scope).for_each(|slot| slot.stale.clear_all());
        }
    }
    for slot in slots() {
        finish_drain(mmu, slot);
    }
    if let Some(request) = request {
        request.execute(mmu, core::iter::empty());
    }
}

/// The table of a slot, if a value waits in the slot.
fn table_of<'t, K: Kernel>(mmu: &'t Mmu<K>, slot: &Slot) -> Option<&'t Table> {
    match slot.table.get() {
        // SAFETY: an entry whose value waits counts as in use, and only tables without entries in
        // use are freed, so this one is not freed. `destroy` drains first, and requires that no
        // other task is in a section in which it wrote to the space.
        Some(frame) if !slot.waiting.is_empty() => Some(unsafe { table(mmu, frame) }),
        // Only invalidations wait. They need addresses, and the table may be freed already.
        _ => None,
    }
}

/// The first pass of a drain: replaces or empties live entries, and makes the entries that need not
/// wait for the invalidation.
fn begin_drain<K: Kernel>(mmu: &Mmu<K>, slot: &Slot) {
    mmu.kernel().current_counters().drains(1);
    if let Some(table) = table_of(mmu, slot) {
        if group::is_foldable(slot.scope.get()) {
            settle_groups(mmu, slot, table.entries());
        }
        replace_live(mmu, slot, table.entries());
        if slot.stale.is_empty() {
            make(mmu, slot, table.entries(), |_| true);
            return slot.waiting.clear_all();
        }
        make(mmu, slot, table.entries(), |i| {
            // A group is made as a whole, so it waits if one of its members does.
            let is_member = group::is_member(slot.values[i].get());
            let waits = slot.stale.has(i) || is_member && slot.stale.group(i / GROUP) != 0;
            if !waits {
                slot.waiting.clear(i);
            }
            !waits
        });
    }
}

/// The second pass of a drain: makes the remaining entries, and frees the slot.
fn finish_drain<K: Kernel>(mmu: &Mmu<K>, slot: &Slot) {
    if let Some(table) = table_of(mmu, slot) {
        make(mmu, slot, table.entries(), |_| true);
        slot.waiting.clear_all();
    }
    slot.table.set(None);
}

/// Stores those of the values that wait for which `is_due` is true. None of their entries is live.
/// The caller removes them from the slot.
fn make<K: Kernel>(
    mmu: &Mmu<K>,
    slot: &Slot,
    ptes: &[Pte; ENTRIES],
    is_due: impl Fn(usize) -> bool,
) {
    let (policy, mut owed, mut made) = (mmu.policy(), Owed::empty(), 0);
    for i in slot.waiting.iter() {
        if is_due(i) {
            let value = slot.values[i].get();
            store(mmu.kernel(), &ptes[i], value);
            owed |= policy::owed_by(policy, Level::L3, value);
            made += 1;
        }
    }
    mmu.kernel().current_counters().late_stores(made);
    mmu.kernel().current_lazy().owe(owed);
}

/// Replaces or empties the live entries for which a value waits. A replaced entry owes no more
/// barriers: those of the invalidation that follows complete its store.
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
        // Hardware may set the access flag of the entry at any time, so an entry without the flag
        // is checked as if it had it.
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

/// Decides which groups get the contiguous hint. A live group whose members no longer match is
/// unfolded; a group whose members match and are all made by this drain is folded.
fn settle_groups<K: Kernel>(mmu: &Mmu<K>, slot: &Slot, ptes: &[Pte; ENTRIES]) {
    for group in 0..GROUPS {
        let first = group * GROUP;
        if slot.waiting.group(group) == 0 {
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
        let is_live_group = group::is_member(now[0]);
        // Whether entry `i` is made by this drain. A make needs no break for the group, and a live
        // entry that must be broken anyway needs no further one.
        let is_made = |i: usize| {
            let (old, new) = (now[i].young(), group::alone(values[i]).young());
            slot.waiting.has(first + i)
                && (!old.is_valid() || bbm::check(Level::L3, old, new).is_err())
        };
        let settled = match group::folded(&values) {
            Some(folded) if is_live_group || (0..GROUP).all(is_made) => folded,
            _ => values.map(|value| {
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
