// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the windows work on in this kernel: a part of the vmap area, frames, and the kernel's
//! address space.

use core::ops::{Deref, DerefMut};

use lazymmu::{ENTRIES, SpaceError};

use super::best::BenchError;
use super::windows::Ground;
use crate::arch::Arm64;
use crate::mm::MMU;
use crate::mm::frames::Block;
use crate::mm::kernel_space::{self, SpaceGuard};
use crate::mm::vmap::{self, Area};

/// The ground, together with the area that it is made of. The fields are dropped in their order,
/// which matters: the ground's lock of the address space must be released before the drop of the
/// area takes it to unmap what is still mapped.
pub(super) struct Site {
    ground: Ground<SpaceGuard, Arm64>,
    area: Area<Block>,
}

impl Deref for Site {
    type Target = Ground<SpaceGuard, Arm64>;

    fn deref(&self) -> &Self::Target {
        &self.ground
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.ground
    }
}

impl Site {
    /// Reserves addresses and frames for up to `pages` pages, a power of two.
    pub(super) fn new(pages: usize) -> Result<Self, BenchError> {
        /// The stride shares no factor with a power of two, so each frame comes once.
        const STRIDE: usize = 97;
        // A loop over slots takes a whole table of frames.
        let frames = pages.next_multiple_of(ENTRIES);
        let block = Block::alloc(frames)?;
        let first = block.first();
        // Nothing else is in the vmap area yet, so this area begins at a table's start.
        let area = Area::with(&vmap::GENERAL, pages as u64, block)?;
        let nth = |i: usize| first.offset((i * STRIDE % frames) as u64);
        let ground = Ground {
            mmu: &MMU,
            owed: None,
            space: kernel_space::lock(),
            range: area.pages(),
            pages,
            scattered: (0..frames).filter_map(nth).collect(),
            first,
        };
        Ok(Self { ground, area })
    }

    /// Restricts the windows to the first `pages` pages.
    pub(super) fn use_pages(&mut self, pages: usize) -> Result<(), SpaceError> {
        self.ground.range = self.area.part(0, pages as u64)?;
        self.ground.pages = pages;
        Ok(())
    }
}
