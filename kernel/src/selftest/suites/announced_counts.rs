// SPDX-License-Identifier: MIT OR Apache-2.0
//! The instructions that an announced range executes in addition to a plain section.
//!
//! The library's host tests check stores, DSB, ISB and TLBI (`tests/library/announced_costs*.rs`).
//! Here a tick of the timer is an instruction, so the rest is checked, too: a fixed number for a
//! range of any size, one for its fold, and one for each group that it folds. Where stores wait,
//! the drain and each of these stores take a fixed number as well.

use lazymmu::{
    AddressSpace, Asid, Backend, BarrierPolicy, Frame, PAGE_SIZE, PageRange, Prot, SpaceError,
    SpaceKind,
};

use super::fixture::terms;
use super::sched_fixture::ticks_count_instructions;
use crate::arch::{interrupts, timer};
use crate::mm::MMU;
use crate::mm::kernel_space::Space;
use crate::selftest::prelude::*;

suite! {
    name: "announced-counts",
    order: 39,
    tests: [
        cases!(TraceOnly, r22_a_range_takes_a_fixed_number_of_instructions, {
            kernel: SpaceKind::Kernel,
            user: SpaceKind::User(Asid(9)),
        }),
    ],
}

/// The sizes of ranges in pages.
const SIZES: [usize; 5] = [1, 16, 64, 256, 512];
/// The most instructions of a range in addition to a plain section.
const OF_A_RANGE: u64 = 600;
/// The same for the fold at its end.
const OF_A_FOLD: u64 = 1400;
/// The same for each group that is folded: break and make.
const OF_A_GROUP: u64 = 1500;
/// The same for the drain of stores that wait.
const OF_A_DRAIN: u64 = 2800;
/// The same for each of these stores.
const OF_A_WAITING_STORE: u64 = 400;

/// The pages of a test, and how it maps them.
#[derive(Clone, Copy)]
struct Pages {
    range: PageRange,
    prot: Prot,
    /// The distance of the frames of two neighbors, in pages.
    stride: u64,
}

impl Pages {
    fn frame(self, i: usize) -> Frame {
        let number = 0x5_0000 + i as u64 * self.stride;
        Frame::from_u64(number * PAGE_SIZE).expect("a multiple of the page size")
    }
}

type Work = fn(&mut Space, Pages) -> Result<(), SpaceError>;

fn map_each(space: &mut Space, pages: Pages) -> Result<(), SpaceError> {
    for (i, page) in pages.range.by_page().enumerate() {
        space.map(page, pages.frame(i), pages.prot)?;
    }
    Ok(())
}

/// The cases to compare with: a plain section that is empty, and one with a call for each page.
const PLAIN: [Work; 2] = [
    |_, _| MMU.lazy().section().map(drop).map_err(SpaceError::from),
    |space, pages| {
        let _section = MMU.lazy().section()?;
        map_each(space, pages)
    },
];

/// Three announced ranges: one in which nothing is done, one in which each page is mapped by a
/// call, and one in which each page is set.
const ANNOUNCED: [Work; 3] = [
    |space, pages| space.fast_pte_range(pages.range).map(drop),
    |space, pages| {
        let (start, end) = (pages.range.start(), pages.range.end());
        let table = space
            .last_level_table(start)
            .ok_or(SpaceError::NotMapped { va: start })?;
        // SAFETY: no table is freed before the section is left.
        unsafe { MMU.lazy().enable_fast_pte_range(space, start, end, table)? };
        map_each(space, pages)?;
        Ok(MMU.lazy().disable()?)
    },
    |space, pages| {
        let mut fast = space.fast_pte_range(pages.range)?;
        for i in 0..pages.range.pages() as usize {
            fast.set(i, pages.frame(i), pages.prot)?;
        }
        Ok(())
    },
];

/// The number of instructions of `work`. Afterwards nothing is mapped.
fn instructions(space: &mut Space, pages: Pages, work: Work) -> Result<u64, SpaceError> {
    let masked = interrupts::mask();
    let start = timer::ticks();
    let result = core::hint::black_box(work)(space, pages);
    let took = timer::ticks().wrapping_sub(start);
    drop(masked);
    if space.query(pages.range.start()).is_some() {
        space.unmap(pages.range)?;
    }
    result.map(|()| took)
}

fn r22_a_range_takes_a_fixed_number_of_instructions(kind: SpaceKind) -> TestResult {
    if !ticks_count_instructions() {
        skip!("a tick is no instruction here: run with --cpu max --icount");
    }
    for backend in Backend::ALL {
        for policy in [BarrierPolicy::Classic, BarrierPolicy::Ets2] {
            let terms = terms(backend, policy);
            if policy == BarrierPolicy::Classic {
                expect!(terms.is_ok());
            }
            if terms.is_ok() {
                // Frames that make groups, and frames that do not.
                for (size, stride) in SIZES.into_iter().flat_map(|size| [(size, 1), (size, 2)]) {
                    compare(kind, backend, (size, stride))?;
                }
            }
        }
    }
    Ok(())
}

fn compare(kind: SpaceKind, backend: Backend, (size, stride): (usize, u64)) -> TestResult {
    let start = kind.half().start() + 0x4000_0000;
    let pages = Pages {
        range: expect_ok!(PageRange::new(start, size as u64)),
        prot: match kind {
            SpaceKind::Kernel => Prot::KERNEL,
            SpaceKind::User(_) => Prot::USER,
        },
        stride,
    };
    // No CPU gets its root, so it may be freed when it is dropped.
    let space = &mut expect_ok!(AddressSpace::new(&MMU, kind));
    // This builds the table.
    expect_ok!(instructions(space, pages, ANNOUNCED[0]));
    let mut plain = [0; 2];
    for (took, work) in plain.iter_mut().zip(PLAIN) {
        *took = expect_ok!(instructions(space, pages, work));
    }
    let [empty, mapped] = plain;
    let pages_that_wait = size as u64 * u64::from(backend == Backend::DeferStores);
    let of_waiting = pages_that_wait.min(1) * OF_A_DRAIN + pages_that_wait * OF_A_WAITING_STORE;
    let folds = kind != SpaceKind::Kernel && stride == 1 && pages_that_wait == 0;
    let groups = size as u64 / 16 * u64::from(folds);
    let of_fold = groups.min(1) * OF_A_FOLD + groups * OF_A_GROUP;
    let bounds = [empty, mapped + of_waiting, mapped + of_waiting + of_fold];
    for (i, (work, bound)) in ANNOUNCED.into_iter().zip(bounds).enumerate() {
        let took = expect_ok!(instructions(space, pages, work));
        expect!(
            took <= bound + OF_A_RANGE,
            "{backend}, {size} pages, work {i}: {took} instead of {bound} + {OF_A_RANGE}"
        );
    }
    Ok(())
}
