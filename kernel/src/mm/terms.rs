// SPDX-License-Identifier: MIT OR Apache-2.0
//! A strategy and a policy that are in force until a guard is dropped. The demonstration and the
//! self-tests use it, because their figures depend on both.

use lazymmu::{Backend, BarrierPolicy, LazyMmuError, NoEts2};

use super::MMU;

/// The strategy and the policy with which page tables are written, until this is dropped. The drop
/// restores the previous ones.
#[derive(Debug)]
#[must_use = "the terms from before come back when this is dropped"]
pub struct Terms {
    backend: Backend,
    policy: BarrierPolicy,
}

/// Why the terms could not be put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermsError {
    /// The task is in a section.
    Lazy(LazyMmuError),
    /// At least one CPU lacks what the policy needs.
    Policy(NoEts2),
}

impl core::fmt::Display for TermsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Lazy(error) => error.fmt(f),
            Self::Policy(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for TermsError {}

impl Terms {
    /// Puts `backend` and `policy` in force.
    ///
    /// # Safety
    /// No other task is in a section, in a pause or in a call of `lazymmu`, both now and when the
    /// result is dropped.
    ///
    /// # Errors
    /// [`TermsError`]; nothing is changed.
    pub unsafe fn take(backend: Backend, policy: BarrierPolicy) -> Result<Self, TermsError> {
        let before = Self {
            backend: MMU.backend(),
            policy: MMU.policy(),
        };
        // SAFETY: this function's contract.
        unsafe { MMU.set_backend(backend) }.map_err(TermsError::Lazy)?;
        // On an error `before` is dropped, which restores the backend.
        MMU.set_policy(policy).map_err(TermsError::Policy)?;
        Ok(before)
    }
}

impl Drop for Terms {
    fn drop(&mut self) {
        // SAFETY: the contract of `take`, which covers the drop.
        if let Err(error) = unsafe { MMU.set_backend(self.backend) } {
            log::error!("backend {} stays in force: {error}", MMU.backend());
        }
        // The policy was in force before, so the CPUs allow it.
        let _ = MMU.set_policy(self.policy);
    }
}
