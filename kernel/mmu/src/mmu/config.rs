// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Mmu`]: the library bound to a kernel, and its configuration: strategy, barrier policy, CPU
//! features.

use crate::counters::Counts;
use crate::error::{LazyMmuError, NoEts2};
use crate::hardware::{CurrentTask, Kernel};
use crate::policy::BarrierPolicy;
use crate::strategy::Backend;
use crate::tlbi::TlbFeatures;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, Ordering};

/// The optional features that every CPU of the system has. A kernel reads them once at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// TLB maintenance beyond plain by-address operations.
    pub tlb: TlbFeatures,
    /// FEAT_ETS2 on every CPU: [`BarrierPolicy::Ets2`] is allowed.
    pub ets2: bool,
}

/// The library bound to a kernel `K`. A system has one instance, usually a `static`.
pub struct Mmu<K> {
    kernel: K,
    terms: AtomicU16,
    /// The bits of [`TlbFeatures`]. Nothing else depends on them, so they are not part of `terms`.
    tlb: AtomicU8,
}

/// The strategy, the policy, and whether the CPUs have FEAT_ETS2, in one word, so that one load
/// reads them as they are at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms(u16);

impl Terms {
    /// The bit of the policy. The low byte is the strategy.
    const POLICY: u16 = 1 << 8;
    const ETS2: u16 = 1 << 15;

    /// The terms of a new [`Mmu`].
    pub(crate) const FIRST: Self = Self(0)
        .with_backend(Backend::DeferBarriers)
        .with_policy(BarrierPolicy::Classic);

    const fn with_backend(self, backend: Backend) -> Self {
        Self(self.0 & !0xff | backend as u16)
    }

    const fn with_policy(self, policy: BarrierPolicy) -> Self {
        Self(self.0 & !Self::POLICY | (policy as u16) << 8)
    }

    /// The same terms with or without FEAT_ETS2. Without it the policy is `Classic`.
    const fn with_ets2(self, ets2: bool) -> Self {
        if ets2 {
            Self(self.0 | Self::ETS2)
        } else {
            Self(self.0 & !Self::ETS2).with_policy(BarrierPolicy::Classic)
        }
    }

    const fn has_ets2(self) -> bool {
        self.0 & Self::ETS2 != 0
    }

    #[inline(always)]
    pub(crate) const fn backend(self) -> Backend {
        Backend::from_u8(self.0 as u8)
    }

    #[inline(always)]
    pub(crate) const fn policy(self) -> BarrierPolicy {
        BarrierPolicy::from_u8(((self.0 & Self::POLICY) >> 8) as u8)
    }
}

/// The bits of `tlb`.
const TTL: u8 = 1;
const RANGE: u8 = 2;
const REPEAT: u8 = 4;

impl<K> Mmu<K> {
    /// Binds the library to `kernel`: deferred barriers, the classic policy, and
    /// no optional CPU feature until [`Mmu::set_features`].
    pub const fn new(kernel: K) -> Self {
        Self {
            kernel,
            terms: AtomicU16::new(Terms::FIRST.0),
            tlb: AtomicU8::new(0),
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

    /// Strategy and policy, read together.
    #[inline(always)]
    pub(crate) fn terms(&self) -> Terms {
        Terms(self.terms.load(Ordering::Relaxed))
    }

    /// Replaces the terms by `new(terms)` in one atomic step. If another CPU changes the terms at
    /// the same time, `new` is called again with the changed ones, so neither change is lost.
    /// Returns `false`, and changes nothing, if `new` returns `None`.
    fn update_terms(&self, new: impl Fn(Terms) -> Option<Terms>) -> bool {
        let next = |old| new(Terms(old)).map(|terms| terms.0);
        let done = self
            .terms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        done.is_ok()
    }

    /// The CPU features that [`Mmu::set_features`] has set.
    pub fn features(&self) -> Features {
        let (tlb, ets2) = (self.tlb_features(), self.terms().has_ets2());
        Features { tlb, ets2 }
    }

    /// The features for TLB maintenance that [`Mmu::set_features`] has set.
    #[inline(always)]
    pub(crate) fn tlb_features(&self) -> TlbFeatures {
        let bits = self.tlb.load(Ordering::Relaxed);
        TlbFeatures {
            ttl: bits & TTL != 0,
            range: bits & RANGE != 0,
            repeat: bits & REPEAT != 0,
        }
    }

    /// Sets the CPU features. If they no longer allow the policy in use, the policy becomes
    /// [`BarrierPolicy::Classic`], as if [`Mmu::set_policy`] had chosen it.
    ///
    /// # Safety
    /// Every CPU that executes this library or translates by its tables has each feature that is
    /// set, and `repeat` is set if any of these CPUs has the erratum. A TLBI by range is UNDEFINED
    /// without FEAT_TLBIRANGE. Without the repetition a TLB may keep an entry whose frame is then
    /// reused.
    pub unsafe fn set_features(&self, features: Features) {
        let TlbFeatures { ttl, range, repeat } = features.tlb;
        let bits = (u8::from(ttl) * TTL) | (u8::from(range) * RANGE) | (u8::from(repeat) * REPEAT);
        self.tlb.store(bits, Ordering::Relaxed);
        self.update_terms(|terms| Some(terms.with_ets2(features.ets2)));
    }

    /// Chooses the barrier policy. A callback or a [`crate::FastPteRange`] that began before the
    /// change may use the previous policy until it ends.
    ///
    /// # Errors
    /// [`NoEts2`] if the features do not allow `policy`; the policy does not change.
    pub fn set_policy(&self, policy: BarrierPolicy) -> Result<(), NoEts2> {
        let is_allowed = |terms: Terms| policy != BarrierPolicy::Ets2 || terms.has_ets2();
        let new = |terms: Terms| is_allowed(terms).then(|| terms.with_policy(policy));
        if self.update_terms(new) {
            Ok(())
        } else {
            Err(NoEts2)
        }
    }
}

impl<K: Kernel> Mmu<K> {
    /// What the calls of the current task have executed so far. In interrupt context: what the
    /// calls of this CPU's interrupt handlers have executed so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.kernel.current_counters().read()
    }

    /// Chooses the strategy.
    ///
    /// # Safety
    /// No other task is in a section, in a pause, or in a call of this library. What such a task
    /// has let wait was deferred by the previous strategy. The end of its section drains it, but
    /// until then calls under the new strategy do not look for it: after an unmap, a store that
    /// waits could map the page again, and a frame could be given back before its invalidation.
    /// (The library does not count open sections: two atomic operations per section, on a word that
    /// all CPUs share, would cost more than the section itself.)
    ///
    /// # Errors
    /// [`LazyMmuError::InSection`] if the current task is in a section or pause, suspended ones
    /// included. [`LazyMmuError::NoBatch`] if the strategy defers more than barriers and
    /// [`crate::Context::batch`] returns `None`. The strategy does not change.
    pub unsafe fn set_backend(&self, backend: Backend) -> Result<(), LazyMmuError> {
        if self.kernel.current_lazy().is_inside() {
            return Err(LazyMmuError::InSection);
        }
        if backend.invalidates() && self.kernel.batch().is_none() {
            return Err(LazyMmuError::NoBatch);
        }
        self.update_terms(|terms| Some(terms.with_backend(backend)));
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::{Features, Mmu};
    use crate::policy::BarrierPolicy;
    use core::cell::Cell;

    const WITH_ETS2: Features = Features {
        tlb: crate::tlbi::TlbFeatures {
            ttl: true,
            range: false,
            repeat: true,
        },
        ets2: true,
    };

    /// Another CPU changes the word between its load and its store: neither change is lost.
    #[test]
    fn r36_what_another_cpu_sets_meanwhile_is_kept() {
        let mmu = Mmu::new(());
        let looks = Cell::new(0);
        let done = mmu.update_terms(|terms| {
            if looks.replace(looks.get() + 1) == 0 {
                // SAFETY: nothing is executed.
                unsafe { mmu.set_features(WITH_ETS2) };
            }
            Some(terms.with_policy(BarrierPolicy::Ets2))
        });
        assert!(done && looks.get() == 2, "the word was looked at again");
        assert_eq!(mmu.features(), WITH_ETS2);
        assert_eq!(mmu.policy(), BarrierPolicy::Ets2);

        // The first load allows the policy and the second does not: the change is refused.
        looks.set(0);
        let done = mmu.update_terms(|terms| {
            if looks.replace(looks.get() + 1) == 0 {
                // SAFETY: nothing is executed.
                unsafe { mmu.set_features(Features::default()) };
            }
            terms.has_ets2().then_some(terms)
        });
        assert!(!done);
        assert_eq!(mmu.features(), Features::default());
        assert_eq!(mmu.policy(), BarrierPolicy::Classic);
    }
}
