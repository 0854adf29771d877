// SPDX-License-Identifier: MIT OR Apache-2.0
//! The measured windows, in an order in which each window finds the state that the previous one has
//! left.
//!
//! Numbers below 128 are those of the windows that were measured in Linux; the others are our own.
//! The body of a window is not inlined into the measuring code. The compiler may inline anything of
//! the library into the body.
//!
//! The windows are generic over the kernel below the library. The host test `tests/windows.rs` runs
//! them on the machine model, which predicts their barriers.

use alloc::vec::Vec;
use core::ops::DerefMut;

use lazymmu::{
    AddressSpace, Backing, ENTRIES, Frame, Kernel, Mmu, PAGE_SIZE, PageRange, PendingInvalidation,
    Prot, SpaceError,
};

/// What the windows work on: addresses that have no other user, and frames. `S` is a locked address
/// space of the kernel `K`.
#[derive(Debug)]
pub struct Ground<S, K: Kernel + 'static> {
    /// The library.
    pub mmu: &'static Mmu<K>,
    /// An invalidation that a window has left to a later one.
    pub owed: Option<PendingInvalidation<'static, K>>,
    /// The address space.
    pub space: S,
    /// The addresses that a window uses.
    pub range: PageRange,
    /// The number of these pages.
    pub pages: usize,
    /// Frames for the largest window. Neighbors in the list are not neighbors in memory. Their
    /// number is a multiple of 512.
    pub scattered: Vec<Frame>,
    /// The first frame of a block of consecutive frames, with as many frames as the largest window
    /// has pages.
    pub first: Frame,
}

/// An action on the ground.
pub type Body<S, K> = fn(&mut Ground<S, K>) -> Result<(), SpaceError>;

/// A step of a repetition.
#[derive(Debug)]
pub enum Step<S, K: Kernel + 'static> {
    /// Not measured.
    Prepare(Body<S, K>),
    /// Measured, under this number.
    Window(u8, Body<S, K>),
    /// The same, with one call per page.
    Calls(u8, Body<S, K>),
    /// Undoes such calls; not measured.
    Undo(Body<S, K>),
}

/// The number of steps of a repetition.
pub const STEPS: usize = 28;

/// One repetition. It begins and ends with nothing mapped.
pub const fn steps<S, K>() -> [Step<S, K>; STEPS]
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    [
        Step::Prepare(free_tables),
        Step::Window(1, map_scattered),
        Step::Window(2, unmap),
        Step::Window(10, settle),
        // From here on the tables exist.
        Step::Window(8, map_scattered),
        Step::Window(13, protect_read_only),
        Step::Window(14, protect_read_write),
        Step::Window(9, unmap),
        Step::Prepare(settle),
        Step::Window(129, map_contiguous),
        Step::Prepare(unmap_and_settle),
        Step::Window(11, apply_set),
        Step::Window(12, apply_clear),
        Step::Prepare(flush),
        Step::Window(17, set_slots_one_by_one),
        Step::Prepare(clear_slots),
        Step::Prepare(flush),
        Step::Window(18, set_slots),
        Step::Window(19, clear_slots),
        Step::Prepare(flush),
        Step::Calls(128, map_each_in_a_section),
        Step::Calls(16, unmap_each),
        Step::Calls(15, map_each),
        Step::Undo(unmap_and_settle),
        Step::Prepare(free_tables),
        Step::Window(4, map_contiguous),
        Step::Window(5, unmap),
        Step::Prepare(settle),
    ]
}

/// Linux: `vmap_pages_range()`.
#[inline(never)]
fn map_scattered<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    let backing = Backing::Scattered(&ground.scattered[..ground.pages]);
    ground.space.map(ground.range, backing, Prot::KERNEL)
}

/// Linux: `vmap_page_range()`.
#[inline(never)]
fn map_contiguous<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    let backing = Backing::Contiguous(ground.first);
    ground.space.map(ground.range, backing, Prot::KERNEL)
}

/// Linux: `vunmap_range_noflush()`. The invalidation is left to [`settle`].
#[inline(never)]
fn unmap<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    ground.owed = Some(ground.space.unmap_no_invalidate(ground.range)?);
    Ok(())
}

/// Linux: `set_memory_ro()`.
#[inline(never)]
fn protect_read_only<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    ground.space.protect(ground.range, Prot::KERNEL_RO)
}

/// Linux: `set_memory_rw()`.
#[inline(never)]
fn protect_read_write<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    ground.space.protect(ground.range, Prot::KERNEL)
}

/// Linux: `apply_to_page_range()` with a callback that calls `set_pte_at()`.
#[inline(never)]
fn apply_set<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    let mut frames = ground.scattered.iter();
    ground.space.apply_to_page_range(ground.range, |pte| {
        frames
            .next()
            .map_or(Ok(()), |frame| pte.set(*frame, Prot::KERNEL))
    })
}

/// Linux: the same with `pte_clear()`.
#[inline(never)]
fn apply_clear<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    ground.space.apply_to_page_range(ground.range, |pte| {
        pte.get_and_clear();
        Ok(())
    })
}

/// Linux: `__set_pte()` on known slots, without lazy MMU mode, so each store executes its own
/// barriers.
#[inline(never)]
fn set_slots_one_by_one<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    let _paused = ground.mmu.lazy().paused()?;
    for (i, frames) in ground.scattered.chunks(ENTRIES).enumerate() {
        let first = i * ENTRIES;
        if first >= ground.pages {
            break;
        }
        let pages = ENTRIES.min(ground.pages - first);
        let mut slots = ground
            .space
            .fast_pte_range(nth_table(ground.range, i, pages)?)?;
        for (slot, frame) in frames[..pages].iter().enumerate() {
            slots.set(slot, *frame, Prot::KERNEL)?;
        }
    }
    Ok(())
}

/// The same, in one section for each table.
#[inline(never)]
fn set_slots<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    // Each chunk has a frame for each slot of a table, so the compiler knows that the index is in
    // bounds.
    let (tables, _) = ground.scattered.as_chunks::<ENTRIES>();
    for (i, frames) in tables.iter().enumerate() {
        let first = i * ENTRIES;
        if first >= ground.pages {
            break;
        }
        let pages = ENTRIES.min(ground.pages - first);
        let mut slots = ground
            .space
            .fast_pte_range(nth_table(ground.range, i, pages)?)?;
        slots.set_each(0, pages, Prot::KERNEL, |i| frames[i % ENTRIES])?;
    }
    Ok(())
}

/// Linux: `__pte_clear()` on known slots.
#[inline(never)]
fn clear_slots<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    for (i, first) in (0..ground.pages).step_by(ENTRIES).enumerate() {
        let pages = ENTRIES.min(ground.pages - first);
        let piece = nth_table(ground.range, i, pages)?;
        let mut slots = ground.space.fast_pte_range(piece)?;
        slots.clear_run(0, pages);
    }
    Ok(())
}

/// The first `pages` pages of those that the `i`-th table of `range` translates.
fn nth_table(range: PageRange, i: usize, pages: usize) -> Result<PageRange, SpaceError> {
    let start = range.start().as_u64() + (i * ENTRIES) as u64 * PAGE_SIZE;
    Ok(PageRange::new(start, pages as u64)?)
}

/// The use case of lazy MMU mode: many independent calls in one section.
#[inline(never)]
fn map_each_in_a_section<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    let _section = ground.mmu.lazy().section()?;
    map_each(ground)
}

/// The same calls, outside of any section.
#[inline(never)]
fn map_each<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    for (page, frame) in ground.range.by_page().zip(&ground.scattered) {
        ground
            .space
            .map(page, Backing::Contiguous(*frame), Prot::KERNEL)?;
    }
    Ok(())
}

/// Linux: `vunmap_range()` of each page.
#[inline(never)]
fn unmap_each<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    for page in ground.range.by_page() {
        ground.space.unmap(page)?;
    }
    Ok(())
}

/// Executes the invalidation that [`unmap`] has left. Linux: `flush_tlb_kernel_range()`.
#[inline(never)]
fn settle<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    if let Some(owed) = ground.owed.take() {
        ground.space.invalidate(owed);
    }
    Ok(())
}

/// Invalidates the pages whose entries callbacks and slots have cleared.
fn flush<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    ground.space.invalidate_range(ground.range)
}

fn unmap_and_settle<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    unmap(ground)?;
    settle(ground)
}

fn free_tables<S, K>(ground: &mut Ground<S, K>) -> Result<(), SpaceError>
where
    S: DerefMut<Target = AddressSpace<'static, K>>,
    K: Kernel + 'static,
{
    ground.space.free_empty_tables(ground.range).map(|_| ())
}
