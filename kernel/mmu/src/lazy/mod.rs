// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lazy MMU mode: sections in which the cost of page-table writes is deferred.
//!
//! # The contract
//!
//! Linux's generic contract, one for one. Every task has two counters, and four
//! calls move them:
//!
//! | call      | refused (R8)          | counter          | hook                                      |
//! |-----------|-----------------------|------------------|-------------------------------------------|
//! | `enable`  | `enable_count` = 255  | `enable_count` + 1 | `enter` if it was 0                       |
//! | `disable` | `enable_count` = 0    | `enable_count` - 1 | `leave` if 0 is reached, else **`flush`** |
//! | `pause`   | `pause_count` = 255   | `pause_count` + 1  | `leave` if it was 0 and enabled           |
//! | `resume`  | `pause_count` = 0     | `pause_count` - 1  | `enter` if 0 is reached and enabled       |
//!
//! In interrupt context none of the four does anything (R3), and while paused neither
//! `enable` nor `disable` does (R6): such calls are ignored, not queued. What a caller
//! may rely on:
//!
//! * after **any** effective `disable`, at any depth, and after `pause` and `flush`,
//!   all its earlier writes have taken effect (R5);
//! * while paused, and in an interrupt, each write takes effect at once;
//! * the state belongs to the task, and neither a context switch nor an interrupt
//!   changes it (R11, R12).
//!
//! What it may not: touch memory through a mapping it has just made in the section (R19), or
//! sleep, unless the backend allows it (R38; [`Lazy::might_sleep`]).
//!
//! # What differs from Linux
//!
//! A counter that would wrap is refused with [`LazyMmuError`] and stays as it is; Linux
//! warns in debug builds and wraps. And sections and pauses are guards that close on drop
//! ([`LazySection`], [`LazyPause`]), so that no exit path can forget (R39); the raw calls
//! on [`Lazy`] are for patterns that are not lexical, and for tests. Announced ranges nest and survive pauses
//! ([`Lazy::enable_fast_pte_range`]). A loop that must sleep leaves all levels at once, and comes back to them
//! ([`Lazy::suspend_all`]). A task that ends inside is taken out of all of them ([`Lazy::exit`]).

mod exit;
mod guard;
mod hints;
mod state;
mod suspend;
mod switch;

use guard::Opened;
pub use guard::{LazyPause, LazySection};
pub(crate) use hints::Hint;
pub(crate) use state::Busy;
pub use state::LazyMmuState;
pub use suspend::LazySuspended;

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::backend;
use crate::contiguous;
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::space::AddressSpace;
use core::fmt;
use core::panic::Location;

/// A broken rule of the contract. The counters are as before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LazyMmuError {
    /// `enable` at depth 255.
    EnableOverflow,
    /// `disable` without a section.
    EnableUnderflow,
    /// `pause` at depth 255.
    PauseOverflow,
    /// `resume` without a pause.
    PauseUnderflow,
    /// A guard was dropped in another interrupt context, or on the other side
    /// of a pause, than it was made in: its level cannot be closed (R39).
    Asymmetric,
    /// The backend or policy was to be changed inside a section.
    InSection,
    /// The backend defers more than barriers, and the kernel gives its CPUs no [`crate::Batch`].
    NoBatch,
    /// The task would lose its CPU in an active section, and the backend does not allow it (R38).
    NotPreemptible,
    /// The task ended inside of a section, a pause or a suspension (R39).
    EndedInside,
}

impl fmt::Display for LazyMmuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EnableOverflow => {
                "lazy MMU mode is enabled 255 times already (R8): a section is opened in a loop and never closed"
            }
            Self::EnableUnderflow => {
                "lazy MMU mode is disabled without being enabled (R8): pair each disable with one enable in the same context"
            }
            Self::PauseOverflow => {
                "lazy MMU mode is paused 255 times already (R8): a pause is opened in a loop and never closed"
            }
            Self::PauseUnderflow => {
                "lazy MMU mode is resumed without being paused (R8): pair each resume with one pause"
            }
            Self::Asymmetric => {
                "a lazy MMU section or pause ends in another interrupt or pause context than it began in (R39): close it where it was opened"
            }
            Self::InSection => {
                "the lazy MMU backend cannot change inside a section: leave all sections first"
            }
            Self::NoBatch => {
                "this lazy MMU backend needs a Batch per CPU: return one from Context::batch(), or choose eager or defer-barriers"
            }
            Self::NotPreemptible => {
                "this lazy MMU backend keeps its batch on the CPU, so a task must not sleep or be preempted in a section (R38): leave all sections first, as suspend_all() does"
            }
            Self::EndedInside => {
                "a task ends inside a lazy MMU section, pause or suspension (R39): close every level before its function returns; what it had deferred has taken effect"
            }
        })
    }
}

impl core::error::Error for LazyMmuError {}

/// Access to the current task's lazy MMU mode. Copy it freely; it holds nothing.
pub struct Lazy<'m, K: Kernel> {
    mmu: &'m Mmu<K>,
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
    pub(crate) const fn new(mmu: &'m Mmu<K>) -> Self {
        Self { mmu }
    }

    /// The current task's counters and debts.
    #[inline(always)]
    pub fn state(self) -> &'m LazyMmuState {
        self.mmu.kernel().lazy()
    }

    /// R2: not in interrupt, enabled and not paused. Linux:
    /// `is_lazy_mmu_mode_active()`.
    #[inline(always)]
    pub fn is_lazy_mmu_mode_active(self) -> bool {
        !self.mmu.kernel().in_interrupt() && self.state().is_active()
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

    /// [`Lazy::enable`], and whether it had an effect.
    #[inline]
    #[track_caller]
    fn enter(self) -> Result<Opened, LazyMmuError> {
        let Some(counters) = self.mmu.kernel().task_counters() else {
            return Ok(Opened::Ignored);
        };
        let state = self.state();
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
            self.mmu.hook_enter(counters);
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
        let state = self.state();
        if state.pause_count() > 0 {
            return Ok(());
        }
        let Some(shallower) = state.enable_count().checked_sub(1) else {
            return Err(LazyMmuError::EnableUnderflow);
        };
        // R10: the mode is inactive already when the last hook runs.
        state.set_enable_count(shallower);
        if state.hints().len() > 0 {
            self.end_ranges(shallower);
        }
        if shallower == 0 {
            self.mmu.hook_leave();
        } else {
            self.mmu.hook_flush();
        }
        Ok(())
    }

    /// Forgets the ranges of sections deeper than `depth`, and folds the contiguous groups in them: once,
    /// at the end, whatever happened to their members in between. (Where stores wait, the
    /// drain has done that.)
    #[cold]
    fn end_ranges(self, depth: u8) {
        backend::drain(self.mmu);
        let hints = self.state().hints();
        for hint in hints.ending(depth) {
            // SAFETY: who announced the range promised that its tables stay until now.
            unsafe { contiguous::fold(self.mmu, hint.table, hint.pages, hint.scope) };
        }
        hints.end(depth);
    }

    /// Enters a section and announces that the entries of `addr..end` of `mm` are what it is about. All of
    /// them are in `table`. Inside the range entries may then be written fast:
    ///
    /// * calls for pages of the range find the table without a walk;
    /// * [`crate::Backend::DeferStores`] lets stores and their invalidations wait;
    /// * contiguous groups of 16 entries are folded when the section ends (user mappings).
    ///
    /// Outside of the range everything is as after [`Lazy::enable`], and the order in which entries are
    /// written, or whether all are, does not matter. Like `enable` it has no effect while paused and in
    /// interrupt context, and is paired with [`Lazy::disable`]. Several ranges may be in force at once,
    /// source and destination of a move for example; each lasts until its section is left, across
    /// pauses and nested sections. Linux (proposed): `lazy_mmu_mode_enable_fast_pte_range()`, which
    /// ignores a range when the mode is enabled already and forgets it at a pause; a caller
    /// cannot tell (R22).
    ///
    /// [`AddressSpace::fast_pte_range`] is the same as a value that closes itself, and needs no promise.
    ///
    /// # Safety
    /// Until the section is left, the tables above the range stay as they are: no
    /// [`AddressSpace::free_empty_tables`] or [`AddressSpace::destroy`] frees them. A suspension
    /// ([`Lazy::suspend_all`]) does not leave the section.
    ///
    /// # Errors
    /// [`SpaceError::Range`] if `addr..end` is no range of whole pages or crosses a table's end
    /// (2 MiB), [`SpaceError::WrongHalf`], [`SpaceError::OutsideWindow`], [`SpaceError::WrongTable`], and
    /// [`LazyMmuError::EnableOverflow`]. Nothing changes.
    #[track_caller]
    pub unsafe fn enable_fast_pte_range(
        self,
        mm: &AddressSpace<'_, K>,
        addr: VirtAddr,
        end: u64,
        table: Frame,
    ) -> Result<(), SpaceError> {
        let hint = mm.hint(PageRange::from_bounds(addr.as_u64(), end)?, table)?;
        let outside = self.state().enable_count();
        self.enable()?;
        let depth = self.state().enable_count();
        if depth > outside {
            self.state().hints().announce(hint, depth);
        }
        Ok(())
    }

    /// Lets memory and TLBs catch up with what waits on this CPU; barriers stay deferred. For whoever
    /// releases the lock of the tables inside a section (R40, R43): the next holder reads memory.
    /// Nothing happens in interrupt context (R12), nor with a backend that only defers barriers.
    #[inline]
    pub fn drain(self) {
        backend::drain(self.mmu);
    }

    /// Suspends the mode: writes take effect at once until the matching
    /// [`Lazy::resume`], and `enable` and `disable` are ignored. Legal when the mode is
    /// not enabled. Linux: `lazy_mmu_mode_pause()`.
    ///
    /// # Errors
    /// [`LazyMmuError::PauseOverflow`] at depth 255; nothing changes.
    #[inline]
    pub fn pause(self) -> Result<(), LazyMmuError> {
        if self.mmu.kernel().in_interrupt() {
            return Ok(());
        }
        let state = self.state();
        let depth = state.pause_count();
        let Some(deeper) = depth.checked_add(1) else {
            return Err(LazyMmuError::PauseOverflow);
        };
        state.set_pause_count(deeper);
        if depth == 0 && state.enable_count() > 0 {
            self.mmu.hook_leave();
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
        let state = self.state();
        let Some(shallower) = state.pause_count().checked_sub(1) else {
            return Err(LazyMmuError::PauseUnderflow);
        };
        state.set_pause_count(shallower);
        if shallower == 0 && state.enable_count() > 0 {
            self.mmu.hook_enter(self.mmu.kernel().counters());
        }
        Ok(())
    }

    /// Makes all earlier writes take effect and stays in the section. Without
    /// anything owed it executes nothing (R16); in interrupt context it leaves the
    /// interrupted task's batch alone (R12). Linux: `arch_flush_lazy_mmu_mode()`.
    #[inline]
    pub fn flush(self) {
        if !self.mmu.kernel().in_interrupt() {
            self.mmu.hook_flush();
        }
    }

    /// Opens a section that closes itself.
    ///
    /// # Errors
    /// [`LazyMmuError::EnableOverflow`] at depth 255; nothing changes.
    #[inline]
    #[track_caller]
    pub fn section(self) -> Result<LazySection<'m, K>, LazyMmuError> {
        LazySection::open(self)
    }

    /// Opens a section unless one is active already.
    ///
    /// For operations whose writes may take effect with their caller's section:
    /// a nested section would flush when it ends (R5), and a caller that makes many
    /// calls in a section of its own would pay at each.
    ///
    /// # Errors
    /// None in practice: a section at depth 255 is active, or paused and ignored.
    #[inline]
    #[track_caller]
    pub fn section_unless_active(self) -> Result<Option<LazySection<'m, K>>, LazyMmuError> {
        if self.is_lazy_mmu_mode_active() {
            return Ok(None);
        }
        self.section().map(Some)
    }

    /// Opens a pause that closes itself.
    ///
    /// # Errors
    /// [`LazyMmuError::PauseOverflow`] at depth 255; nothing changes.
    #[inline]
    pub fn paused(self) -> Result<LazyPause<'m, K>, LazyMmuError> {
        LazyPause::open(self)
    }

    pub(crate) fn report(self, error: LazyMmuError) {
        self.mmu.kernel().report(error);
    }

    pub(crate) fn in_interrupt(self) -> bool {
        self.mmu.kernel().in_interrupt()
    }
}
