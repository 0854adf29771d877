// SPDX-License-Identifier: MIT OR Apache-2.0

//! Statistics of each CPU.

use core::fmt;

/// The totals of one CPU since it came online. All are numbers of events, except `idle`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Context switches.
    pub switches: u64,
    /// Context switches that the task did not ask for.
    pub preemptions: u64,
    /// Switches that were refused because the task was in a section of a backend that keeps its
    /// task on the CPU, or because the library was working on the CPU's batch.
    pub refused: u64,
    /// Checks of the queue, by the timer or because another CPU asked for one.
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
