// SPDX-License-Identifier: MIT OR Apache-2.0
//! Strategies: what happens to a run of entry writes, and when it is completed.
//!
//! A backend sees *runs*, consecutive entries of one table, never single
//! entries of a larger request: it is chosen once per run, and what it does per
//! entry is a tight loop. Five strategies are what five architectures do, and one is the
//! yardstick that they are measured against:
//!
//! | backend | after | defers | until |
//! |---|---|---|---|
//! | [`Backend::Eager`] | before lazy MMU mode | nothing | |
//! | [`Backend::DeferBarriers`] | arm64 | the barriers of makes | section's end at any depth, pause, flush |
//! | [`Backend::DeferStores`] | s390 | makes and changes in announced ranges, with their invalidations; barriers | the same; the task keeps its CPU |
//! | [`Backend::BatchInvalidations`] | powerpc, sparc64 | invalidations, 192 ranges; barriers | the same; full; another space; frames to be given back; context switch |
//! | [`Backend::Multicall`] | Xen PV | stores and invalidations in one queue, 32 calls; barriers | the same; full; frames to be given back; context switch |
//!
//! Links of tables are never deferred: a walk by software finds every table where it is.
//!
//! # Whose invalidation
//!
//! An entry that was live and changed must be invalidated (R27). [`Eager`] and
//! [`DeferBarriers`] leave that to the operation, which knows the whole range and its frames. The
//! others take it over themselves, because they know when memory has the new value:
//! [`Duty`] says which it was.
//!
//! [`Eager`]: Backend::Eager
//! [`DeferBarriers`]: Backend::DeferBarriers

mod batch;
mod batch_invalidations;
mod bitmap;
mod defer_barriers;
mod defer_stores;
mod eager;
mod fill;
mod multicall;
mod preserve;

pub use batch::Batch;
pub use batch_invalidations::BATCHED_RANGES;
pub use defer_stores::DEFERRED_TABLES;
pub(crate) use fill::{Fill, Run, Was};
pub use multicall::{Call, Hypervisor, MULTICALLS};

use self::batch_invalidations::BatchInvalidations;
use self::defer_barriers::DeferBarriers;
use self::defer_stores::DeferStores;
use self::eager::Eager;
use self::multicall::Multicall;

use crate::addr::{Frame, Level, PageRange};
use crate::desc::Desc;
use crate::hardware::Kernel;
use crate::lazy::Busy;
use crate::mmu::Mmu;
use crate::policy::{self, Owed};
use crate::table::Pte;
use crate::tlbi::{Reach, Scope};
use core::fmt;

/// The strategy in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Backend {
    /// Before lazy MMU mode: each write that R14 lists is followed by its
    /// barriers, section or not.
    Eager = 0,
    /// arm64's lazy MMU mode: stores happen at once, their barriers when the
    /// section is left, paused or flushed (R13-R17).
    DeferBarriers = 1,
    /// s390's: in announced ranges, stores and their invalidations wait (R20-R24).
    DeferStores = 2,
    /// powerpc's and sparc64's: stores happen at once, invalidations together.
    BatchInvalidations = 3,
    /// Xen PV's: stores and invalidations wait in one queue.
    Multicall = 4,
}

impl Backend {
    /// Every strategy, in the order of the documentation.
    pub const ALL: [Backend; 5] = [
        Backend::Eager,
        Backend::DeferBarriers,
        Backend::DeferStores,
        Backend::BatchInvalidations,
        Backend::Multicall,
    ];

    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::DeferBarriers => "defer-barriers",
            Self::DeferStores => "defer-stores",
            Self::BatchInvalidations => "batch-invalidations",
            Self::Multicall => "multicall",
        }
    }

    /// Whether a task may lose its CPU inside an active section (R38): what waits is executed when it does. Where
    /// it may not, the kernel neither preempts nor lets such a task sleep.
    pub const fn is_preemptible(self) -> bool {
        !matches!(self, Self::DeferStores)
    }

    /// Whether the strategy invalidates by itself what it writes over. One that does needs a [`Batch`].
    pub const fn invalidates(self) -> bool {
        matches!(
            self,
            Self::DeferStores | Self::BatchInvalidations | Self::Multicall
        )
    }

    pub(crate) const fn from_u8(raw: u8) -> Self {
        match raw {
            0 => Self::Eager,
            2 => Self::DeferStores,
            3 => Self::BatchInvalidations,
            4 => Self::Multicall,
            _ => Self::DeferBarriers,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whose it is to invalidate what a run was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// The backend's: it is done, or will be with the section.
    Backend,
    /// The operation's, or its caller's.
    Caller,
}

impl Duty {
    /// Of several runs: somebody's duty remains if it does for one.
    #[inline]
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Backend, Self::Backend) => Self::Backend,
            _ => Self::Caller,
        }
    }
}

/// What the write path asks of a strategy.
trait Strategy {
    /// Writes a run, each entry of which owes `owed` as soon as it is stored.
    fn write_run<K: Kernel>(
        mmu: &Mmu<K>,
        run: Run<'_>,
        fill: Fill<'_>,
        was: Was,
        owed: Owed,
    ) -> Duty;
}

/// Writes a run of leaves of one table through the strategy in use: the one way to write a leaf.
#[inline(always)]
pub(crate) fn write_run<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>, fill: Fill<'_>, was: Was) -> Duty {
    let owed = policy::account(mmu, run.ptes.len(), fill.sample());
    match mmu.backend() {
        Backend::DeferBarriers => DeferBarriers::write_run(mmu, run, fill, was, owed),
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
        Backend::Eager => Eager::write_run(mmu, run, fill, was, owed),
        Backend::DeferBarriers => DeferBarriers::write_run(mmu, run, fill, was, owed),
        Backend::DeferStores => DeferStores::write_run(mmu, run, fill, was, owed),
        Backend::BatchInvalidations => BatchInvalidations::write_run(mmu, run, fill, was, owed),
        Backend::Multicall => Multicall::write_run(mmu, run, fill, was, owed),
    }
}

/// Empties the entry of a run of one, and returns what it held. Never deferred: the value has the final
/// access and dirty bits.
#[inline]
pub(crate) fn take<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>) -> (Desc, Duty) {
    mmu.kernel().counters().ptes(1);
    match mmu.backend() {
        Backend::Eager | Backend::DeferBarriers => {
            (mmu.kernel().swap(&run.ptes[0], Desc::INVALID), Duty::Caller)
        }
        other => take_by(other, mmu, run),
    }
}

#[inline(never)]
fn take_by<K: Kernel>(backend: Backend, mmu: &Mmu<K>, run: Run<'_>) -> (Desc, Duty) {
    if backend == Backend::DeferStores {
        return match DeferStores::take(mmu, run) {
            Some(old) => (old, Duty::Backend),
            None => (mmu.kernel().swap(&run.ptes[0], Desc::INVALID), Duty::Caller),
        };
    }
    if backend == Backend::Multicall && mmu.lazy().is_lazy_mmu_mode_active() {
        Multicall::before_emptying(mmu);
    }
    let old = mmu.kernel().swap(&run.ptes[0], Desc::INVALID);
    if old.is_valid() {
        match backend {
            Backend::Multicall => Multicall::invalidate(mmu, run.scope, run.pages),
            _ => BatchInvalidations::invalidate(mmu, run.scope, run.pages),
        }
    }
    (old, Duty::Backend)
}

/// R27: the invalidation of what was live in `range`. `wait` takes it on, or where nothing may wait it is
/// executed now.
fn invalidate_later_or_now<K: Kernel>(
    mmu: &Mmu<K>,
    scope: Scope,
    range: PageRange,
    wait: impl FnOnce(&Batch),
) {
    if mmu.lazy().is_lazy_mmu_mode_active() {
        mmu.wait_in_batch(wait);
    } else {
        mmu.invalidate(core::iter::once(range), scope, Reach::Leaf);
    }
}

/// The value of an entry, which is number `index` of `table`: what was written last, wherever it
/// is (R13, R20).
#[inline(always)]
pub(crate) fn read<K: Kernel>(mmu: &Mmu<K>, table: Frame, index: usize, pte: &Pte) -> Desc {
    if is_memory_current(mmu) {
        mmu.kernel().load(pte)
    } else {
        read_behind(mmu, table, index, pte)
    }
}

/// Whether memory holds every value, as far as the caller is concerned. R12: an interrupt leaves
/// the batch alone, and reads memory.
#[inline(always)]
pub(crate) fn is_memory_current<K: Kernel>(mmu: &Mmu<K>) -> bool {
    !mmu.kernel().lazy().is_waiting() || mmu.kernel().in_interrupt()
}

#[cold]
#[inline(never)]
fn read_behind<K: Kernel>(mmu: &Mmu<K>, table: Frame, index: usize, pte: &Pte) -> Desc {
    let waiting = mmu.with_batch(|batch| {
        let in_slot = batch.slots.waiting(table, index);
        in_slot.or_else(|| batch.fifo.waiting(table, index))
    });
    waiting.unwrap_or_else(|| mmu.kernel().load(pte))
}

/// Whether what is written to the run waits for the drain, which then also settles contiguous groups.
#[inline]
pub(crate) fn waits<K: Kernel>(mmu: &Mmu<K>, run: &Run<'_>) -> bool {
    mmu.backend() == Backend::DeferStores && DeferStores::waits(mmu, run)
}

/// R27, R29: `range` is empty and about to be mapped. What waits to be invalidated there goes first.
#[inline(always)]
pub(crate) fn before_make<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
    if mmu.backend() == Backend::BatchInvalidations {
        BatchInvalidations::before_make(mmu, scope, range);
    }
}

/// Accounts for one write of `desc` at `level` that is stored already: links of tables.
#[inline]
pub(crate) fn complete<K: Kernel>(mmu: &Mmu<K>, level: Level, desc: Desc) {
    if !policy::is_listed(level, desc) {
        return;
    }
    mmu.kernel().counters().requested(1);
    let owed = mmu.policy().owed(level, desc);
    match mmu.backend() {
        Backend::Eager => mmu.pay(owed),
        _ => mmu.owe_or_pay(owed),
    }
}

/// Lets memory and TLBs catch up with everything that the task has waiting (R23), whatever the backend is by
/// now. What the stores owe is owed by the task then. In an interrupt nothing happens: what
/// waits is the interrupted task's (R12).
#[inline]
pub(crate) fn drain<K: Kernel>(mmu: &Mmu<K>) {
    if mmu.kernel().lazy().is_waiting() && !mmu.kernel().in_interrupt() {
        drain_batch(mmu);
    }
}

/// What waits is executed because the CPU changes hands, on behalf of the task that leaves, in an interrupt or
/// not. Behind it the batch is as empty as the next task must find it: what another task let wait
/// there it would neither see nor drain. What the drain synchronized on this CPU, the arrival on another
/// synchronizes there (step 3 of the protocol in `lazy/switch.rs`): nobody owes that `ISB` again (R16).
#[inline]
pub(crate) fn switch_out<K: Kernel>(mmu: &Mmu<K>) {
    let state = mmu.kernel().lazy();
    if state.is_waiting() {
        // Busy until the drain is over and beyond: who is leaving the CPU is not asked to make room, least of all
        // in an interrupt.
        let before = state.set_busy(Busy::Yes);
        drain_batch(mmu);
        state.set_busy(before);
    }
}

#[cold]
#[inline(never)]
fn drain_batch<K: Kernel>(mmu: &Mmu<K>) {
    mmu.with_batch(|batch| {
        batch.slots.drain(mmu);
        batch.invalidations.drain(mmu);
        batch.fifo.drain(mmu);
        mmu.kernel().lazy().waited();
    });
}
