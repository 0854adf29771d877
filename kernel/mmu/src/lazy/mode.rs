// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calls that enter and leave lazy MMU mode.

use super::hooks;
use crate::backend;
use crate::error::LazyMmuError;
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::task::{LazyMmuSnapshot, LazyMmuState};
use core::fmt;
use core::panic::Location;

impl<K: Kernel> Mmu<K> {
    /// The current task's lazy MMU mode.
    #[inline(always)]
    pub const fn lazy(&self) -> Lazy<'_, K> {
        Lazy { mmu: self }
    }
}

/// Access to the current task's lazy MMU mode: a copyable handle without state of its own.
pub struct Lazy<'m, K: Kernel> {
    pub(super) mmu: &'m Mmu<K>,
}

/// Whether a call changed a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opened {
    /// The call changed the counter.
    Counted,
    /// The call was ignored: in an interrupt, or while paused.
    Ignored,
}

impl<K: Kernel> Clone for Lazy<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Kernel> Copy for Lazy<'_, K> {}

impl<K: Kernel> fmt::Debug for Lazy<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state().fmt(f)
    }
}

impl<'m, K: Kernel> Lazy<'m, K> {
    /// The current task's counters and debts, as they are now.
    #[must_use]
    pub fn state(self) -> LazyMmuSnapshot {
        self.current().read()
    }

    /// The current task's state. The caller uses the reference during one call of the library.
    #[inline(always)]
    pub(crate) fn current(self) -> &'m LazyMmuState {
        self.mmu.kernel().current_lazy()
    }

    /// Whether the mode is active: enabled, not paused, and not in interrupt context (R2). Linux:
    /// `is_lazy_mmu_mode_active()`.
    #[inline(always)]
    pub fn is_lazy_mmu_mode_active(self) -> bool {
        self.mmu.is_active()
    }

    /// Enters a section. Linux: `lazy_mmu_mode_enable()`.
    ///
    /// # Errors
    /// [`LazyMmuError::EnableOverflow`] at depth 255; nothing changes.
    #[inline]
    #[track_caller]
    pub fn enable(self) -> Result<(), LazyMmuError> {
        self.enter().map(|_| ())
    }

    /// [`Lazy::enable`]; returns whether it had an effect.
    #[inline]
    #[track_caller]
    pub(super) fn enter(self) -> Result<Opened, LazyMmuError> {
        let Some(counters) = self.mmu.kernel().current_task_counters() else {
            return Ok(Opened::Ignored);
        };
        let state = self.current();
        if state.pause_count() > 0 {
            return Ok(Opened::Ignored);
        }
        let depth = state.enable_count();
        let Some(deeper) = depth.checked_add(1) else {
            return Err(LazyMmuError::EnableOverflow);
        };
        if depth == 0 {
            state.set_opened_at(Some(Location::caller()));
        }
        state.set_enable_count(deeper);
        if depth == 0 {
            hooks::enter(self.mmu, counters);
        }
        Ok(Opened::Counted)
    }

    /// Leaves a section. At any depth, all earlier writes have taken effect when
    /// it returns (R5). Linux: `lazy_mmu_mode_disable()`.
    ///
    /// # Errors
    /// [`LazyMmuError::EnableUnderflow`] without a section; nothing changes.
    #[inline]
    pub fn disable(self) -> Result<(), LazyMmuError> {
        if self.mmu.kernel().in_interrupt() {
            return Ok(());
        }
        let state = self.current();
        if state.pause_count() > 0 {
            return Ok(());
        }
        let Some(shallower) = state.enable_count().checked_sub(1) else {
            return Err(LazyMmuError::EnableUnderflow);
        };
        // R10: the mode is inactive already when the last hook runs.
        state.set_enable_count(shallower);
        if state.hints().len() > 0 {
            state.hints().end(shallower);
        }
        if shallower == 0 {
            hooks::leave(self.mmu);
        } else {
            hooks::flush(self.mmu);
        }
        Ok(())
    }

    /// Drains what waits on this CPU; barriers stay deferred. A task that releases the lock of the
    /// tables inside a section calls this first (R40, R43), because the next holder of the lock
    /// reads memory. In interrupt context the call does nothing (R12), and with a strategy that
    /// defers only barriers there is nothing to drain.
    #[inline]
    pub fn drain(self) {
        backend::drain(self.mmu);
    }

    /// Pauses the mode: until the matching [`Lazy::resume`] writes take effect at once, and
    /// `enable` and `disable` are ignored. This is legal when the mode is not enabled. Linux:
    /// `lazy_mmu_mode_pause()`.
    ///
    /// # Errors
    /// [`LazyMmuError::PauseOverflow`] at depth 255; nothing changes.
    #[inline]
    pub fn pause(self) -> Result<(), LazyMmuError> {
        if self.mmu.kernel().in_interrupt() {
            return Ok(());
        }
        let state = self.current();
        let depth = state.pause_count();
        let Some(deeper) = depth.checked_add(1) else {
            return Err(LazyMmuError::PauseOverflow);
        };
        state.set_pause_count(deeper);
        if depth == 0 && state.enable_count() > 0 {
            hooks::leave(self.mmu);
        }
        Ok(())
    }

    /// Ends a pause; the last one re-enters the section at the depth it had.
    /// Linux: `lazy_mmu_mode_resume()`.
    ///
    /// # Errors
    /// [`LazyMmuError::PauseUnderflow`] without a pause; nothing changes.
    #[inline]
    pub fn resume(self) -> Result<(), LazyMmuError> {
        if self.mmu.kernel().in_interrupt() {
            return Ok(());
        }
        let state = self.current();
        let Some(shallower) = state.pause_count().checked_sub(1) else {
            return Err(LazyMmuError::PauseUnderflow);
        };
        state.set_pause_count(shallower);
        if shallower == 0 && state.enable_count() > 0 {
            hooks::enter(self.mmu, self.mmu.kernel().current_counters());
        }
        Ok(())
    }

    /// Flushes: makes all earlier writes take effect, and stays in the section. If nothing waits
    /// and nothing is owed, it executes nothing (R16). In interrupt context it does nothing, so the
    /// interrupted task's batch stays as it is (R12). Linux: `arch_flush_lazy_mmu_mode()`.
    #[inline]
    pub fn flush(self) {
        if !self.mmu.kernel().in_interrupt() {
            hooks::flush(self.mmu);
        }
    }

    pub(super) fn report(self, error: LazyMmuError) {
        self.mmu.kernel().report(error);
    }

    pub(super) fn in_interrupt(self) -> bool {
        self.mmu.kernel().in_interrupt()
    }
}
