// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs on the machine model: all backends, both policies.
//!
//! `LAZYMMU_PROGRAMS` sets how many programs run in all, `LAZYMMU_SEED` where the random
//! numbers begin (a number; the same seed gives the same programs). A program that fails is
//! shrunk, and printed one step per line.

use lazymmu::{Backend, TlbFeatures};
use lazymmu_testkit::model::world::Setup;
use lazymmu_testkit::model::{Plan, Sabotage, Saboteur, Switch};
use lazymmu_testkit::programs::{Each, Frames, Op, Program, Range, Step, Universe, run, variable};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::time::Instant;

/// Programs without `LAZYMMU_PROGRAMS`: a few seconds. Miri takes milliseconds for a
/// store, and one program for each backend and policy shows it every path.
const PROGRAMS: u32 = if cfg!(miri) { 1 } else { 4000 };
/// Steps of a program, at most.
const STEPS: usize = if cfg!(miri) { 12 } else { 28 };

/// Runs `cases` programs; the first that fails comes back shrunk, with its failure.
fn first_failure(setup: Setup, plan: Plan, cases: u32, salt: u32) -> Option<(Program, String)> {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&variable("LAZYMMU_SEED", 1).to_le_bytes());
    seed[4..8].copy_from_slice(&salt.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let steps = vec(any::<[u8; Step::BYTES]>(), 1..STEPS);
    let programs = steps.prop_map(|steps| Program::of(&Universe::MODEL, &steps));
    let result = TestRunner::new_with_rng(config, rng).run(&programs, |program| {
        run(setup, &program, |sim| Saboteur::new(sim, plan)).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(reason, program)) => Some((program, reason.to_string())),
        Err(TestError::Abort(reason)) => panic!("no programs: {reason}"),
    }
}

/// What the CPUs offer for TLB maintenance: TTL, ranges, the erratum.
const FEATURES: [(bool, bool, bool); 4] = [
    (false, false, false),
    (true, true, false),
    (true, false, true),
    (false, true, true),
];

fn all_backends(setup: fn(Backend) -> Setup, salt: u32) {
    // They change which TLBI are executed, which is nothing to Miri.
    let features = if cfg!(miri) {
        &FEATURES[3..]
    } else {
        &FEATURES
    };
    let machines = Backend::ALL.len() * features.len();
    let share = variable("LAZYMMU_PROGRAMS", PROGRAMS).div_ceil(2 * machines as u32);
    let start = Instant::now();
    let mut salt = salt;
    for backend in Backend::ALL {
        for &(ttl, range, repeat) in features {
            let mut setup = setup(backend);
            setup.tlb = TlbFeatures { ttl, range, repeat };
            setup.model.repeat_tlbi = repeat;
            if let Some((program, reason)) = first_failure(setup, Plan::Nothing, share, salt) {
                panic!("{reason}\n{setup:?}{program:?}");
            }
            salt += 1;
        }
    }
    let n = share * machines as u32;
    let seconds = start.elapsed().as_secs_f64();
    println!("{n} programs, {:.0} per second", f64::from(n) / seconds);
}

#[test]
fn random_programs_keep_the_contract_on_classic_cpus() {
    all_backends(Setup::classic, 0);
}

#[test]
fn random_programs_keep_the_contract_with_ets2() {
    all_backends(Setup::ets2, 1000);
}

/// What random programs have found. With stores that wait, a page is made and emptied (or changed) before its value
/// reaches memory: nothing is executed for it. Another CPU had unmapped the page before. Whether this CPU may still use
/// that translation without an event of its own is row U9, on which the sources disagree, so nothing is promised.
#[test]
fn r28_u9_a_call_that_executes_nothing_synchronizes_with_no_other_cpu() {
    let step = Step::plain;
    // The first is set, the second emptied, the third replaced.
    let each = Each(0b11_10_01);
    let programs = [
        vec![
            step(0, Op::InterruptBoth(Range::new(1, 3, 1))),
            step(1, Op::EnableFast(0, Range::new(1, 2, 2))),
            step(1, Op::Map(0, Range::new(1, 1, 3), 2, Frames::Aligned)),
            step(1, Op::Unmap(0, Range::new(1, 3, 1))),
        ],
        vec![
            step(1, Op::Enable),
            step(2, Op::InterruptBoth(Range::new(1, 0, 2))),
            step(1, Op::Apply(0, Range::new(1, 1, 3), each)),
            step(1, Op::Remap(0, Range::new(1, 1, 1), 1)),
        ],
    ];
    for backend in Backend::ALL {
        for setup in [Setup::classic(backend), Setup::ets2(backend)] {
            for program in programs.clone().map(Program) {
                let result = run(setup, &program, |sim| Saboteur::new(sim, Plan::Nothing));
                assert_eq!(result, Ok(()), "{setup:?}{program:?}");
            }
        }
    }
}

/// Every kind of instruction, left out everywhere, is noticed within a few programs.
#[test]
#[cfg_attr(
    miri,
    ignore = "thousands of programs, to test the model and not the library"
)]
fn random_programs_notice_what_is_left_out() {
    for what in Sabotage::ALL {
        let setup = Setup::classic(Backend::DeferBarriers);
        let failure = first_failure(setup, Plan::Every(what), 2000, 2000);
        let Some((program, reason)) = failure else {
            panic!("{what:?} goes unnoticed");
        };
        println!("{what:?}: {reason}{program:?}");
    }
}

/// A context switch without its barrier, too (R17).
#[test]
#[cfg_attr(
    miri,
    ignore = "thousands of programs, to test the model and not the library"
)]
fn random_programs_notice_a_bare_context_switch() {
    let mut setup = Setup::classic(Backend::DeferBarriers);
    setup.switch = Switch::Bare;
    let failure = first_failure(setup, Plan::Nothing, 20_000, 3000);
    let Some((program, reason)) = failure else {
        panic!("the switch's barrier is not missed");
    };
    println!("{reason}{program:?}");
}
