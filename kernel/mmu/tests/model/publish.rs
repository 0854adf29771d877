// SPDX-License-Identifier: MIT OR Apache-2.0
//! Publishing a mapping to another CPU (R35, R36, R37): what a reader must do, on the machine model.
//!
//! The writer maps a page and hands it over. What the reader may rely on depends on what *it* does between
//! learning of the page and its access: the writer's pair synchronizes the writer. The rows are those of
//! `verdicts.rs`; here they are asked of what the library executes.

use Kind::{Fetch, Read};
use lazymmu::{Backend, Mmu, PAGE_SIZE, Prot};
use lazymmu_testkit::model::world::{KERNEL, Setup, access, backing, kernel_space, page, pages};
use lazymmu_testkit::model::{Kind, Outcomes, Plan, Saboteur};

/// What the reader does after it learned of the page, on CPU 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    /// Nobody told it.
    Untold,
    /// A load-acquire (X1, X2).
    Acquires,
    /// And `DSB ISH; ISB` (X3).
    Synchronizes,
    /// It takes a lock, and some time later an exception.
    Locks,
    /// The pointer itself is what it was handed, and it follows it (X3, by address dependency).
    Follows,
}

const READERS: [Reader; 5] = [
    Reader::Untold,
    Reader::Acquires,
    Reader::Synchronizes,
    Reader::Locks,
    Reader::Follows,
];

impl Reader {
    /// What CPU 0 has done reaches CPU 1, which accesses the page.
    fn reads(self, mmu: &Mmu<Saboteur>, kind: Kind) -> Outcomes {
        let sim = &mmu.kernel().sim;
        let token = sim.release(0);
        match self {
            Self::Untold => {}
            Self::Acquires => sim.acquire(1, &token),
            Self::Synchronizes => {
                sim.acquire(1, &token);
                sim.dsb(1);
                sim.synchronize(1);
            }
            Self::Locks => {
                sim.lock(1, &token);
                sim.synchronize(1);
            }
            Self::Follows => return sim.access_through(1, &token, KERNEL, kind),
        }
        access(mmu, 1, KERNEL, kind)
    }
}

/// Maps a page, in a section that has ended, and asks what `reader` may see: whether it can fault.
#[track_caller]
fn may_fault(setup: Setup, reader: Reader, prot: Prot) -> bool {
    let mmu = setup.build(Plan::Nothing);
    let (mut space, _) = kernel_space(&mmu);
    let section = mmu.lazy().section().unwrap();
    space.map(pages(KERNEL, 1), backing(5), prot).unwrap();
    drop(section);
    let kind = if prot == Prot::KERNEL_ROX {
        Fetch
    } else {
        Read
    };
    let out = reader.reads(&mmu, kind);
    assert!(out.is_only_or_faults(page(5, prot)), "{setup:?}: {out:?}");
    out.may_fault()
}

/// R37, rows X1 to X3: whatever the writer executed, the reader synchronizes after it learned of the page.
#[test]
fn x1_x2_x3_r37_a_classic_reader_synchronizes_for_itself() {
    for backend in Backend::ALL {
        for reader in READERS {
            let faults = may_fault(Setup::classic(backend), reader, Prot::KERNEL);
            let expected = matches!(reader, Reader::Untold | Reader::Acquires);
            assert_eq!(faults, expected, "{backend}, {reader:?}");
        }
    }
}

/// R36, rows X1 and X2: with FEAT_ETS2 on every CPU it is enough to have learned of the page.
#[test]
fn x1_x2_r36_an_ets2_reader_of_data_acquires() {
    for backend in Backend::ALL {
        for reader in READERS {
            let faults = may_fault(Setup::ets2(backend), reader, Prot::KERNEL);
            assert_eq!(faults, reader == Reader::Untold, "{backend}, {reader:?}");
        }
    }
}

/// R35: which is not said of instruction fetch.
#[test]
fn x3_r35_whoever_executes_a_page_synchronizes_under_either_policy() {
    for setup in [Setup::classic, Setup::ets2] {
        for backend in Backend::ALL {
            let faults = |reader| may_fault(setup(backend), reader, Prot::KERNEL_ROX);
            assert!(faults(Reader::Acquires), "{backend}");
            assert!(!faults(Reader::Synchronizes), "{backend}");
            assert!(!faults(Reader::Locks), "{backend}");
        }
    }
}

/// Row X5: one invalidation behind the makes, of pages that nobody has used, spares readers everything but the
/// acquire. (Not for a plain load without one: `X5-po`.)
#[test]
fn x5_r37_a_writer_that_invalidates_spares_its_readers_the_synchronization() {
    for backend in Backend::ALL {
        for (invalidates, expected) in [(false, true), (true, false)] {
            let mmu = Setup::classic(backend).build(Plan::Nothing);
            let (mut space, _) = kernel_space(&mmu);
            let range = pages(KERNEL, 8);
            // Once for all pages of a section.
            let section = mmu.lazy().section().unwrap();
            for i in 0..8 {
                let page = pages(KERNEL + i * PAGE_SIZE, 1);
                space.map(page, backing(5 + i), Prot::KERNEL).unwrap();
            }
            drop(section);
            if invalidates {
                space.invalidate_range(range).unwrap();
            }
            let sim = &mmu.kernel().sim;
            sim.acquire(1, &sim.release(0));
            for i in 0..8 {
                let out = access(&mmu, 1, KERNEL + i * PAGE_SIZE, Read);
                assert!(out.contains(page(5 + i, Prot::KERNEL)));
                assert_eq!(out.may_fault(), expected, "{backend}, page {i}: {out:?}");
            }
        }
    }
}

/// R19: behind the section, not in it. Where stores wait, even a reader that synchronizes finds nothing.
#[test]
fn r19_r37_a_mapping_is_published_behind_its_section() {
    for backend in Backend::ALL {
        let mmu = Setup::classic(backend).build(Plan::Nothing);
        let (mut space, _) = kernel_space(&mmu);
        let table = space.last_level_table(pages(KERNEL, 1).start()).unwrap();
        // SAFETY: no table is freed in the section.
        unsafe {
            let (start, end) = (pages(KERNEL, 1).start(), pages(KERNEL, 1).end());
            mmu.lazy().enable_fast_pte_range(&space, start, end, table)
        }
        .unwrap();
        space
            .map(pages(KERNEL, 1), backing(5), Prot::KERNEL)
            .unwrap();
        let early = Reader::Synchronizes.reads(&mmu, Read);
        let waits = matches!(backend, Backend::DeferStores | Backend::Multicall);
        assert_eq!(early.may_fault(), waits, "{backend}: {early:?}");
        mmu.lazy().flush();
        let out = Reader::Synchronizes.reads(&mmu, Read);
        assert!(out.is_only(page(5, Prot::KERNEL)), "{backend}: {out:?}");
        mmu.lazy().disable().unwrap();
    }
}
