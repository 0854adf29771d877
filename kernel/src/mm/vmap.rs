// SPDX-License-Identifier: MIT OR Apache-2.0
//! The vmap area: virtually contiguous mappings that are made and undone at run time. Linux:
//! `vmap()`, `get_vm_area()`.
//!
//! An [`Area`] is a range of addresses that is followed by an unmapped guard page, together with
//! the frames that are mapped there. Addresses are given out first-fit from a sorted list, so the
//! page below an area is the guard page of the preceding one. Stacks are in a
//! [region](STACK_REGION) of their own ([`sched::Stack`](crate::sched::Stack)).

use alloc::vec::Vec;
use core::fmt;

use lazymmu::{PAGE_SIZE, PageRange, Prot, SpaceError};

use super::area::{Addresses, Frames, NoFrames};
use super::kernel_space::{self, MMU};
use super::layout::{STACKS, STACKS_SIZE, VMAP, VMAP_SIZE};
use crate::sync::IrqLock;

/// A region of addresses that areas are taken from. Each region has top-level entries of its own,
/// so that no two regions share a table.
#[derive(Debug)]
pub struct Region {
    start: u64,
    size: u64,
    /// The start address and the number of pages (guard included) of every area in use, in
    /// ascending order.
    areas: IrqLock<Vec<(u64, u64)>>,
}

impl Region {
    const fn new(start: u64, size: u64) -> Self {
        Self {
            start,
            size,
            areas: IrqLock::new(Vec::new()),
        }
    }

    /// Takes `pages` pages of addresses and a guard page.
    fn take(&self, pages: u64) -> Result<PageRange, VmapError> {
        let span = pages
            .checked_add(1)
            .filter(|span| *span <= self.size / PAGE_SIZE)
            .ok_or(VmapError::NoRoom { pages })?;
        let mut areas = self.areas.lock();
        areas.try_reserve(1).map_err(|_| VmapError::OutOfMemory)?;
        let (mut start, mut place) = (self.start, areas.len());
        for (i, &(used, used_span)) in areas.iter().enumerate() {
            if used - start >= span * PAGE_SIZE {
                place = i;
                break;
            }
            start = used + used_span * PAGE_SIZE;
        }
        if self.start + self.size - start < span * PAGE_SIZE {
            return Err(VmapError::NoRoom { pages });
        }
        let range = PageRange::new(start, pages).map_err(SpaceError::from)?;
        areas.insert(place, (start, span));
        Ok(range)
    }
}

/// The totals over the areas of all regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Areas in use.
    pub areas: usize,
    /// The bytes of heap that the lists of areas hold. A list keeps its capacity when areas are
    /// given back.
    pub list_bytes: usize,
}

/// Returns how many areas are in use, including those of stacks.
#[must_use]
pub fn usage() -> Usage {
    let mut usage = Usage {
        areas: 0,
        list_bytes: 0,
    };
    for region in [&GENERAL, &STACK_REGION] {
        let areas = region.areas.lock();
        usage.areas += areas.len();
        usage.list_bytes += areas.capacity() * size_of::<(u64, u64)>();
    }
    usage
}

/// The vmap area.
pub static GENERAL: Region = Region::new(VMAP, VMAP_SIZE);

/// The stacks of tasks.
pub static STACK_REGION: Region = Region::new(STACKS, STACKS_SIZE);

/// Why an area could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmapError {
    /// No gap of that many pages is left in the region.
    NoRoom {
        /// Pages asked for.
        pages: u64,
    },
    /// The heap has no memory for the list of areas.
    OutOfMemory,
    /// The mapping was refused.
    Space(SpaceError),
}

impl From<SpaceError> for VmapError {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

impl fmt::Display for VmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom { pages } => write!(
                f,
                "no gap of {pages} pages and a guard page is left in the vmap area: unmap something or map less"
            ),
            Self::OutOfMemory => f.write_str(
                "no memory for the list of areas: give the machine more memory or unmap something",
            ),
            Self::Space(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for VmapError {}

// SAFETY: `unmap_existing` has completed the invalidation of the whole range when it returns.
unsafe impl Addresses for &'static Region {
    fn release(&self, pages: PageRange) -> Result<(), SpaceError> {
        let mut space = kernel_space::lock();
        space.unmap_existing(pages)?;
        space.free_empty_tables(pages)?;
        drop(space);
        let start = pages.start().as_u64();
        self.areas.lock().retain(|&(used, _)| used != start);
        Ok(())
    }
}

/// A part of a [`Region`], with the frames that are mapped there; see [`area`](super::area). The
/// page after it is never mapped.
pub type Area<F = NoFrames> = super::area::Area<F, &'static Region>;

impl Area {
    /// Takes `pages` pages of addresses of the vmap area, and a guard page. Nothing is mapped.
    ///
    /// # Errors
    /// [`VmapError::NoRoom`]; [`VmapError::Space`] for zero pages.
    pub fn reserve(pages: u64) -> Result<Self, VmapError> {
        Ok(Self::new(GENERAL.take(pages)?, &GENERAL, NoFrames))
    }
}

impl<F: Frames> Area<F> {
    /// Takes addresses of `region` for `frames`, and a guard page. Nothing is mapped.
    ///
    /// # Errors
    /// As [`Area::reserve`]. The frames are dropped.
    pub fn for_frames(region: &'static Region, frames: F) -> Result<Self, VmapError> {
        Self::with(region, frames.count(), frames)
    }

    /// The same with `pages` pages of addresses. The caller maps `frames` to some of them by hand.
    ///
    /// # Errors
    /// As [`Area::reserve`]. The frames are dropped.
    pub fn with(region: &'static Region, pages: u64, frames: F) -> Result<Self, VmapError> {
        Ok(Self::new(region.take(pages)?, region, frames))
    }

    /// Maps the whole area to its frames. In a section of the caller, the mapping takes effect with
    /// that section.
    ///
    /// # Errors
    /// [`SpaceError::BackingLength`] if there is not one frame per page, and those of
    /// [`lazymmu::AddressSpace::map`].
    pub fn map(&self, prot: Prot) -> Result<(), SpaceError> {
        let (pages, frames) = (self.pages().pages(), self.frames().count());
        if pages != frames {
            return Err(SpaceError::BackingLength { pages, frames });
        }
        kernel_space::lock().map(self.pages(), self.frames().backing(), prot)
    }

    /// Unmaps the whole area and invalidates it.
    ///
    /// # Errors
    /// Those of [`lazymmu::AddressSpace::unmap`].
    pub fn unmap(&self) -> Result<(), SpaceError> {
        kernel_space::lock().unmap(self.pages())
    }
}

/// Maps `frames` at consecutive addresses; the mapping is usable on return. The area keeps the
/// frames, which it owns or borrows for as long as it lives. Linux: `vmap()`.
///
/// # Errors
/// [`VmapError`]; nothing is mapped, no address is taken, and the frames are dropped.
pub fn vmap<F: Frames>(frames: F, prot: Prot) -> Result<Area<F>, VmapError> {
    vmap_in(&GENERAL, frames, prot)
}

/// The same in `region`.
///
/// # Errors
/// As [`vmap()`].
pub fn vmap_in<F: Frames>(
    region: &'static Region,
    frames: F,
    prot: Prot,
) -> Result<Area<F>, VmapError> {
    let area = Area::for_frames(region, frames)?;
    area.map(prot)?;
    // R41: the caller may use the area at once, even if it is in a section.
    MMU.lazy().flush();
    Ok(area)
}
