// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames for page tables before there is an allocator.
//!
//! RAM is accessible through the linear map, and building the linear map takes tables, which take
//! RAM. So the boot tables show the start of the largest usable range ([`boot::show_ram`]), by
//! blocks and at the addresses at which the linear map will show it. The tables of the kernel's own
//! address space are built there, one after the other, by the same `lazymmu::Mmu` that changes them
//! later. It finds a table at the same address before and after the switch to the new tables.
//!
//! [`open`] begins to hand out frames, and [`close`] ends it and returns what was taken. In
//! between, the allocator of [`frames`](super::frames) is empty, so each request for a table comes
//! here.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use boot::BLOCK_SIZE;
use lazymmu::{Frame, PAGE_SIZE};

use super::layout::{LINEAR, linear_virt};
use crate::arch::page;
use crate::platform::memory_map::MemoryMap;
use crate::platform::phys_range::PhysRange;

/// The first byte that is not handed out yet.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// The end of what may be handed out; 0 while nothing may be.
static END: AtomicU64 = AtomicU64::new(0);

/// Begins to hand out frames of the largest usable range. Returns the address at which they begin.
///
/// If the range does not contain a whole block, there are no frames, and the first request for a
/// table fails.
///
/// # Safety
/// Called once, on the boot CPU, while the boot tables are live and the usable ranges of `memory`
/// are not in use.
pub unsafe fn open(memory: &MemoryMap) -> u64 {
    let home = memory.usable().iter().max_by_key(|range| range.frames());
    let Some(home) = home.map(|range| range.bytes()) else {
        unreachable!("MemoryMap has at least MINIMUM_MEMORY usable bytes");
    };
    // Only whole blocks are used: the rest of the block of the first or last byte may be memory
    // that must not be mapped.
    let start = home.start().next_multiple_of(BLOCK_SIZE);
    let end = home.end() / BLOCK_SIZE * BLOCK_SIZE;
    // SAFETY: the range is usable RAM that is not in use (this function's contract), it consists of
    // whole blocks, and the boot tables are live.
    let end = unsafe { boot::show_ram(LINEAR, start, end) };
    NEXT.store(start, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
    start
}

/// Stops handing out frames. Returns the memory that was handed out since `start`, or `None` if
/// there was none.
pub fn close(start: u64) -> Option<PhysRange> {
    END.store(0, Ordering::Relaxed);
    PhysRange::from_bounds(start, NEXT.load(Ordering::Relaxed))
}

/// Returns the next frame, zeroed; `None` after the last one, and when called before [`open`] or
/// after [`close`].
#[cold]
#[inline(never)]
pub fn alloc_zeroed() -> Option<Frame> {
    let next = NEXT.load(Ordering::Relaxed);
    if next >= END.load(Ordering::Relaxed) {
        return None;
    }
    let frame = Frame::from_u64(next)?;
    NEXT.store(next + PAGE_SIZE, Ordering::Relaxed);
    let memory = ptr::with_exposed_provenance_mut::<u8>(linear_virt(next) as usize);
    // SAFETY: the frame has no other user, and the boot tables show all of it writable at this
    // address.
    unsafe { page::clear_page(memory) };
    Some(frame)
}

/// Whether a frame that is given back now was handed out here. Such a frame is not handed out
/// again: only a request that failed gives tables back, and the boot ends with it.
#[inline]
pub fn is_open() -> bool {
    END.load(Ordering::Relaxed) != 0
}
