// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot arguments are compared with the settings in force. If an argument were read and then
//! forgotten, a run would look like a different one.
//!
//! This suite runs first, because others put their own terms in force for a while.

use lazymmu::BarrierPolicy;

use crate::arch::features::Ets;
use crate::mm::MMU;
use crate::platform::bootargs::{BootArguments, Mode, PolicyChoice};
use crate::selftest::prelude::*;
use crate::start;

suite! {
    name: "boot-arguments",
    order: 1,
    tests: [
        case!(QemuVisible, lazy_is_the_backend_in_force),
        case!(QemuVisible, policy_is_the_one_in_force),
        case!(QemuVisible, log_is_the_level_in_force),
        case!(QemuVisible, the_library_knows_what_the_cpu_offers),
    ],
}

/// The arguments that this boot was given.
fn given() -> Result<BootArguments<'static>, Outcome> {
    let text = start::machine().description.boot_arguments.as_str();
    let arguments = expect_ok!(BootArguments::parse(text));
    expect_eq!(arguments.mode, Mode::Selftest, "of {text}");
    Ok(arguments)
}

fn lazy_is_the_backend_in_force() -> TestResult {
    expect_eq!(MMU.backend(), given()?.lazy);
    Ok(())
}

fn policy_is_the_one_in_force() -> TestResult {
    let expected = match given()?.policy {
        PolicyChoice::Auto if start::machine().features.ets >= Ets::Ets2 => BarrierPolicy::Ets2,
        PolicyChoice::Auto | PolicyChoice::Classic => BarrierPolicy::Classic,
        PolicyChoice::Ets2 => BarrierPolicy::Ets2,
    };
    expect_eq!(MMU.policy(), expected);
    Ok(())
}

fn log_is_the_level_in_force() -> TestResult {
    expect_eq!(log::max_level(), given()?.log);
    Ok(())
}

fn the_library_knows_what_the_cpu_offers() -> TestResult {
    let cpu = start::machine().features;
    let known = MMU.features();
    expect_eq!(known.tlb.ttl, cpu.ttl);
    expect_eq!(known.tlb.range, cpu.tlb_range);
    expect_eq!(known.tlb.repeat, cpu.repeat_tlbi);
    expect_eq!(known.ets2, cpu.ets >= Ets::Ets2);
    Ok(())
}
