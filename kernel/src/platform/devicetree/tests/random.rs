// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random blobs: for any bytes the result is a description that keeps its guarantees, or an error
//! with a message.

use proptest::prelude::*;

use super::super::*;
use super::source::{Source, pi4, virt};
use crate::platform::memory_map::{AddressLimits, BootMemory, MemoryMap};
use crate::platform::phys_range::PhysRange;

fn judge(blob: &[u8]) -> Result<(), TestCaseError> {
    let tree = match DeviceTree::new(blob) {
        Ok(tree) => tree,
        Err(error) => {
            prop_assert!(error.to_string().starts_with("device tree") || blob.is_empty());
            return Ok(());
        }
    };
    let _ = tree.console();
    let machine = match tree.describe() {
        Ok(machine) => machine,
        Err(error) => {
            prop_assert!(!error.to_string().is_empty());
            return Ok(());
        }
    };
    prop_assert!(!machine.memory.is_empty());
    for pair in machine.memory.windows(2) {
        prop_assert!(pair[0].end() < pair[1].start(), "{:?}", machine.memory);
    }
    for pair in machine.reservations.windows(2) {
        prop_assert!(pair[0].range.start() <= pair[1].range.start());
    }
    for note in &machine.notes {
        prop_assert!(!note.to_string().is_empty());
    }
    // The memory map must accept every description.
    let image = PhysRange::new(0x4008_0000, 0x10_0000).unwrap();
    let boot = BootMemory {
        image,
        device_tree: None,
    };
    let limits = AddressLimits {
        physical_bits: 44,
        linear_map: 64 << 40,
    };
    if let Err(error) = MemoryMap::new(&machine, &boot, limits) {
        prop_assert!(!error.to_string().is_empty());
    }
    Ok(())
}

fn good_blob() -> impl Strategy<Value = Vec<u8>> {
    let reserved = virt().blob_with_reservations(&[(0x4800_0000, 0x1000)]);
    prop_oneof![Just(virt().blob()), Just(pi4().blob()), Just(reserved)]
}

/// All properties of a tree, as places to change.
fn properties(source: &mut Source) -> Vec<&mut Vec<u8>> {
    let mut all: Vec<_> = source
        .properties
        .iter_mut()
        .map(|(_, value)| value)
        .collect();
    for child in &mut source.children {
        all.extend(properties(child));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        judge(&bytes)?;
    }

    #[test]
    fn any_bytes_behind_a_plausible_header(
        body in proptest::collection::vec(prop_oneof![
            4 => 0_u32..10,
            1 => any::<u32>(),
        ], 4..100),
        rsvmap in prop_oneof![Just(40_u32), 40..200_u32],
        structure in prop_oneof![Just(56_u32), 40..400_u32],
        strings in 40..500_u32,
    ) {
        let total = 40 + 4 * body.len() as u32;
        let strings = strings.min(total);
        let structure = structure.min(strings);
        let header = [
            0xd00d_feed, total, structure, strings, rsvmap & !7, 17, 16, 0,
            total - strings, strings - structure,
        ];
        let words = header.iter().chain(&body);
        let blob: Vec<u8> = words.flat_map(|word| word.to_be_bytes()).collect();
        judge(&blob)?;
    }

    #[test]
    fn good_blobs_with_flipped_bytes(
        blob in good_blob(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut blob = blob;
        for (index, value) in flips {
            let at = index.index(blob.len());
            blob[at] = value;
        }
        judge(&blob)?;
    }

    #[test]
    fn good_blobs_with_replaced_words(
        blob in good_blob(),
        words in proptest::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![
                0_u32..12, any::<u32>(), Just(u32::MAX), Just(0x8000_0000),
            ]),
            1..4,
        ),
    ) {
        let mut blob = blob;
        for (index, value) in words {
            let at = index.index(blob.len() / 4) * 4;
            blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        judge(&blob)?;
    }

    #[test]
    fn good_blobs_cut_off(
        blob in good_blob(),
        length in any::<prop::sample::Index>(),
        total in any::<bool>(),
    ) {
        let mut blob = blob;
        let length = length.index(blob.len());
        blob.truncate(length);
        // Also with a header that states this length.
        if total && length >= 8 {
            blob[4..8].copy_from_slice(&(length as u32).to_be_bytes());
        }
        judge(&blob)?;
    }

    #[test]
    fn good_trees_with_other_values(
        source in prop_oneof![Just(virt()), Just(pi4())],
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                proptest::collection::vec(prop_oneof![0_u32..5, any::<u32>()], 0..12)
                    .prop_map(|words| super::source::cells(&words)),
            ]),
            1..5,
        ),
    ) {
        let mut source = source;
        let mut all = properties(&mut source);
        let count = all.len();
        for (index, value) in changes {
            *all[index.index(count)] = value;
        }
        judge(&source.blob())?;
    }
}
