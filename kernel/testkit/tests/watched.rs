// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fake machine watches an allocator of tables that is another kernel's.

use lazymmu::{AddressSpace, Asid, Frame, Mmu, PAGE_SIZE, Prot, SpaceKind, Table, TableFrames};
use lazymmu_testkit::ForOneTask as _;
use lazymmu_testkit::fake::{Effect, Watched, contiguous, destroy, new_space, pages, refused};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// A pool of 16 tables at a physical address of its own, without a heap.
struct Pool {
    tables: [Table; 16],
    used: Cell<u16>,
    /// What was in a table that is freed stays there until it is used again, or for ever.
    zeroes: bool,
}

const BASE: u64 = 0x8_0000_0000;

impl Pool {
    const fn new(zeroes: bool) -> Self {
        Self {
            tables: [const { Table::new() }; 16],
            used: Cell::new(0),
            zeroes,
        }
    }
}

// SAFETY: each bit of `used` stands for the table of its number, which is given to one caller at a
// time, and zeroed (unless a test asks for the mistake of leaving that out).
unsafe impl TableFrames for Pool {
    fn alloc_table(&self) -> Option<Frame> {
        let number = self.used.get().trailing_ones();
        let table = self.tables.get(number as usize)?;
        self.used.set(self.used.get() | 1 << number);
        for pte in table.entries().iter().filter(|_| self.zeroes) {
            // SAFETY: a `Pte` is a live, aligned, atomically accessed 64-bit cell.
            unsafe { AtomicU64::from_ptr(pte.as_ptr()) }.store(0, Ordering::Relaxed);
        }
        Frame::from_u64(BASE + u64::from(number) * PAGE_SIZE)
    }

    unsafe fn free_table(&self, frame: Frame) {
        let number = (frame.as_u64() - BASE) / PAGE_SIZE;
        self.used.set(self.used.get() & !(1 << number));
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        let number = (frame.as_u64() - BASE) / PAGE_SIZE;
        NonNull::from(&self.tables[number as usize])
    }
}

#[test]
fn a_pool_of_another_kernel_serves_the_library_and_is_watched() {
    let mmu = Mmu::new(Watched::new(Pool::new(true)));
    let mut space = new_space(&mmu, SpaceKind::User(Asid(7)));
    let range = pages(0x40_0000, 3);
    space
        .map(range, contiguous(5), Prot::USER)
        .expect("there are tables");
    let effects = mmu.kernel().take_effects();
    let allocated = |effect: &&Effect| matches!(effect, Effect::Alloc(_));
    assert_eq!(effects.iter().filter(allocated).count(), 4);
    assert!(effects.contains(&Effect::Alloc(BASE)), "{effects:?}");
    assert_eq!(mmu.kernel().image().len(), 4);
    space.unmap(range).expect("they are mapped");
    assert_eq!(space.free_empty_tables(range), Ok(3));
    // All that are left: a root and three tables are one space, so four of them take all 16.
    let spaces: Vec<_> = (1..4)
        .map(|asid| {
            let mut space = new_space(&mmu, SpaceKind::User(Asid(asid)));
            space
                .map(range, contiguous(5), Prot::USER)
                .expect("there are tables");
            space
        })
        .collect();
    space
        .map(range, contiguous(5), Prot::USER)
        .expect("there are tables");
    refused(&mmu, || AddressSpace::new(&mmu, SpaceKind::Kernel));
    spaces.into_iter().chain([space]).for_each(|space| {
        destroy(space);
    });
    assert_eq!(mmu.kernel().live_tables(), 0);
}

#[test]
#[should_panic(expected = "is not zeroed")]
fn a_pool_that_forgets_its_zeroes_is_caught() {
    let mmu = Mmu::new(Watched::new(Pool::new(false)));
    let mut space = new_space(&mmu, SpaceKind::Kernel);
    let range = pages(lazymmu::Half::Upper.start(), 1);
    space
        .map(range, contiguous(5), Prot::KERNEL)
        .expect("there are tables");
    destroy(space);
    new_space(&mmu, SpaceKind::Kernel);
}

#[test]
#[should_panic(expected = "build the space with fake::new_space")]
fn a_second_space_of_one_task_is_not_watched_and_says_so() {
    let mmu = Mmu::for_one_task(Pool::new(true));
    let mut first = AddressSpace::new_kernel(&mmu).expect("there are tables");
    let range = pages(lazymmu::Half::Upper.start(), 1);
    first
        .map(range, contiguous(5), Prot::KERNEL)
        .expect("there are tables");
    let mut second = AddressSpace::new_kernel(&mmu).expect("there are tables");
    let _ = second.map(range, contiguous(5), Prot::KERNEL);
}

#[test]
fn a_second_space_of_one_task_is_watched_if_its_root_is_named() {
    let mmu = Mmu::for_one_task(Pool::new(true));
    let range = pages(lazymmu::Half::Upper.start(), 1);
    let first = AddressSpace::new_kernel(&mmu).expect("there are tables");
    let second = new_space(&mmu, SpaceKind::Kernel);
    for mut space in [first, second] {
        space
            .map(range, contiguous(5), Prot::KERNEL)
            .expect("there are tables");
        destroy(space);
    }
}
