// SPDX-License-Identifier: MIT OR Apache-2.0

//! What each CPU has done.

use core::fmt;

/// Totals of one CPU since it came online. Unit: events, but for `idle`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Context switches.
    pub switches: u64,
    /// Those of them that a task did not ask for.
    pub preemptions: u64,
    /// Preemptions that had to wait, because the task was in a section of a backend that keeps its CPU, or at
    /// work on its CPU's batch.
    pub refused: u64,
    /// Looks at the queue by the timer or for another CPU.
    pub ticks: u64,
    /// Tasks of this CPU that were woken.
    pub wakes: u64,
    /// Tasks taken from other CPUs because there was nothing to do.
    pub stolen: u64,
    /// Tasks that came from another CPU, or ran for the first time.
    pub arrivals: u64,
    /// Time without a task, in ticks of the timer.
    pub idle: u64,
}

impl Stats {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            switches: 0,
            preemptions: 0,
            refused: 0,
            ticks: 0,
            wakes: 0,
            stolen: 0,
            arrivals: 0,
            idle: 0,
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} switches, {} of them preemptions ({} refused), {} ticks, {} wake-ups, {} stolen, \
             {} arrivals",
            self.switches,
            self.preemptions,
            self.refused,
            self.ticks,
            self.wakes,
            self.stolen,
            self.arrivals
        )
    }
}
