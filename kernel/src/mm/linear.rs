// SPDX-License-Identifier: MIT OR Apache-2.0
//! The linear map: all RAM, mapped by 4 KiB pages through the `lazymmu` crate's own `map`.

use lazymmu::{Backing, Counts, Prot, SpaceError};

use super::kernel_space::Space;
use super::layout::linear_pages;
use crate::arch::window::{self, WindowId};
use crate::platform::memory_map::MemoryMap;

/// The number of the measured window.
const LINEAR_MAP: u8 = 141;

/// What building the linear map took.
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// The pages that were mapped.
    pub pages: u64,
    /// The counts of what was executed.
    pub counts: Counts,
}

/// Maps all RAM of `memory` in `space`, which is not live yet.
///
/// # Errors
/// Those of [`AddressSpace::map`](lazymmu::AddressSpace::map); out of tables only if usable RAM is
/// in pieces too small for them.
pub fn build(space: &mut Space, memory: &MemoryMap) -> Result<Built, SpaceError> {
    let before = space.mmu().counts();
    let mut pages = 0;
    let all = memory
        .linear()
        .iter()
        .map(|range| range.frames())
        .sum::<u64>();
    let id = WindowId::new(LINEAR_MAP, all as usize);
    window::begin(id);
    for range in memory.linear() {
        space.map(
            linear_pages(*range),
            Backing::Contiguous(range.start()),
            Prot::KERNEL,
        )?;
        pages += range.frames();
    }
    window::end(id);
    Ok(Built {
        pages,
        counts: space.mmu().counts() - before,
    })
}
