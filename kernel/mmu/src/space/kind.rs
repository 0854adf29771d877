// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`SpaceKind`]: which half an address space translates, and for which ASID.

use crate::addr::{Asid, Half};
use crate::desc::Prot;
use crate::error::SpaceError;
use crate::tlbi::Scope;

/// Which half an address space translates, and for which ASID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceKind {
    /// TTBR1: global mappings that EL0 cannot access.
    Kernel,
    /// TTBR0: non-global mappings of one ASID.
    User(Asid),
}

impl SpaceKind {
    /// The half of the address space.
    pub const fn half(self) -> Half {
        match self {
            Self::Kernel => Half::Upper,
            Self::User(_) => Half::Lower,
        }
    }

    /// The scope that an invalidation of this space needs.
    pub const fn scope(self) -> Scope {
        match self {
            Self::Kernel => Scope::AllAsids,
            Self::User(asid) => Scope::Asid(asid),
        }
    }

    /// A number that differs for each kind, in bits that are zero in the address of a frame.
    #[inline(always)]
    pub(super) const fn tag(self) -> u64 {
        match self {
            Self::Kernel => 0,
            Self::User(asid) => (asid.0 as u64) << 48 | 1,
        }
    }

    /// Refuses user attributes in a kernel space, and kernel attributes in a user space.
    #[inline]
    pub(super) fn check_prot(self, prot: Prot) -> Result<(), SpaceError> {
        if prot.is_user() != matches!(self, Self::User(_)) {
            return Err(SpaceError::WrongPrivilege { prot });
        }
        Ok(())
    }
}
