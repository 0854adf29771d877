// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes are a program of what exists, and the smallest ones are the simplest.

use lazymmu::{Asid, SpaceKind};
use lazymmu_testkit::programs::{Op, Program, Step, Universe};
use lazymmu_testkit::rng::Rng;
use std::collections::BTreeSet;

const KERNEL: &[(u8, SpaceKind)] = &[(1, SpaceKind::Kernel)];
const USER: &[(u8, SpaceKind)] = &[(1, SpaceKind::User(Asid(1)))];
const BOTH: &[(u8, SpaceKind)] = &[(1, SpaceKind::Kernel), (1, SpaceKind::User(Asid(1)))];

fn universes() -> [(Universe, usize); 5] {
    // With the number of operations that have a weight there.
    [
        (Universe::MODEL, 36),
        (Universe::sections(BOTH), 34),
        (Universe::requests(BOTH), 27),
        (Universe::tables(BOTH), 27),
        (Universe::corners(BOTH), 18),
    ]
}

#[test]
fn every_operation_is_made_and_names_what_exists() {
    for (universe, operations) in universes() {
        let steps = if cfg!(miri) { 2000 } else { 20_000 };
        let program = Program::random(&universe, &mut Rng(7), steps);
        let mut names = BTreeSet::new();
        for Step { cpu, op, .. } in program.0 {
            assert!(usize::from(cpu) < universe.cpus.len());
            let text = format!("{op:?}");
            let name = text.split('(').next().map(str::to_owned);
            names.extend(name);
            if let Op::Map(space, range, prot, _) = op {
                let pages = universe.pages_of(range);
                assert!(prot < 4 && pages.end <= universe.pages(), "{op:?}");
                let addresses = universe.range_of(space.into(), range);
                assert_eq!(addresses.pages(), pages.len() as u64);
                let last = universe.va(space.into(), pages.end - 1);
                assert_eq!(last + lazymmu::PAGE_SIZE, addresses.end(), "of one window");
            }
        }
        assert_eq!(names.len(), operations, "{names:?}");
    }
}

#[test]
fn the_ends_of_all_bytes_are_inside() {
    for (universe, _) in universes() {
        for byte in [0, 1, 0x7f, 0x80, 0xfe, 0xff] {
            for second in 0..=255 {
                let mut raw = [byte; Step::BYTES];
                raw[1] = second;
                Step::decode(&universe, raw);
            }
        }
    }
}

#[test]
fn zeros_are_the_simplest_step_and_a_rest_is_none() {
    for (universe, _) in universes() {
        let bytes = [0; 2 * Step::BYTES + 5];
        let program = Program::decode(&universe, &bytes);
        let simplest = "\n   0: CPU 0: Map(0, w0[0..+1], 0, Aligned)\n   1: CPU 0: Map(0, w0[0..+1], 0, Aligned)";
        assert_eq!(format!("{program:?}"), simplest);
    }
}

/// Lengths of a range of the window with the last table of the upper half, which has one page less, and of the lower one.
#[test]
fn a_range_is_a_whole_table_often() {
    for (spaces, whole) in [(KERNEL, 511), (USER, 512)] {
        let universe = Universe::tables(spaces);
        let program = Program::random(&universe, &mut Rng(3), 2000);
        let ranges = program.0.iter().filter_map(|step| match step.op {
            Op::Map(_, range, ..) => Some(universe.range_of(0, range)),
            _ => None,
        });
        let wholes = ranges
            .filter(|range| range.pages() == whole && range.is_in_one_table(lazymmu::Level::L3));
        assert!(wholes.count() > 10, "ranges of {whole} pages");
    }
}

/// In the universe of corners, calls are made everywhere, and callbacks panic and fail.
#[test]
#[cfg_attr(miri, ignore = "counts, and touches no memory")]
fn a_call_is_made_in_every_scene_with_every_fault() {
    let program = Program::random(&Universe::corners(BOTH), &mut Rng(5), 10_000);
    let (mut scenes, mut faults) = (BTreeSet::new(), BTreeSet::new());
    for step in program.0 {
        let text = format!("{:?}", step.op);
        let name = text.split('(').next().map(str::to_owned);
        let fault = step.fault.map(|(fault, _)| format!("{fault:?}"));
        scenes.insert((name.clone(), format!("{:?}", step.scene)));
        faults.insert((name, fault));
    }
    assert_eq!(scenes.len(), 18 * 5, "{scenes:?}");
    assert_eq!(faults.len(), 18 * 3, "{faults:?}");
}
