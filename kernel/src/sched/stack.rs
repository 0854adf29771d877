// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stacks of tasks: mapped in the vmap area, with an unmapped page below.

use core::fmt;

use lazymmu::{Backing, Frame, PAGE_SIZE, Prot};

use crate::arch::backtrace;
use crate::mm::vmap::{self, Area, VmapError};
use crate::mm::{MMU, frames};

/// A stack. The page below it is the guard page of the area before it, or the first page of the vmap area.
#[derive(Debug)]
pub struct Stack {
    area: Area,
    first: Frame,
}

/// Why a stack could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackError {
    /// There is no block of so many frames.
    Frames(frames::OutOfFrames),
    /// It could not be mapped.
    Vmap(VmapError),
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(error) => error.fmt(f),
            Self::Vmap(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StackError {}

impl Stack {
    /// A stack of `pages` pages, a power of two. Usable on return, whatever section the caller is in (R41).
    ///
    /// # Errors
    /// [`StackError`]; nothing is kept.
    pub fn new(pages: usize) -> Result<Self, StackError> {
        let first = frames::alloc_contiguous(pages).map_err(StackError::Frames)?;
        let map = || -> Result<Area, VmapError> {
            let area = Area::reserve_in(&vmap::STACK_REGION, pages as u64)?;
            area.map(Backing::Contiguous(first), Prot::KERNEL)?;
            Ok(area)
        };
        match map() {
            Ok(area) => {
                MMU.lazy().flush();
                Ok(Self { area, first })
            }
            Err(error) => {
                // SAFETY: allocated above, by this count, and mapped nowhere.
                unsafe { frames::free_contiguous(first, pages) };
                Err(StackError::Vmap(error))
            }
        }
    }

    /// Its bounds.
    #[must_use]
    pub const fn bounds(&self) -> backtrace::Stack {
        backtrace::Stack {
            bottom: self.area.start(),
            top: self.area.pages().end(),
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let pages = self.area.pages().pages();
        match self.area.unmap() {
            // SAFETY: this stack's own frames, by their count; the unmap has completed the invalidation, so
            // no CPU reaches them any more (R25).
            Ok(()) => unsafe { frames::free_contiguous(self.first, pages as usize) },
            Err(error) => log::error!(
                "the stack at {:#x} ({} KiB) stays mapped: {error}",
                self.area.start(),
                pages * PAGE_SIZE / 1024
            ),
        }
    }
}
