// SPDX-License-Identifier: MIT OR Apache-2.0

//! Random tasks in the kernel: a boot with `mode=soak` (kernel/src/soak).
//!
//! The kernel prints nothing while it is at it, and at its end one line with what it has done. It
//! must say so and end with status 0.

use super::Round;
use crate::failure;
use crate::measure::boots::BACKENDS;
use crate::qemu::boot::again;
use crate::qemu::machine::{Board, Gic};
use crate::qemu::{Boot, Machine, Verdict};
use crate::test::boots::{Bench, not_replaced};
use anyhow::Result;
use std::num::NonZeroU32;
use std::time::Duration;

/// Seconds of a round.
const SECONDS: u32 = 10;
/// Seconds for boot and end, on a busy host.
const ADDITIONAL: u32 = 30;

/// How many CPUs, by turns.
const CPUS: [u32; 2] = [4, 8];
/// On which CPU model and interrupt controller. `max` has FEAT_ETS2, hence the other barrier
/// policy.
const MACHINES: [(&str, Gic); 4] = [
    ("cortex-a72", Gic::V2),
    ("max", Gic::V3),
    ("cortex-a72", Gic::V3),
    ("max", Gic::V2),
];

/// A machine, and the backend of its kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    pub machine: Machine,
    pub lazy: &'static str,
}

impl Scene {
    pub fn new(smp: u32, (cpu, gic): (&str, Gic), lazy: &'static str) -> Self {
        let machine = Machine {
            cpu: cpu.to_owned(),
            smp: NonZeroU32::new(smp).unwrap_or(NonZeroU32::MIN),
            gic,
            ..Board::Virt.usual()
        };
        Self { machine, lazy }
    }

    /// The scene of boot `number`: neighbors differ in everything, and each combination comes once
    /// before the first one comes again.
    fn in_turn(number: usize) -> Self {
        let round = number / (CPUS.len() * BACKENDS.len());
        Self::new(
            CPUS[number % CPUS.len()],
            MACHINES[(number + round) % MACHINES.len()],
            BACKENDS[number % BACKENDS.len()],
        )
    }
}

/// One round of random tasks: boot `number` of the soak; nothing comes back after Ctrl-C.
pub(super) fn round(bench: &Bench<'_>, number: usize, seed: u32) -> Result<Option<Round>> {
    let scene = Scene::in_turn(number);
    let name = format!("soak {} {}", scene.machine, scene.lazy);
    soak(bench, &name, &scene, SECONDS, seed)
}

/// Boots `scene` for so many seconds of random tasks, and keeps the log as `name`; nothing comes
/// back after Ctrl-C.
///
/// # Errors
///
/// When QEMU cannot be started at all, or the log cannot be written.
pub(super) fn soak(
    bench: &Bench<'_>,
    name: &str,
    scene: &Scene,
    seconds: u32,
    seed: u32,
) -> Result<Option<Round>> {
    let planned = format!("seconds={seconds} seed={seed} lazy={}", scene.lazy);
    let given = &bench.options.bootargs;
    let arguments = ["mode=soak"].into_iter();
    let arguments = arguments.chain(not_replaced(&planned, given));
    let arguments = arguments.chain(given.iter().map(String::as_str));
    let bootargs = arguments.collect::<Vec<_>>().join(" ");
    // Half of it in silence is a hang, and all the seconds are silent: less than that was never
    // meant.
    let needed = 2 * (seconds + ADDITIONAL);
    let needed_time = Duration::from_secs(needed.into());
    let timeout = bench.options.timeout(needed).max(needed_time);
    let options = scene.machine.options();
    let options = format!("{options} --timeout {}", timeout.as_secs());
    let boot = Boot {
        again: again(&options, &bootargs),
        ..Boot::new(&scene.machine, &bootargs, bench.artifacts, timeout)
    };
    let booted = bench.boot(name, &boot, bench.qemu, |_| ())?;
    Ok(judge(&booted.log, &booted.outcome.verdict, &boot.again))
}

fn judge(log: &str, verdict: &Verdict, again: &str) -> Option<Round> {
    let detail = match (verdict.failure(), steps(log)) {
        (Some(failure), _) if failure.status == failure::INTERRUPTED => return None,
        (Some(failure), _) => failure.report.lines().map(str::to_owned).collect(),
        (None, Some(steps @ 1..)) => {
            return Some(Round {
                steps,
                ..Round::default()
            });
        }
        // Without this, a kernel that does something else would pass.
        (None, _) => vec![
            "the kernel ended well and did not say `soak steps=...`; kernel/src/soak and \
             xtask/src/test/soak/tasks.rs must agree on what is printed"
                .to_owned(),
        ],
    };
    let again = format!("again: {again}");
    Some(Round::broken("random tasks in the kernel", detail, again))
}

/// Reads the line `soak steps=123456 sections=...`.
fn steps(log: &str) -> Option<u64> {
    log.lines()
        .filter_map(|line| line.strip_prefix("soak steps="))
        .find_map(|rest| rest.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    const LOG: &str = "\
soak seconds=5 seed=7 cpus=4 backend=defer-barriers policy=classic
soak steps=50883 sections=4153 switches=10920
lazymmu: exit 0
";

    fn failed(log: &str, verdict: Verdict) -> (Vec<String>, String) {
        let round = judge(log, &verdict, "cargo xtask run").expect("it was not interrupted");
        let [failed] = &round.failures[..] else {
            panic!("{round:?}");
        };
        (failed.detail.clone(), failed.again.clone())
    }

    #[test]
    fn every_combination_has_its_turn() {
        let all = CPUS.len() * MACHINES.len() * BACKENDS.len();
        let scenes: Vec<Scene> = (0..all).map(Scene::in_turn).collect();
        for (i, scene) in scenes.iter().enumerate() {
            assert!(!scenes[..i].contains(scene), "{scene:?}");
        }
        assert_eq!(Scene::in_turn(all), scenes[0]);
    }

    #[test]
    fn steps_and_a_good_end_pass() {
        let round = judge(LOG, &Verdict::Success, "").expect("it was not interrupted");
        assert_eq!((round.steps, round.failures), (50883, Vec::new()));
    }

    #[test]
    fn a_kernel_that_does_something_else_fails() {
        for (from, to) in [("steps=50883", "steps=0"), ("soak steps", "steps")] {
            let (detail, _) = failed(&LOG.replace(from, to), Verdict::Success);
            assert!(detail[0].contains("did not say"), "{to}");
        }
    }

    #[test]
    fn a_failure_says_why_and_what_repeats_it() {
        for verdict in [Verdict::Failed, Verdict::Broken] {
            let (detail, again) = failed(LOG, verdict(Failure::new(1, "error: worker 3")));
            assert_eq!(detail, ["error: worker 3"]);
            assert_eq!(again, "again: cargo xtask run");
        }
        let interrupted = Verdict::Broken(Failure::new(failure::INTERRUPTED, ""));
        assert_eq!(judge(LOG, &interrupted, ""), None);
    }
}
