// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access and dirty bits that hardware sets while a store waits (R24).
//!
//! Each case writes an entry in a section, lets "hardware" touch it, and ends the section. With
//! TCR_EL1.{HA,HD} = 0 nothing of this happens; the queues must be right without that. Values
//! that the library makes have AF and no DBM, so dirt goes to software's bit; entries that it only moves
//! (members of contiguous groups) keep hardware's.

use lazymmu::{AddressSpace, Backend, Frame, MemoryType, Mmu, PAGE_SIZE, PageRange, Prot, bits};
use lazymmu_testkit::fake::{
    self, Fake, USER, contiguous, enable_fast, frame, new_mmu_with, new_space_with_tables, pages,
    table_of,
};

/// Who lets stores wait.
const QUEUES: [Backend; 2] = [Backend::DeferStores, Backend::Multicall];
const AF: u64 = bits::AF;
const RO: u64 = bits::AP_READ_ONLY;
const DBM: u64 = bits::DBM;
const DIRTY: u64 = bits::SOFTWARE_DIRTY;

fn range() -> PageRange {
    pages(3 << 39, 16)
}

fn page(i: u64) -> PageRange {
    pages((3 << 39) + i * PAGE_SIZE, 1)
}

/// A space in which `range` is mapped to frames from `first` on.
fn space(mmu: &Mmu<Fake>, first: u64) -> (AddressSpace<'_, Fake>, Frame) {
    let mut space = new_space_with_tables(mmu, USER, range());
    space.map(range(), contiguous(first), Prot::USER).unwrap();
    let table = table_of(&space, range());
    (space, table)
}

/// Entry 1 is changed by `before`, then protected to read only; then hardware does `walker`, and the
/// section ends. Returns what is in memory.
fn after(backend: Backend, before: (u64, u64), walker: fn(&Fake, Frame)) -> u64 {
    let mmu = new_mmu_with(backend);
    let (mut space, table) = space(&mmu, 33);
    let kernel = mmu.kernel();
    kernel.walker_writes(table, 1, before.0, before.1);
    let held = kernel.memory(table, 1);
    enable_fast(&space, range());
    space.protect(page(1), Prot::USER_RO).unwrap();
    assert_eq!(kernel.memory(table, 1), held, "{backend}: it waits");
    walker(kernel, table);
    mmu.lazy().disable().unwrap();
    let now = kernel.memory(table, 1);
    assert_eq!(now & bits::ADDRESS, frame(34).as_u64());
    fake::destroy(space);
    now
}

#[test]
fn r24_a_write_while_the_store_waits_is_kept() {
    // Clean, and writable by hardware's leave.
    let clean = (DBM | RO, 0);
    for backend in QUEUES {
        let untouched = after(backend, clean, |_, _| {});
        assert_eq!(untouched & (DBM | RO | DIRTY), RO, "{backend}");
        let waiting = after(backend, clean, |fake, table| {
            fake.walker_writes(table, 1, 0, RO);
        });
        assert_eq!(waiting & (DBM | RO | DIRTY), RO | DIRTY, "{backend}");
        let racing = after(backend, clean, |fake, table| {
            fake.walker_races(table, 1, 0, RO);
        });
        assert_eq!(
            racing & (DBM | RO | DIRTY),
            RO | DIRTY,
            "{backend}: at the very moment of the store"
        );
    }
}

#[test]
fn r24_what_the_writer_saw_and_took_away_stays_away() {
    for backend in QUEUES {
        // Dirty before: making it clean was the writer's decision.
        let cleaned = after(backend, (DBM, RO), |_, _| {});
        assert_eq!(cleaned & (DBM | RO | DIRTY), RO, "{backend}");
        // Accessed meanwhile, and not written again.
        let touched = after(backend, (DBM, RO), |fake, table| {
            fake.walker_writes(table, 1, AF, 0);
        });
        assert_eq!(touched & (DBM | RO | DIRTY), RO, "{backend}");
    }
}

#[test]
fn r24_a_second_value_does_not_hide_what_happened_before_it() {
    for backend in QUEUES {
        let mmu = new_mmu_with(backend);
        let (mut space, table) = space(&mmu, 33);
        let kernel = mmu.kernel();
        kernel.walker_writes(table, 0, DBM | RO, 0);
        enable_fast(&space, range());
        space.protect(page(0), Prot::USER_RO).unwrap();
        kernel.walker_writes(table, 0, 0, RO);
        space.protect(page(0), Prot::USER_ROX).unwrap();
        mmu.lazy().disable().unwrap();
        let now = kernel.memory(table, 0);
        assert_eq!(now & (DIRTY | bits::UXN), DIRTY, "{backend}: {now:#x}");
        fake::destroy(space);
    }
}

/// `get_and_clear` answers with what hardware left, whether a value waits or not.
#[test]
fn r24_who_takes_an_entry_gets_the_final_bits() {
    for backend in fake::backends() {
        for protect_before in [false, true] {
            let mmu = new_mmu_with(backend);
            let (mut space, table) = space(&mmu, 33);
            let kernel = mmu.kernel();
            kernel.walker_writes(table, 1, DBM | RO, AF);
            let mut fast = space.fast_pte_range(range()).unwrap();
            let waits = protect_before && QUEUES.contains(&backend);
            if waits {
                fast.set(1, frame(34), Prot::USER_RO).unwrap();
            }
            kernel.walker_races(table, 1, AF, RO);
            let taken = fast.get_and_clear(1).as_u64();
            let expected = if waits { AF | RO | DIRTY } else { AF | DBM };
            assert_eq!(taken & (AF | DBM | RO | DIRTY), expected, "{backend}");
            drop(fast);
            space.invalidate_range(range()).unwrap();
            fake::destroy(space);
        }
    }
}

/// A folded group of clean pages.
fn folded(mmu: &Mmu<Fake>) -> (AddressSpace<'_, Fake>, Frame) {
    let mut space = new_space_with_tables(mmu, USER, range());
    let table = table_of(&space, range());
    let mut fast = space.fast_pte_range(range()).unwrap();
    fast.set_run(0, 16, frame(32), Prot::USER).unwrap();
    drop(fast);
    for i in 0..16 {
        mmu.kernel().walker_writes(table, i, DBM | RO, 0);
    }
    (space, table)
}

/// What hardware writes into one member up to the moment at which a group is broken counts.
#[test]
fn r24_dropping_a_group_loses_nothing_of_the_other_members() {
    for backend in fake::backends() {
        for races in [false, true] {
            let mmu = new_mmu_with(backend);
            let (mut space, table) = folded(&mmu);
            let kernel = mmu.kernel();
            enable_fast(&space, range());
            if races {
                kernel.walker_races(table, 7, 0, RO);
            } else {
                kernel.walker_writes(table, 7, 0, RO);
            }
            space.protect(page(3), Prot::USER_ROX).unwrap();
            mmu.lazy().disable().unwrap();
            let of = |i| kernel.memory(table, i) & (bits::CONT | DBM | RO);
            assert_eq!(of(7), DBM, "{backend}, {races}");
            assert_eq!(of(3), RO, "{backend}, {races}");
            if backend != Backend::DeferStores {
                assert_eq!(of(9), DBM, "{backend}, {races}: one speaks for all");
            }
            fake::destroy(space);
        }
    }
}

/// Hardware may say of one member what is true of another, so one speaks for all.
#[test]
fn r24_a_folded_group_gathers_what_hardware_said_of_its_members() {
    for backend in fake::backends() {
        if backend == Backend::DeferStores {
            continue; // It looks at groups in which something waits.
        }
        let mmu = new_mmu_with(backend);
        let (mut space, table) = space(&mmu, 32);
        let kernel = mmu.kernel();
        for i in 0..16 {
            kernel.walker_writes(table, i, DBM | RO, AF);
        }
        kernel.walker_races(table, 11, AF, RO);
        assert_eq!(space.fold_contiguous(range()), Ok(1), "{backend}");
        for i in 0..16 {
            let bits = kernel.memory(table, i) & (bits::CONT | AF | DBM | RO);
            assert_eq!(bits, bits::CONT | AF | DBM, "{backend}, member {i}");
        }
        fake::destroy(space);
    }
}

/// Hardware may say of one member what is true of another: who drops a group tells each.
#[test]
fn r24_a_dropped_group_tells_each_member_what_hardware_said_of_one() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let (mut space, table) = folded(&mmu);
        let kernel = mmu.kernel();
        kernel.walker_writes(table, 7, 0, RO);
        let mut fast = space.fast_pte_range(range()).unwrap();
        let taken = fast.get_and_clear(3).as_u64();
        drop(fast);
        assert_eq!(taken & (DBM | RO), DBM, "{backend}: the one that is taken");
        space.invalidate_range(range()).unwrap();
        fake::destroy(space);

        let (mut space, table) = folded(&mmu);
        enable_fast(&space, range());
        kernel.walker_writes(table, 7, 0, RO);
        space.protect(page(3), Prot::USER_RO).unwrap();
        mmu.lazy().disable().unwrap();
        let nine = kernel.memory(table, 9);
        assert_eq!(nine & (DBM | RO), DBM, "{backend}: one that stays");
        fake::destroy(space);
    }
}

/// With hardware management of the access flag an entry without it may become live at any time,
/// so it is as much a member of its group as the others.
#[test]
fn r29_members_without_access_flag_are_broken_with_their_group() {
    for backend in fake::backends() {
        for (first, prot) in [(0, Prot::USER), (1, Prot::USER_RO)] {
            let mmu = new_mmu_with(backend);
            let (mut space, table) = match first {
                0 => space(&mmu, 32),
                _ => folded(&mmu),
            };
            mmu.kernel().walker_writes(table, 4, 0, AF);
            // Folds in the first case, drops in the second.
            let mut fast = space.fast_pte_range(range()).unwrap();
            fast.set(5, frame(37), prot).unwrap();
            drop(fast);
            space.invalidate_range(range()).unwrap();
            fake::destroy(space);
        }
    }
}

/// Without access flag an entry may be given another memory type. It may gain the flag, and dirt, while
/// that waits, so it is broken all the same, and what it gained is kept.
#[test]
fn r24_r29_an_old_page_that_changes_its_memory_type_is_broken_and_keeps_its_dirt() {
    let mmu = new_mmu_with(Backend::DeferStores);
    let (mut space, table) = space(&mmu, 33);
    let kernel = mmu.kernel();
    kernel.walker_writes(table, 1, DBM | RO, AF);
    let uncached = Prot::USER.with_memory_type(MemoryType::NormalNonCacheable);
    let mut fast = space.fast_pte_range(range()).unwrap();
    fast.set(1, frame(34), uncached).unwrap();
    kernel.walker_races(table, 1, AF, RO);
    drop(fast);
    let now = kernel.memory(table, 1);
    assert_eq!(now & (AF | DIRTY), AF | DIRTY, "{now:#x}");
    assert!(kernel.all_invalidated());
    fake::destroy(space);
}

/// What waits may be replaced in place as long as the entry stays as it was, and no longer (R29).
#[test]
fn r29_an_old_page_that_gains_its_flag_while_a_change_waits_is_broken() {
    for backend in QUEUES {
        let mmu = new_mmu_with(backend);
        let (mut space, table) = space(&mmu, 33);
        let kernel = mmu.kernel();
        kernel.walker_writes(table, 1, 0, AF);
        let uncached = Prot::USER.with_memory_type(MemoryType::NormalNonCacheable);
        let mut fast = space.fast_pte_range(range()).unwrap();
        fast.set(1, frame(34), uncached).unwrap();
        kernel.walker_writes(table, 1, AF, 0);
        drop(fast);
        assert!(kernel.all_invalidated());
        fake::destroy(space);
    }
}

/// The same where the successor is another page: its flags are its own.
#[test]
fn r29_an_entry_that_becomes_live_while_its_successor_waits_is_broken() {
    for backend in QUEUES {
        let mmu = new_mmu_with(backend);
        let (mut space, table) = space(&mmu, 33);
        mmu.kernel().walker_writes(table, 1, 0, AF);
        let mut fast = space.fast_pte_range(range()).unwrap();
        fast.set(1, frame(70), Prot::USER).unwrap();
        mmu.kernel().walker_writes(table, 1, AF, 0);
        drop(fast);
        fake::destroy(space);
    }
}
