// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages for tests: the self-tests and the litmus tests map these.

use core::fmt;
use core::ptr;

use lazymmu::{Frame, Prot};

use super::frames::{FrameList, OutOfFrames};
use super::layout::linear_virt;
use super::vmap::{self, Area, VmapError};

/// An area that owns its frames.
pub(crate) struct Pages {
    pub(crate) area: Area<FrameList>,
}

/// Why pages could not be allocated.
#[derive(Debug)]
pub(crate) enum PagesError {
    Frames(OutOfFrames),
    Vmap(VmapError),
}

impl fmt::Display for PagesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(error) => error.fmt(f),
            Self::Vmap(error) => error.fmt(f),
        }
    }
}

impl Pages {
    /// Reserves `count` pages of addresses and as many frames, not mapped.
    pub(crate) fn unmapped(count: usize) -> Result<Self, PagesError> {
        Self::reserved(count as u64, count)
    }

    /// Reserves `pages` pages of addresses and `count` frames, not mapped.
    pub(crate) fn reserved(pages: u64, count: usize) -> Result<Self, PagesError> {
        let frames = FrameList::alloc(count).map_err(PagesError::Frames)?;
        let area = Area::with(&vmap::GENERAL, pages, frames).map_err(PagesError::Vmap)?;
        Ok(Self { area })
    }

    /// Maps `count` pages read-write.
    pub(crate) fn mapped(count: usize) -> Result<Self, PagesError> {
        let frames = FrameList::alloc(count).map_err(PagesError::Frames)?;
        let area = vmap::vmap(frames, Prot::KERNEL).map_err(PagesError::Vmap)?;
        Ok(Self { area })
    }

    /// The frames.
    pub(crate) fn frames(&self) -> &[Frame] {
        self.area.frames()
    }

    /// The address of page `i`.
    pub(crate) fn virt(&self, i: usize) -> u64 {
        self.area.start() + i as u64 * lazymmu::PAGE_SIZE
    }

    /// Writes `value` to the start of frame `i`, through the linear map.
    pub(crate) fn fill(&self, i: usize, value: u64) {
        let place = linear_virt(self.frames()[i].as_u64()) as usize;
        // SAFETY: the frame belongs to `self`, and the linear map shows it there, aligned.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(place).write_volatile(value) };
    }

    /// Reads the start of frame `i`, through the linear map.
    pub(crate) fn frame_value(&self, i: usize) -> u64 {
        let place = linear_virt(self.frames()[i].as_u64()) as usize;
        // SAFETY: as in `fill`.
        unsafe { ptr::with_exposed_provenance::<u64>(place).read_volatile() }
    }
}
