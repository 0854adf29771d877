// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every instruction of the library is missed when it is missing.
//!
//! Each scenario runs once as it is, and then once for each barrier and TLBI that the library
//! executed in its window and each way to spoil it: left out, `DSB ISH` weakened to
//! `DSB ISHST`, a broadcast kept local. Each time the set of allowed outcomes must hold
//! something that the contract forbids. What is not detected must be in [`SUPERFLUOUS`],
//! with the reason why nothing depends on it.

use lazymmu::{Backend, Mmu};
use lazymmu_testkit::model::scenarios::{self, Scenario};
use lazymmu_testkit::model::{Plan, Sabotage, Saboteur};

/// Scenario, backend (`None`: every), sabotage, number: nothing depends on this instruction
/// there, and why.
const SUPERFLUOUS: &[(&str, Option<Backend>, Sabotage, u32, &str)] = &[
    (
        "change_the_memory_type",
        None,
        Sabotage::SkipIsb,
        0,
        "the pair behind the make synchronizes as well",
    ),
    (
        "map_where_it_was_emptied",
        None,
        Sabotage::SkipIsb,
        0,
        "the pair behind the make synchronizes as well",
    ),
    (
        "move_a_page_in_a_fast_range",
        None,
        Sabotage::SkipIsb,
        0,
        "the pair behind the make synchronizes as well",
    ),
    (
        "switch_out_in_a_section",
        None,
        Sabotage::SkipDsbIsh,
        0,
        "the barrier of the other CPU's switch completes stores as well, but no TLB maintenance: \
         random_programs_notice_a_bare_context_switch",
    ),
    (
        "switch_out_in_a_section",
        None,
        Sabotage::WeakenDsb,
        0,
        "the same",
    ),
    (
        "destroy_a_user_space",
        None,
        Sabotage::SkipDsbIshst,
        0,
        "no entry was written before: the root's last user is gone",
    ),
    (
        "unmap_a_page_of_data",
        None,
        Sabotage::SkipIsb,
        0,
        "with ETS2, data needs no ISB behind the DSB (row U5); the library does not know the use",
    ),
];

/// Groups are folded and split between two invalidations of the same translations, which differ in
/// size only. The model does not tell sizes apart; the checker of the host tests does (`r29_*` in
/// `tests/library/contiguous.rs`).
fn is_size_only(miss: &(&str, Backend, Sabotage, u32)) -> bool {
    let of_sizes = [
        "fold_a_group",
        "split_a_group",
        "split_a_group_in_a_fast_range",
    ];
    // A strategy that invalidates does so with the page that is set before the group is folded.
    let of_drain = u32::from(miss.0 == "fold_a_group" && miss.1.invalidates());
    of_sizes.contains(&miss.0) && miss.3 <= of_drain
}

/// Two invalidations in a row, the drain's and one that the caller asks for, of a page that nobody
/// mapped: the second completes what the first has begun, and is needed for nothing else.
/// (`pause_behind_a_clear` has a drain alone.) Where stores wait, both are one, which begins with that page.
fn is_flush_behind_a_drain(miss: &(&str, Backend, Sabotage, u32)) -> bool {
    let completes = [Sabotage::SkipDsbIsh, Sabotage::WeakenDsb, Sabotage::SkipIsb];
    let of_other_page = [Sabotage::SkipTlbi, Sabotage::LocalTlbi];
    let is_needless = match miss.1 {
        Backend::DeferStores => miss.3 == 0 && of_other_page.contains(&miss.2),
        _ => miss.3 == 1 || completes.contains(&miss.2),
    };
    miss.0 == "restrict_and_flush_in_a_section" && miss.1.invalidates() && is_needless
}

/// The yardstick pays after each entry, so of two pairs in a row the first is
/// superfluous, and so is a `DSB ISHST` next to another.
fn is_eagerness(miss: &(&str, Backend, Sabotage, u32)) -> bool {
    let pairs = [
        "map_a_table",
        "map_in_a_section",
        "restrict_a_page",
        "relax_a_page",
        "protect_in_a_section",
        "protect_in_a_fast_range",
        "restrict_and_flush_in_a_section",
    ];
    miss.1 == Backend::Eager
        && pairs.contains(&miss.0)
        && matches!(miss.2, Sabotage::SkipDsbIshst | Sabotage::SkipIsb)
}

fn run(
    scenario: &Scenario<Saboteur>,
    backend: Backend,
    plan: Plan,
) -> (Mmu<Saboteur>, Result<(), String>) {
    let mmu = (scenario.setup)(backend).build(plan);
    let result = (scenario.run)(&mmu);
    (mmu, result)
}

#[test]
#[cfg_attr(
    miri,
    ignore = "tests what the model notices; the library runs on it in the modules library and properties"
)]
fn every_dropped_or_weakened_instruction_is_detected() {
    let (mut detected, mut all, mut missed) = (0, 0, Vec::new());
    for backend in Backend::ALL {
        for scenario in &scenarios::all() {
            let (mmu, result) = run(scenario, backend, Plan::Nothing);
            assert_eq!(result, Ok(()), "{}, {backend}, unspoiled", scenario.name);
            for what in Sabotage::ALL {
                for n in 0..mmu.kernel().targets(what) {
                    all += 1;
                    match run(scenario, backend, Plan::Nth(what, n)).1 {
                        Err(_) => detected += 1,
                        Ok(()) => missed.push((scenario.name, backend, what, n)),
                    }
                }
            }
        }
    }
    println!("{detected} of {all} dropped or weakened instructions detected");
    let is_superfluous = |miss: &(&str, Backend, Sabotage, u32)| {
        let same = |known: &&(&str, Option<Backend>, Sabotage, u32, &str)| {
            known.0 == miss.0
                && known.1.is_none_or(|backend| backend == miss.1)
                && (known.2, known.3) == (miss.2, miss.3)
        };
        SUPERFLUOUS.iter().find(same).map(|known| known.4)
    };
    let mut unexplained = Vec::new();
    for miss in missed {
        let eager = is_eagerness(&miss).then_some("another pair follows at once");
        let sizes = is_size_only(&miss).then_some("the sizes of TLB entries are not modeled");
        let flush = is_flush_behind_a_drain(&miss).then_some("two invalidations in a row");
        match is_superfluous(&miss).or(eager).or(sizes).or(flush) {
            Some(why) => println!("superfluous: {miss:?}: {why}"),
            None => unexplained.push(miss),
        }
    }
    assert!(unexplained.is_empty(), "not detected: {unexplained:#?}");
}
