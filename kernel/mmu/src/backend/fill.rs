// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written: a run of entries, and their values.

use crate::addr::{Frame, Level, PAGE_SIZE, PageRange};
use crate::desc::Desc;
use crate::hardware::Hardware;
use crate::table::Pte;
use crate::tlbi::Scope;

/// Consecutive leaf entries of one table, and where they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    /// The entries.
    pub(crate) ptes: &'a [Pte],
    /// The table that they are in.
    pub(crate) table: Frame,
    /// The pages that they translate.
    pub(crate) pages: PageRange,
    /// Whose translations these are.
    pub(crate) scope: Scope,
}

impl Run<'_> {
    /// Index of the first entry in its table.
    #[inline(always)]
    pub(crate) const fn first(&self) -> usize {
        Level::L3.index(self.pages.start())
    }
}

/// What the entries of a run were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Was {
    /// Nothing that a TLB could hold: empty, or invalidated already.
    Gone,
    /// Some were valid, and a TLB may hold them.
    Live,
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
    #[inline(always)]
    pub(super) fn sample(self) -> Desc {
        match self {
            Fill::Contiguous { first } => first,
            Fill::Scattered { template, .. } => template,
            Fill::Update { sample, .. } => sample,
            Fill::Zero => Desc::INVALID,
        }
    }

    /// Stores the run, in one loop.
    #[inline(always)]
    pub(super) fn store<H: Hardware>(self, hw: &H, run: &[Pte]) {
        match self {
            Fill::Contiguous { first } => match run {
                // A call for one page is the most common one, and a loop's frame costs more.
                [pte] => hw.store(pte, first),
                _ => hw.store_linear(run, first, PAGE_SIZE),
            },
            Fill::Scattered { frames, template } => hw.store_frames(run, frames, template),
            Fill::Update { keep, set, .. } => hw.update_run(run, keep, set),
            Fill::Zero => hw.store_zero(run),
        }
    }

    /// The value of entry `i`, which is `old` now.
    pub(super) fn value(self, i: usize, old: Desc) -> Desc {
        match self {
            Fill::Contiguous { first } => Desc::from_u64(first.as_u64() + i as u64 * PAGE_SIZE),
            Fill::Scattered { frames, template } => {
                Desc::from_u64(frames[i].as_u64() | template.as_u64())
            }
            Fill::Update { keep, set, .. } => Desc::from_u64(old.as_u64() & keep | set),
            Fill::Zero => Desc::INVALID,
        }
    }

    /// The part of the fill that belongs to entry `i`.
    pub(super) fn nth(self, i: usize) -> Self {
        match self {
            Fill::Contiguous { .. } => Fill::Contiguous {
                first: self.value(i, Desc::INVALID),
            },
            Fill::Scattered { frames, template } => Fill::Scattered {
                frames: &frames[i..=i],
                template,
            },
            other => other,
        }
    }
}
