// SPDX-License-Identifier: MIT OR Apache-2.0
//! The outcomes of an access, and sets of them.

use lazymmu::bits;
use std::fmt;

/// The kind of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch, which ETS2 does not cover (R35).
    Fetch,
}

impl Kind {
    pub(super) const fn is_data(self) -> bool {
        !matches!(self, Self::Fetch)
    }
}

/// One way in which an access may end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It accesses this page, with this memory type and shareability.
    Page {
        /// The physical address of the page.
        page: u64,
        /// AttrIndx and SH at their positions in the descriptor.
        memory: u64,
    },
    /// The walk ends at an invalid entry of this level.
    Translation {
        /// The level at which the walk ends.
        level: u8,
    },
    /// The entry is valid and its access flag is clear.
    AccessFlag,
    /// The entry does not allow it.
    Permission,
    /// The walk reads memory that is not a table yet or no longer one: any result is possible.
    Garbage,
}

const MEMORY: u64 = bits::ATTR_INDX | bits::SH;

impl Outcome {
    /// The outcome of an access to page number `page` through the leaf `raw` of `level`, from EL0
    /// if `user`.
    pub fn of_leaf(raw: u64, level: u8, page: u64, kind: Kind, user: bool) -> Self {
        let no_execute = if user { bits::UXN } else { bits::PXN };
        let refused = match kind {
            Kind::Read => false,
            Kind::Write => raw & bits::AP_READ_ONLY != 0,
            Kind::Fetch => raw & no_execute != 0,
        };
        if refused || user && raw & bits::AP_USER == 0 && kind.is_data() {
            return Self::Permission;
        }
        let span = if raw & bits::CONT != 0 && level == 3 {
            16
        } else {
            1 << (9 * (3 - level))
        };
        let base = (raw & bits::ADDRESS) >> lazymmu::PAGE_SHIFT & !(span - 1);
        Self::Page {
            page: (base + (page & (span - 1))) << lazymmu::PAGE_SHIFT,
            memory: raw & MEMORY,
        }
    }

    /// Whether it is a translation fault.
    pub const fn is_translation(&self) -> bool {
        matches!(self, Self::Translation { .. })
    }

    /// The outcome of an access through the valid level-3 entry `raw`.
    pub fn of_page(raw: u64, kind: Kind, user: bool) -> Self {
        Self::of_leaf(raw & !bits::CONT, 3, 0, kind, user)
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Page { page, memory } => write!(f, "page {page:#x} ({memory:#x})"),
            Self::Translation { level } => write!(f, "translation fault, level {level}"),
            Self::AccessFlag => f.write_str("access flag fault"),
            Self::Permission => f.write_str("permission fault"),
            Self::Garbage => f.write_str("garbage"),
        }
    }
}

/// A set of up to eight outcomes. Further ones are dropped: no test expects so many, so it fails in
/// any case.
#[derive(Clone, Copy)]
pub struct Outcomes {
    list: [Outcome; 8],
    len: usize,
}

impl Outcomes {
    pub(super) const fn none() -> Self {
        Self {
            list: [Outcome::Garbage; 8],
            len: 0,
        }
    }

    pub(super) fn add(&mut self, outcome: Outcome) {
        if !self.contains(outcome) && self.len < self.list.len() {
            self.list[self.len] = outcome;
            self.len += 1;
        }
    }

    /// Whether `outcome` is possible.
    pub fn contains(&self, outcome: Outcome) -> bool {
        self.as_slice().contains(&outcome)
    }

    /// All outcomes, in no particular order.
    pub fn as_slice(&self) -> &[Outcome] {
        &self.list[..self.len]
    }

    /// Whether `outcome` is the only possible one.
    pub fn is_only(&self, outcome: Outcome) -> bool {
        self.as_slice() == [outcome]
    }

    /// Whether only translation faults are possible.
    pub fn only_faults(&self) -> bool {
        !self.as_slice().is_empty() && self.as_slice().iter().all(Outcome::is_translation)
    }

    /// Whether a translation fault is possible.
    pub fn may_fault(&self) -> bool {
        self.as_slice().iter().any(Outcome::is_translation)
    }

    /// Whether `outcome` is possible, and apart from it only translation faults.
    pub fn is_only_or_faults(&self, outcome: Outcome) -> bool {
        let expected = |o: &Outcome| *o == outcome || o.is_translation();
        self.contains(outcome) && self.as_slice().iter().all(expected)
    }
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.as_slice().to_vec();
        sorted.sort_unstable();
        f.debug_set().entries(sorted).finish()
    }
}
