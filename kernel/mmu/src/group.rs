// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contiguous groups as values: 16 entries that a TLB may hold as one entry of 64 KiB.
//!
//! The 16 entries of a group are neighbors, aligned to 16. They translate 64 KiB of consecutive
//! memory, aligned to 64 KiB, with the same attributes, and each of them has the contiguous hint
//! (Arm ARM D8.7.1). Setting or clearing the hint in live entries changes the size of a TLB entry,
//! so it needs break-before-make of all 16 (R29): empty all, invalidate all, write all. Linux calls
//! the two directions *fold* and *unfold* (contpte).
//!
//! Only user mappings are folded, as in Linux. While a group is broken, accesses to it fault. The
//! handler of a user fault can read the entry again and return; code that faults in the kernel's
//! own mappings cannot. A group whose entries were all empty needs no break: it is written with the
//! hint at once.
//!
//! This module computes values. `space/fold.rs` folds and unfolds groups in tables, and
//! `backend/defer_stores.rs` those whose stores wait.

use crate::addr::{ENTRIES, Frame, PAGE_SIZE, PageRange, VirtAddr};
use crate::desc::{Desc, bits};
use crate::table::{Pte, Table};
use crate::tlbi::Scope;

/// The number of entries in a group.
pub(crate) const GROUP: usize = 16;
/// The number of groups in a table.
pub(crate) const GROUPS: usize = ENTRIES / GROUP;

/// Bits that are not compared: hardware sets the access flag of one entry at a time, and the
/// contiguous hint is what folding and unfolding change.
const NOT_COMPARED: u64 = bits::AF | bits::CONT;

/// Whether mappings of this scope are folded.
#[inline(always)]
pub(crate) const fn is_foldable(scope: Scope) -> bool {
    matches!(scope, Scope::Asid(_))
}

/// The pages of group `group` (0..32) of the last-level table that translates `va`.
pub(crate) const fn pages(va: VirtAddr, group: usize) -> PageRange {
    PageRange::of_table(va).part(group * GROUP, GROUP)
}

/// The entries of group `group` (0..32) of a last-level table.
pub(crate) fn entries(table: &Table, group: usize) -> &[Pte; GROUP] {
    &table.entries().as_chunks().0[group]
}

/// The bits of an entry that must match in a group: all but [`NOT_COMPARED`], and if DBM is set,
/// all but `AP[2]`, which hardware then clears in one entry at a time.
const fn comparable(entry: Desc) -> u64 {
    let mut raw = entry.as_u64() & !NOT_COMPARED;
    if raw & bits::DBM != 0 {
        raw &= !bits::AP_READ_ONLY;
    }
    raw
}

/// Whether 16 entries can be one group; `value(i)` returns entry `i`. If the frames do not begin on
/// a multiple of 64 KiB, or the last entry does not fit, only one or two entries are read.
#[inline]
pub(crate) fn can_be_one(value: impl Fn(usize) -> Desc) -> bool {
    let first = value(0);
    let wanted = comparable(first);
    let aligned = wanted & bits::ADDRESS & (GROUP as u64 * PAGE_SIZE - 1) == 0;
    // From the last entry down: most incomplete groups were filled from the front.
    let follows = |i: usize| comparable(value(i)) == wanted.wrapping_add(i as u64 * PAGE_SIZE);
    first.is_valid() && aligned && (1..GROUP).rev().all(follows)
}

/// The values of the folded group, if `values` can be one. Access and dirty bits of one member are
/// set in all of them.
pub(crate) fn folded(values: &[Desc; GROUP]) -> Option<[Desc; GROUP]> {
    if !can_be_one(|i| values[i]) {
        return None;
    }
    let any = values.iter().fold(0, |any, value| any | value.as_u64());
    let all = values
        .iter()
        .fold(u64::MAX, |all, value| all & value.as_u64());
    let accessed = any & bits::AF;
    let read_only = all & bits::AP_READ_ONLY;
    Some(values.map(|value| {
        let raw = value.as_u64() & !(bits::AF | bits::AP_READ_ONLY);
        Desc::from_u64(raw | accessed | read_only | bits::CONT)
    }))
}

/// The whole groups in `pages` if they are mapped to consecutive frames from `first` on: the number
/// of entries before the first group, and the number of groups. `(0, 0)` if the scope is not
/// folded, or if addresses and frames are aligned differently.
pub(crate) fn whole_groups(pages: PageRange, first: Frame, scope: Scope) -> (usize, usize) {
    let (va, pa) = (
        pages.start().as_u64() / PAGE_SIZE,
        first.as_u64() / PAGE_SIZE,
    );
    let head = (va.wrapping_neg() % GROUP as u64) as usize;
    let pages = pages.pages() as usize;
    if !is_foldable(scope) || va % GROUP as u64 != pa % GROUP as u64 || pages < head {
        return (0, 0);
    }
    (head, (pages - head) / GROUP)
}

/// Whether the entry is a member of a live group.
#[inline(always)]
pub(crate) const fn is_member(entry: Desc) -> bool {
    entry.as_u64() & (bits::VALID | bits::CONT) == bits::VALID | bits::CONT
}

/// The same entry without the contiguous hint.
pub(crate) const fn alone(entry: Desc) -> Desc {
    Desc::from_u64(entry.as_u64() & !bits::CONT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desc::Prot;

    fn group(first: u64, prot: Prot) -> [Desc; GROUP] {
        core::array::from_fn(|i| {
            Desc::page(Frame::from_u64(first + i as u64 * PAGE_SIZE).unwrap(), prot)
        })
    }

    #[test]
    fn r29_a_group_is_aligned_consecutive_and_alike() {
        let good = group(0x12_0000, Prot::USER);
        let values = folded(&good).unwrap();
        assert!(values.iter().all(|v| is_member(*v)));
        assert_eq!(values.map(alone), good);
        assert_eq!(folded(&group(0x12_1000, Prot::USER)), None, "alignment");
        let broken = |i: usize, value: Desc| {
            let mut values = good;
            values[i] = value;
            folded(&values)
        };
        let other = Desc::page(Frame::from_u64(0x9000).unwrap(), Prot::USER);
        assert_eq!(broken(5, other), None);
        assert_eq!(broken(15, Desc::INVALID), None);
        let read_only = Desc::from_u64(good[3].as_u64() | bits::AP_READ_ONLY);
        assert_eq!(broken(3, read_only), None);
    }

    #[test]
    fn r24_a_group_gathers_access_and_dirty_bits() {
        let clean = |entry: Desc| {
            Desc::from_u64(entry.as_u64() & !bits::AF | bits::DBM | bits::AP_READ_ONLY)
        };
        let mut values = group(0x12_0000, Prot::USER).map(clean);
        let untouched = folded(&values).unwrap();
        assert!(untouched.iter().all(|v| v.as_u64() & bits::AF == 0));
        assert!(untouched.iter().all(|v| !v.is_writable()));
        values[7] = Desc::from_u64(values[7].as_u64() & !bits::AP_READ_ONLY | bits::AF);
        let gathered = folded(&values).unwrap();
        assert!(gathered.iter().all(|v| v.as_u64() & bits::AF != 0));
        assert!(gathered.iter().all(|v| v.is_writable()));
    }
}
