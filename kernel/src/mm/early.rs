// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables before there is memory to put them in.
//!
//! The linear map is what makes RAM accessible, and building it takes tables, which
//! take RAM. The way out: 64 KiB of the image ([`EarlyFrames::pool`]) hold the tables for the
//! first [`FIRST_CHUNK`] bytes of RAM; these hold the tables for the next, larger piece, and
//! so on. Each byte of table maps 512 bytes of RAM, so the pieces grow
//! 500-fold and three of them reach beyond any RAM there is.
//!
//! [`EarlyKernel`] differs from the kernel proper only in where its tables are: in
//! the image or in RAM that is mapped already.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering};

use mmu::{
    Context, Counters, Desc, Frame, Hardware, LazyMmuError, LazyMmuState, PAGE_SIZE, Pte, Table,
    TableFrames, TlbiOp,
};

use super::image::Image;
use super::layout::linear_virt;
use crate::arch::hardware::Arm64;

/// RAM mapped with tables from the image's pool: 12 MiB need 6 last-level tables, or 7 when
/// they start in the middle of a table's span, and at most one more of each level above
/// for a boundary crossed; 16 are there.
pub const FIRST_CHUNK: u64 = 12 << 20;

/// A supply of frames that only goes up: first the pool in the image, then RAM.
#[derive(Debug)]
pub struct EarlyFrames {
    next: AtomicU64,
    end: AtomicU64,
}

impl EarlyFrames {
    /// The pool in the image, zeroed by boot.
    pub fn pool(image: &Image) -> Self {
        let pool = image.early_pool();
        Self {
            next: AtomicU64::new(pool.start()),
            end: AtomicU64::new(pool.end()),
        }
    }

    /// Continues with the RAM `start..end`, physical page-aligned byte addresses.
    pub fn continue_with(&self, start: u64, end: u64) {
        self.next.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
    }

    /// Adds the RAM up to `end`, mapped by now.
    pub fn extend(&self, end: u64) {
        self.end.store(end, Ordering::Relaxed);
    }

    /// First byte not handed out.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Frames left.
    pub fn left(&self) -> u64 {
        (self.end.load(Ordering::Relaxed) - self.next()) / PAGE_SIZE
    }
}

/// The kernel as the `mmu` crate sees it while the linear map grows.
#[derive(Debug)]
pub struct EarlyKernel {
    frames: EarlyFrames,
    image: Image,
}

impl EarlyKernel {
    /// Starts with the pool of `image`.
    pub fn new(image: Image) -> Self {
        Self {
            frames: EarlyFrames::pool(&image),
            image,
        }
    }

    /// Where tables come from.
    pub const fn frames(&self) -> &EarlyFrames {
        &self.frames
    }
}

// SAFETY: frames go up and are handed out once; each is inside the image, which the
// boot tables map, or in RAM that the linear map covers (`extend` is called with nothing
// else), and it is zeroed here.
unsafe impl TableFrames for EarlyKernel {
    fn alloc_table(&self) -> Option<Frame> {
        if self.frames.left() == 0 {
            return None;
        }
        let frame = Frame::from_u64(self.frames.next())?;
        self.frames
            .next
            .store(frame.as_u64() + PAGE_SIZE, Ordering::Relaxed);
        // SAFETY: the frame is ours, mapped, and a table is all atomics, for which
        // zero is a value.
        unsafe { self.table_ptr(frame).write_bytes(0, 1) };
        Some(frame)
    }

    unsafe fn free_table(&self, frame: Frame) {
        // Only a request that failed gives tables back, the last one first, and the boot
        // ends with it.
        self.frames.next.store(frame.as_u64(), Ordering::Relaxed);
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        let address = self
            .image
            .virt_of(frame.as_u64())
            .unwrap_or(linear_virt(frame.as_u64()));
        match NonNull::new(ptr::with_exposed_provenance_mut(address as usize)) {
            Some(table) => table,
            None => unreachable!("neither the image nor the linear map is at 0"),
        }
    }
}

impl Context for EarlyKernel {
    fn lazy(&self) -> &LazyMmuState {
        Arm64.lazy()
    }

    fn in_interrupt(&self) -> bool {
        Arm64.in_interrupt()
    }

    fn counters(&self) -> &Counters {
        Arm64.counters()
    }

    fn report(&self, error: LazyMmuError) {
        Arm64.report(error);
    }
}

impl Hardware for EarlyKernel {
    fn store_linear(&self, run: &[Pte], first: Desc, step: u64) {
        Arm64.store_linear(run, first, step);
    }

    fn store_frames(&self, run: &[Pte], frames: &[Frame], template: Desc) {
        Arm64.store_frames(run, frames, template);
    }

    fn store_zero(&self, run: &[Pte]) {
        Arm64.store_zero(run);
    }

    fn dmb_ishst(&self) {
        Arm64.dmb_ishst();
    }

    fn dsb_ishst(&self) {
        Arm64.dsb_ishst();
    }

    fn dsb_ish(&self) {
        Arm64.dsb_ish();
    }

    fn isb(&self) {
        Arm64.isb();
    }

    fn tlbi(&self, op: TlbiOp, operand: u64) {
        Arm64.tlbi(op, operand);
    }
}
