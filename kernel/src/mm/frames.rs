// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocator of physical memory: single frames, and runs of them.
//!
//! Free memory is managed by a buddy allocator (`buddy_system_allocator`) that works on the linear
//! map. A free block holds its own list link, so free memory costs nothing.
//!
//! Most requests are for single frames. They are served from a list in front of the buddy
//! allocator, which is refilled in blocks of [`REFILL`] frames, and emptied only when a larger
//! block cannot be had otherwise. Linux has per-CPU page lists in the same place. Here the purpose
//! is that giving a frame back is a push, while the buddy allocator would search its list for the
//! neighbor.
//!
//! Every frame that is handed out is counted, so that a test can tell whether it has given all of
//! them back.

use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use lazymmu::{Backing, Frame, PAGE_SIZE};

use super::area::Frames;
use super::layout::{linear_frame, linear_virt};
use crate::arch::page;
use crate::platform::memory_map::FrameRange;
use crate::sync::IrqLock;

/// The largest block is 2^(ORDER - 1) bytes, 16 TiB.
const ORDER: usize = 45;

/// The number of single frames taken from the buddy allocator at a time.
const REFILL: usize = 64;

/// Physical memory is exhausted, or has no free block of the requested size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames {
    /// Frames asked for.
    pub wanted: usize,
    /// Frames that were free at that moment, in blocks of any size.
    pub free: usize,
}

impl fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no block of {} frames is free ({} frames are, in pieces): give the machine more memory or map less",
            self.wanted, self.free
        )
    }
}

impl core::error::Error for OutOfFrames {}

/// The number of frames at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Frames that the allocator was given.
    pub total: usize,
    /// Frames that were handed out and not given back.
    pub used: usize,
}

struct Allocator {
    buddy: Heap<ORDER>,
    singles: Option<NonNull<FreeFrame>>,
    usage: Usage,
    /// While `Some`, the number of frames that may still be handed out.
    budget: Option<usize>,
}

/// The content of a free single frame.
struct FreeFrame {
    next: Option<NonNull<FreeFrame>>,
}

// SAFETY: the pointers lead to free memory that only this structure knows, and the structure is
// reached only through the lock below.
unsafe impl Send for Allocator {}

static FRAMES: IrqLock<Allocator> = IrqLock::new(Allocator {
    buddy: Heap::new(),
    singles: None,
    usage: Usage { total: 0, used: 0 },
    budget: None,
});

/// Gives RAM to the allocator.
///
/// # Safety
/// The linear map covers `range`, the range is not in use, and it is given once.
pub unsafe fn add(range: FrameRange) {
    let start = linear_virt(range.start().as_u64()) as usize;
    let end = start + (range.frames() * PAGE_SIZE) as usize;
    let mut frames = FRAMES.lock();
    // SAFETY: the memory is mapped, writable and unused (this function's contract).
    unsafe { frames.buddy.add_to_heap(start, end) };
    frames.usage.total += range.frames() as usize;
}

/// Takes one frame; its contents are undefined.
///
/// # Errors
/// [`OutOfFrames`] if none is left.
pub fn alloc() -> Result<Frame, OutOfFrames> {
    FRAMES.lock().take_single()
}

/// Takes one frame and fills it with zeros.
///
/// # Errors
/// [`OutOfFrames`] if none is left.
pub fn alloc_zeroed() -> Result<Frame, OutOfFrames> {
    let frame = alloc()?;
    let memory = ptr::with_exposed_provenance_mut::<u8>(linear_virt(frame.as_u64()) as usize);
    // SAFETY: the frame has no other user, and the linear map shows all of it writable at this
    // address.
    unsafe { page::clear_page(memory) };
    Ok(frame)
}

/// Takes `count` physically consecutive frames, aligned to `count` rounded up to a
/// power of two; returns the first. Contents are undefined.
///
/// # Errors
/// [`OutOfFrames`] if no such block is free.
pub fn alloc_contiguous(count: usize) -> Result<Frame, OutOfFrames> {
    let mut frames = FRAMES.lock();
    let size = count.next_power_of_two();
    if frames.budget.is_some_and(|budget| budget < size) {
        return Err(frames.exhausted(count));
    }
    let block = frames.buddy.alloc(block_layout(count)).or_else(|()| {
        frames.drain_singles();
        frames.buddy.alloc(block_layout(count))
    });
    match block {
        Ok(memory) => {
            frames.usage.used += size;
            frames.budget = frames.budget.map(|budget| budget - size);
            Ok(frame_at(memory))
        }
        Err(()) => Err(frames.exhausted(count)),
    }
}

/// Gives one frame back.
///
/// # Safety
/// The frame came from [`alloc()`] or [`alloc_zeroed`], it is not in use, and no TLB entry and no
/// walker can still lead to it (R25).
pub unsafe fn free(frame: Frame) {
    let mut frames = FRAMES.lock();
    frames.usage.used -= 1;
    // SAFETY: the caller gives the frame up.
    unsafe { frames.push_single(frame) };
}

/// Gives back what [`alloc_contiguous`] returned for the same `count`.
///
/// # Safety
/// As [`free`], for each frame of the block.
pub unsafe fn free_contiguous(first: Frame, count: usize) {
    let mut frames = FRAMES.lock();
    frames.usage.used -= count.next_power_of_two();
    let memory = free_memory(first).cast();
    // SAFETY: the block was allocated with this layout and the caller gives it up.
    unsafe { frames.buddy.dealloc(memory, block_layout(count)) };
}

/// How many frames there are and how many are handed out.
pub fn usage() -> Usage {
    FRAMES.lock().usage
}

/// Lets at most `budget` more frames be handed out, or any number again with `None`. Tests use it
/// to run out of memory at a chosen point.
pub fn set_budget(budget: Option<usize>) {
    FRAMES.lock().budget = budget;
}

/// How many more frames [`set_budget`] allows to be handed out.
pub fn budget() -> Option<usize> {
    FRAMES.lock().budget
}

/// Single frames, given back on drop. An [`Area`] that maps them owns the list or borrows it, so
/// they are not mapped any more when the list is dropped (R25).
///
/// [`Area`]: super::area::Area
#[derive(Debug)]
pub struct FrameList(Vec<Frame>);

impl FrameList {
    /// Takes `count` frames; contents are undefined.
    ///
    /// # Errors
    /// [`OutOfFrames`]; what was taken is given back.
    pub fn alloc(count: usize) -> Result<Self, OutOfFrames> {
        let mut list = Self(Vec::new());
        // The list itself takes memory as well.
        if list.0.try_reserve_exact(count).is_err() {
            return Err(FRAMES.lock().exhausted(count));
        }
        while list.0.len() < count {
            list.0.push(alloc()?);
        }
        Ok(list)
    }
}

impl Deref for FrameList {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        &self.0
    }
}

impl Drop for FrameList {
    fn drop(&mut self) {
        for frame in &self.0 {
            // SAFETY: the frame was taken in `alloc` and belongs to the list. An area that mapped
            // it is gone.
            unsafe { free(*frame) };
        }
    }
}

// SAFETY: the list does not change before it is dropped.
unsafe impl Frames for FrameList {
    fn backing(&self) -> Backing<'_> {
        Backing::Scattered(&self.0)
    }

    fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Physically consecutive frames, given back on drop. As with a [`FrameList`], they are not mapped
/// any more then.
#[derive(Debug)]
pub struct Block {
    first: Frame,
    count: usize,
}

impl Block {
    /// Takes `count` frames as [`alloc_contiguous`] does.
    ///
    /// # Errors
    /// [`OutOfFrames`] if no such block is free.
    pub fn alloc(count: usize) -> Result<Self, OutOfFrames> {
        let first = alloc_contiguous(count)?;
        Ok(Self { first, count })
    }

    /// The first frame.
    #[must_use]
    pub const fn first(&self) -> Frame {
        self.first
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block was taken in `alloc` with this count. An area that mapped it is gone.
        unsafe { free_contiguous(self.first, self.count) };
    }
}

// SAFETY: the block does not change before it is dropped.
unsafe impl Frames for Block {
    fn backing(&self) -> Backing<'_> {
        Backing::Contiguous(self.first)
    }

    fn count(&self) -> u64 {
        self.count as u64
    }
}

impl Allocator {
    fn exhausted(&self, wanted: usize) -> OutOfFrames {
        OutOfFrames {
            wanted,
            free: self.usage.total - self.usage.used,
        }
    }

    fn take_single(&mut self) -> Result<Frame, OutOfFrames> {
        if self.budget == Some(0) || (self.singles.is_none() && !self.refill()) {
            return Err(self.exhausted(1));
        }
        let Some(memory) = self.singles else {
            return Err(self.exhausted(1));
        };
        // SAFETY: the list holds free frames, and `push_single` has written a `FreeFrame` to each.
        self.singles = unsafe { memory.as_ref() }.next;
        self.usage.used += 1;
        self.budget = self.budget.map(|n| n - 1);
        Ok(frame_at(memory.cast()))
    }

    /// Moves a block of up to [`REFILL`] frames, the largest that is free, from the buddy allocator
    /// to the list of single frames.
    fn refill(&mut self) -> bool {
        let mut count = REFILL;
        while count > 0 {
            if let Ok(memory) = self.buddy.alloc(block_layout(count)) {
                let first = frame_at(memory);
                // The frame pushed last is taken first, so frames come out in ascending order.
                for i in (0..count as u64).rev() {
                    if let Some(frame) = first.offset(i) {
                        // SAFETY: a frame of the block just allocated.
                        unsafe { self.push_single(frame) };
                    }
                }
                return true;
            }
            count /= 2;
        }
        false
    }

    /// Gives all single frames to the buddy allocator, which joins neighbors.
    fn drain_singles(&mut self) {
        while let Some(memory) = self.singles {
            // SAFETY: as in `take_single`.
            self.singles = unsafe { memory.as_ref() }.next;
            // SAFETY: the frame is free and was allocated from the buddy allocator as part of a
            // larger block. Blocks are powers of two, so each part may be freed by itself.
            unsafe { self.buddy.dealloc(memory.cast(), block_layout(1)) };
        }
    }

    /// # Safety
    /// The frame is free, and no other code knows it.
    unsafe fn push_single(&mut self, frame: Frame) {
        let memory = free_memory(frame);
        // SAFETY: the frame is free, and the linear map shows it, page aligned and larger than a
        // `FreeFrame`.
        unsafe { memory.write(FreeFrame { next: self.singles }) };
        self.singles = Some(memory);
    }
}

fn block_layout(count: usize) -> Layout {
    let bytes = count.next_power_of_two().checked_mul(PAGE_SIZE as usize);
    match bytes.map(|bytes| Layout::from_size_align(bytes, bytes)) {
        Some(Ok(layout)) => layout,
        _ => unreachable!("a block of {count} frames is larger than all addresses"),
    }
}

fn frame_at(memory: NonNull<u8>) -> Frame {
    match linear_frame(memory.as_ptr().expose_provenance() as u64) {
        Some(frame) => frame,
        None => unreachable!("the allocator was given linear-map memory only"),
    }
}

fn free_memory(frame: Frame) -> NonNull<FreeFrame> {
    let address = linear_virt(frame.as_u64()) as usize;
    match NonNull::new(ptr::with_exposed_provenance_mut(address)) {
        Some(memory) => memory,
        None => unreachable!("the linear map does not start at 0"),
    }
}
