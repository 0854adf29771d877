// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables before there is an allocator to take them from.
//!
//! The linear map is what makes RAM accessible, and building it takes tables, which take RAM. The way
//! out: boot's tables show the start of the largest usable range ([`boot::show_ram`]), by blocks and
//! at the very addresses at which the linear map will show it. There the tables of the kernel's own
//! address space are built, one after the other, by the same `lazymmu::Mmu` that changes them later: it
//! finds a table at the same address before and after the switch.
//!
//! [`open`] begins, [`close`] ends it and says what was taken. In between the allocator of
//! [`frames`](super::frames) is empty, which is when a request for a table comes here.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use boot::BLOCK_SIZE;
use lazymmu::{Frame, PAGE_SIZE};

use super::layout::{LINEAR, linear_virt};
use crate::arch::page;
use crate::platform::memory_map::MemoryMap;
use crate::platform::phys_range::PhysRange;

/// First byte not handed out.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// End of what may be handed out; 0 while nothing may.
static END: AtomicU64 = AtomicU64::new(0);

/// Begins to hand out frames of the largest usable range. Returns where they begin.
///
/// A range without one whole block has none; the first request for a table says so then.
///
/// # Safety
/// Called once, on the boot CPU, with the boot tables live and nobody using what `memory` calls
/// usable.
pub unsafe fn open(memory: &MemoryMap) -> u64 {
    let home = memory.usable().iter().max_by_key(|range| range.frames());
    let Some(home) = home.map(|range| range.bytes()) else {
        unreachable!("MemoryMap has at least MINIMUM_MEMORY usable bytes");
    };
    // Whole blocks only: what else lies in the block of its first or last byte may be memory that
    // must not be mapped.
    let start = home.start().next_multiple_of(BLOCK_SIZE);
    let end = home.end() / BLOCK_SIZE * BLOCK_SIZE;
    // SAFETY: usable RAM, by this function's contract not in use; blocks, and boot's tables live.
    let end = unsafe { boot::show_ram(LINEAR, start, end) };
    NEXT.store(start, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
    start
}

/// Ends it. Returns the memory that was handed out since `start`, or `None` for nothing.
pub fn close(start: u64) -> Option<PhysRange> {
    END.store(0, Ordering::Relaxed);
    PhysRange::from_bounds(start, NEXT.load(Ordering::Relaxed))
}

/// The next frame, zeroed. `None` after the last one, and outside of [`open`] and [`close`].
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
    // SAFETY: the frame is ours, whole, and shown writable at this address.
    unsafe { page::clear_page(memory) };
    Some(frame)
}

/// Whether a frame that is given back now is one of these. It is not handed out again: only a request
/// that failed gives tables back, and the boot ends with it.
#[inline]
pub fn is_open() -> bool {
    END.load(Ordering::Relaxed) != 0
}
