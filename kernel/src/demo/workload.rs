// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames with known contents, to be mapped and read back.

use alloc::vec::Vec;
use core::ptr;

use lazymmu::{Backing, Frame, PAGE_SIZE};

use super::DemoError;
use crate::mm::area::Frames;
use crate::mm::frames::{self, FrameList, OutOfFrames};
use crate::mm::layout::linear_virt;
use crate::mm::vmap::Area;

/// Frames that are scattered over physical memory, each with a mark of its own in its first eight
/// bytes. The drop gives them back.
pub(super) struct Workload {
    frames: FrameList,
    order: Vec<Frame>,
}

impl Workload {
    /// Takes frames for `pages` pages. If fewer than twice as many frames are free, fewer frames
    /// are taken, and each is mapped several times.
    pub(super) fn new(pages: usize) -> Result<Self, OutOfFrames> {
        let usage = frames::usage();
        let distinct = pages.min((usage.total - usage.used) / 2).max(1);
        let mut workload = Self {
            frames: FrameList::alloc(distinct)?,
            order: Vec::with_capacity(pages),
        };
        for (i, frame) in workload.frames.iter().enumerate() {
            write_mark(*frame, mark(i));
        }
        // Neighbors in the list are not neighbors in memory: a stride that shares no factor with
        // the length visits every frame once.
        let stride = (1..).map(|k| 2 * k + 97).find(|s| gcd(*s, distinct) == 1);
        let stride = stride.unwrap_or(1);
        let mut at = 0;
        for _ in 0..pages {
            workload.order.push(workload.frames[at]);
            at = (at + stride) % distinct;
        }
        Ok(workload)
    }

    /// One frame per page.
    pub(super) fn frames(&self) -> &[Frame] {
        &self.order
    }

    /// The number of different frames.
    pub(super) fn distinct(&self) -> usize {
        self.frames.len()
    }

    /// Reads every page of `area` through its new address.
    pub(super) fn read_back<F: Frames>(&self, area: &Area<F>) -> Result<(), DemoError> {
        (0..self.order.len()).try_for_each(|i| self.read_one(area, i))
    }

    /// Reads page `i` of `area` through its new address.
    pub(super) fn read_one<F: Frames>(&self, area: &Area<F>, i: usize) -> Result<(), DemoError> {
        let virt = area.start() + i as u64 * PAGE_SIZE;
        let expected = read_mark(linear_virt(self.order[i].as_u64()));
        let found = read_mark(virt);
        if found == expected {
            Ok(())
        } else {
            Err(DemoError::ReadBack {
                virt,
                expected,
                found,
            })
        }
    }
}

// SAFETY: the frames are those of the list, which does not change before it is dropped.
unsafe impl Frames for Workload {
    fn backing(&self) -> Backing<'_> {
        Backing::Scattered(&self.order)
    }

    fn count(&self) -> u64 {
        self.order.len() as u64
    }
}

fn mark(i: usize) -> u64 {
    0x4c41_5a59_0000_0000 | i as u64
}

fn write_mark(frame: Frame, mark: u64) {
    let place = ptr::with_exposed_provenance_mut::<u64>(linear_virt(frame.as_u64()) as usize);
    // SAFETY: the frame belongs to the workload, and the linear map shows it there, page aligned.
    unsafe { place.write_volatile(mark) };
}

fn read_mark(virt: u64) -> u64 {
    let place = ptr::with_exposed_provenance::<u64>(virt as usize);
    // SAFETY: the address is page aligned, and mapped by the linear map or by the area whose
    // mapping is being checked. If that mapping is wrong, a fault or a wrong value shows it.
    unsafe { place.read_volatile() }
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
