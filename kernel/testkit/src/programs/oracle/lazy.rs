// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls of lazy MMU mode. The oracle predicts the two counters, and the depths at which ranges are
//! announced.

use super::{Run, Suspended};
use crate::fake::Fake;
use crate::programs::{Op, Range};
use lazymmu::{LazyMmuError, LazySuspended, Level, SpaceError};

impl<'m> Run<'m> {
    /// Whether a range is announced, also by a suspended section, so that its table must stay.
    pub(super) fn is_announced(&self) -> bool {
        let has_ranges = |suspended: &Suspended<'_>| !suspended.announced.is_empty();
        !self.announced.is_empty() || self.suspended.iter().any(has_ranges)
    }

    pub(super) fn lazy(&mut self, op: Op) {
        if self.in_interrupt() {
            return self.lazy_in_interrupt(op);
        }
        let lazy = self.mmu.lazy();
        let (enabled, paused) = &mut self.depth;
        let counted = match op {
            // R6: while paused, these two do nothing.
            Op::Enable if *paused > 0 => lazy.enable(),
            Op::Disable if *paused > 0 => lazy.disable(),
            Op::Enable => {
                *enabled += 1;
                lazy.enable()
            }
            Op::Disable => match enabled.checked_sub(1) {
                Some(fewer) => {
                    *enabled = fewer;
                    self.announced.retain(|depth| *depth <= fewer);
                    lazy.disable()
                }
                None => {
                    assert_eq!(lazy.disable(), Err(LazyMmuError::EnableUnderflow));
                    Ok(())
                }
            },
            Op::Pause => {
                *paused += 1;
                lazy.pause()
            }
            Op::Resume => match paused.checked_sub(1) {
                Some(fewer) => {
                    *paused = fewer;
                    lazy.resume()
                }
                None => {
                    assert_eq!(lazy.resume(), Err(LazyMmuError::PauseUnderflow));
                    Ok(())
                }
            },
            Op::Flush => {
                self.drop_pending();
                lazy.flush();
                Ok(())
            }
            _ => {
                lazy.drain();
                Ok(())
            }
        };
        assert_eq!(counted, Ok(()));
        if matches!(op, Op::Disable | Op::Pause | Op::Flush) {
            let is_settled = lazy.state().owed().is_empty() && self.kernel().is_batch_empty();
            assert!(is_settled, "R5: something is left after {op:?}");
        }
        if matches!(op, Op::Drain) {
            assert!(self.kernel().is_batch_empty(), "R23: something waits");
        }
    }

    /// A call in interrupt context: it does nothing (R3), except that a flush uses the tokens.
    fn lazy_in_interrupt(&mut self, op: Op) {
        let lazy = self.mmu.lazy();
        let waits = !self.kernel().is_batch_empty();
        let counted = match op {
            Op::Enable => lazy.enable(),
            Op::Disable => lazy.disable(),
            Op::Pause => lazy.pause(),
            Op::Resume => lazy.resume(),
            Op::Flush => {
                self.drop_pending();
                lazy.flush();
                Ok(())
            }
            _ => {
                lazy.drain();
                Ok(())
            }
        };
        assert_eq!(counted, Ok(()), "R3");
        assert_eq!(!self.kernel().is_batch_empty(), waits, "R12: {op:?}");
    }

    /// Enters a section that announces `range`, if it lies in one table that exists.
    pub(super) fn enable_fast(&mut self, space: usize, range: Range) {
        let pages = self.range(space, range);
        let mm = &self.spaces[space].mm;
        let table = mm.last_level_table(pages.start());
        let Some(table) = table.filter(|_| pages.is_in_one_table(Level::L3)) else {
            return;
        };
        let lazy = self.mmu.lazy();
        let (start, end) = (pages.start(), pages.end());
        let done = if self.plain.is_none() {
            // SAFETY: no table is freed while a range is announced (see `may_free_tables`).
            unsafe { lazy.enable_fast_pte_range(mm, start, end, table) }
        } else {
            lazy.enable().map_err(SpaceError::from)
        };
        assert_eq!(done, Ok(()));
        if self.depth.1 == 0 && !self.in_interrupt() {
            self.depth.0 += 1;
            self.announced.push(self.depth.0);
        }
    }

    /// Leaves every level, and checks the state.
    fn leave_levels(&self) -> LazySuspended<'m, Fake> {
        let lazy = self.mmu.lazy();
        let levels = lazy.suspend_all();
        let state = lazy.state();
        assert_eq!(
            (state.enable_count(), state.pause_count()),
            (0, 0),
            "R38: all levels are left"
        );
        assert!(state.owed().is_empty(), "R38: all levels are left");
        assert!(self.kernel().is_batch_empty(), "R38: all levels are left");
        assert_eq!(lazy.might_sleep(), Ok(()), "R38: all levels are left");
        levels
    }

    /// Leaves every level and enters it again.
    pub(super) fn suspend(&self) {
        drop(self.leave_levels());
    }

    pub(super) fn suspend_begin(&mut self) {
        let levels = self.leave_levels();
        self.suspended.push(Suspended {
            depth: std::mem::take(&mut self.depth),
            announced: std::mem::take(&mut self.announced),
            levels,
        });
    }

    /// Ends the last suspension, unless the task is in a level of its own.
    pub(super) fn suspend_end(&mut self) {
        if self.depth == (0, 0)
            && let Some(suspended) = self.suspended.pop()
        {
            let Suspended {
                depth, announced, ..
            } = suspended;
            (self.depth, self.announced) = (depth, announced);
        }
    }

    /// Leaves every section and pause, including those that are suspended.
    pub(super) fn close(&mut self) {
        loop {
            while self.depth.1 > 0 {
                self.lazy(Op::Resume);
            }
            while self.depth.0 > 0 {
                self.lazy(Op::Disable);
            }
            if self.suspended.is_empty() {
                return;
            }
            self.suspend_end();
        }
    }
}
