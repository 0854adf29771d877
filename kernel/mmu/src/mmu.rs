// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Mmu`]: the library bound to a kernel. Configuration, hooks, and the counted
//! instructions: every barrier and TLBI of this crate is executed here.

use crate::addr::PageRange;
use crate::backend::{self, Backend, Batch};
use crate::counters::Counters;
use crate::hardware::Kernel;
use crate::lazy::{Busy, Lazy, LazyMmuError};
use crate::policy::{BarrierPolicy, Owed};
use crate::tlbi::{self, Reach, Scope, TlbFeatures};
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, Ordering};

/// What the CPUs of the system allow, read once at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// TLB maintenance beyond plain by-address operations.
    pub tlb: TlbFeatures,
    /// FEAT_ETS2 on every CPU: [`BarrierPolicy::Ets2`] is allowed.
    pub ets2: bool,
}

/// The library bound to a kernel `K`. One instance per system, usually a
/// `static`.
pub struct Mmu<K> {
    kernel: K,
    /// Backend in the low byte, policy in the high one.
    terms: AtomicU16,
    features: AtomicU8,
}

/// Backend and policy, as they were at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms(u16);

impl Terms {
    /// Those that the library begins with.
    pub(crate) const FIRST: Self = Self::new(Backend::DeferBarriers, BarrierPolicy::Classic);

    const fn new(backend: Backend, policy: BarrierPolicy) -> Self {
        Self(backend as u16 | (policy as u16) << 8)
    }

    #[inline(always)]
    pub(crate) const fn backend(self) -> Backend {
        Backend::from_u8(self.0 as u8)
    }

    #[inline(always)]
    pub(crate) const fn policy(self) -> BarrierPolicy {
        BarrierPolicy::from_u8((self.0 >> 8) as u8)
    }
}

/// FEAT_ETS2 is asked for and some CPU lacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEts2;

impl fmt::Display for NoEts2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "barrier policy ets2 needs FEAT_ETS2 (ID_AA64MMFR1_EL1.ETS >= 2) on every CPU: use policy classic or auto",
        )
    }
}

impl core::error::Error for NoEts2 {}

impl Features {
    const TTL: u8 = 1;
    const RANGE: u8 = 2;
    const REPEAT: u8 = 4;
    const ETS2: u8 = 8;

    const fn to_bits(self) -> u8 {
        ((self.tlb.ttl as u8) * Self::TTL)
            | ((self.tlb.range as u8) * Self::RANGE)
            | ((self.tlb.repeat as u8) * Self::REPEAT)
            | ((self.ets2 as u8) * Self::ETS2)
    }

    const fn from_bits(bits: u8) -> Self {
        Self {
            tlb: TlbFeatures {
                ttl: bits & Self::TTL != 0,
                range: bits & Self::RANGE != 0,
                repeat: bits & Self::REPEAT != 0,
            },
            ets2: bits & Self::ETS2 != 0,
        }
    }
}

impl<K> Mmu<K> {
    /// Binds the library to `kernel`: deferred barriers, the classic policy, and
    /// no optional CPU feature until [`Mmu::set_features`].
    pub const fn new(kernel: K) -> Self {
        Self {
            kernel,
            terms: AtomicU16::new(Terms::FIRST.0),
            features: AtomicU8::new(0),
        }
    }

    /// The kernel the library is bound to.
    #[inline(always)]
    pub const fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The strategy in use.
    #[inline(always)]
    pub fn backend(&self) -> Backend {
        self.terms().backend()
    }

    /// The barrier policy in use.
    #[inline(always)]
    pub fn policy(&self) -> BarrierPolicy {
        self.terms().policy()
    }

    /// Both of the same moment.
    #[inline(always)]
    pub(crate) fn terms(&self) -> Terms {
        Terms(self.terms.load(Ordering::Relaxed))
    }

    fn set_terms(&self, backend: Backend, policy: BarrierPolicy) {
        self.terms
            .store(Terms::new(backend, policy).0, Ordering::Relaxed);
    }

    /// What the CPUs offer, as it was set.
    pub fn features(&self) -> Features {
        Features::from_bits(self.features.load(Ordering::Relaxed))
    }

    /// Says what the CPUs offer. Each feature must hold on every CPU. A policy that they
    /// do not allow any more falls back to [`BarrierPolicy::Classic`], as if [`Mmu::set_policy`]
    /// had chosen it.
    pub fn set_features(&self, features: Features) {
        if !features.ets2 {
            self.set_terms(self.backend(), BarrierPolicy::Classic);
        }
        self.features.store(features.to_bits(), Ordering::Relaxed);
    }

    /// Chooses the barrier policy. A callback or [`crate::FastPteRange`] that is at work may complete
    /// entries of its table by the policy of before.
    ///
    /// # Errors
    /// [`NoEts2`] if the features do not allow it; the policy stays.
    pub fn set_policy(&self, policy: BarrierPolicy) -> Result<(), NoEts2> {
        if policy == BarrierPolicy::Ets2 && !self.features().ets2 {
            return Err(NoEts2);
        }
        self.set_terms(self.backend(), policy);
        Ok(())
    }
}

impl<K: Kernel> Mmu<K> {
    /// Chooses the strategy. Other tasks should not be in a section either: what waits there is
    /// executed at its end all the same, but until then reads do not see it.
    ///
    /// # Errors
    /// [`LazyMmuError::InSection`] if the current task is in a section or pause, suspended ones
    /// included, and
    /// [`LazyMmuError::NoBatch`] if the kernel has no room for what the strategy defers
    /// ([`crate::Context::batch`]). The strategy stays.
    pub fn set_backend(&self, backend: Backend) -> Result<(), LazyMmuError> {
        if self.kernel.lazy().is_inside() {
            return Err(LazyMmuError::InSection);
        }
        if backend.invalidates() && self.kernel.batch().is_none() {
            return Err(LazyMmuError::NoBatch);
        }
        self.set_terms(backend, self.policy());
        Ok(())
    }

    /// The current task's lazy MMU mode.
    #[inline(always)]
    pub const fn lazy(&self) -> Lazy<'_, K> {
        Lazy::new(self)
    }

    #[inline]
    pub(crate) fn hook_enter(&self, counters: &Counters) {
        counters.enter(1);
        if !self.backend().is_preemptible() {
            self.kernel.lazy().bind();
        }
    }

    /// Works on what waits on this CPU. Meanwhile the task keeps the CPU: [`Lazy::switch_out`] refuses, so
    /// that the batch is this CPU's from the first look at it to the last.
    ///
    /// # Panics
    /// If the kernel withdrew its batch: a backend that needs it was chosen while there was one.
    #[inline]
    pub(crate) fn with_batch<T>(&self, work: impl FnOnce(&Batch) -> T) -> T {
        let state = self.kernel.lazy();
        let before = state.set_busy(Busy::Yes);
        let batch = self
            .kernel
            .batch()
            .expect("Context::batch() had one when the backend was chosen");
        let result = work(batch);
        state.set_busy(before);
        self.offer_preemption();
        result
    }

    /// The same for work that leaves something waiting, until the next drain.
    #[inline]
    pub(crate) fn wait_in_batch<T>(&self, work: impl FnOnce(&Batch) -> T) -> T {
        self.with_batch(|batch| {
            // Behind "busy": a switch in between would find nothing and say that nothing waits.
            self.kernel.lazy().wait();
            work(batch)
        })
    }

    /// The task keeps its CPU no longer, unless something else is in the way.
    #[inline]
    fn offer_preemption(&self) {
        if self.lazy().might_sleep().is_ok() {
            self.kernel.preemption_point();
        }
    }

    #[inline]
    pub(crate) fn hook_flush(&self) {
        let counters = self.kernel.counters();
        counters.flush(1);
        backend::drain(self);
        self.pay_all(counters);
    }

    #[inline]
    pub(crate) fn hook_leave(&self) {
        let counters = self.kernel.counters();
        counters.leave(1);
        if self.kernel.lazy().is_waiting_or_bound() {
            self.let_go();
        }
        self.pay_all(counters);
    }

    /// The CPU's batch is done with, and only then is the CPU.
    #[cold]
    #[inline(never)]
    fn let_go(&self) {
        backend::drain(self);
        self.kernel.lazy().unbind();
        self.offer_preemption();
    }

    /// R17: completes the current task's stores on the CPU that it is about to leave, and TLB
    /// maintenance that it has begun.
    #[inline(always)]
    pub(crate) fn complete_stores(&self) {
        self.kernel.counters().dsb_ish(1);
        self.kernel.dsb_ish();
    }

    /// Takes note of what a stored write owes, or pays it now if nothing is deferred.
    #[inline(always)]
    pub(crate) fn owe_or_pay(&self, owed: Owed) {
        if owed.is_empty() {
            return;
        }
        if self.lazy().is_lazy_mmu_mode_active() {
            self.kernel.lazy().owe(owed);
        } else {
            self.pay(owed);
        }
    }

    /// R16: pays what the current task owes, exactly once.
    #[inline]
    fn pay_all(&self, counters: &Counters) {
        let state = self.kernel.lazy();
        let owed = state.owed();
        if !owed.is_empty() {
            state.forgive(owed);
            self.execute(owed, counters);
        }
    }

    /// Executes the barriers for requests, and counts them as paid.
    ///
    /// `DSB ISHST; ISB`, in this order: herd7 row M5 (`I2V-W-DSB.ST-ISB-R`: the access
    /// cannot fault), while either alone allows the fault (M3, M7). Witnesses of a loss:
    /// the count tests `r15_*` and `r16_*` on the host, the lazy suite in the kernel.
    #[inline]
    pub(crate) fn pay(&self, owed: Owed) {
        self.execute(owed, self.kernel.counters());
    }

    #[inline]
    fn execute(&self, owed: Owed, counters: &Counters) {
        if owed.contains(Owed::STORES) {
            counters.dsb_paid(1);
            counters.dsb_ishst(1);
            self.kernel.dsb_ishst();
        }
        if owed.contains(Owed::CONTEXT) {
            counters.isb_paid(1);
            counters.isb(1);
            self.kernel.isb();
        }
    }

    /// R18: what was stored to a new table is ordered before the store that makes
    /// the table reachable. Never deferred: the pair at the section's end completes both
    /// stores but does not order them for a walker (`ROT.inv+po` is allowed,
    /// `ROT.inv+dmbst` forbidden).
    #[inline]
    pub(crate) fn order_before_link(&self) {
        self.kernel.counters().dmb_ishst(1);
        self.kernel.dmb_ishst();
    }

    /// Invalidates the TLB entries of `range` and waits until that is complete
    /// on every CPU. Linux: `flush_tlb_kernel_range()`, `flush_tlb_range()`.
    ///
    /// In order: `DSB ISHST` completes the entry writes before (R27, row U2), the TLBIs,
    /// `DSB ISH` completes them (R_YNJCP; `DSB ISHST` would not, row U4), and for kernel
    /// mappings `ISB` (row U5). With the repeat erratum a second TLBI and DSB follow
    /// (R34). The barriers complete what the current task owes, so nothing of that is
    /// left for the section's end.
    ///
    /// What waits on this CPU is executed before (R26).
    pub fn flush_tlb_range(&self, range: PageRange, scope: Scope, reach: Reach) {
        self.flush_tlb_ranges(core::iter::once(range), scope, reach);
    }

    /// The same for several ranges.
    pub(crate) fn flush_tlb_ranges(
        &self,
        ranges: impl Iterator<Item = PageRange> + Clone,
        scope: Scope,
        reach: Reach,
    ) {
        backend::drain(self);
        self.invalidate(ranges, scope, reach);
    }

    /// Several ranges with one set of barriers, whatever waits. From Linux's limits on,
    /// taken over all of them, everything is invalidated instead.
    pub(crate) fn invalidate(
        &self,
        ranges: impl Iterator<Item = PageRange> + Clone,
        scope: Scope,
        reach: Reach,
    ) {
        let counters = self.kernel.counters();
        let features = self.features().tlb;
        let pages: u64 = ranges.clone().map(PageRange::pages).sum();
        let is_everything = tlbi::is_everything(pages, features);
        counters.tlbi_requested(pages as usize);
        let ranges = (!is_everything).then_some(ranges);
        self.issue(ranges, scope, reach, (features, counters));
    }

    /// Invalidates every TLB entry of `scope`, those of tables included, and waits, as
    /// [`Mmu::flush_tlb_range`] does. No page is counted as asked for. Linux:
    /// `flush_tlb_all()`, `flush_tlb_mm()`.
    pub fn flush_tlb_all(&self, scope: Scope) {
        backend::drain(self);
        let terms = (self.features().tlb, self.kernel.counters());
        self.issue(
            None::<core::iter::Empty<PageRange>>,
            scope,
            Reach::Walk,
            terms,
        );
    }

    /// An invalidation: of `ranges`, or without them of everything.
    #[inline]
    fn issue(
        &self,
        ranges: Option<impl Iterator<Item = PageRange>>,
        scope: Scope,
        reach: Reach,
        (features, counters): (TlbFeatures, &Counters),
    ) {
        let kernel = &self.kernel;
        counters.dsb_ishst(1);
        kernel.dsb_ishst();
        let mut operations = 0;
        let mut issue = |(op, operand)| {
            kernel.tlbi(op, operand);
            operations += 1;
        };
        match ranges {
            None => issue(tlbi::everything(scope)),
            Some(ranges) => {
                for range in ranges {
                    tlbi::plan(range, scope, reach, features).for_each(&mut issue);
                }
            }
        }
        counters.tlbi(operations);
        self.finish_tlbi(scope, features, counters);
    }

    /// The second half of an invalidation: completion.
    fn finish_tlbi(&self, scope: Scope, features: TlbFeatures, counters: &Counters) {
        let kernel = &self.kernel;
        counters.dsb_ish(1);
        kernel.dsb_ish();
        if features.repeat {
            counters.tlbi(1);
            kernel.tlbi(crate::hardware::TlbiOp::Vale1is, 0);
            counters.dsb_ish(1);
            kernel.dsb_ish();
        }
        let mut paid = Owed::STORES;
        if scope == Scope::AllAsids {
            counters.isb(1);
            kernel.isb();
            paid |= Owed::CONTEXT;
        }
        // R12: in an interrupt the debts are the interrupted task's; they stay.
        if !kernel.in_interrupt() {
            kernel.lazy().forgive(paid);
        }
    }
}

impl<K> fmt::Debug for Mmu<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Mmu {{ backend: {}, policy: {}, {:?} }}",
            self.backend(),
            self.policy(),
            self.features()
        )
    }
}
