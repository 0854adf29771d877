// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections and pauses as values that close on drop.
//!
//! A guard remembers whether opening it had an effect. Opened in an interrupt, or (a
//! section) while paused, it was ignored, and so is its end. If the context has
//! changed in between, the level cannot be closed any more: Linux leaks it silently
//! (R39), here it is reported through [`crate::Context::report`].

use super::{Lazy, LazyMmuError};
use crate::hardware::Kernel;
use core::marker::PhantomData;

/// A lazy MMU section. Leaves on drop, and everything written in it has then
/// taken effect. Not `Send`: the section belongs to the task that opened it.
#[must_use = "a section that is dropped at once defers nothing"]
pub struct LazySection<'m, K: Kernel> {
    lazy: Lazy<'m, K>,
    opened: Opened,
    _task: PhantomData<*mut ()>,
}

/// A pause of lazy MMU mode. Resumes on drop. Not `Send`.
#[must_use = "a pause that is dropped at once suspends nothing"]
pub struct LazyPause<'m, K: Kernel> {
    lazy: Lazy<'m, K>,
    opened: Opened,
    _task: PhantomData<*mut ()>,
}

/// Whether the opening call moved a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opened {
    Counted,
    Ignored,
}

impl<'m, K: Kernel> LazySection<'m, K> {
    #[inline]
    #[track_caller]
    pub(super) fn open(lazy: Lazy<'m, K>) -> Result<Self, LazyMmuError> {
        Ok(Self {
            lazy,
            opened: lazy.enter()?,
            _task: PhantomData,
        })
    }

    /// Whether opening the section moved the counter.
    pub(crate) fn is_counted(&self) -> bool {
        self.opened == Opened::Counted
    }

    /// Makes what was written so far take effect and stays in the section.
    pub fn flush(&self) {
        self.lazy.flush();
    }
}

impl<K: Kernel> Drop for LazySection<'_, K> {
    #[inline]
    fn drop(&mut self) {
        let ignored_now = self.lazy.in_interrupt() || self.lazy.state().pause_count() > 0;
        let result = match (self.opened, ignored_now) {
            (Opened::Counted, false) => self.lazy.disable(),
            (Opened::Ignored, true) => Ok(()),
            // Made while paused and dropped after the resume: nothing to close,
            // but the writer believed in a section that was not there.
            _ => Err(LazyMmuError::Asymmetric),
        };
        if let Err(error) = result {
            self.lazy.report(error);
        }
    }
}

impl<'m, K: Kernel> LazyPause<'m, K> {
    #[inline]
    pub(super) fn open(lazy: Lazy<'m, K>) -> Result<Self, LazyMmuError> {
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
