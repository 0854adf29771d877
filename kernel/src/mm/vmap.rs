// SPDX-License-Identifier: MIT OR Apache-2.0
//! The vmap area: virtually contiguous mappings made and undone at run time.
//! Linux: `vmap()`, `get_vm_area()`.
//!
//! An [`Area`] is a range of addresses with an unmapped guard page behind it. Addresses
//! are given out first-fit from a sorted list; the pages below an area are always
//! the guard of the one before. Stacks are in a [region](STACK_REGION) of their own ([`sched::Stack`](crate::sched::Stack)).

use alloc::vec::Vec;
use core::fmt;

use lazymmu::{Backing, Frame, PAGE_SIZE, PageRange, Prot, SpaceError, VirtAddr};

use super::kernel_space::{self, MMU};
use super::layout::{STACKS, STACKS_SIZE, VMAP, VMAP_SIZE};
use crate::sync::IrqLock;

/// Addresses that areas are taken from. Each has top-level entries of its own, so that regions never share a
/// table.
#[derive(Debug)]
pub struct Region {
    start: u64,
    size: u64,
    /// Start and pages (guard included) of every area in use, in ascending order.
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
}

/// What the areas of all regions are counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Areas in use.
    pub areas: usize,
    /// Bytes of heap that the lists of them hold. A list keeps its capacity when areas are given back.
    pub list_bytes: usize,
}

/// How many areas are in use, those of stacks included.
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

/// Why an area could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmapError {
    /// No gap of so many pages is left in the vmap area.
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

/// A range of the vmap area. Its addresses are free again after drop, which unmaps
/// what is still mapped; frames stay with whoever owns them.
#[derive(Debug)]
#[must_use = "the area is given back on drop"]
pub struct Area {
    pages: PageRange,
    region: &'static Region,
}

impl Area {
    /// Takes `pages` pages of addresses and a guard page. Nothing is mapped.
    ///
    /// # Errors
    /// [`VmapError::NoRoom`]; [`VmapError::Space`] for zero pages.
    pub fn reserve(pages: u64) -> Result<Self, VmapError> {
        Self::reserve_in(&GENERAL, pages)
    }

    /// The same, in `region`.
    ///
    /// # Errors
    /// As [`Area::reserve`].
    pub fn reserve_in(region: &'static Region, pages: u64) -> Result<Self, VmapError> {
        let span = pages
            .checked_add(1)
            .filter(|span| *span <= region.size / PAGE_SIZE)
            .ok_or(VmapError::NoRoom { pages })?;
        let mut areas = region.areas.lock();
        areas.try_reserve(1).map_err(|_| VmapError::OutOfMemory)?;
        let (mut start, mut place) = (region.start, areas.len());
        for (i, &(used, used_span)) in areas.iter().enumerate() {
            if used - start >= span * PAGE_SIZE {
                place = i;
                break;
            }
            start = used + used_span * PAGE_SIZE;
        }
        if region.start + region.size - start < span * PAGE_SIZE {
            return Err(VmapError::NoRoom { pages });
        }
        let range = PageRange::new(start, pages).map_err(SpaceError::from)?;
        areas.insert(place, (start, span));
        Ok(Self {
            pages: range,
            region,
        })
    }

    /// The pages of the area, without the guard.
    #[must_use]
    pub const fn pages(&self) -> PageRange {
        self.pages
    }

    /// The first byte address.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.pages.start().as_u64()
    }

    /// The `count` pages from page `first` on, counted from the area's start.
    ///
    /// # Errors
    /// [`SpaceError::Range`] if they are none; [`SpaceError::NotMapped`] beyond the area.
    pub fn part(&self, first: u64, count: u64) -> Result<PageRange, SpaceError> {
        let range = PageRange::new(self.start() + first * PAGE_SIZE, count)?;
        if range.end() > self.pages.end() {
            return Err(SpaceError::NotMapped { va: range.start() });
        }
        Ok(range)
    }

    /// Maps the whole area; in a section of the caller's it takes effect with that section.
    ///
    /// # Errors
    /// Those of [`lazymmu::AddressSpace::map`].
    pub fn map(&self, backing: Backing<'_>, prot: Prot) -> Result<(), SpaceError> {
        kernel_space::lock().map(self.pages, backing, prot)
    }

    /// Unmaps the whole area and invalidates it.
    ///
    /// # Errors
    /// Those of [`lazymmu::AddressSpace::unmap`].
    pub fn unmap(&self) -> Result<(), SpaceError> {
        kernel_space::lock().unmap(self.pages)
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // Addresses that could not be unmapped are not given out again.
        match unmap_what_is_mapped(self.pages) {
            Ok(()) => self
                .region
                .areas
                .lock()
                .retain(|&(start, _)| start != self.start()),
            Err(error) => log::error!("vmap area {} stays in use: {error}", self.pages),
        }
    }
}

/// Unmaps the mapped stretches of `range`, each at once, and frees the tables that
/// this leaves empty.
fn unmap_what_is_mapped(range: PageRange) -> Result<(), SpaceError> {
    let mut space = kernel_space::lock();
    let mut at = range.start().as_u64();
    while at < range.end() {
        let mapped = |va: u64| VirtAddr::new(va).is_some_and(|va| space.query(va).is_some());
        let start = at;
        while at < range.end() && mapped(at) {
            at += PAGE_SIZE;
        }
        if at > start {
            space.unmap(PageRange::from_bounds(start, at)?)?;
        } else {
            at += PAGE_SIZE;
        }
    }
    space.free_empty_tables(range)?;
    Ok(())
}

/// Maps `frames` at consecutive addresses, usable on return. Linux: `vmap()`.
///
/// # Errors
/// [`VmapError`]; nothing is mapped and no address is taken.
pub fn vmap(frames: &[Frame], prot: Prot) -> Result<Area, VmapError> {
    let area = Area::reserve(frames.len() as u64)?;
    area.map(Backing::Scattered(frames), prot)?;
    // R41: whoever gets the area may use it at once, in a section as well.
    MMU.lazy().flush();
    Ok(area)
}
