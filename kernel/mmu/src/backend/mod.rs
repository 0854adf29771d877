// SPDX-License-Identifier: MIT OR Apache-2.0
//! Strategies: what happens to a run of leaf writes, and when it takes effect.
//!
//! A strategy gets *runs*, consecutive entries of one table, and not the single entries of a larger
//! request. The strategy is looked up once per run, and its work per entry is a tight loop. Four
//! strategies follow four kinds of architectures; `Eager` does what Linux did before lazy MMU mode,
//! and is there to be measured against. A table in `docs/strategies.md` says what each of them defers,
//! and until when.
//!
//! Links of tables are never deferred, so a walk by software always finds every table.
//!
//! # Who invalidates
//!
//! An entry that was live and has changed must be invalidated (R27). `Eager` and `DeferBarriers`
//! leave that to the operation, which knows the whole range and its frames. The other strategies do
//! it themselves, because only they know when memory holds the new value. Each write returns a
//! [`Duty`], which says who must invalidate.
//!
//! # Adding a strategy
//!
//! 1. `strategy.rs`: a variant of [`Backend`] with its name and number, whether a task may be
//!    preempted in a section ([`Backend::is_preemptible`]), and whether it invalidates by itself
//!    ([`Backend::invalidates`]). [`Mmu::set_backend`] then accepts it, and the enter hook in
//!    `lazy/hooks.rs` binds the task to its CPU if it is not preemptible. Tests that run with every
//!    strategy iterate over [`Backend::ALL`].
//! 2. `backend/NAME.rs`: its `write_run`, and if something waits, its `drain`.
//! 3. This file: `write_run_by` calls it for makes and changes, `take_by` for emptied entries.
//!    [`read`], [`before_make`] and [`drain_own_of_run`] must find what waits.
//! 4. If it needs a queue of its own: the queue in `batch/`, with [`Batch::is_empty`] and
//!    `Batch::concerns`, and its drain in `drain_batch_and` (`backend/drain.rs`).
//! 5. `space/write.rs`: `stores_each` and `short_way_under` say whether loops over entries may
//!    store past the strategy, and `may_become_live` whether a change may wait. If the strategy
//!    looks at announced ranges: `space/fast_range.rs` and `space/apply.rs`, which announce only
//!    for `DeferStores`.
//! 6. What is outside of this crate: the test kit, the kernel, the tool and the documents. The list
//!    is in `docs/working.md`, "A new strategy".
//!
//! The compiler points at the places that `match` all variants (`write_run_by`, `drain_own_of_run`,
//! `stores_each`, [`Backend::name`]). It does not point at the others: `take_by`, [`account_link`]
//! and [`before_make`] compare with single variants, [`Backend::ALL`] is a list, and
//! `Backend::from_u8` takes an unknown number for `DeferBarriers`.

mod batch_invalidations;
mod cpu_batch;
mod defer_barriers;
mod defer_stores;
mod drain;
mod eager;
mod multicall;
mod own;
mod preserve;
mod request;
mod run;
pub(crate) mod store;

pub(crate) use cpu_batch::offer_preemption;
pub(crate) use drain::{complete_invalidation, drain, drain_own, leave_to_caller, switch_out};
pub(crate) use run::{Duty, Fill, Run, Was};

use self::store::swap;
use crate::addr::{Frame, Level, PageRange};
use crate::batch::Batch;
use crate::desc::Desc;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::policy::{self, Owed};
use crate::strategy::Backend;
use crate::table::Pte;
use crate::tlbi::Scope;

/// Counts a run of `pages` leaves like `sample`. Returns what each of them owes when it is stored.
#[inline(always)]
pub(crate) fn account<K: Kernel>(mmu: &Mmu<K>, pages: usize, sample: Desc) -> Owed {
    let counters = mmu.kernel().current_counters();
    if policy::is_listed(Level::L3, sample) {
        counters.listed(pages);
        mmu.policy().owed(Level::L3, sample)
    } else {
        counters.ptes(pages);
        Owed::empty()
    }
}

/// Writes a run of leaves of one table through the strategy in use. `space/write.rs` calls it,
/// after its checks.
#[inline(always)]
pub(crate) fn write_run<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>, fill: Fill<'_>, was: Was) -> Duty {
    let owed = account(mmu, run.ptes.len(), fill.sample());
    match mmu.backend() {
        Backend::DeferBarriers => defer_barriers::write_run(mmu, run, fill, owed),
        other => write_run_by(other, mmu, run, fill, was, owed),
    }
}

#[cold]
#[inline(never)]
fn write_run_by<K: Kernel>(
    backend: Backend,
    mmu: &Mmu<K>,
    run: Run<'_>,
    fill: Fill<'_>,
    was: Was,
    owed: Owed,
) -> Duty {
    match backend {
        Backend::Eager => eager::write_run(mmu, run, fill, owed),
        Backend::DeferBarriers => defer_barriers::write_run(mmu, run, fill, owed),
        Backend::DeferStores => defer_stores::write_run(mmu, run, fill, was, owed),
        Backend::BatchInvalidations => batch_invalidations::write_run(mmu, run, fill, was, owed),
        Backend::Multicall => multicall::write_run(mmu, run, fill, was, owed),
    }
}

/// Empties the entry of a run of one, and returns what it held. This is never deferred: the value
/// has the final access and dirty bits.
#[inline]
pub(crate) fn take<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>) -> (Desc, Duty) {
    mmu.kernel().current_counters().ptes(1);
    match mmu.backend() {
        Backend::Eager | Backend::DeferBarriers => (
            swap(mmu.kernel(), &run.ptes[0], Desc::INVALID),
            Duty::Caller,
        ),
        other => take_by(other, mmu, run),
    }
}

#[inline(never)]
fn take_by<K: Kernel>(backend: Backend, mmu: &Mmu<K>, run: Run<'_>) -> (Desc, Duty) {
    let empty = || swap(mmu.kernel(), &run.ptes[0], Desc::INVALID);
    if backend == Backend::DeferStores {
        return match defer_stores::take(mmu, run) {
            Some(old) => (old, Duty::Backend),
            None => (empty(), Duty::Caller),
        };
    }
    if backend == Backend::Multicall {
        if mmu.is_active() {
            multicall::before_emptying(mmu);
        } else {
            multicall::drain_own(mmu, &run);
        }
    }
    let old = empty();
    if old.is_valid() {
        match backend {
            Backend::Multicall => multicall::invalidate(mmu, run.scope, run.pages),
            _ => batch_invalidations::invalidate(mmu, run.scope, run.pages),
        }
    }
    (old, Duty::Backend)
}

/// The value of `pte`, which is entry `index` of `table`: the value that was written last, in
/// memory or in the batch (R13, R20).
#[inline(always)]
pub(crate) fn read<K: Kernel>(mmu: &Mmu<K>, table: Frame, index: usize, pte: &Pte) -> Desc {
    if is_memory_current(mmu) {
        mmu.kernel().load(pte)
    } else {
        read_behind(mmu, table, index, pte)
    }
}

/// Whether memory holds the value of every entry: nothing of the current task waits.
#[inline(always)]
pub(crate) fn is_memory_current<K: Kernel>(mmu: &Mmu<K>) -> bool {
    !mmu.kernel().current_lazy().is_waiting()
}

#[cold]
#[inline(never)]
fn read_behind<K: Kernel>(mmu: &Mmu<K>, table: Frame, index: usize, pte: &Pte) -> Desc {
    let look = |batch: &Batch| {
        let in_slot = batch.slots.waiting(table, index);
        in_slot.or_else(|| batch.calls.waiting(table, index))
    };
    let waiting = if mmu.kernel().in_interrupt() {
        own::batch(mmu).and_then(look)
    } else {
        cpu_batch::with_batch(mmu, look)
    };
    waiting.unwrap_or_else(|| mmu.kernel().load(pte))
}

/// Whether what is written to the run waits for the drain, which then also settles contiguous
/// groups.
#[inline]
pub(crate) fn waits<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>) -> bool {
    mmu.backend() == Backend::DeferStores && defer_stores::waits(mmu, run)
}

/// Drains what the caller has let wait for the entries of `run`, before it stores them past the
/// strategy while nothing may wait.
#[inline]
pub(crate) fn drain_own_of_run<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>) {
    match mmu.backend() {
        Backend::DeferStores => defer_stores::drain_own(mmu, run),
        Backend::Multicall => multicall::drain_own(mmu, run),
        Backend::Eager | Backend::DeferBarriers | Backend::BatchInvalidations => {}
    }
}

/// Executes the invalidations that wait for pages of `range`, before they are mapped again (R27,
/// R29).
#[inline(always)]
pub(crate) fn before_make<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
    if mmu.backend() == Backend::BatchInvalidations && mmu.kernel().current_lazy().is_waiting() {
        batch_invalidations::before_make(mmu, scope, range);
    }
}

/// Counts a link of a table, `desc` at `level`, which is stored already, and notes or pays what it
/// owes.
#[inline]
pub(crate) fn account_link<K: Kernel>(mmu: &Mmu<K>, level: Level, desc: Desc) {
    if !policy::is_listed(level, desc) {
        return;
    }
    mmu.kernel().current_counters().requested(1);
    let owed = mmu.policy().owed(level, desc);
    match mmu.backend() {
        Backend::Eager => mmu.pay(owed, mmu.kernel().current_counters()),
        _ => mmu.owe_or_pay(owed),
    }
}
