// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections and pauses as values that close when they are dropped.
//!
//! A guard remembers whether opening it had an effect. Opening a guard in an interrupt, or a
//! section while paused, is ignored, and so is the end of that guard. If the context has changed in
//! between, the guard cannot close its level. Linux leaks the level silently (R39); this library
//! reports it through [`crate::Context::report`].

use super::mode::{Lazy, Opened};
use crate::error::LazyMmuError;
use crate::hardware::Kernel;
use core::marker::PhantomData;

/// A lazy MMU section. Dropping the value leaves the section, and everything that was written in it
/// has then taken effect. Not `Send`: the section belongs to the task that opened it.
#[must_use = "a section that is dropped at once defers nothing"]
pub struct LazySection<'m, K: Kernel> {
    lazy: Lazy<'m, K>,
    opened: Opened,
    _task: PhantomData<*mut ()>,
}

/// A pause of lazy MMU mode. Dropping the value ends the pause. Not `Send`.
#[must_use = "a pause that is dropped at once pauses nothing"]
pub struct LazyPause<'m, K: Kernel> {
    lazy: Lazy<'m, K>,
    opened: Opened,
    _task: PhantomData<*mut ()>,
}

impl<'m, K: Kernel> Lazy<'m, K> {
    /// Opens a section that closes when the value is dropped.
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
    /// Operations whose writes may take effect with their caller's section use it. A nested section
    /// would flush at its end (R5), so a caller with a section around many calls would pay the
    /// barriers at each of them.
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

    /// Opens a pause that ends when the value is dropped.
    ///
    /// # Errors
    /// [`LazyMmuError::PauseOverflow`] at depth 255; nothing changes.
    #[inline]
    pub fn paused(self) -> Result<LazyPause<'m, K>, LazyMmuError> {
        LazyPause::open(self)
    }
}

impl<'m, K: Kernel> LazySection<'m, K> {
    #[inline]
    #[track_caller]
    fn open(lazy: Lazy<'m, K>) -> Result<Self, LazyMmuError> {
        Ok(Self {
            lazy,
            opened: lazy.enter()?,
            _task: PhantomData,
        })
    }

    /// Whether opening the section changed the counter.
    pub(crate) fn is_counted(&self) -> bool {
        self.opened == Opened::Counted
    }

    /// Makes what was written so far take effect, and stays in the section ([`Lazy::flush`]).
    pub fn flush(&self) {
        self.lazy.flush();
    }
}

impl<K: Kernel> Drop for LazySection<'_, K> {
    #[inline]
    fn drop(&mut self) {
        let ignored_now = self.lazy.in_interrupt() || self.lazy.current().pause_count() > 0;
        let result = match (self.opened, ignored_now) {
            (Opened::Counted, false) => self.lazy.disable(),
            (Opened::Ignored, true) => Ok(()),
            // Made while paused and dropped after the resume: there is nothing to close, but the
            // caller relied on a section that was not there.
            _ => Err(LazyMmuError::Asymmetric),
        };
        if let Err(error) = result {
            self.lazy.report(error);
        }
    }
}

impl<'m, K: Kernel> LazyPause<'m, K> {
    #[inline]
    fn open(lazy: Lazy<'m, K>) -> Result<Self, LazyMmuError> {
        let opened = if lazy.in_interrupt() {
            Opened::Ignored
        } else {
            lazy.pause()?;
            Opened::Counted
        };
        Ok(Self {
            lazy,
            opened,
            _task: PhantomData,
        })
    }
}

impl<K: Kernel> Drop for LazyPause<'_, K> {
    #[inline]
    fn drop(&mut self) {
        let result = match (self.opened, self.lazy.in_interrupt()) {
            (Opened::Counted, false) => self.lazy.resume(),
            (Opened::Ignored, true) => Ok(()),
            _ => Err(LazyMmuError::Asymmetric),
        };
        if let Err(error) = result {
            self.lazy.report(error);
        }
    }
}

impl<K: Kernel> core::fmt::Debug for LazySection<'_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LazySection({:?}, {:?})", self.opened, self.lazy)
    }
}

impl<K: Kernel> core::fmt::Debug for LazyPause<'_, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LazyPause({:?}, {:?})", self.opened, self.lazy)
    }
}
