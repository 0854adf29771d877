// SPDX-License-Identifier: MIT OR Apache-2.0
//! A callback of the caller's panics and is caught: afterwards the space is as after an error. What the callback did before
//! stays and is counted, no range stays announced, no section stays open, and no entry is half given back.

use crate::panics;
use lazymmu::{AddressSpace, Backend, Desc, Mmu, PAGE_SIZE, PageRange, SpaceError};
use lazymmu_testkit::fake::{
    self, Fake, KINDS, contiguous, data, destroy, frame, new_mmu_with, new_space, pages,
};

const PAGES: u64 = 20;

fn each(test: impl Fn(Backend, lazymmu::SpaceKind, bool, u64)) {
    for backend in fake::backends() {
        for kind in KINDS {
            for in_section in [false, true] {
                for at in [0, 1, 8, 9, PAGES - 1] {
                    test(backend, kind, in_section, at);
                }
            }
        }
    }
}

fn range(space: &AddressSpace<'_, Fake>) -> PageRange {
    pages(
        space.kind().half().start() + (7 << 30) + 3 * PAGE_SIZE,
        PAGES,
    )
}

fn page(space: &AddressSpace<'_, Fake>, i: u64) -> PageRange {
    pages(range(space).start().as_u64() + i * PAGE_SIZE, 1)
}

/// Runs `work` on the space, which panics, and checks what every panic leaves.
fn panics(
    space: &mut AddressSpace<'_, Fake>,
    in_section: bool,
    work: impl FnOnce(&mut AddressSpace<'_, Fake>),
) {
    let mmu = space.mmu();
    let section = in_section.then(|| mmu.lazy().section().unwrap());
    let result = panics::catch(|| work(space));
    assert!(result.is_err(), "it must panic");
    let state = mmu.lazy().state();
    assert_eq!(state.enable_count(), u8::from(in_section));
    assert_eq!(state.fast_pte_ranges(), 0, "a range stays announced");
    drop(section);
}

/// The pages for which `mapped` says so are mapped to frame 64 and its successors, and the rest can be.
fn as_after_an_error(mut space: AddressSpace<'_, Fake>, mapped: impl Fn(u64) -> bool) {
    for i in 0..PAGES {
        let found = space
            .query(page(&space, i).start())
            .map(|page| page.entry.frame());
        assert_eq!(found, mapped(i).then(|| frame(64 + i)), "page {i}");
    }
    // A wrong population would free a table in use, or pass for free or mapped.
    let whole = range(&space);
    let any = (0..PAGES).any(&mapped);
    let freed = space.free_empty_tables(whole).unwrap();
    assert_eq!(freed > 0, !any, "{freed} tables freed");
    for i in 0..PAGES {
        let (page, kind) = (page(&space, i), space.kind());
        match space.map(page, contiguous(64 + i), data(kind)) {
            Ok(()) => assert!(!mapped(i), "page {i} was mapped twice"),
            Err(SpaceError::AlreadyMapped { .. }) => assert!(mapped(i)),
            Err(error) => panic!("{error}"),
        }
    }
    space.unmap(whole).unwrap();
    assert!(space.free_empty_tables(whole).unwrap() > 0);
    destroy(space);
}

fn empty(mmu: &Mmu<Fake>, kind: lazymmu::SpaceKind) -> AddressSpace<'_, Fake> {
    let mut space = new_space(mmu, kind);
    // The table exists, and so does a neighbor of the range, which goes again.
    let whole = range(&space);
    space.map(whole, contiguous(64), data(kind)).unwrap();
    space.unmap(whole).unwrap();
    space
}

#[test]
fn a_callback_that_sets_entries() {
    each(|backend, kind, in_section, at| {
        for after_setting in [false, true] {
            let mmu = new_mmu_with(backend);
            let mut space = empty(&mmu, kind);
            panics(&mut space, in_section, |space| {
                let mut i = 0;
                let whole = range(space);
                let _ = space.apply_to_page_range(whole, |entry| {
                    assert!(i < at || after_setting, "the test's panic");
                    entry.set(frame(64 + i), data(kind))?;
                    assert!(i < at, "the test's panic");
                    i += 1;
                    Ok::<(), SpaceError>(())
                });
            });
            as_after_an_error(space, |i| i < at || (after_setting && i == at));
        }
    });
}

/// The same at the edges: the first page and the last one of each half, whose table has one page less above.
#[test]
fn a_callback_at_the_ends_of_a_half() {
    for backend in fake::backends() {
        for kind in KINDS {
            let half = kind.half();
            for start in [half.start(), half.end() - 2 * PAGE_SIZE] {
                let mmu = new_mmu_with(backend);
                let mut space = new_space(&mmu, kind);
                let two = pages(start, 2);
                panics(&mut space, true, |space| {
                    let mut first = true;
                    let _ = space.apply_to_page_range(two, |entry| {
                        assert!(core::mem::take(&mut first), "the test's panic");
                        entry.set(frame(64), data(kind))
                    });
                });
                let found = space.query(two.start()).map(|page| page.entry.frame());
                assert_eq!(found, Some(frame(64)));
                assert_eq!(space.free_empty_tables(two), Ok(0), "a table in use");
                space.unmap(pages(start, 1)).unwrap();
                assert!(space.free_empty_tables(two).unwrap() > 0);
                destroy(space);
            }
        }
    }
}

#[test]
fn a_callback_that_clears_entries() {
    each(|backend, kind, in_section, at| {
        let mmu = new_mmu_with(backend);
        let mut space = empty(&mmu, kind);
        let whole = range(&space);
        space.map(whole, contiguous(64), data(kind)).unwrap();
        panics(&mut space, in_section, |space| {
            let mut i = 0;
            let _ = space.apply_to_page_range(whole, |entry| {
                entry.get_and_clear();
                assert!(i < at, "the test's panic");
                i += 1;
                Ok::<(), SpaceError>(())
            });
        });
        space.invalidate_range(whole).unwrap();
        as_after_an_error(space, |i| i > at);
    });
}

#[test]
fn a_source_of_frames() {
    each(|backend, kind, in_section, at| {
        let mmu = new_mmu_with(backend);
        let mut space = empty(&mmu, kind);
        panics(&mut space, in_section, |space| {
            let whole = range(space);
            let mut fast = space.fast_pte_range(whole).unwrap();
            let _ = fast.set_each(0, PAGES as usize, data(kind), |i| {
                assert!((i as u64) < at, "the test's panic");
                frame(64 + i as u64)
            });
        });
        as_after_an_error(space, |i| i < at);
    });
}

#[test]
fn a_taker_of_frames() {
    each(|backend, kind, in_section, at| {
        let mmu = new_mmu_with(backend);
        let mut space = empty(&mmu, kind);
        let whole = range(&space);
        space.map(whole, contiguous(64), data(kind)).unwrap();
        let mut given = Vec::new();
        panics(&mut space, in_section, |space| {
            let _ = space.unmap_frames(whole, |va, frame| {
                mmu.kernel()
                    .give_back(fake::asid_of(kind), va.as_u64(), frame);
                given.push(frame);
                assert!((given.len() as u64) <= at, "the test's panic");
            });
        });
        let expected: Vec<_> = (0..=at).map(|i| frame(64 + i)).collect();
        assert_eq!(given, expected, "each once, up to the panic");
        // No entry is left that is neither mapped nor empty.
        let look = |entry: &mut lazymmu::PteRef<'_, Fake>| {
            assert_eq!(entry.get(), Desc::INVALID, "{}", entry.va());
            Ok::<(), SpaceError>(())
        };
        space.apply_to_page_range(whole, look).unwrap();
        as_after_an_error(space, |_| false);
    });
}

/// The same when the gather is dropped by an unwinding of its caller: its frames come back then.
#[test]
fn a_gather_whose_caller_panics_finishes() {
    each(|backend, kind, in_section, _| {
        let mmu = new_mmu_with(backend);
        let mut space = empty(&mmu, kind);
        let whole = range(&space);
        space.map(whole, contiguous(64), data(kind)).unwrap();
        let mut given = 0;
        panics(&mut space, in_section, |space| {
            let mut gather = space.gather(|_, _| given += 1);
            gather.unmap(whole).unwrap();
            panic!("the test's panic");
        });
        assert_eq!(given, PAGES);
        as_after_an_error(space, |_| false);
    });
}
