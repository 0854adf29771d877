// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges with holes: one call visits or unmaps what is there, and skips the rest table by table.

use crate::panics;
use lazymmu::{
    AddressSpace, Backend, BarrierPolicy, Desc, Features, Frame, Half, Level, Mmu, PAGE_SIZE,
    PageRange, Prot, SpaceError, SpaceKind, VirtAddr, bits,
};
use lazymmu_testkit::fake::interrupts::{Moment, preempt_when};
use lazymmu_testkit::fake::{
    self, Choose, Fake, KINDS, asid_of, contiguous, data, destroy, frame, new_mmu, new_mmu_with,
    new_space, pages, refused, tlbis,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Every page of a half that is in a range.
fn whole(half: Half) -> PageRange {
    PageRange::from_bounds(half.start(), half.end()).unwrap()
}

/// Stretches at both ends of a half, across the ends of tables of every level, and somewhere: first page and
/// number of pages.
fn islands(half: Half) -> [PageRange; 8] {
    let (start, end) = (half.start(), half.end());
    [
        pages(start, 1),
        pages(start + 5 * PAGE_SIZE, 3),
        pages(start + (2 << 20) - PAGE_SIZE, 2),
        pages(start + (3 << 30) - 2 * PAGE_SIZE, 4),
        pages(start + (5 << 39) - PAGE_SIZE, 3),
        pages(
            start + (77 << 39) + (9 << 30),
            if cfg!(miri) { 20 } else { 512 },
        ),
        pages(end - (2 << 20) - PAGE_SIZE, 3),
        pages(end - PAGE_SIZE, 1),
    ]
}

fn populate(space: &mut AddressSpace<'_, Fake>, islands: &[PageRange]) -> u64 {
    let prot = data(space.kind());
    let mut next = 1;
    for island in islands {
        space.map(*island, contiguous(next), prot).unwrap();
        next += island.pages();
    }
    next - 1
}

fn leaves(space: &AddressSpace<'_, Fake>) -> Vec<u64> {
    let mut all = Vec::new();
    space.for_each_leaf(|va, _, _| all.push(va));
    all
}

/// The state that a caller may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Outside,
    Section,
    Announced,
    Paused,
    Interrupt,
}

#[cfg(miri)]
const PLACES: [Place; 1] = [Place::Announced];
#[cfg(not(miri))]
const PLACES: [Place; 5] = [
    Place::Outside,
    Place::Section,
    Place::Announced,
    Place::Paused,
    Place::Interrupt,
];

impl Place {
    /// Calls `work` there; an announced range is that of `table`.
    fn run(
        self,
        space: &mut AddressSpace<'_, Fake>,
        table: PageRange,
        work: impl FnOnce(&mut AddressSpace<'_, Fake>),
    ) {
        let mmu = space.mmu();
        match self {
            Self::Outside => {}
            Self::Section => mmu.lazy().enable().unwrap(),
            Self::Announced => fake::enable_fast(space, table),
            Self::Paused => {
                mmu.lazy().enable().unwrap();
                mmu.lazy().pause().unwrap();
            }
            Self::Interrupt => mmu.kernel().set_interrupt(true),
        }
        work(space);
        mmu.kernel().set_interrupt(false);
        fake::close(mmu);
    }
}

/// Every strategy, both policies, both halves, everywhere that a caller may be.
fn each(test: impl Fn(&Mmu<Fake>, SpaceKind, Place)) {
    for backend in fake::backends() {
        for policy in [BarrierPolicy::Classic, BarrierPolicy::Ets2] {
            for kind in KINDS {
                for place in PLACES {
                    let mmu = new_mmu_with(backend);
                    mmu.choose_features(Features {
                        ets2: true,
                        ..Features::default()
                    });
                    mmu.set_policy(policy).unwrap();
                    test(&mmu, kind, place);
                }
            }
        }
    }
}

/// One call empties a range of which most tables are missing, although no frame is left for a
/// table. A version that builds the missing tables first fails here.
#[test]
fn a_range_with_holes_is_emptied_without_memory() {
    let mmu = new_mmu();
    let mut space = new_space(&mmu, fake::USER);
    space
        .map(pages(1 << 30, 2), contiguous(1), Prot::USER)
        .unwrap();
    mmu.kernel().set_budget(0);
    let range = pages(1 << 30, 4096);
    let mut seen = Vec::new();
    space
        .apply_to_existing_page_range(range, |entry| {
            seen.push((entry.va(), entry.get().frame()));
            Ok::<_, SpaceError>(())
        })
        .unwrap();
    let page = |i| fake::va((1 << 30) + i * PAGE_SIZE);
    assert_eq!(seen, [(page(0), frame(1)), (page(1), frame(2))]);
    assert_eq!(space.unmap_existing(range), Ok(2));
    assert_eq!(space.unmap_existing(range), Ok(0));
    destroy(space);
}

#[test]
fn r27_a_whole_half_is_emptied_and_only_what_was_there_is_invalidated() {
    each(|mmu, kind, place| {
        let mut space = new_space(mmu, kind);
        let islands = islands(kind.half());
        let mapped = populate(&mut space, &islands);
        mmu.kernel().set_budget(0);
        place.run(&mut space, islands[0], |space| {
            let before = mmu.kernel().counts();
            mmu.kernel().take_effects();
            assert_eq!(space.unmap_existing(whole(kind.half())), Ok(mapped));
            assert!(mmu.kernel().all_invalidated(), "R27: {place:?}");
            let spent = mmu.kernel().counts() - before;
            assert_eq!((spent.ptes, spent.tlbi_requested), (mapped, mapped));
            // Nothing is left to be invalidated.
            let asked = mmu.kernel().counts().tlbi_requested;
            assert_eq!(space.unmap_existing(whole(kind.half())), Ok(0));
            assert_eq!(mmu.kernel().counts().tlbi_requested, asked, "{place:?}");
        });
        assert_eq!(leaves(&space), [0; 0]);
        mmu.kernel().set_budget(usize::MAX);
        // Populations are right: all tables go, and everything can be mapped again.
        let tables = mmu.kernel().live_tables();
        let freed = space.free_empty_tables(whole(kind.half()));
        assert_eq!(freed, Ok(tables - 1));
        populate(&mut space, &islands);
        destroy(space);
    });
}

#[test]
fn neighbors_stay() {
    each(|mmu, kind, place| {
        let mut space = new_space(mmu, kind);
        let islands = islands(kind.half());
        populate(&mut space, &islands);
        for (i, cut) in islands.into_iter().enumerate() {
            // From the second page of an island to the page before the last one of the next.
            let next = islands[(i + 1).min(islands.len() - 1)];
            let start = cut.start().as_u64() + PAGE_SIZE;
            let Ok(range) = PageRange::from_bounds(start, next.end() - PAGE_SIZE) else {
                continue;
            };
            let before = leaves(&space);
            let stays = |va: &u64| !range.contains(fake::va(*va));
            let expected: Vec<u64> = before.iter().copied().filter(stays).collect();
            let gone = (before.len() - expected.len()) as u64;
            place.run(&mut space, islands[0], |space| {
                assert_eq!(space.unmap_existing(range), Ok(gone), "{range}");
            });
            assert_eq!(leaves(&space), expected, "{range}, {place:?}");
        }
        destroy(space);
    });
}

/// R29: groups that lie in the range in part are unfolded, whole ones go as one.
#[test]
fn r29_groups_at_the_edges_are_unfolded() {
    each(|mmu, _, place| {
        let mut space = new_space(mmu, fake::USER);
        let start = (7 << 30) + (4 << 20);
        let all = pages(start, 64);
        {
            let mut fast = space.fast_pte_range(all).unwrap();
            fast.set_run(0, 64, frame(64), Prot::USER).unwrap();
        }
        // A hole between the groups, so that the stretches are not the range.
        space.unmap(pages(start + 30 * PAGE_SIZE, 4)).unwrap();
        place.run(&mut space, all, |space| {
            let range = pages(start + 5 * PAGE_SIZE, 54);
            assert_eq!(space.unmap_existing(range), Ok(50));
        });
        for i in 0..64 {
            let found = space.query(fake::va(start + i * PAGE_SIZE));
            let expected = (!(5..59).contains(&i)).then(|| frame(64 + i));
            assert_eq!(found.map(|found| found.entry.frame()), expected, "page {i}");
        }
        mmu.kernel().check_groups();
        assert!(mmu.kernel().all_invalidated());
        destroy(space);
    });
}

#[test]
fn a_whole_half_costs_about_the_tables_that_exist() {
    for kind in KINDS {
        for operation in 0..4 {
            let mmu = Rc::new(new_mmu());
            let mut space = new_space(&mmu, kind);
            let half = kind.half();
            let islands = [
                pages(half.start(), 1),
                pages(half.start() + (77 << 39) + (9 << 30), 1),
                pages(half.end() - PAGE_SIZE, 1),
            ];
            populate(&mut space, &islands);
            let tables = mmu.kernel().live_tables() as u64;
            let loads = Rc::new(Cell::new(0));
            let count = Rc::clone(&loads);
            preempt_when(
                &mmu,
                move |_, moment| {
                    count.set(count.get() + u64::from(moment == Moment::Load));
                    false
                },
                |_| (),
            );
            let mut seen = 0;
            match operation {
                0 => seen = space.unmap_existing(whole(half)).unwrap(),
                1 => {
                    let mut gather = space.gather(|_, _| seen += 1);
                    assert_eq!(gather.unmap_existing(whole(half)), Ok(3));
                    gather.finish();
                }
                2 => space
                    .apply_to_existing_page_range(whole(half), |_| {
                        seen += 1;
                        Ok::<_, SpaceError>(())
                    })
                    .unwrap(),
                _ => space.for_each_leaf_in(whole(half), |_, _, _| seen += 1),
            }
            assert_eq!(seen, 3);
            // Blocks are looked for, and then the pages: twice what the tables hold, and a look at the level above for each
            // GiB that is not there.
            let loads = loads.get();
            assert!(loads <= 3 * 512 * tables, "{operation}: {loads} loads");
            destroy(space);
        }
    }
}

/// A tree with a block of 2 MiB and one of 1 GiB behind pages, which only other code can have made.
fn plant(space: &AddressSpace<'_, Fake>, level: Level, va: VirtAddr, raw: u64) {
    let kernel = space.mmu().kernel();
    let mut table = space.root();
    space.walk(va, |at, entry| {
        if at < level {
            table = entry.frame();
        }
    });
    // SAFETY: a table of the fake, which is alive.
    let entries = unsafe { lazymmu::TableFrames::table_ptr(kernel, table).as_ref() }.entries();
    // SAFETY: a cell of it, which nobody else touches.
    unsafe {
        entries[level.index(va)]
            .as_ptr()
            .write(Desc::from_u64(raw).as_u64())
    };
}

fn block(prot: Prot) -> u64 {
    Desc::page(frame(1 << 18), prot).as_u64() & !bits::TABLE_OR_PAGE
}

#[test]
fn blocks_are_refused_before_anything_changes_and_shown() {
    for kind in KINDS {
        for level in [Level::L1, Level::L2] {
            let mmu = new_mmu();
            let mut space = new_space(&mmu, kind);
            let start = kind.half().start() + (6 << 39);
            let prot = data(kind);
            space.map(pages(start, 3), contiguous(1), prot).unwrap();
            let at = start + level.entry_span();
            plant(&space, level, fake::va(at), block(prot));
            // Page 5 of the block is where the range ends.
            let range = PageRange::from_bounds(start + PAGE_SIZE, at + 6 * PAGE_SIZE).unwrap();
            let va = fake::va(at);
            let expected = SpaceError::Block { va, level };
            assert_eq!(refused(&mmu, || space.unmap_existing(range)), expected);
            let mut gather = space.gather(|_, _| unreachable!("nothing is gathered"));
            assert_eq!(refused(&mmu, || gather.unmap_existing(range)), expected);
            gather.finish();
            let error = refused(&mmu, || {
                space.apply_to_existing_page_range(range, |_| {
                    Err::<(), SpaceError>(SpaceError::SharedByUsers)
                })
            });
            assert_eq!(error, expected);
            let shown = |first: u64, pages_: u64| {
                let mut shown = Vec::new();
                space.for_each_leaf_in(pages(first, pages_), |va, level, _| {
                    shown.push((va, level));
                });
                shown
            };
            let page = |i| (start + i * PAGE_SIZE, Level::L3);
            assert_eq!(shown(start + PAGE_SIZE, 2), [page(1), page(2)]);
            assert_eq!(shown(at + PAGE_SIZE, 1), [(at, level)]);
            assert_eq!(shown(at - PAGE_SIZE, 1), []);
            assert_eq!(shown(at + level.entry_span(), 1), []);
            // Without it the pages go.
            plant(&space, level, fake::va(at), 0);
            assert_eq!(space.unmap_existing(range), Ok(2));
            destroy(space);
        }
    }
}

#[test]
fn the_leaves_of_a_range_are_those_of_the_tree_in_it() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let half = kind.half();
        populate(&mut space, &islands(half));
        let all = leaves(&space);
        for range in islands(half).into_iter().chain([whole(half)]) {
            let mut found = Vec::new();
            space.for_each_leaf_in(range, |va, _, _| found.push(va));
            let inside = |va: &u64| range.contains(fake::va(*va));
            let expected: Vec<u64> = all.iter().copied().filter(inside).collect();
            assert_eq!(found, expected);
        }
        let other = match half {
            Half::Lower => whole(Half::Upper),
            Half::Upper => whole(Half::Lower),
        };
        space.for_each_leaf_in(other, |va, _, _| panic!("{va:#x} of the other half"));
        destroy(space);
    }
}

#[test]
fn what_may_not_be_changed_is_refused() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let start = kind.half().start() + (1 << 39);
        space
            .map(pages(start, 4), contiguous(1), data(kind))
            .unwrap();
        space.restrict(pages(start, 2));
        let wide = pages(start, 3);
        let outside = |error| matches!(error, SpaceError::OutsideWindow { .. });
        assert!(outside(refused(&mmu, || space.unmap_existing(wide))));
        let visit = |_: &mut lazymmu::PteRef<'_, Fake>| Ok::<_, SpaceError>(());
        let error = refused(&mmu, || space.apply_to_existing_page_range(wide, visit));
        assert!(outside(error));
        let mut gather = space.gather(|_, _| ());
        assert!(outside(refused(&mmu, || gather.unmap_existing(wide))));
        gather.finish();
        assert_eq!(space.unmap_existing(pages(start, 2)), Ok(2));
        destroy(space);
    }
}

/// Each second page of two tables, in three calls that overlap: more stretches than the list of a gather holds.
#[test]
fn r25_a_gather_gives_each_frame_back_once_and_after_its_invalidation() {
    each(|mmu, kind, place| {
        let mut space = new_space(mmu, kind);
        let start = kind.half().start() + (3 << 39) - 512 * PAGE_SIZE;
        let all = pages(start, 1024);
        space.map(all, contiguous(1000), data(kind)).unwrap();
        for i in (1..1024).step_by(2) {
            space.unmap(pages(start + i * PAGE_SIZE, 1)).unwrap();
        }
        let given = RefCell::new(Vec::new());
        let asid = asid_of(kind);
        place.run(&mut space, pages(start, 512), |space| {
            let part = |first: u64, n| pages(start + first * PAGE_SIZE, n);
            let mut gather = space.gather(|va: VirtAddr, frame: Frame| {
                let cached = mmu.kernel().may_be_cached(asid, va.as_u64());
                assert!(!cached, "R25: {va} is given back");
                given.borrow_mut().push((va.as_u64(), frame));
            });
            gather.unmap(part(300, 1)).unwrap();
            assert_eq!(gather.unmap_existing(part(200, 400)), Ok(199));
            assert_eq!(gather.unmap_existing(part(0, 700)), Ok(150));
            assert!(gather.unmap(part(2, 1)).is_err());
            assert_eq!(gather.unmap_existing(all), Ok(162));
            if place == Place::Announced {
                gather.finish();
            } else {
                assert_eq!(gather.finish_and_free_tables(), 6);
            }
        });
        let mut given = given.into_inner();
        given.sort_unstable();
        let expected: Vec<_> = (0..1024)
            .step_by(2)
            .map(|i| (start + i * PAGE_SIZE, frame(1000 + i)))
            .collect();
        assert_eq!(given, expected);
        assert!(mmu.kernel().all_invalidated());
        assert_eq!(leaves(&space), [0; 0]);
        space.map(all, contiguous(5000), data(kind)).unwrap();
        destroy(space);
    });
}

/// `Counts::ptes` counts requests, and a page is gathered by one.
#[test]
fn a_gathered_page_is_counted_once() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        let start = fake::BASE + (2 << 20);
        let range = pages(start, 700);
        space.map(range, contiguous(1), Prot::KERNEL).unwrap();
        let before = mmu.kernel().counts();
        space.unmap_frames(pages(start, 600), |_, _| ()).unwrap();
        let mut gather = space.gather(|_, _| ());
        assert_eq!(gather.unmap_existing(range), Ok(100));
        gather.finish();
        let spent = mmu.kernel().counts() - before;
        assert_eq!((spent.ptes, spent.late_stores), (700, 700), "{backend}");
        destroy(space);
    }
}

/// Pages that were emptied before, and whose invalidation is still to come, are in the range as well.
#[test]
fn r27_what_was_emptied_before_is_invalidated_with_the_range() {
    each(|mmu, kind, place| {
        let mut space = new_space(mmu, kind);
        let start = kind.half().start() + (9 << 30);
        let all = pages(start, 20);
        let later = pages(start + (1 << 30), 2);
        for range in [all, later] {
            space.map(range, contiguous(1), data(kind)).unwrap();
        }
        let section = mmu.lazy().section().unwrap();
        let pending = space.unmap_no_invalidate(pages(start, 3)).unwrap();
        space
            .apply_to_page_range(pages(start + 5 * PAGE_SIZE, 2), |entry| {
                entry.get_and_clear();
                Ok::<_, SpaceError>(())
            })
            .unwrap();
        let kernel = mmu.kernel();
        kernel.set_interrupt(place == Place::Interrupt);
        assert_eq!(space.unmap_existing(all), Ok(15));
        for page in all.by_page() {
            let va = page.start().as_u64();
            assert!(!kernel.may_be_cached(asid_of(kind), va), "{place:?}");
        }
        kernel.set_interrupt(false);
        drop(pending);
        drop(section);
        destroy(space);
    });
}

/// What a forgotten gather left in the entries goes, so that the pages can be mapped again.
#[test]
fn pages_of_a_forgotten_gather_can_be_had_again() {
    for backend in Backend::ALL {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        let range = pages(fake::BASE, 6);
        space.map(range, contiguous(1), Prot::KERNEL).unwrap();
        let mut gather = space.gather(|_, _| ());
        gather.unmap(pages(fake::BASE, 3)).unwrap();
        std::mem::forget(gather);
        assert_eq!(space.unmap_existing(range), Ok(3));
        space.map(range, contiguous(9), Prot::KERNEL).unwrap();
        assert!(mmu.kernel().all_invalidated());
        destroy(space);
    }
}

/// The callback may change what it is shown, and its panic leaves what an error leaves.
#[test]
fn a_visitor_clears_and_may_panic() {
    each(|mmu, kind, place| {
        if place == Place::Paused {
            // A panic and a pause: as outside.
            return;
        }
        let mut space = new_space(mmu, kind);
        let islands = islands(kind.half());
        let mapped = populate(&mut space, &islands);
        let order = leaves(&space);
        for stop in [0, 1, 4, mapped - 1] {
            let mut calls = 0;
            place.run(&mut space, islands[0], |space| {
                let all = whole(kind.half());
                let result = panics::catch(|| {
                    space.apply_to_existing_page_range(all, |entry| {
                        let va = entry.va().as_u64();
                        let i = order.binary_search(&va).unwrap() as u64;
                        assert!(i < stop, "the test's panic");
                        assert!(entry.get_and_clear().is_valid());
                        calls += 1;
                        Ok::<_, SpaceError>(())
                    })
                });
                assert_eq!(result.is_err(), stop < mapped);
                space.invalidate_range(all).unwrap();
            });
            let left = leaves(&space);
            assert_eq!(left, order[stop as usize..], "{place:?}");
            assert!(mmu.kernel().all_invalidated());
        }
        assert_eq!(space.unmap_existing(whole(kind.half())), Ok(1));
        let tables = mmu.kernel().live_tables();
        let freed = space.free_empty_tables(whole(kind.half()));
        assert_eq!(freed, Ok(tables - 1));
        destroy(space);
    });
}

/// Three pages in a half of 2^36 take three TLBIs, not one for everything.
#[test]
fn few_pages_are_invalidated_one_by_one() {
    for kind in KINDS {
        let mmu = new_mmu();
        let mut space = new_space(&mmu, kind);
        let half = kind.half();
        populate(
            &mut space,
            &[
                pages(half.start(), 1),
                pages(half.start() + (1 << 40), 1),
                pages(half.end() - PAGE_SIZE, 1),
            ],
        );
        mmu.kernel().take_effects();
        assert_eq!(space.unmap_existing(whole(half)), Ok(3));
        let effects = mmu.kernel().take_effects();
        assert_eq!(tlbis(&effects), 3);
        assert_eq!(fake::count(&effects, fake::Effect::DsbIsh), 1);
        destroy(space);
    }
}
