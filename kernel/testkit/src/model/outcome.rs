// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an access may do, and the set of all it may do.

use lazymmu::bits;
use std::fmt;

/// What the instruction wants of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// Instruction fetch: ETS2 does not speak of it (R35).
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
    /// It reaches this page, through memory of this type and shareability.
    Page {
        /// Physical address of the page.
        page: u64,
        /// AttrIndx and SH, as they stand in the descriptor.
        memory: u64,
    },
    /// The walk ends at an invalid entry of this level.
    Translation {
        /// Where the walk ends.
        level: u8,
    },
    /// The entry is valid and its access flag is clear.
    AccessFlag,
    /// The entry does not allow it.
    Permission,
    /// The walk reads memory that is no table any more, or not yet: anything can happen.
    Garbage,
}

const MEMORY: u64 = bits::ATTR_INDX | bits::SH;

impl Outcome {
    /// What the leaf `raw` of `level` gives at `page` (a page number).
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

    /// What a whole, valid entry at level 3 gives.
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

/// A set of outcomes. More than eight at once are cut off: the set is wrong by then anyway.
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

    /// Whether `outcome` can happen.
    pub fn contains(&self, outcome: Outcome) -> bool {
        self.as_slice().contains(&outcome)
    }

    /// All outcomes, in no order.
    pub fn as_slice(&self) -> &[Outcome] {
        &self.list[..self.len]
    }

    /// Whether nothing but `outcome` can happen.
    pub fn is_only(&self, outcome: Outcome) -> bool {
        self.as_slice() == [outcome]
    }

    /// Whether nothing but a translation fault can happen.
    pub fn only_faults(&self) -> bool {
        !self.as_slice().is_empty() && self.as_slice().iter().all(Outcome::is_translation)
    }

    /// Whether a translation fault is among them.
    pub fn may_fault(&self) -> bool {
        self.as_slice().iter().any(Outcome::is_translation)
    }

    /// Whether `outcome` can happen, and besides nothing but a translation fault.
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
