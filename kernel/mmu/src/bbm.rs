// SPDX-License-Identifier: MIT OR Apache-2.0
//! The check for break-before-make (R29).
//!
//! Some changes of a live entry must go through an invalid entry and a TLB invalidation. Otherwise
//! a TLB may hold two entries for one address, which results in a conflict abort or in a mix of
//! both (Arm ARM, "Using break-before-make when updating translation table entries"). [`check`] is
//! the only statement of this rule, and every operation that could replace a live entry calls it.

use crate::addr::Level;
use crate::desc::{Desc, bits};
use core::fmt;

/// A change that needs break-before-make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// AttrIndx differs: another memory type or cacheability.
    MemoryType,
    /// SH differs.
    Shareability,
    /// The output address differs. (The architecture exempts two addresses with equal, read-only
    /// contents; the library does not know the contents.)
    OutputAddress,
    /// The contiguous hint differs: the size of the TLB entry changes.
    Contiguous,
    /// A block or page becomes a table, or the reverse: the size of the TLB entry changes.
    Size,
    /// A global entry becomes non-global, or the reverse: both could match one address.
    Global,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryType => "the memory type would change",
            Self::Shareability => "the shareability would change",
            Self::OutputAddress => "the output address would change",
            Self::Contiguous => "the contiguous hint would change",
            Self::Size => "a block or page would become a table, or the reverse",
            Self::Global => "the entry would change between global and per-ASID",
        })
    }
}

/// Checks that `new` may replace `old` at `level` directly.
///
/// # Errors
/// The reason, if the change must go through an invalid entry and a TLBI.
pub const fn check(level: Level, old: Desc, new: Desc) -> Result<(), Violation> {
    // No TLB can hold an entry that is invalid or has a clear access flag. Replacing such an entry
    // is a make; replacing an entry by such a one is a break.
    if !old.is_tlb_cacheable() && !old.is_table(level) {
        return Ok(());
    }
    if !new.is_tlb_cacheable() && !new.is_table(level) {
        return Ok(());
    }
    if old.is_table(level) != new.is_table(level) {
        return Err(Violation::Size);
    }
    let changed = old.as_u64() ^ new.as_u64();
    if changed & bits::ADDRESS != 0 {
        return Err(Violation::OutputAddress);
    }
    if old.is_table(level) {
        return Ok(());
    }
    if changed & bits::ATTR_INDX != 0 {
        return Err(Violation::MemoryType);
    }
    if changed & bits::SH != 0 {
        return Err(Violation::Shareability);
    }
    if changed & bits::CONT != 0 {
        return Err(Violation::Contiguous);
    }
    if changed & bits::NG != 0 {
        return Err(Violation::Global);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;
    use crate::desc::{MemoryType, Prot};

    fn page(pa: u64, prot: Prot) -> Desc {
        Desc::page(Frame::from_u64(pa).unwrap(), prot)
    }

    #[test]
    fn r29_permission_changes_are_free_and_the_rest_is_named() {
        let rw = page(0x1000, Prot::KERNEL);
        let check = |new| check(Level::L3, rw, new);
        assert_eq!(check(page(0x1000, Prot::KERNEL_RO)), Ok(()));
        assert_eq!(check(page(0x1000, Prot::KERNEL_ROX)), Ok(()));
        assert_eq!(check(Desc::INVALID), Ok(()));
        assert_eq!(
            check(page(0x2000, Prot::KERNEL)),
            Err(Violation::OutputAddress)
        );
        assert_eq!(
            check(page(0x1000, Prot::DEVICE)),
            Err(Violation::MemoryType)
        );
        assert_eq!(check(page(0x1000, Prot::USER)), Err(Violation::Global));
        let cont = Desc::from_u64(rw.as_u64() | bits::CONT);
        assert_eq!(check(cont), Err(Violation::Contiguous));
        let outer = Desc::from_u64(rw.as_u64() ^ 1 << 8);
        assert_eq!(check(outer), Err(Violation::Shareability));
        let uncached = page(
            0x1000,
            Prot::KERNEL.with_memory_type(MemoryType::NormalNonCacheable),
        );
        assert_eq!(check(uncached), Err(Violation::MemoryType));
    }

    #[test]
    fn r29_an_entry_without_access_flag_counts_as_broken() {
        let old = Desc::from_u64(page(0x1000, Prot::KERNEL).as_u64() & !bits::AF);
        assert_eq!(check(Level::L3, old, page(0x2000, Prot::KERNEL)), Ok(()));
    }

    #[test]
    fn r29_table_against_block() {
        let frame = Frame::from_u64(0x20_0000).unwrap();
        let table = Desc::table(frame);
        let block = Desc::from_u64(page(0x20_0000, Prot::KERNEL).as_u64() & !bits::TABLE_OR_PAGE);
        assert_eq!(check(Level::L2, block, table), Err(Violation::Size));
        assert_eq!(check(Level::L2, table, block), Err(Violation::Size));
        assert_eq!(check(Level::L2, table, table.with_population(7)), Ok(()));
    }
}
