// SPDX-License-Identifier: MIT OR Apache-2.0

//! Stacks of tasks, each mapped in the stack region with an unmapped guard page below it.

use core::fmt;

use lazymmu::Prot;

use crate::mm::frames::{self, Block};
use crate::mm::vmap::{self, Area, VmapError};
use crate::stack;

/// A stack. The page below it is the guard page of the preceding area, or of the region if it is
/// the first.
#[derive(Debug)]
pub struct Stack(Area<Block>);

/// Why a stack could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackError {
    /// No block of that many frames is free.
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
    /// Creates a stack of `pages` pages, a power of two. It is usable on return, even if the caller
    /// is in a section (R41).
    ///
    /// # Errors
    /// [`StackError`]; nothing is kept.
    pub fn new(pages: usize) -> Result<Self, StackError> {
        let block = Block::alloc(pages).map_err(StackError::Frames)?;
        let area = vmap::vmap_in(&vmap::STACK_REGION, block, Prot::KERNEL);
        area.map(Self).map_err(StackError::Vmap)
    }

    /// Its bounds.
    #[must_use]
    pub const fn bounds(&self) -> stack::Stack {
        stack::Stack {
            bottom: self.0.start(),
            top: self.0.pages().end(),
        }
    }
}
