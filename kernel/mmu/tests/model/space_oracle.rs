// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces against a naive oracle (`lazymmu_testkit::programs::oracle`): random requests and
//! sections, most of them sensible and many not, on a universe small enough that they collide.
//!
//! `LAZYMMU_SEED` sets where the random numbers begin, and `LAZYMMU_PROGRAMS` how many programs
//! with sections run in all. One that fails is shrunk, and printed one step per line.

use lazymmu::{Asid, Backend, Features, SpaceKind};
use lazymmu_testkit::fake::features;
use lazymmu_testkit::programs::{
    Fault, Frames, Op, Program, Range, Step, Universe, oracle, variable,
};
use lazymmu_testkit::rng::Rng;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

type Spaces = &'static [(u8, SpaceKind)];

const KERNEL: Spaces = &[(1, SpaceKind::Kernel)];
const USER: Spaces = &[(1, SpaceKind::User(Asid(0x2b)))];
const BOTH: Spaces = &[KERNEL[0], USER[0]];
/// The same addresses under two ASIDs.
const USERS: Spaces = &[USER[0], (1, SpaceKind::User(Asid(0x2c)))];
/// Two that share the kernel's tables, when a program says so.
const KERNELS: Spaces = &[KERNEL[0], KERNEL[0]];
const THREE: Spaces = &[KERNEL[0], USERS[0], USERS[1]];

fn requests(universe: Universe, backend: Backend, features: Features, seed: u64, steps: usize) {
    let seed = seed ^ u64::from(variable("LAZYMMU_SEED", 0));
    let program = Program::random(&universe, &mut Rng(seed), steps);
    if let Err(failure) = oracle::run(&universe, backend, features, &program) {
        panic!("{backend}, {features:?}: {failure}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "queries every page after each request, for minutes")]
fn random_requests_agree_with_the_oracle() {
    for (seed, spaces, backend) in [
        (0x9e37_79b9_7f4a_7c15, KERNEL, Backend::DeferBarriers),
        (0xd1b5_4a32_d192_ed03, KERNEL, Backend::Eager),
        (0x94d0_49bb_1331_11eb, USER, Backend::DeferBarriers),
        (0xbf58_476d_1ce4_e5b9, USER, Backend::Eager),
    ] {
        let (all, ends) = (Universe::requests(spaces), Universe::tables(spaces));
        requests(all, backend, Features::default(), seed, 2500);
        requests(ends, backend, Features::default(), seed, 700);
    }
}

#[test]
#[cfg_attr(miri, ignore = "queries every page after each request, for minutes")]
fn random_requests_agree_with_the_oracle_whatever_the_cpu_offers() {
    for number in 0..16 {
        let spaces = if number % 2 == 0 { KERNEL } else { USER };
        let seed = 0x1234_5678_9abc_def1 + u64::from(number);
        let universe = Universe::requests(spaces);
        requests(
            universe,
            Backend::DeferBarriers,
            features(number),
            seed,
            300,
        );
    }
}

/// Steps of a program with sections, at most: more find nothing that these do not.
const STEPS: usize = 48;
/// Programs with sections without `LAZYMMU_PROGRAMS`.
const PROGRAMS: u32 = 3000;

#[test]
#[cfg_attr(miri, ignore = "queries every page after each step, for minutes")]
fn random_sections_agree_with_the_oracle() {
    let universes = [KERNEL, USER, BOTH].map(Universe::sections);
    let ends = [KERNEL, USER, USERS].map(Universe::ends);
    let corners = [KERNELS, USERS, THREE].map(Universe::corners);
    let runs = Backend::ALL.len() * (universes.len() + ends.len() + corners.len());
    let share = variable("LAZYMMU_PROGRAMS", PROGRAMS).div_ceil(runs as u32);
    for backend in Backend::ALL {
        for universe in universes.into_iter().chain(ends).chain(corners) {
            let steps = vec(any::<[u8; Step::BYTES]>(), 1..STEPS);
            let programs = steps.prop_map(move |steps| Program::of(&universe, &steps));
            let config = Config {
                cases: share,
                failure_persistence: None,
                ..Config::default()
            };
            let mut seed = [backend as u8; 32];
            seed[..4].copy_from_slice(&variable("LAZYMMU_SEED", 0).to_le_bytes());
            let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
            let result = TestRunner::new_with_rng(config, rng).run(
                &(0..16_u8, programs),
                |(number, program)| {
                    let done = oracle::run(&universe, backend, features(number), &program);
                    done.map_err(TestCaseError::fail)
                },
            );
            if let Err(failure) = result {
                panic!("{backend}: {failure}");
            }
        }
    }
}

#[test]
fn a_panic_while_a_gather_makes_room_leaves_the_next_range_mapped() {
    let universe = Universe::tables(KERNEL);
    let page = |i| Step::plain(0, Op::Map(0, Range::new(1, i, 1), 0, Frames::Consecutive));
    let mut program = Program((0..20).map(|i| page(2 * i)).collect());
    // Sixteen stretches fill the list, so the second call finishes them first.
    let gather = Op::GatherExisting(0, Range::new(1, 8, 32), Range::new(1, 0, 40));
    program.0.push(Step {
        fault: Some((Fault::Panics, 5)),
        ..Step::plain(0, gather)
    });
    for backend in Backend::ALL {
        let done = oracle::run(&universe, backend, Features::default(), &program);
        assert_eq!(done, Ok(()), "{backend}");
    }
}
