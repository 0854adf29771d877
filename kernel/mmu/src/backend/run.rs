// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arguments of a write: a run of entries, the values for them, and what the entries were
//! before; and its result, who must invalidate.

use crate::addr::{Frame, Level, PAGE_SIZE, PageRange};
use crate::desc::Desc;
use crate::table::Pte;
use crate::tlbi::Scope;

/// Consecutive leaf entries of one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    /// The entries.
    pub(crate) ptes: &'a [Pte],
    /// The table that holds them.
    pub(crate) table: Frame,
    /// The pages that they translate.
    pub(crate) pages: PageRange,
    /// The address space whose translations these are.
    pub(crate) scope: Scope,
}

impl Run<'_> {
    /// The index of the first entry in its table.
    #[inline(always)]
    pub(crate) const fn first(&self) -> usize {
        Level::L3.index(self.pages.start())
    }
}

/// What the entries of a run were before the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Was {
    /// No TLB can hold any of them: they were empty, or were made invalid and invalidated.
    Gone,
    /// Some were valid, and a TLB may hold them.
    Live,
}

/// The values for a run of leaf entries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill<'a> {
    /// Consecutive frames: entry `i` becomes `first` plus `i` pages.
    Contiguous { first: Desc },
    /// Any frames: entry `i` becomes `frames[i]` with the attributes of `template`.
    Scattered { frames: &'a [Frame], template: Desc },
    /// Each entry `e` becomes `e & keep | set`; `sample` owes what each of the results owes.
    Update { keep: u64, set: u64, sample: Desc },
    /// Every entry empty.
    Zero,
}

impl Fill<'_> {
    /// A value that owes what each value of the run owes.
    #[inline(always)]
    pub(crate) fn sample(self) -> Desc {
        match self {
            Fill::Contiguous { first } => first,
            Fill::Scattered { template, .. } => template,
            Fill::Update { sample, .. } => sample,
            Fill::Zero => Desc::INVALID,
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
}

/// Who must invalidate the old entries of a run (R27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// The strategy: it has invalidated them, or will with the next drain.
    Backend,
    /// The operation that wrote the run, or the caller of that operation.
    Caller,
}

impl Duty {
    /// The duty for two runs together: the caller's if it is the caller's for one of them.
    #[inline]
    pub(crate) fn combined(self, other: Self) -> Self {
        match (self, other) {
            (Self::Backend, Self::Backend) => Self::Backend,
            _ => Self::Caller,
        }
    }
}
