// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of the strategies, and what each of them requires of a kernel.
//!
//! The implementations are in `backend`, one file for each strategy. The module text there lists
//! what a new strategy touches.

use core::fmt;

/// A strategy: what is deferred in a lazy section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Backend {
    /// The state before lazy MMU mode: each write that R14 lists is followed by its barriers,
    /// inside and outside of sections.
    Eager = 0,
    /// As on arm64: entries are stored at once, and their barriers are executed when the section is
    /// left, paused or flushed (R13-R17).
    DeferBarriers = 1,
    /// As on s390: in announced ranges, stores and their invalidations wait (R20-R24).
    DeferStores = 2,
    /// As on powerpc and sparc64: entries are stored at once, and invalidations are collected and
    /// executed together.
    BatchInvalidations = 3,
    /// As in a Xen PV guest: stores and invalidations wait in one queue.
    Multicall = 4,
}

impl Backend {
    /// Every strategy, in the order of the documentation.
    pub const ALL: [Backend; 5] = [
        Backend::Eager,
        Backend::DeferBarriers,
        Backend::DeferStores,
        Backend::BatchInvalidations,
        Backend::Multicall,
    ];

    /// The name of the strategy in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::DeferBarriers => "defer-barriers",
            Self::DeferStores => "defer-stores",
            Self::BatchInvalidations => "batch-invalidations",
            Self::Multicall => "multicall",
        }
    }

    /// Whether a task may lose its CPU inside an active section (R38), because the context switch
    /// drains what waits. With other strategies the kernel must not preempt such a task, and the
    /// task must not sleep.
    pub const fn is_preemptible(self) -> bool {
        !matches!(self, Self::DeferStores)
    }

    /// Whether the strategy itself invalidates live entries that it changes. Such a strategy needs
    /// a [`Batch`](crate::Batch) on each CPU.
    pub const fn invalidates(self) -> bool {
        matches!(
            self,
            Self::DeferStores | Self::BatchInvalidations | Self::Multicall
        )
    }

    pub(crate) const fn from_u8(raw: u8) -> Self {
        match raw {
            0 => Self::Eager,
            2 => Self::DeferStores,
            3 => Self::BatchInvalidations,
            4 => Self::Multicall,
            _ => Self::DeferBarriers,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
