// SPDX-License-Identifier: MIT OR Apache-2.0

//! Random tasks in the kernel: a boot with `mode=soak` (kernel/src/soak).
//!
//! The kernel prints nothing while it is at it, and at its end one line with what it has done. It must say
//! so and end with status 0.

use super::{Round, Seed, Work};
use crate::failure;
use crate::measure::boots::BACKENDS;
use crate::qemu::boot::Watch;
use crate::qemu::machine::{Board, Gic};
use crate::qemu::{Boot, Input, Machine, Verdict};
use crate::run::again;
use crate::test::boots::{Bench, not_replaced};
use crate::test::summary::Failed;
use anyhow::Result;
use std::fmt::Write;
use std::num::NonZeroU32;
use std::time::Duration;

/// Seconds of a round.
const SECONDS: u32 = 10;
/// Seconds for boot and end, on a busy host.
const ADDITIONAL: u32 = 30;

/// How many CPUs, by turns.
const CPUS: [u32; 2] = [4, 8];
/// On which CPU model and interrupt controller. `max` has FEAT_ETS2, hence the other barrier policy.
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

    /// The scene of boot `number`: neighbors differ in everything, and each combination comes once before
    /// the first one comes again.
    fn in_turn(number: usize) -> Self {
        let round = number / (CPUS.len() * BACKENDS.len());
        Self::new(
            CPUS[number % CPUS.len()],
            MACHINES[(number + round) % MACHINES.len()],
            BACKENDS[number % BACKENDS.len()],
        )
    }
}

/// How a boot ended.
#[derive(Debug)]
pub enum Soaked {
    /// So many steps, all of them right.
    Passed { steps: u64 },
    /// Why not, and the command that repeats it.
    Failed { detail: Vec<String>, again: String },
    /// Ctrl-C.
    Interrupted,
}

/// One round of random tasks: boot `number` of the soak.
pub(super) fn round(bench: &Bench<'_>, number: usize, seed: Seed) -> Result<Round> {
    let scene = Scene::in_turn(number);
    Ok(match soak(bench, &scene, SECONDS, seed.0)? {
        Soaked::Passed { steps } => Round::Passed(Work::steps(steps)),
        Soaked::Failed { detail, again } => Round::Failed {
            work: Work::default(),
            failures: vec![Failed {
                again,
                ..Failed::new("random tasks in the kernel", detail)
            }],
        },
        Soaked::Interrupted => Round::Interrupted,
    })
}

/// Boots `scene` for so many seconds of random tasks.
///
/// # Errors
///
/// When QEMU cannot be started at all, or the log cannot be written.
pub fn soak(bench: &Bench<'_>, scene: &Scene, seconds: u32, seed: u32) -> Result<Soaked> {
    let planned = format!("seconds={seconds} seed={seed} lazy={}", scene.lazy);
    let given = &bench.options.bootargs;
    let arguments = ["mode=soak"].into_iter();
    let arguments = arguments.chain(not_replaced(&planned, given));
    let bootargs = arguments
        .chain(given.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ");
    // Half of it in silence is a hang, and all the seconds are silent: less than that was never meant.
    let needed = 2 * (seconds + ADDITIONAL);
    let timeout = bench
        .options
        .timeout(needed)
        .max(Duration::from_secs(needed.into()));
    let options = format!(
        "{} --timeout {}",
        scene.machine.options(),
        timeout.as_secs()
    );
    let again = again(&options, &bootargs);
    let boot = Boot {
        machine: &scene.machine,
        bootargs: &bootargs,
        artifacts: bench.artifacts,
        input: Input::Usual,
        watch: Watch::Timeout(timeout),
        again: again.clone(),
    };
    let mut log = String::new();
    let outcome = boot.run(bench.workspace, bench.qemu, |line| {
        let _ = writeln!(log, "{line}");
    })?;
    bench.keep(&format!("soak {} {}", scene.machine, scene.lazy), &log)?;
    Ok(judge(&log, outcome.verdict, &again))
}

fn judge(log: &str, verdict: Verdict, again: &str) -> Soaked {
    let detail = match verdict {
        Verdict::Failed(failure) | Verdict::Broken(failure) => {
            if failure.status == failure::INTERRUPTED {
                return Soaked::Interrupted;
            }
            failure.report.lines().map(str::to_owned).collect()
        }
        Verdict::Success => match steps(log) {
            Some(steps) if steps > 0 => return Soaked::Passed { steps },
            // Without this, a kernel that does something else would pass.
            _ => vec![
                "the kernel ended well and did not say `soak steps=...`; kernel/src/soak and \
                 xtask/src/test/soak/tasks.rs must agree on what is printed"
                    .to_owned(),
            ],
        },
    };
    Soaked::Failed {
        detail,
        again: format!("again: {again}"),
    }
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
        match judge(log, verdict, "cargo xtask run") {
            Soaked::Failed { detail, again } => (detail, again),
            other => panic!("{other:?}"),
        }
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
        let soaked = judge(LOG, Verdict::Success, "");
        assert!(matches!(soaked, Soaked::Passed { steps: 50883 }));
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
        assert!(matches!(judge(LOG, interrupted, ""), Soaked::Interrupted));
    }
}
