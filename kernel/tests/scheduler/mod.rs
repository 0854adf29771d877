// SPDX-License-Identifier: MIT OR Apache-2.0

//! A modeled machine around the kernel's run queues, and how to try its interleavings.

pub mod cpu;
pub mod machine;
pub mod task;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Threads of a run have stacks of this size, in bytes.
const STACK: usize = 0x1_0000;
/// Points at which another thread may run; a run with more does not end.
const STEPS: usize = 200_000;
/// Where runs begin, unless the environment says otherwise.
const SEED: u64 = 0x5eed;

/// Says how to see a failure again.
struct Seed(u64, &'static str);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{} schedules: SCHEDULER_SEED={} repeats them",
                self.1, self.0
            );
        }
    }
}

/// Runs `scene` with `runs` interleavings chosen at random, and as many chosen by priorities that change a few times.
/// `SCHEDULER_SEED` in the environment is where they begin, `SCHEDULER_RUNS` multiplies them.
pub fn explore(runs: usize, scene: impl Fn() + Copy + Send + Sync + 'static) {
    let from_environment = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = from_environment("SCHEDULER_SEED").unwrap_or(SEED);
    let runs = runs * from_environment("SCHEDULER_RUNS").unwrap_or(1) as usize;
    let config = || {
        let mut config = Config::new();
        config.stack_size = STACK;
        config.max_steps = MaxSteps::FailAfter(STEPS);
        config.silence_warnings = true;
        config
    };
    let _seed = Seed(seed, "random");
    Runner::new(RandomScheduler::new_from_seed(seed, runs), config()).run(scene);
    for depth in [2, 5] {
        let _seed = Seed(seed, "priority");
        Runner::new(PctScheduler::new_from_seed(seed, depth, runs / 2), config()).run(scene);
    }
}
