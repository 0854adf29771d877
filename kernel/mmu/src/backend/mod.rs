// SPDX-License-Identifier: MIT OR Apache-2.0
//! Strategies: what happens to a run of entry writes, and when it is completed.
//!
//! A backend sees *runs*, consecutive entries of one table, never single
//! entries of a larger request: it is chosen once per run, and what it does per
//! entry is a tight loop. The two strategies here are arm64's: the
//! state before lazy MMU mode as a yardstick, and deferred barriers.

mod defer_barriers;
mod eager;

use crate::addr::Frame;
use crate::addr::Level;
use crate::desc::Desc;
use crate::hardware::{Hardware, Kernel};
use crate::mmu::Mmu;
use crate::policy::Owed;
use crate::table::Pte;
use core::fmt;

/// The strategy in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Backend {
    /// Before lazy MMU mode: each write that R14 lists is followed by its
    /// barriers, section or not.
    Eager = 0,
    /// arm64's lazy MMU mode: stores happen at once, their barriers when the
    /// section is left, paused or flushed (R13-R17).
    DeferBarriers = 1,
}

impl Backend {
    /// Every strategy, in the order of the documentation.
    pub const ALL: [Backend; 2] = [Backend::Eager, Backend::DeferBarriers];

    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::DeferBarriers => "defer-barriers",
        }
    }

    pub(crate) const fn from_u8(raw: u8) -> Self {
        match raw {
            0 => Self::Eager,
            _ => Self::DeferBarriers,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The values for a run of leaf entries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill<'a> {
    /// Consecutive frames: `first`, then one page further each.
    Contiguous { first: Desc },
    /// `frames[i]` with the attributes of `template`.
    Scattered { frames: &'a [Frame], template: Desc },
    /// Each entry `e` becomes `e & keep | set`; `sample` stands for the results.
    Update { keep: u64, set: u64, sample: Desc },
    /// Every entry empty.
    Zero,
}

impl Fill<'_> {
    /// A value that owes what each value of the run owes.
    fn sample(self) -> Desc {
        match self {
            Fill::Contiguous { first } => first,
            Fill::Scattered { template, .. } => template,
            Fill::Update { sample, .. } => sample,
            Fill::Zero => Desc::INVALID,
        }
    }

    /// Stores the run, in one loop.
    #[inline]
    fn store<H: Hardware>(self, hw: &H, run: &[Pte]) {
        match self {
            Fill::Contiguous { first } => hw.store_linear(run, first, crate::addr::PAGE_SIZE),
            Fill::Scattered { frames, template } => hw.store_frames(run, frames, template),
            Fill::Update { keep, set, .. } => hw.update_run(run, keep, set),
            Fill::Zero => hw.store_zero(run),
        }
    }

    /// The part of the fill that belongs to entry `i`.
    fn nth(self, i: usize) -> Self {
        match self {
            Fill::Contiguous { first } => Fill::Contiguous {
                first: Desc::from_u64(first.as_u64() + i as u64 * crate::addr::PAGE_SIZE),
            },
            Fill::Scattered { frames, template } => Fill::Scattered {
                frames: &frames[i..=i],
                template,
            },
            other => other,
        }
    }
}

/// What the write path asks of a strategy.
trait Strategy {
    /// Writes a run of leaves of one table, each of which owes `owed`, which is not
    /// nothing.
    fn write_run<K: Kernel>(mmu: &Mmu<K>, run: &[Pte], fill: Fill<'_>, owed: Owed);

    /// Takes note that one write, already stored, owes `owed`.
    fn complete<K: Kernel>(mmu: &Mmu<K>, owed: Owed);
}

/// Writes a run of leaves of one table through the strategy in use.
#[inline]
pub(crate) fn write_run<K: Kernel>(mmu: &Mmu<K>, run: &[Pte], fill: Fill<'_>) {
    let sample = fill.sample();
    let counters = mmu.kernel().counters();
    counters.ptes(run.len());
    let mut owed = Owed::empty();
    if crate::policy::is_listed(Level::L3, sample) {
        counters.requested(run.len());
        owed = mmu.policy().owed(Level::L3, sample);
    }
    if owed.is_empty() {
        return fill.store(mmu.kernel(), run);
    }
    match mmu.backend() {
        Backend::Eager => eager::Eager::write_run(mmu, run, fill, owed),
        Backend::DeferBarriers => defer_barriers::DeferBarriers::write_run(mmu, run, fill, owed),
    }
}

/// Accounts for one write of `desc` at `level` that is stored already.
#[inline]
pub(crate) fn complete<K: Kernel>(mmu: &Mmu<K>, level: Level, desc: Desc) {
    if !crate::policy::is_listed(level, desc) {
        return;
    }
    mmu.kernel().counters().requested(1);
    let owed = mmu.policy().owed(level, desc);
    if owed.is_empty() {
        return;
    }
    match mmu.backend() {
        Backend::Eager => eager::Eager::complete(mmu, owed),
        Backend::DeferBarriers => defer_barriers::DeferBarriers::complete(mmu, owed),
    }
}
