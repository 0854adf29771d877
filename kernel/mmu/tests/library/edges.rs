// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every operation at the first and the last page, and in the first and the last table, of both halves.
//!
//! The addresses at the end of a half are those at which a half-open range is hard to write down: the upper half
//! ends at 2^64. The fake machine judges every store, and the whole half is empty again at the end.

use lazymmu::{
    AddressSpace, Backend, Half, Mmu, PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind, VirtAddr,
};
use lazymmu_testkit::fake::{
    self, Fake, KINDS, contiguous, data, destroy, enable_fast, frame, new_mmu_with, new_space,
    pages, stride,
};

/// The number of a page that is next to an end: counted from the start, or from the end.
#[derive(Clone, Copy, Debug)]
enum Edge {
    First(u64),
    Last(u64),
}

impl Edge {
    fn page(self, half: Half) -> PageRange {
        match self {
            Self::First(n) => pages(half.start() + n * PAGE_SIZE, 1),
            Self::Last(n) => pages(half.end() - (n + 1) * PAGE_SIZE, 1),
        }
    }
}

/// A page at an end of a half, and a neighbor in the same table.
const EDGES: [(Edge, Edge); 6] = [
    (Edge::First(0), Edge::First(1)),
    (Edge::First(1), Edge::First(0)),
    (Edge::First(511), Edge::First(510)),
    (Edge::Last(0), Edge::Last(1)),
    (Edge::Last(1), Edge::Last(0)),
    (Edge::Last(510), Edge::Last(509)),
];

type Make = fn(&mut AddressSpace<'_, Fake>, PageRange, u64) -> Result<(), SpaceError>;

/// Ways to map a page to a frame.
const MAKES: [(&str, Make); 6] = [
    ("map", |space, page, n| {
        space.map(page, contiguous(n), data(space.kind()))
    }),
    ("map scattered", |space, page, n| {
        space.map(page, &[frame(n)][..], data(space.kind()))
    }),
    ("callback", |space, page, n| {
        let prot = data(space.kind());
        space.apply_to_page_range(page, |entry| entry.set(frame(n), prot))
    }),
    ("set", |space, page, n| {
        let prot = data(space.kind());
        space.fast_pte_range(page)?.set(0, frame(n), prot)
    }),
    ("set_each", |space, page, n| {
        let prot = data(space.kind());
        space
            .fast_pte_range(page)?
            .set_each(0, 1, prot, |_| frame(n))
    }),
    ("set_run", |space, page, n| {
        let prot = data(space.kind());
        space.fast_pte_range(page)?.set_run(0, 1, frame(n), prot)
    }),
];

fn each(test: impl Fn(&Mmu<Fake>, SpaceKind, (Edge, Edge))) {
    for backend in fake::backends() {
        for kind in KINDS {
            for edge in EDGES {
                test(&new_mmu_with(backend), kind, edge);
            }
        }
    }
}

/// The page is emptied without its invalidation, its neighbor is mapped, and then the page again: the invalidation
/// comes before.
#[test]
fn r27_r29_a_page_is_invalidated_before_it_is_mapped_again() {
    each(|mmu, kind, (at, near)| {
        let (page, neighbor) = (at.page(kind.half()), near.page(kind.half()));
        for (name, make) in MAKES.into_iter().step_by(stride(3)) {
            for in_section in [false, true] {
                let mut space = new_space(mmu, kind);
                let section = in_section.then(|| mmu.lazy().section().unwrap());
                make(&mut space, page, 1).unwrap();
                let pending = space.unmap_no_invalidate(page).unwrap();
                make(&mut space, neighbor, 2).unwrap();
                make(&mut space, page, 3).unwrap_or_else(|error| panic!("{name}, {at:?}: {error}"));
                space.invalidate(pending);
                drop(section);
                let entry = space.query(page.start()).expect("it was mapped last").entry;
                assert_eq!(entry.frame(), frame(3), "{name}, {at:?}");
                destroy(space);
            }
        }
    });
}

#[test]
fn every_operation_takes_the_first_and_the_last_page() {
    each(|mmu, kind, (at, near)| {
        let half = kind.half();
        let (page, neighbor) = (at.page(half), near.page(half));
        let prot = data(kind);
        let read_only = if prot.is_user() {
            Prot::USER_RO
        } else {
            Prot::KERNEL_RO
        };
        let mut space = new_space(mmu, kind);
        let is = |space: &AddressSpace<'_, Fake>, expected: Option<u64>| {
            let found = space.query(page.start()).map(|page| page.entry.frame());
            assert_eq!(found, expected.map(frame), "{at:?}");
        };
        space.map(page, contiguous(1), prot).unwrap();
        space.map(neighbor, contiguous(2), prot).unwrap();
        is(&space, Some(1));
        space.protect(page, read_only).unwrap();
        space.remap(page, prot).unwrap();
        is(&space, Some(1));
        space.unmap(page).unwrap();
        is(&space, None);
        enable_fast(&space, page);
        space.map(page, contiguous(4), prot).unwrap();
        is(&space, Some(4));
        mmu.lazy().disable().unwrap();
        space.fold_contiguous(page).unwrap();
        let mut given = Vec::new();
        space
            .unmap_frames(page, |va, frame| {
                let asid = fake::asid_of(kind);
                mmu.kernel().give_back(asid, va.as_u64(), frame);
                given.push((va, frame));
            })
            .unwrap();
        assert_eq!(given, [(page.start(), frame(4))]);
        let mut gather = space.gather(|_, _| ());
        gather.unmap(neighbor).unwrap();
        gather.finish();
        space.invalidate_range(page).unwrap();
        let mut leaves = Vec::new();
        space.for_each_leaf(|va, _, _| leaves.push(va));
        assert_eq!(leaves, [0; 0]);
        assert_eq!(space.free_empty_tables(page), Ok(3), "{at:?}");
        space.map(page, contiguous(5), prot).unwrap();
        space.for_each_leaf(|va, _, _| leaves.push(va));
        assert_eq!(leaves, [page.start().as_u64()]);
        destroy(space);
    });
}

/// What lies beyond the ends is refused, and so is a range that reaches there.
#[test]
fn nothing_is_beyond_the_ends() {
    for half in [Half::Lower, Half::Upper] {
        assert!(PageRange::new(half.end(), 1).is_err());
        assert!(PageRange::new(half.end() - PAGE_SIZE, 2).is_err());
        assert!(PageRange::new(half.start(), u64::MAX).is_err());
        assert!(PageRange::from_bounds(half.start(), half.end()).is_ok());
        let last = VirtAddr::new(half.end() - 1).unwrap();
        assert_eq!(last.page().as_u64(), half.end() - PAGE_SIZE);
        assert_eq!(last.offset(PAGE_SIZE).is_none(), half == Half::Lower);
    }
}

/// All 512 entries of the first and of the last table (one less in the upper half), and the whole half's walk.
#[test]
#[cfg_attr(miri, ignore = "thousands of entries, one by one")]
fn whole_tables_at_the_ends() {
    for backend in Backend::ALL {
        for kind in KINDS {
            let mmu = new_mmu_with(backend);
            let mut space = new_space(&mmu, kind);
            let half = kind.half();
            let last = 512 - u64::from(half == Half::Upper);
            let first = pages(half.start(), 512);
            let end = pages(half.end() - last * PAGE_SIZE, last);
            for range in [first, end] {
                space.map(range, contiguous(64), data(kind)).unwrap();
                space.fold_contiguous(range).unwrap();
                space.unmap(range).unwrap();
                let mut fast = space.fast_pte_range(range).unwrap();
                let n = range.pages() as usize;
                fast.set_each(0, n, data(kind), |i| frame(64 + i as u64))
                    .unwrap();
                assert_eq!(fast.clear_run(0, n), n);
                drop(fast);
                space.invalidate_range(range).unwrap();
                assert_eq!(space.free_empty_tables(range), Ok(3), "{backend}, {range}");
            }
            destroy(space);
        }
    }
}
