// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contiguous groups: 16 entries that a TLB may hold as one of 64 KiB.
//!
//! A group is a promise to the hardware: 16 neighboring entries, aligned to 16, translate 64 KiB of
//! consecutive memory, aligned to 64 KiB, with the same attributes, and each says so by the contiguous
//! hint (Arm ARM D8.7.1). Making one of live entries, or changing part of one, changes the
//! size of a TLB entry and takes break-before-make of all 16 (R29): all emptied, all
//! invalidated, all written. Linux calls the two ways *fold* and *unfold* (contpte).
//!
//! As in Linux, only user mappings are folded. While a group is broken, accesses to it fault,
//! and only a user's fault can be answered by "look again". A group of entries that were all empty needs
//! no break and is made at once.

use crate::addr::{ENTRIES, Frame, Level, PAGE_SIZE, PageRange, VirtAddr};
use crate::backend::{self, Backend};
use crate::desc::{Desc, bits};
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::table::{Pte, Table};
use crate::tlbi::{Reach, Scope};

/// Entries of a group.
pub(crate) const GROUP: usize = 16;
/// Groups of a table.
pub(crate) const GROUPS: usize = ENTRIES / GROUP;

/// What may differ in a group, because hardware changes it entry by entry.
const HARDWARES: u64 = bits::AF | bits::CONT;

/// Whether mappings of this scope are folded.
#[inline(always)]
pub(crate) const fn is_foldable(scope: Scope) -> bool {
    matches!(scope, Scope::Asid(_))
}

/// `AP[2]` is hardware's where DBM gives it away.
const fn comparable(entry: Desc) -> u64 {
    let mut raw = entry.as_u64() & !HARDWARES;
    if raw & bits::DBM != 0 {
        raw &= !bits::AP_READ_ONLY;
    }
    raw
}

/// The values of a folded group, if `values` can be one: access and dirty bits gathered.
pub(crate) fn folded(values: &[Desc; GROUP]) -> Option<[Desc; GROUP]> {
    let first = comparable(values[0]);
    let aligned = first & bits::ADDRESS & (GROUP as u64 * PAGE_SIZE - 1) == 0;
    let follows =
        |(i, value): (usize, &Desc)| comparable(*value) == first.wrapping_add(i as u64 * PAGE_SIZE);
    if !values[0].is_valid() || !aligned || !values.iter().enumerate().all(follows) {
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

/// How consecutive frames from `first` on fall into groups of `pages`: entries before the first whole
/// group, and whole groups. No groups where none are made, or address and frame do not match.
pub(crate) fn groups(pages: PageRange, first: Frame, scope: Scope) -> (usize, usize) {
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

/// The same entry alone.
pub(crate) const fn alone(entry: Desc) -> Desc {
    Desc::from_u64(entry.as_u64() & !bits::CONT)
}

/// The table in `frame`.
///
/// # Safety
/// It is a table of an address space, and is not freed while the reference lives.
pub(crate) unsafe fn table<K: Kernel>(mmu: &Mmu<K>, frame: Frame) -> &Table {
    // SAFETY: this function's contract.
    unsafe { mmu.kernel().table_ptr(frame).as_ref() }
}

pub(crate) fn group_of(table: &Table, group: usize) -> &[Pte; GROUP] {
    &table.entries().as_chunks().0[group]
}

/// Splits the group of the page `va`, if it is one, so that its members can be changed one by one.
///
/// Break-before-make of the whole group (row B3). Witness of its absence: the order checker of
/// the host tests (`r29_*`).
#[cold]
#[inline(never)]
pub(crate) fn unfold<K: Kernel>(mmu: &Mmu<K>, table: &Table, va: VirtAddr, scope: Scope) {
    // What waits for the members is in memory then.
    backend::drain(mmu);
    let kernel = mmu.kernel();
    let group = Level::L3.index(va) / GROUP;
    let ptes = group_of(table, group);
    if !is_member(kernel.load(&ptes[0])) {
        return;
    }
    let old: [Desc; GROUP] = core::array::from_fn(|i| kernel.swap(&ptes[i], Desc::INVALID));
    mmu.invalidate(core::iter::once(va.group(group)), scope, Reach::Leaf);
    for (pte, value) in ptes.iter().zip(folded(&old).unwrap_or(old)) {
        kernel.store(pte, alone(value));
    }
    kernel.counters().late_stores(2 * GROUP);
}

/// Folds every group of `pages`, part of one table, whose entries have become one: with one
/// invalidation for all of them. Nothing is folded in an interrupt, in kernel mappings, and where the drain
/// has folded already.
///
/// # Safety
/// `frame` is the table of `pages`, and is not freed meanwhile.
#[cold]
#[inline(never)]
pub(crate) unsafe fn fold<K: Kernel>(mmu: &Mmu<K>, frame: Frame, pages: PageRange, scope: Scope) {
    let kernel = mmu.kernel();
    if !is_foldable(scope) || mmu.backend() == Backend::DeferStores || kernel.in_interrupt() {
        return;
    }
    // SAFETY: this function's contract.
    let table = unsafe { table(mmu, frame) };
    let first = Level::L3.index(pages.start());
    let groups = first / GROUP..=(first + pages.pages() as usize - 1) / GROUP;
    let mut broken = 0_u32;
    for group in groups {
        let ptes = group_of(table, group);
        let values: [Desc; GROUP] = core::array::from_fn(|i| kernel.load(&ptes[i]));
        if is_member(values[0]) || folded(&values).is_none() {
            continue;
        }
        for pte in ptes {
            // Emptied to learn the final access and dirty bits; then the value waits where it was.
            let old = kernel.swap(pte, Desc::INVALID);
            kernel.store(pte, Desc::from_u64(old.as_u64() & !bits::VALID));
        }
        broken |= 1 << group;
    }
    if broken == 0 {
        return;
    }
    let broken = (0..GROUPS).filter(|group| broken >> group & 1 != 0);
    let ranges = broken.clone().map(|group| pages.start().group(group));
    mmu.invalidate(ranges, scope, Reach::Leaf);
    for group in broken {
        let ptes = group_of(table, group);
        let waited = |pte| Desc::from_u64(kernel.load(pte).as_u64() | bits::VALID);
        let values: [Desc; GROUP] = core::array::from_fn(|i| waited(&ptes[i]));
        for (pte, value) in ptes.iter().zip(folded(&values).unwrap_or(values)) {
            kernel.store(pte, value);
        }
        kernel.counters().late_stores(3 * GROUP);
    }
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
