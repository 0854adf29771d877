// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for tables from a `static`, for code that has no allocator yet.

use crate::addr::{Frame, PAGE_SIZE};
use crate::hardware::TableFrames;
use crate::table::Table;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

/// `N` tables of 4 KiB each. `&'static TablePool<N>` implements [`TableFrames`].
///
/// An allocation searches for a free table from the start, so it takes up to `N` steps.
pub struct TablePool<const N: usize> {
    tables: [Table; N],
    taken: [AtomicBool; N],
    /// The virtual minus the physical address of the pool, in bytes, modulo 2^64.
    offset: u64,
}

impl<const N: usize> TablePool<N> {
    /// A pool whose virtual addresses are `offset` bytes above its physical ones, modulo 2^64: 0 in
    /// an identity map, and for a pool in a kernel's image the link address minus the load address.
    /// A table at a physical address of 2^48 or above is never allocated.
    ///
    /// Put the pool into a `static`. It takes `N` times 4096 bytes and is aligned to 4096. All
    /// bytes are zero, so they take no room in an image.
    ///
    /// # Safety
    /// `offset` is the virtual minus the physical address of the pool while it is in use. With
    /// another offset a walker would read other memory than this library writes.
    pub const unsafe fn new(offset: u64) -> Self {
        Self {
            tables: [const { Table::new() }; N],
            taken: [const { AtomicBool::new(false) }; N],
            offset,
        }
    }

    /// The number of tables that are not in use.
    pub fn free_tables(&self) -> usize {
        let is_free = |taken: &&AtomicBool| !taken.load(Ordering::Relaxed);
        self.taken.iter().filter(is_free).count()
    }

    /// The frame of table `index`, if its physical address is below 2^48.
    fn frame(&self, index: usize) -> Option<Frame> {
        let address = (&raw const self.tables[index]).expose_provenance() as u64;
        Frame::from_u64(address.wrapping_sub(self.offset))
    }

    /// The index of the table in `frame`.
    ///
    /// # Panics
    /// If no table of the pool is in `frame`.
    fn index(&self, frame: Frame) -> usize {
        let base = self.tables.as_ptr().addr() as u64;
        let distance = frame.as_u64().wrapping_add(self.offset).wrapping_sub(base);
        let index = (distance / PAGE_SIZE) as usize;
        assert!(
            index < N,
            "{frame:?} is not a table of this pool: pass only frames of this pool"
        );
        index
    }
}

// SAFETY: a table belongs to one caller from `alloc_table`, which returns it zeroed, to
// `free_table`. The pool is a `static`, so it does not move and is ordinary memory, at the physical
// address that the caller of `new` has promised.
unsafe impl<const N: usize> TableFrames for &'static TablePool<N> {
    fn alloc_table(&self) -> Option<Frame> {
        for (index, taken) in self.taken.iter().enumerate() {
            let frame = self.frame(index)?;
            // Acquire pairs with the release in `free_table`, so this caller reads the zeros that
            // were written there.
            if !taken.swap(true, Ordering::Acquire) {
                return Some(frame);
            }
        }
        None
    }

    unsafe fn free_table(&self, frame: Frame) {
        let index = self.index(frame);
        for entry in self.tables[index].entries() {
            entry.clear();
        }
        self.taken[index].store(false, Ordering::Release);
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        NonNull::from(&self.tables[self.index(frame)])
    }
}

impl<const N: usize> fmt::Debug for TablePool<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TablePool({} of {N} free)", self.free_tables())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desc::Desc;

    #[test]
    fn tables_are_distinct_zeroed_and_had_again() {
        // SAFETY: nothing walks these tables.
        static POOL: TablePool<3> = unsafe { TablePool::new(0) };
        let pool = &POOL;
        let frames: Vec<Frame> = core::iter::from_fn(|| pool.alloc_table()).collect();
        assert_eq!(frames.len(), 3);
        assert_eq!((pool.alloc_table(), POOL.free_tables()), (None, 0));
        for pair in frames.windows(2) {
            assert_eq!(pair[1].as_u64() - pair[0].as_u64(), PAGE_SIZE);
        }
        // SAFETY: the pool is a `static`.
        let table = || unsafe { pool.table_ptr(frames[1]).as_ref() };
        #[expect(clippy::disallowed_methods, reason = "the table is in no tree")]
        table().entries()[511].store(Desc::from_u64(u64::MAX));
        // SAFETY: nothing links the table.
        unsafe { pool.free_table(frames[1]) };
        assert_eq!(pool.alloc_table(), Some(frames[1]));
        assert!(
            table()
                .entries()
                .iter()
                .all(|entry| !entry.load().is_in_use())
        );
    }

    #[test]
    fn physical_addresses_are_the_offset_below_and_must_be_frames() {
        // SAFETY: nothing walks these tables.
        static HIGH: TablePool<1> = unsafe { TablePool::new(0x1000) };
        let pool = &HIGH;
        let frame = pool.alloc_table().unwrap();
        let address = pool.table_ptr(frame).addr().get() as u64;
        assert_eq!(frame.as_u64(), address - 0x1000);
        // Its physical address would be above 2^48.
        // SAFETY: nothing walks these tables.
        static NOWHERE: TablePool<1> = unsafe { TablePool::new(1 << 63) };
        assert_eq!((&NOWHERE).alloc_table(), None);
    }
}
