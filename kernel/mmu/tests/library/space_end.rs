// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an address space begins with the tables of others, and how it ends: dropped, destroyed, given up.

use lazymmu::{
    AddressSpace, BarrierPolicy, Desc, ENTRIES, Frame, Hardware, LazyMmuError, Level, Mmu,
    PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind, TableFrames, bits,
};
use lazymmu_testkit::fake::{
    self, Choose, Effect, Fake, KINDS, USER, contiguous, data, destroy, frame, new_mmu,
    new_mmu_with, new_private_space, new_space, pages,
};

/// A page, some that cross the end of every level, and the last one.
fn ranges(kind: SpaceKind) -> [PageRange; 3] {
    let half = kind.half();
    [
        pages(half.start(), 1),
        pages(half.start() + (7 << 39) - 3 * PAGE_SIZE, 6),
        pages(half.end() - PAGE_SIZE, 1),
    ]
}

/// A space of whose root nobody is told, with pages.
fn private(mmu: &Mmu<Fake>, kind: SpaceKind) -> AddressSpace<'_, Fake> {
    let mut space = new_private_space(mmu, kind);
    for (range, first) in ranges(kind).into_iter().zip([1, 10, 20]) {
        space.map(range, contiguous(first), data(kind)).unwrap();
    }
    space
}

#[test]
fn a_space_that_no_cpu_can_have_walked_is_freed_when_it_is_dropped() {
    for backend in fake::backends() {
        for policy in [BarrierPolicy::Classic, BarrierPolicy::Ets2] {
            for in_section in [false, true] {
                for kind in KINDS {
                    let mmu = new_mmu_with(backend);
                    mmu.choose_features(fake::with_ets2());
                    mmu.set_policy(policy).unwrap();
                    let section = in_section.then(|| mmu.lazy().section().unwrap());
                    drop(private(&mmu, kind));
                    assert_eq!(mmu.kernel().live_tables(), 0, "{backend}, {kind:?}");
                    assert_eq!(mmu.kernel().take_reports(), []);
                    // Nothing waits that would be stored to them.
                    drop(section);
                }
            }
        }
    }
}

/// What waits in a slot or queue goes before the tables do, with bottom halves off as well.
#[test]
fn what_waits_for_a_dropped_space_is_not_stored_later() {
    for backend in fake::backends() {
        for bottom_halves_off in [false, true] {
            let mmu = new_mmu_with(backend);
            let mut space = private(&mmu, USER);
            let range = ranges(USER)[0];
            let table = {
                let mut table = None;
                space.walk(range.start(), |level, entry| {
                    if level == Level::L2 {
                        table = Some(entry.frame());
                    }
                });
                table.unwrap()
            };
            // SAFETY: the section ends before the space does in no case here: what the range announces is withdrawn with
            // the space.
            unsafe {
                let end = range.start().as_u64() + 8 * PAGE_SIZE;
                mmu.lazy()
                    .enable_fast_pte_range(&space, range.start(), end, table)
                    .unwrap();
            }
            let next = pages(range.start().as_u64() + PAGE_SIZE, 4);
            space.map(next, contiguous(40), Prot::USER).unwrap();
            space.protect(range, Prot::USER_RO).unwrap();
            mmu.kernel().set_interrupt(bottom_halves_off);
            drop(space);
            mmu.kernel().set_interrupt(false);
            assert_eq!(mmu.kernel().live_tables(), 0);
            let left = mmu.kernel().take_effects().len();
            mmu.lazy().disable().unwrap();
            let effects = mmu.kernel().take_effects();
            let stores = |e: &Effect| matches!(e, Effect::Store { .. });
            assert!(
                left > 0 && !effects.iter().any(stores),
                "{backend}: {effects:?}"
            );
        }
    }
}

#[test]
fn a_space_whose_root_was_asked_for_is_not_freed_and_says_so() {
    for kind in KINDS {
        let mmu = new_mmu();
        let space = private(&mmu, kind);
        let root = space.root();
        let tables = mmu.kernel().live_tables();
        drop(space);
        assert_eq!(mmu.kernel().live_tables(), tables);
        assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::TablesLeaked]);
        let text = LazyMmuError::TablesLeaked.to_string();
        assert!(text.contains("destroy") && text.contains("into_root"));
        // SAFETY: the tables are the fake's, and nobody else has them any more.
        destroy(unsafe { AddressSpace::from_root(&mmu, kind, root) });
        assert_eq!(mmu.kernel().live_tables(), 0);
    }
}

#[test]
fn shared_tables_are_not_freed() {
    let mmu = new_mmu();
    let one = private(&mmu, SpaceKind::Kernel);
    let mut other = new_private_space(&mmu, SpaceKind::Kernel);
    let tables = mmu.kernel().live_tables();
    // SAFETY: nothing is mapped or freed there.
    let shared = unsafe { other.share_tables(&one, ranges(SpaceKind::Kernel)[0]) };
    assert_eq!(shared, Ok(1));
    drop(other);
    drop(one);
    assert_eq!(mmu.kernel().live_tables(), tables);
    assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::TablesLeaked; 2]);
}

/// A forgotten range may still be announced, in a task that goes on.
#[test]
fn a_space_with_a_forgotten_range_is_not_freed() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = private(&mmu, USER);
        let tables = mmu.kernel().live_tables();
        let page = pages(ranges(USER)[1].start().as_u64(), 1);
        std::mem::forget(space.fast_pte_range(page).unwrap());
        drop(space);
        assert_eq!(mmu.kernel().live_tables(), tables);
        assert_eq!(mmu.kernel().take_reports(), [LazyMmuError::TablesLeaked]);
        mmu.lazy().disable().unwrap();
    }
}

/// What was emptied and not invalidated is not forgotten with the value.
#[test]
fn r29_a_root_is_given_up_and_taken_over() {
    for backend in fake::backends() {
        for kind in KINDS {
            let mmu = new_mmu_with(backend);
            let mut space = new_space(&mmu, kind);
            let range = ranges(kind)[1];
            space.map(range, contiguous(1), data(kind)).unwrap();
            let pending = space.unmap_no_invalidate(pages(range.start().as_u64(), 2));
            std::mem::forget(pending);
            let root = space.into_root();
            assert!(mmu.kernel().all_invalidated());
            // SAFETY: the tables are the fake's, and nobody else has them.
            let mut space = unsafe { AddressSpace::from_root(&mmu, kind, root) };
            assert_eq!(space.unmap_existing(range), Ok(4));
            space.map(range, contiguous(30), data(kind)).unwrap();
            assert_eq!(mmu.kernel().take_reports(), []);
            destroy(space);
        }
    }
}

/// The token of a space that is gone names another one, if the root has the same frame again: its ASID tells.
#[test]
fn r27_a_token_does_not_speak_for_the_next_space() {
    let mmu = new_mmu();
    let one = SpaceKind::User(lazymmu::Asid(1));
    let mut space = private(&mmu, one);
    let range = ranges(one)[0];
    let token = space.unmap_no_invalidate(range).unwrap();
    let root = space.into_root();
    // SAFETY: the tables are the fake's. They get another ASID, as a root would that is allocated again.
    let mut space = unsafe { AddressSpace::from_root(&mmu, USER, root) };
    mmu.kernel().take_effects();
    space.map(range, contiguous(5), Prot::USER).unwrap();
    let own = space.unmap_no_invalidate(range).unwrap();
    std::mem::forget(own);
    space.invalidate(token);
    mmu.kernel().take_effects();
    space.map(range, contiguous(6), Prot::USER).unwrap();
    let tlbis = fake::tlbis(&mmu.kernel().take_effects());
    assert_eq!(tlbis, 1, "R29: the space still owes an invalidation");
    destroy(space);
}

/// Tables of other code: the frames of one table per level, and what was put into them by hand.
struct Foreign<'m> {
    mmu: &'m Mmu<Fake>,
    kind: SpaceKind,
    tables: [Frame; 4],
}

impl<'m> Foreign<'m> {
    /// One table per level, for the addresses from the start of the half on. The last one is empty.
    fn new(mmu: &'m Mmu<Fake>, kind: SpaceKind) -> Self {
        let tables = [(); 4].map(|()| mmu.kernel().alloc_table().unwrap());
        let foreign = Self { mmu, kind, tables };
        for (level, next) in Level::ALL.into_iter().zip(&tables[1..]) {
            // As other code writes it: no number of entries.
            foreign.put(level, 0, Desc::table(*next).as_u64());
        }
        foreign
    }

    fn put(&self, level: Level, index: usize, raw: u64) {
        let table = self.mmu.kernel().table_ptr(self.tables[level as usize]);
        // SAFETY: a table of the fake, which is alive.
        let entry = &unsafe { table.as_ref() }.entries()[index];
        // SAFETY: a cell of it, which nobody else touches.
        unsafe { entry.as_ptr().write(raw) };
    }

    fn page(&self, n: u64) -> u64 {
        Desc::page(frame(n), data(self.kind)).as_u64()
    }

    fn block(&self, n: u64) -> u64 {
        self.page(n) & !bits::TABLE_OR_PAGE
    }

    fn take(self) -> AddressSpace<'m, Fake> {
        fake::know_tree(self.mmu.kernel(), self.tables[0].as_u64(), self.kind);
        // SAFETY: the tables are the fake's, and nobody else writes them from now on.
        unsafe { AddressSpace::from_root(self.mmu, self.kind, self.tables[0]) }
    }

    fn at(&self, index: u64, level: Level) -> PageRange {
        pages(self.kind.half().start() + index * level.entry_span(), 1)
    }
}

/// A block is an entry in use. A version that counts pages and links alone takes a table that holds
/// nothing but a block for empty, and frees it.
#[test]
fn blocks_of_other_code_stay() {
    for kind in KINDS {
        for level in [Level::L1, Level::L2] {
            let mmu = new_mmu();
            let foreign = Foreign::new(&mmu, kind);
            foreign.put(level, 3, foreign.block(1 << 18));
            let block = foreign.at(3, level);
            let mut space = foreign.take();
            let shown = space.query(block.start()).map(|found| found.level);
            assert_eq!(shown, Some(level));
            // The tables above the block stay; those that hold nothing go.
            let half = kind.half();
            let whole = PageRange::from_bounds(half.start(), half.end()).unwrap();
            let freed = space.free_empty_tables(whole).unwrap();
            assert_eq!(freed, 3 - level as usize);
            let shown = space.query(block.start()).map(|found| found.level);
            assert_eq!(shown, Some(level), "a live block is gone");
            destroy(space);
            assert_eq!(mmu.kernel().live_tables(), 0);
        }
    }
}

/// Pages of other code are counted, so they are neither overwritten nor freed, and their memory types are looked at.
#[test]
fn pages_of_other_code_are_counted() {
    for kind in KINDS {
        let mmu = new_mmu();
        let foreign = Foreign::new(&mmu, kind);
        for i in 0..ENTRIES as u64 {
            foreign.put(Level::L3, i as usize, foreign.page(100 + i));
        }
        let device = foreign.page(100) | 1 << bits::ATTR_INDX_SHIFT;
        foreign.put(Level::L3, 9, device);
        let at = |i| foreign.at(i, Level::L3);
        let [first, ninth] = [at(0), at(9)];
        let mut space = foreign.take();
        let mapped = space.map(first, contiguous(1), data(kind));
        assert!(matches!(mapped, Err(SpaceError::AlreadyMapped { .. })));
        assert_eq!(space.free_empty_tables(first), Ok(0));
        let refused = space.protect(ninth, data(kind));
        assert!(matches!(refused, Err(SpaceError::BreakBeforeMake { .. })));
        let table = pages(kind.half().start(), 512);
        assert_eq!(space.unmap(table), Ok(()));
        assert_eq!(space.free_empty_tables(table), Ok(3));
        destroy(space);
    }
}

/// A block at level 0, a level-3 entry with bits `[1:0]` = 01, and what is not valid: no mapping, and nothing that is in the
/// way afterwards.
#[test]
fn what_the_architecture_does_not_define_is_no_mapping() {
    for kind in KINDS {
        let mmu = new_mmu();
        let foreign = Foreign::new(&mmu, kind);
        let (page, block) = (foreign.page(7), foreign.block(7));
        foreign.put(Level::L0, 5, block);
        foreign.put(Level::L3, 1, block);
        foreign.put(Level::L3, 2, page);
        foreign.put(Level::L3, 3, page & !bits::VALID);
        let at = |i, level| foreign.at(i, level);
        let [big, undefined, mapped, invalid] = [
            at(5, Level::L0),
            at(1, Level::L3),
            at(2, Level::L3),
            at(3, Level::L3),
        ];
        let table = foreign.tables[3];
        let mut space = foreign.take();
        // As if they were written only now.
        let entries = mmu.kernel().table_ptr(table);
        // SAFETY: a table of the fake, which is alive.
        let entries = unsafe { entries.as_ref() }.entries();
        for i in [1, 3] {
            assert!(!mmu.kernel().load(&entries[i]).is_in_use());
        }
        // SAFETY: a cell of it, which nobody else touches.
        unsafe { entries[1].as_ptr().write(block) };
        for range in [big, undefined, invalid] {
            assert_eq!(space.query(range.start()), None);
        }
        for range in [big, invalid] {
            let error = space.unmap(range).unwrap_err();
            let va = range.start();
            assert_eq!(error, SpaceError::NotMapped { va });
        }
        let mut leaves = Vec::new();
        space.for_each_leaf(|va, _, _| leaves.push(va));
        assert_eq!(leaves, [mapped.start().as_u64()]);
        let mut walk = Vec::new();
        space.walk(undefined.start(), |level, entry| {
            walk.push(entry.at(level).to_string());
        });
        assert!(walk[3].starts_with("undefined (0x"), "{walk:?}");
        let error = space.map(undefined, contiguous(1), data(kind)).unwrap_err();
        assert!(error.to_string().contains("undefined (0x"), "{error}");
        // And it goes.
        assert_eq!(space.unmap_existing(undefined), Ok(0));
        space.map(undefined, contiguous(1), data(kind)).unwrap();
        space.map(big, contiguous(2), data(kind)).unwrap();
        destroy(space);
    }
}
