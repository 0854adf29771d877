// SPDX-License-Identifier: GPL-2.0-or-later

//! Encodings, as an assembler writes them, and their names.

// The test needs not all of it.
#[allow(dead_code)]
#[path = "../src/decode.rs"]
mod decode;

use decode::{ERET, ISB, KINDS, Marker, SLOTS, name, slot};
use std::collections::BTreeSet;

/// What an instruction is counted as, in the form of an assembler.
fn counted(word: u32) -> String {
    match slot(word) {
        None => "-".to_owned(),
        Some(ISB) => "isb".to_owned(),
        Some(ERET) => "eret".to_owned(),
        Some(slot) => {
            let kind = KINDS.into_iter().find(|kind| kind.1.contains(&slot));
            let kind = kind.map_or("nothing", |kind| kind.0);
            format!("{kind} {}", name(slot))
        }
    }
}

#[test]
fn barriers_have_the_names_of_their_domain_and_type() {
    for (word, expected) in [
        (0xd503_3f9f, "dsb sy"),
        (0xd503_3b9f, "dsb ish"),
        (0xd503_3a9f, "dsb ishst"),
        (0xd503_399f, "dsb ishld"),
        (0xd503_379f, "dsb nsh"),
        (0xd503_369f, "dsb nshst"),
        (0xd503_359f, "dsb nshld"),
        (0xd503_339f, "dsb osh"),
        (0xd503_329f, "dsb oshst"),
        (0xd503_319f, "dsb oshld"),
        (0xd503_3e9f, "dsb st"),
        (0xd503_3d9f, "dsb ld"),
        (0xd503_309f, "dsb ssbb"),
        (0xd503_349f, "dsb pssbb"),
        (0xd503_3c9f, "dsb #12"),
        (0xd503_3e3f, "dsb synxs"),
        (0xd503_3a3f, "dsb ishnxs"),
        (0xd503_363f, "dsb nshnxs"),
        (0xd503_323f, "dsb oshnxs"),
        (0xd503_3bbf, "dmb ish"),
        (0xd503_3abf, "dmb ishst"),
        (0xd503_39bf, "dmb ishld"),
        (0xd503_3fbf, "dmb sy"),
        (0xd503_3fdf, "isb"),
        (0xd503_30df, "isb"),
    ] {
        assert_eq!(counted(word), expected, "{word:#x}");
    }
}

#[test]
fn invalidations_have_the_names_of_their_operation() {
    for (word, expected) in [
        (0xd508_831f, "tlbi vmalle1is"),
        (0xd508_8323, "tlbi vae1is"),
        (0xd508_8343, "tlbi aside1is"),
        (0xd508_83e0, "tlbi vaale1is"),
        (0xd508_83a9, "tlbi vale1is"),
        (0xd508_871f, "tlbi vmalle1"),
        (0xd508_8723, "tlbi vae1"),
        (0xd508_811f, "tlbi vmalle1os"),
        (0xd508_8223, "tlbi rvae1is"),
        (0xd508_82e0, "tlbi rvaale1is"),
        (0xd508_8623, "tlbi rvae1"),
        (0xd508_931f, "tlbi vmalle1isnxs"),
        (0xd50c_831f, "tlbi alle2is"),
        (0xd50c_8323, "tlbi vae2is"),
        (0xd50c_83df, "tlbi vmalls12e1is"),
        (0xd50c_8023, "tlbi ipas2e1is"),
        (0xd50e_831f, "tlbi alle3is"),
        // None that is known.
        (0xd50d_8323, "tlbi s1_5_c8_c3_1"),
        (0xd50d_9323, "tlbi s1_5_c9_c3_1"),
    ] {
        assert_eq!(counted(word), expected, "{word:#x}");
    }
}

#[test]
fn returns_are_counted_and_neighbors_are_not() {
    for word in [0xd69f_03e0, 0xd69f_0bff, 0xd69f_0fff] {
        assert_eq!(counted(word), "eret", "{word:#x}");
    }
    for (word, what) in [
        (0xd65f_03c0, "ret"),
        (0xd6bf_03e0, "drps"),
        (0xd503_201f, "nop"),
        (0xd503_305f, "clrex #0"),
        (0xd503_3a7f, "tcommit and what is near it"),
        (0xd503_30ff, "sb"),
        (0xd508_7800, "at s1e1r, x0"),
        (0xd508_751f, "ic iallu"),
        (0xd508_8b20, "sys #0, c8, c11, #1, x0"),
        (0xd528_8320, "sysl x0, #0, c8, c3, #1"),
        (0xd548_8320, "sysp #0, c8, c3, #1, x0, x1"),
        (0x0000_0000, "udf #0"),
        (0xd400_0001, "svc #0"),
    ] {
        assert_eq!(counted(word), "-", "{what}");
    }
}

#[test]
fn markers_are_hints_from_0x60_on_and_no_other() {
    let found: Vec<_> = (0..128)
        .filter_map(|number| Some((number, Marker::of(0xd503_201f | number << 5)?)))
        .collect();
    assert_eq!(
        found,
        [
            (0x60, Marker::Begin),
            (0x61, Marker::End),
            (0x62, Marker::Report),
            (0x63, Marker::Forget)
        ]
    );
    // As an assembler writes `hint #0x60`.
    assert_eq!(Marker::of(0xd503_2c1f), Some(Marker::Begin));
}

#[test]
fn no_two_counts_of_a_kind_have_one_name() {
    let mut slots = 0;
    for (kind, range) in KINDS {
        let count = range.len();
        let names: BTreeSet<_> = range.map(name).collect();
        assert_eq!(names.len(), count, "{kind}");
        assert!(names.iter().all(|name| !name.is_empty()));
        slots += count;
    }
    // And four that have one count each.
    assert_eq!(slots + 4, SLOTS);
}
