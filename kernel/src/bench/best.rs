// SPDX-License-Identifier: MIT OR Apache-2.0
//! The result of a measurement: the cheapest repetition, or the reason why nothing was measured.

use core::fmt;

use lazymmu::{Counts, SpaceError};

use crate::mm::frames::OutOfFrames;
use crate::mm::vmap::VmapError;
use crate::println;
use crate::sched::SpawnError;
use crate::text::Text;

/// Why nothing was measured.
#[derive(Debug)]
pub enum BenchError {
    /// The timer does not tick once per instruction.
    Clock {
        /// The instructions of the shorter of two loops; the other one has twice as many.
        executed: u64,
        /// The ticks during each of them. If the host's clock drives the timer, the longer loop may
        /// take fewer ticks.
        ticks: [u64; 2],
    },
    /// Physical memory is exhausted.
    Frames(OutOfFrames),
    /// The vmap area refused a request.
    Vmap(VmapError),
    /// The address space refused a request.
    Space(SpaceError),
    /// A second task could not be started.
    Spawn(SpawnError),
}

impl From<OutOfFrames> for BenchError {
    fn from(error: OutOfFrames) -> Self {
        Self::Frames(error)
    }
}

impl From<VmapError> for BenchError {
    fn from(error: VmapError) -> Self {
        Self::Vmap(error)
    }
}

impl From<SpaceError> for BenchError {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clock { executed, ticks } => write!(
                f,
                "a loop of {executed} instructions took {} ticks of the timer, and one of twice as many \
                 took {}. The timer counts instructions only under QEMU with -cpu max -icount \
                 shift=0,sleep=off: use cargo xtask counts",
                ticks[0], ticks[1]
            ),
            Self::Frames(error) => error.fmt(f),
            Self::Vmap(error) => error.fmt(f),
            Self::Space(error) => error.fmt(f),
            Self::Spawn(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BenchError {}

/// What counts the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// The generic timer, which must tick once per instruction.
    Timer,
    /// A counter outside of the machine, which knows the marks of the windows.
    Outside,
}

/// The cheapest repetition of a window.
#[derive(Clone, Copy)]
pub(super) struct Best {
    pub(super) ticks: u64,
    pub(super) dearest: u64,
    pub(super) counts: Option<Counts>,
}

impl Best {
    pub(super) const NONE: Self = Self {
        ticks: u64::MAX,
        dearest: 0,
        counts: None,
    };

    pub(super) fn improve(&mut self, (ticks, counts): (u64, Counts)) {
        self.dearest = self.dearest.max(ticks);
        if ticks < self.ticks {
            self.ticks = ticks;
            self.counts = Some(counts);
        }
    }

    pub(super) fn print(&self, counter: Counter, op: u8, pages: usize, empty: u64) {
        // The window was left out.
        let Some(counts) = self.counts else { return };
        println!(
            "count op={op} pages={pages}{} ptes={} dsb={} isb={} tlbi={} ish={} dmb={}",
            self.taken(counter, empty),
            counts.ptes,
            counts.dsb(),
            counts.isb,
            counts.tlbi,
            counts.dsb_ish,
            counts.dmb_ishst
        );
    }

    /// The instructions by the timer, without the cost of measuring, as a part of a line.
    pub(super) fn taken(&self, counter: Counter, empty: u64) -> Text<64> {
        match counter {
            Counter::Timer => Text::from_arguments(format_args!(
                " instructions={} spread={}",
                self.ticks.saturating_sub(empty),
                self.dearest.saturating_sub(self.ticks)
            )),
            Counter::Outside => Text::new(),
        }
    }
}
