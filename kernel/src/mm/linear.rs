// SPDX-License-Identifier: MIT OR Apache-2.0
//! The linear map: all RAM, by 4 KiB pages, through the `mmu` crate's own runs.

use mmu::{AddressSpace, Backing, Counts, Mmu, PAGE_SIZE, Prot, SpaceError};

use super::early::{EarlyKernel, FIRST_CHUNK};
use super::layout::linear_pages;
use crate::platform::memory_map::{FrameRange, MemoryMap};
use crate::platform::phys_range::PhysRange;

/// What the construction took.
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// Pages mapped.
    pub pages: u64,
    /// RAM that now holds tables, taken from the start of the usable range that
    /// began with the same address.
    pub tables: PhysRange,
    /// What was executed.
    pub counts: Counts,
}

/// Maps all of `memory` in `space`, the live boot tables.
///
/// # Errors
/// Those of [`AddressSpace::map`]; out of tables only if usable RAM is in pieces too
/// small for the tables of the rest.
pub fn build(
    mmu: &Mmu<EarlyKernel>,
    space: &mut AddressSpace<'_, EarlyKernel>,
    memory: &MemoryMap,
) -> Result<Built, SpaceError> {
    use mmu::Context;
    let kernel = mmu.kernel();
    let frames = kernel.frames();
    let before = kernel.counters().read();
    // Tables go to the start of the largest usable range. It is mapped piece by
    // piece, and what is mapped may hold tables.
    let Some(home) = memory
        .usable()
        .iter()
        .copied()
        .max_by_key(|range| range.frames())
    else {
        unreachable!("MemoryMap has at least MINIMUM_MEMORY usable bytes");
    };
    let mut pages = 0;
    let mut mapped_to = home.bytes().start();
    let first = FIRST_CHUNK.min(home.bytes().size());
    while mapped_to < home.bytes().end() {
        let is_first = mapped_to == home.bytes().start();
        let step = if is_first {
            first
        } else {
            // 512 pages per table, less the few tables of the levels above.
            frames.left().saturating_sub(frames.left() / 256 + 8) * 512 * PAGE_SIZE
        };
        let end = home.bytes().end().min(mapped_to + step.max(PAGE_SIZE));
        pages += map(space, mapped_to, end)?;
        mapped_to = end;
        if is_first {
            frames.continue_with(home.bytes().start(), end);
        } else {
            frames.extend(end);
        }
    }
    for range in memory.linear() {
        for (start, end) in without(range.bytes(), home.bytes()) {
            pages += map(space, start, end)?;
        }
    }
    Ok(Built {
        pages,
        tables: match PhysRange::from_bounds(home.bytes().start(), frames.next()) {
            Some(used) => used,
            None => unreachable!("the linear map of {home} took at least one table"),
        },
        counts: kernel.counters().read() - before,
    })
}

/// Maps the RAM `start..end`, physical byte addresses. Returns the number of pages.
fn map(space: &mut AddressSpace<'_, EarlyKernel>, start: u64, end: u64) -> Result<u64, SpaceError> {
    let Some(range) = PhysRange::from_bounds(start, end).and_then(FrameRange::inside) else {
        return Ok(0);
    };
    space.map(
        linear_pages(range),
        Backing::Contiguous(range.start()),
        Prot::KERNEL,
    )?;
    Ok(range.frames())
}

/// The parts of `range` below and above `hole`; empty ones have `start >= end`.
fn without(range: PhysRange, hole: PhysRange) -> impl Iterator<Item = (u64, u64)> {
    [
        (range.start(), range.end().min(hole.start())),
        (range.start().max(hole.end()), range.end()),
    ]
    .into_iter()
    .filter(|(start, end)| start < end)
}
