// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an announced range costs (R22): no store, DSB, ISB or TLBI more than a plain section, except one break, one
//! invalidation and one make for all groups that are folded at its end.
//!
//! `LAZYMMU_SEED` sets where the random numbers begin, and `LAZYMMU_PROGRAMS` how many programs run in all.

use lazymmu::{Asid, Backend, Features, PAGE_SIZE, SpaceKind};
use lazymmu_testkit::fake::features;
use lazymmu_testkit::programs::oracle::{self, Compared};
use lazymmu_testkit::programs::{At, Length, Program, Universe, Window, variable};
use lazymmu_testkit::rng::Rng;

type Spaces = &'static [(u8, SpaceKind)];

const KERNEL: Spaces = &[(1, SpaceKind::Kernel)];
const USER: Spaces = &[(1, SpaceKind::User(Asid(0x2b)))];
const BOTH: Spaces = &[KERNEL[0], USER[0]];

/// Groups with some of their neighbors: in the middle of a table, across its end, and at both ends of the half.
const GROUPS: [Window; 4] = [
    Window {
        at: At::Start((5 << 30) + (3 << 16) - 3 * PAGE_SIZE),
        pages: 40,
    },
    Window {
        at: At::Start((7 << 21) - 20 * PAGE_SIZE),
        pages: 40,
    },
    Window {
        at: At::Start(0),
        pages: 20,
    },
    Window {
        at: At::End(20 * PAGE_SIZE),
        pages: 20,
    },
];

const fn groups(spaces: Spaces) -> Universe {
    Universe {
        windows: &GROUPS,
        lengths: &[
            (2, Length::UpTo(3)),
            (2, Length::Rest),
            (1, Length::Any),
            (3, Length::Whole),
        ],
        ..Universe::sections(spaces)
    }
}

#[test]
#[cfg_attr(miri, ignore = "runs thousands of programs twice")]
fn r22_random_programs_cost_no_more_with_announced_ranges() {
    let universes = [KERNEL, USER, BOTH].map(Universe::sections);
    let all = universes
        .into_iter()
        .chain([KERNEL, USER, BOTH].map(groups));
    let runs = (6 * Backend::ALL.len()) as u32;
    let share = u64::from(variable("LAZYMMU_PROGRAMS", 3000).div_ceil(runs));
    let start = u64::from(variable("LAZYMMU_SEED", 0)) << 32;
    let (mut compared, mut all_programs) = (0, 0);
    for universe in all {
        for backend in Backend::ALL {
            for n in start..start + share {
                let program = Program::random(&universe, &mut Rng(n + 1), 40);
                let result = oracle::compare(&universe, backend, features(n as u8), &program);
                let result =
                    result.unwrap_or_else(|failure| panic!("{backend}, {n}: {failure}{program:?}"));
                all_programs += 1;
                if let Some(Compared { announced, plain }) = result {
                    compared += 1;
                    assert!(
                        announced.is_at_most(plain),
                        "{backend}, {n}, {:?}: {announced:?} instead of {plain:?}{:?}",
                        features(n as u8),
                        shrunk(&universe, backend, features(n as u8), program),
                    );
                }
            }
        }
    }
    assert!(
        compared * 2 > all_programs,
        "{compared} of {all_programs} programs"
    );
}

/// The program without the steps that make no difference.
fn shrunk(
    universe: &Universe,
    backend: Backend,
    features: Features,
    mut program: Program,
) -> Program {
    let costs_more = |program: &Program| {
        let result = oracle::compare(universe, backend, features, program);
        matches!(result, Ok(Some(Compared { announced, plain })) if !announced.is_at_most(plain))
    };
    let mut at = 0;
    while at < program.0.len() {
        let mut shorter = program.clone();
        shorter.0.remove(at);
        if costs_more(&shorter) {
            (program, at) = (shorter, 0);
        } else {
            at += 1;
        }
    }
    program
}
