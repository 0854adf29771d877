// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel heap: `buddy_system_allocator` on frames. It grows when it has no room.
//!
//! Frames that are given to the heap stay with it. They count as used frames, and [`frames_held`]
//! tells how many of the used frames belong to the heap.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use lazymmu::PAGE_SIZE;

use super::{frames, layout::linear_virt};
use crate::sync::IrqLock;

/// The largest allocation is 2^(ORDER - 1) bytes, 1 GiB.
const ORDER: usize = 31;

/// Larger requests are refused without taking frames for them.
const LARGEST: usize = 1 << (ORDER - 1);

/// The heap grows by at least this many frames (1 MiB).
const GROWTH: usize = 256;

struct KernelHeap {
    heap: Heap<ORDER>,
    frames: usize,
}

struct GlobalHeap(IrqLock<KernelHeap>);

#[global_allocator]
static HEAP: GlobalHeap = GlobalHeap(IrqLock::new(KernelHeap {
    heap: Heap::new(),
    frames: 0,
}));

/// Frames that the heap holds.
pub fn frames_held() -> usize {
    HEAP.0.lock().frames
}

/// Bytes that are allocated, rounded up to the allocator's blocks.
pub fn bytes_used() -> usize {
    HEAP.0.lock().heap.stats_alloc_actual()
}

impl KernelHeap {
    fn alloc(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if let Ok(memory) = self.heap.alloc(layout) {
            return Some(memory);
        }
        // Lock order: heap, then frames. The frame allocator never uses the heap.
        let bytes = layout.size().max(layout.align());
        if bytes > LARGEST {
            return None;
        }
        let count = bytes
            .div_ceil(PAGE_SIZE as usize)
            .max(GROWTH)
            .next_power_of_two();
        let first = frames::alloc_contiguous(count).ok()?;
        let start = linear_virt(first.as_u64()) as usize;
        // SAFETY: the heap owns the block of frames, and the linear map shows it.
        unsafe {
            self.heap
                .add_to_heap(start, start + count * PAGE_SIZE as usize)
        };
        self.frames += count;
        self.heap.alloc(layout).ok()
    }
}

// SAFETY: `Heap` hands out disjoint, suitably aligned blocks and takes back what it handed out. The
// lock gives it to one caller at a time, interrupt handlers included.
unsafe impl GlobalAlloc for GlobalHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.0.lock().alloc(layout) {
            Some(memory) => memory.as_ptr(),
            None => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if let Some(memory) = NonNull::new(memory) {
            // SAFETY: by the trait's contract the block came from `alloc` with
            // the same layout.
            unsafe { self.0.lock().heap.dealloc(memory, layout) };
        }
    }
}
