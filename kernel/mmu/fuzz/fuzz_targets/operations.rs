// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of operations on address spaces, in and out of lazy sections, against a naive oracle
//! (`lazymmu_testkit::programs::oracle`): a map from page to entry.
//!
//! The first byte chooses the spaces and the CPU's features, the second one the backend; a step
//! is as many bytes as `Step::BYTES` says.

#![no_main]

use lazymmu::{Asid, Backend, Features, SpaceKind, TlbFeatures};
use lazymmu_testkit::programs::{Program, Universe, oracle};
use libfuzzer_sys::fuzz_target;

const KERNEL: (u8, SpaceKind) = (1, SpaceKind::Kernel);
const USER: (u8, SpaceKind) = (1, SpaceKind::User(Asid(0x2b)));
const OTHER: (u8, SpaceKind) = (1, SpaceKind::User(Asid(0x2c)));
/// The kernel's half is what most of the library's rules are about, so it comes first.
const SPACES: [&[(u8, SpaceKind)]; 6] = [
    &[KERNEL],
    &[USER],
    &[KERNEL, USER],
    &[USER, OTHER],
    &[KERNEL, KERNEL],
    &[KERNEL, USER, OTHER],
];

/// Operations beyond this many find nothing that fewer do not.
const MOST: usize = 48;

fuzz_target!(|input: &[u8]| {
    let [first, backend, steps @ ..] = input else {
        return;
    };
    let flag = |bit| first & bit != 0;
    let features = Features {
        tlb: TlbFeatures {
            ttl: flag(1),
            range: flag(2),
            repeat: flag(4),
        },
        ets2: flag(8),
    };
    let spaces = SPACES[usize::from(first >> 4) % SPACES.len()];
    let universe = match backend >> 6 {
        0 => Universe::sections(spaces),
        1 => Universe::corners(spaces),
        2 => Universe::ends(spaces),
        _ => Universe::tables(spaces),
    };
    let backend = Backend::ALL[usize::from(backend & 0x3f) % Backend::ALL.len()];
    let mut program = Program::decode(&universe, steps);
    program.0.truncate(MOST);
    if let Err(failure) = oracle::run(&universe, backend, features, &program) {
        panic!("{backend}, {features:?}: {failure}{program:?}");
    }
});
