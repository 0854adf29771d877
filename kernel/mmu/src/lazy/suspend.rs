// SPDX-License-Identifier: MIT OR Apache-2.0
//! Suspension: leaving every level for a while, for loops that must sleep.
//!
//! A loop over entries that has to reschedule leaves lazy MMU mode, drops its lock, sleeps and
//! starts again, as Linux's `madvise_cold_or_pageout_pte_range()` does. One `disable` is not enough
//! if a caller further up has a section as well, because the mode is then still active. A pause
//! does not help either, because the mode cannot be enabled during a pause. [`Lazy::suspend_all`]
//! leaves all levels, sections and pauses, and the end of the suspension enters them again.

use super::hooks;
use super::mode::Lazy;
use crate::error::LazyMmuError;
use crate::hardware::{CurrentTask, Kernel};
use core::marker::PhantomData;
use core::panic::Location;

/// A suspension: while this value exists, the task is outside of all levels. It may sleep, and it
/// may open and close further sections. Dropping the value enters the levels again, at the same
/// depth, with the same pauses and announced ranges. Not `Send`.
#[must_use = "a suspension that is dropped at once suspends nothing"]
pub struct LazySuspended<'m, K: Kernel> {
    lazy: Lazy<'m, K>,
    /// `None` if there was nothing to leave, or in an interrupt.
    left: Option<Left>,
    _task: PhantomData<*mut ()>,
}

/// The state that the end of a suspension restores.
#[derive(Debug)]
struct Left {
    enable_count: u8,
    pause_count: u8,
    opened_at: Option<&'static Location<'static>>,
    /// Whether the announced ranges counted this suspension; its end must then be counted as well.
    is_counted: bool,
}

impl<'m, K: Kernel> Lazy<'m, K> {
    /// Leaves every level: all earlier writes have taken effect when it returns, and the task may
    /// sleep, with any backend. In interrupt context it does nothing (R3).
    #[inline]
    pub fn suspend_all(self) -> LazySuspended<'m, K> {
        LazySuspended {
            lazy: self,
            left: (!self.in_interrupt()).then(|| self.leave_all()),
            _task: PhantomData,
        }
    }

    fn leave_all(self) -> Left {
        let state = self.current();
        let was_active = state.is_active();
        let left = Left {
            enable_count: state.enable_count(),
            pause_count: state.pause_count(),
            opened_at: state.read().opened_at(),
            is_counted: state.hints().suspend(),
        };
        state.set_enable_count(0);
        state.set_pause_count(0);
        if was_active {
            hooks::leave(self.mmu);
        }
        left
    }

    fn enter_all(self, left: &Left) {
        let state = self.current();
        if state.enable_count() > 0 || state.pause_count() > 0 {
            // A section that was opened during the suspension was not closed. Its writes take
            // effect here, and its level is dropped.
            self.report(LazyMmuError::Asymmetric);
            if self.leave_all().is_counted {
                state.hints().resume();
            }
        }
        state.set_opened_at(left.opened_at);
        state.set_enable_count(left.enable_count);
        state.set_pause_count(left.pause_count);
        if left.is_counted {
            state.hints().resume();
        }
        if state.is_active() {
            hooks::enter(self.mmu, self.mmu.kernel().current_counters());
        }
    }
}

impl<K: Kernel> Drop for LazySuspended<'_, K> {
    #[inline]
    fn drop(&mut self) {
        match &self.left {
            Some(left) if !self.lazy.in_interrupt() => self.lazy.enter_all(left),
            None if self.lazy.in_interrupt() => {}
            _ => self.lazy.report(LazyMmuError::Asymmetric),
        }
    }
}

impl<K: Kernel> core::fmt::Debug for LazySuspended<'_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LazySuspended({:?})", self.left)
    }
}
