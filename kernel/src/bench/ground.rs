// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the windows work on: addresses nobody uses, frames, and the kernel's address space.

use alloc::vec::Vec;

use lazymmu::{ENTRIES, Frame, Mmu, PageRange, PendingInvalidation, SpaceError};

use super::BenchError;
use crate::arch::Arm64;
use crate::mm::MMU;
use crate::mm::frames;
use crate::mm::kernel_space::{self, SpaceGuard};
use crate::mm::vmap::Area;

/// Given back on drop in the order of the fields, which matters: what is still mapped is unmapped
/// with the lock of the address space free, and before its frames are (R25).
pub(super) struct Ground {
    /// The library.
    pub(super) mmu: &'static Mmu<Arm64>,
    /// An invalidation that a window has left to be done.
    pub(super) owed: Option<PendingInvalidation<'static, Arm64>>,
    /// The kernel's address space.
    pub(super) space: SpaceGuard,
    /// The addresses of a window.
    pub(super) range: PageRange,
    /// How many these are.
    pub(super) pages: usize,
    /// Frames for the largest window, no two neighbors of which are neighbors in memory.
    pub(super) scattered: Vec<Frame>,
    area: Area,
    block: Block,
}

/// Consecutive frames.
struct Block {
    first: Frame,
    frames: usize,
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this number in `Ground::new`; the area that mapped them is gone.
        unsafe { frames::free_contiguous(self.first, self.frames) };
    }
}

impl Ground {
    /// Addresses and frames for up to `pages` pages, a power of two.
    pub(super) fn new(pages: usize) -> Result<Self, BenchError> {
        /// Shares no factor with a power of two, so that each frame comes once.
        const STRIDE: usize = 97;
        // A slot loop takes a whole table of frames.
        let frames = pages.next_multiple_of(ENTRIES);
        let block = Block {
            first: frames::alloc_contiguous(frames)?,
            frames,
        };
        // Nothing else is in the vmap area yet, so this begins at a table's start.
        let area = Area::reserve(pages as u64)?;
        let nth = |i: usize| block.first.offset((i * STRIDE % frames) as u64);
        Ok(Self {
            mmu: &MMU,
            owed: None,
            space: kernel_space::lock(),
            range: area.pages(),
            pages,
            scattered: (0..frames).filter_map(nth).collect(),
            area,
            block,
        })
    }

    /// Restricts the windows to the first `pages` pages.
    pub(super) fn use_pages(&mut self, pages: usize) -> Result<(), SpaceError> {
        self.range = self.area.part(0, pages as u64)?;
        self.pages = pages;
        Ok(())
    }

    /// The first of as many consecutive frames as the largest window has pages.
    pub(super) fn first(&self) -> Frame {
        self.block.first
    }
}
