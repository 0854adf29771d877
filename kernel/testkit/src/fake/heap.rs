// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocator of [`super::Fake`]: each table is a box.

use lazymmu::{Frame, PAGE_SIZE, Table, TableFrames};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ptr::NonNull;

/// An unlimited allocator of frames with ascending addresses, each with a table on the heap. No
/// frame is allocated twice.
#[derive(Debug)]
pub struct Heap {
    tables: RefCell<BTreeMap<u64, NonNull<Table>>>,
    next_frame: Cell<u64>,
}

impl Default for Heap {
    fn default() -> Self {
        Self {
            tables: RefCell::default(),
            next_frame: Cell::new(0x4_0000_0000),
        }
    }
}

// SAFETY: from `alloc_table` to `free_table`, each frame stands for one leaked box, zeroed at
// first.
unsafe impl TableFrames for Heap {
    fn alloc_table(&self) -> Option<Frame> {
        let frame = self.next_frame.get();
        self.next_frame.set(frame + PAGE_SIZE);
        let table = NonNull::from(Box::leak(Box::new(Table::new())));
        self.tables.borrow_mut().insert(frame, table);
        Frame::from_u64(frame)
    }

    unsafe fn free_table(&self, frame: Frame) {
        let Some(table) = self.tables.borrow_mut().remove(&frame.as_u64()) else {
            panic!("{frame:?} is freed twice, or was never a table");
        };
        // SAFETY: `table` is the box leaked by `alloc_table`, removed from the list above.
        drop(unsafe { Box::from_raw(table.as_ptr()) });
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        let tables = self.tables.borrow();
        *tables
            .get(&frame.as_u64())
            .unwrap_or_else(|| panic!("no table lives in {frame:?}"))
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        for &table in self.tables.get_mut().values() {
            // SAFETY: a live table is a leaked box, and only `free_table` and this drop reclaim it.
            drop(unsafe { Box::from_raw(table.as_ptr()) });
        }
    }
}
