// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Mmu`]: the library bound to a kernel, and its configuration: strategy, barrier policy, CPU
//! features.

use crate::error::{LazyMmuError, NoEts2};
use crate::hardware::Kernel;
use crate::policy::BarrierPolicy;
use crate::strategy::Backend;
use crate::tlbi::TlbFeatures;
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
    /// The strategy in the low byte, the policy in the high one.
    terms: AtomicU16,
    features: AtomicU8,
}

/// Strategy and policy, as they were at one moment.
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

    /// Strategy and policy, read together.
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

    /// Chooses the barrier policy. A callback or [`crate::FastPteRange`] that is at work may still
    /// use the previous policy until it ends.
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
    /// Chooses the strategy. No other task may be in a section either: what waits there is drained
    /// at its end all the same, but until then reads do not see it.
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
