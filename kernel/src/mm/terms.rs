// SPDX-License-Identifier: MIT OR Apache-2.0
//! Strategy and policy for a while: for the demonstration and the self-tests, which
//! state figures that depend on both.

use lazymmu::{Backend, BarrierPolicy, LazyMmuError, NoEts2};

use super::MMU;

/// The terms on which page tables are written, until dropped; then those from before
/// are in force again.
#[derive(Debug)]
#[must_use = "the terms from before come back when this is dropped"]
pub struct Terms {
    backend: Backend,
    policy: BarrierPolicy,
}

/// Why the terms cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermsError {
    /// The task is in a section.
    Lazy(LazyMmuError),
    /// Some CPU lacks what the policy needs.
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
    /// No other task is in a section, in a pause or in a call of `lazymmu`, now and when the result is dropped.
    ///
    /// # Errors
    /// [`TermsError`]; nothing is changed.
    pub unsafe fn take(backend: Backend, policy: BarrierPolicy) -> Result<Self, TermsError> {
        let before = Self {
            backend: MMU.backend(),
            policy: MMU.policy(),
        };
        // SAFETY: the caller's promise.
        unsafe { MMU.set_backend(backend) }.map_err(TermsError::Lazy)?;
        // On an error `before` is dropped, which restores the backend.
        MMU.set_policy(policy).map_err(TermsError::Policy)?;
        Ok(before)
    }
}

impl Drop for Terms {
    fn drop(&mut self) {
        // SAFETY: the promise of the caller of `take`.
        if let Err(error) = unsafe { MMU.set_backend(self.backend) } {
            log::error!("backend {} stays in force: {error}", MMU.backend());
        }
        // Was in force before, so the CPUs allow it.
        let _ = MMU.set_policy(self.policy);
    }
}
