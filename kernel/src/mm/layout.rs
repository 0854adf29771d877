// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layout of the kernel's half of the address space.
//!
//! ```text
//! 0xffff_0000_0000_0000  linear map: address = base + physical address   64 TiB
//! 0xffff_8000_0000_0000  vmap area: mappings made and undone at run time  32 TiB
//! 0xffff_a000_0000_0000  stacks of tasks                                   1 TiB
//! 0xffff_c000_0000_0000  device registers                                  1 TiB
//! 0xffff_ff00_0000_0000  boot window, only while the boot tables are live
//! 0xffff_ffff_8008_0000  kernel image
//! ```
//!
//! Each region starts at a top-level entry of its own (512 GiB), so that no two regions share a
//! table.

use lazymmu::{Frame, PAGE_SIZE, PageRange};

use crate::platform::memory_map::FrameRange;

/// Start of the linear map.
pub const LINEAR: u64 = 0xffff_0000_0000_0000;
/// Size of the linear map in bytes: RAM above this physical address is not used.
pub const LINEAR_SIZE: u64 = 64 << 40;
/// Start of the vmap area.
pub const VMAP: u64 = 0xffff_8000_0000_0000;
/// Size of the vmap area in bytes.
pub const VMAP_SIZE: u64 = 32 << 40;
/// Start of the tasks' stacks.
pub const STACKS: u64 = 0xffff_a000_0000_0000;
/// Size of the tasks' stacks in bytes.
pub const STACKS_SIZE: u64 = 1 << 40;
/// Start of the device mappings.
pub const DEVICE: u64 = 0xffff_c000_0000_0000;
/// Size of the device mappings in bytes.
pub const DEVICE_SIZE: u64 = 1 << 40;

/// Where the linear map shows physical address `phys`, in bytes.
#[inline(always)]
#[must_use]
pub const fn linear_virt(phys: u64) -> u64 {
    // Physical addresses have 48 bits (the boot checks it), so this cannot wrap.
    LINEAR.wrapping_add(phys)
}

/// The pages where the linear map shows `range`.
#[must_use]
pub fn linear_pages(range: FrameRange) -> PageRange {
    match PageRange::new(linear_virt(range.start().as_u64()), range.frames()) {
        Ok(pages) => pages,
        Err(error) => unreachable!("MemoryMap keeps RAM inside the linear map: {error}"),
    }
}

/// The frame that the linear map shows at `virt`, or `None` outside of the linear map.
#[must_use]
pub const fn linear_frame(virt: u64) -> Option<Frame> {
    if virt < LINEAR || virt - LINEAR >= LINEAR_SIZE {
        return None;
    }
    Frame::from_u64((virt - LINEAR) & !(PAGE_SIZE - 1))
}
