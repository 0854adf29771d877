// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which writes owe which barriers.
//!
//! Whether a write owes any barrier is decided by R14, which is Linux's list: a valid kernel leaf,
//! any valid entry of levels 1 and 2, and any write to level 0. A user leaf owes nothing: at worst
//! a user access takes a spurious fault, and the exception return from the handler synchronizes. An
//! entry made invalid owes nothing, because the invalidation that must follow has barriers of its
//! own.
//!
//! Which barriers such a write owes is decided by the [`BarrierPolicy`]. The following verdicts are
//! those of Arm's model (herd7, catalogue aarch64-VMSA). After an entry becomes valid,
//! a load on the same CPU may fault after `DSB` alone and cannot fault after `DSB ST; ISB` (rows M3
//! and M5). With FEAT_ETS2 it cannot fault even without a barrier (row M1), because R_NNFPF orders
//! the walk of a faulting access after earlier explicit writes. R_NNFPF does not cover
//! instruction fetches, so executable mappings keep the pair (R35).

use crate::addr::{Frame, Level};
use crate::desc::{Desc, Prot, bits};
use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// Barriers that earlier entry writes still need.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Owed: u8 {
        /// `DSB ISHST`: the stores must complete before a walker is sure to
        /// see them (R_SPVBD).
        const STORES = 1;
        /// `ISB`: without it, a later access on this CPU may still fault (row M3).
        const CONTEXT = 2;
    }
}

/// How a write that R14 lists is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BarrierPolicy {
    /// `DSB ISHST; ISB`, correct on every CPU.
    Classic = 0,
    /// Nothing for data mappings, and `DSB ISHST; ISB` for executable ones (R35, R36). Allowed only
    /// if **every** CPU has FEAT_ETS2.
    Ets2 = 1,
}

impl BarrierPolicy {
    pub(crate) const fn from_u8(raw: u8) -> Self {
        match raw {
            0 => Self::Classic,
            _ => Self::Ets2,
        }
    }

    /// The barriers that a write of `new` at `level` owes under this policy, if R14 lists the write
    /// ([`is_listed`]).
    #[inline]
    pub(crate) const fn owed(self, level: Level, new: Desc) -> Owed {
        match self {
            Self::Classic => Owed::all(),
            // A link owes nothing, also if an executable leaf will follow below it: the leaf is
            // stored after the link, and its pair covers both.
            Self::Ets2 => match level {
                Level::L3 if new.is_executable() => Owed::all(),
                Level::L1 | Level::L2 if new.is_leaf(level) && new.is_executable() => Owed::all(),
                _ => Owed::empty(),
            },
        }
    }

    /// The barriers that a kernel leaf owes if it is not executable.
    #[inline(always)]
    pub(crate) const fn owed_by_data(self) -> Owed {
        self.owed(Level::L3, Desc::page(Frame::ZERO, Prot::KERNEL))
    }
}

impl fmt::Display for BarrierPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Classic => "classic",
            Self::Ets2 => "ets2",
        })
    }
}

/// The barriers that a write of `new` at `level` owes under `policy`.
#[inline]
pub(crate) const fn owed_by(policy: BarrierPolicy, level: Level, new: Desc) -> Owed {
    if is_listed(level, new) {
        policy.owed(level, new)
    } else {
        Owed::empty()
    }
}

/// Whether R14 lists a write of `new` at `level`: whether it needs barriers at all.
#[inline]
pub(crate) const fn is_listed(level: Level, new: Desc) -> bool {
    match level {
        // Linux's pte_valid_not_user(): execute-only user pages have AP[1] clear
        // and are told apart by UXN.
        Level::L3 => new.is_valid() && !new.is_user() && new.as_u64() & bits::UXN != 0,
        Level::L2 | Level::L1 => new.is_valid(),
        Level::L0 => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;
    use crate::desc::Prot;

    fn page(prot: Prot) -> Desc {
        Desc::page(Frame::from_u64(0x8000_0000).unwrap(), prot)
    }

    #[test]
    fn r14_lists_kernel_leaves_tables_and_every_root_write() {
        let table = Desc::table(Frame::from_u64(0x1000).unwrap());
        assert!(is_listed(Level::L3, page(Prot::KERNEL)));
        assert!(is_listed(Level::L3, page(Prot::KERNEL_ROX)));
        assert!(!is_listed(Level::L3, page(Prot::USER)));
        assert!(!is_listed(Level::L3, page(Prot::USER_ROX)));
        // Execute-only for EL0: AP[1] is clear, and UXN tells it from a kernel page.
        let execute_only = page(Prot::KERNEL_RO).as_u64() & !bits::UXN;
        assert!(!is_listed(Level::L3, Desc::from_u64(execute_only)));
        assert!(!is_listed(Level::L3, Desc::INVALID));
        assert!(is_listed(Level::L2, table));
        assert!(is_listed(Level::L1, table));
        assert!(!is_listed(Level::L1, Desc::INVALID));
        assert!(is_listed(Level::L0, table));
        assert!(is_listed(Level::L0, Desc::INVALID));
    }

    #[test]
    fn r35_r36_ets2_owes_nothing_for_data_and_the_pair_for_text() {
        let ets2 = BarrierPolicy::Ets2;
        assert_eq!(ets2.owed(Level::L3, page(Prot::KERNEL)), Owed::empty());
        assert_eq!(ets2.owed(Level::L3, page(Prot::DEVICE)), Owed::empty());
        assert_eq!(ets2.owed(Level::L3, page(Prot::KERNEL_ROX)), Owed::all());
        assert_eq!(
            BarrierPolicy::Classic.owed(Level::L3, page(Prot::KERNEL)),
            Owed::all()
        );
    }
}
