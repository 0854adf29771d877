// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folding and unfolding contiguous groups in tables.
//!
//! Both are a break-before-make of whole groups (R29): all entries are emptied, all are
//! invalidated, all are written. They read 16 entries, decide, and write the 16 entries again, so
//! their caller must hold the address space from the first load to the last store. For this reason
//! the end of a section never folds.

use crate::addr::{Level, PageRange, VirtAddr};
use crate::backend::{self, store};
use crate::desc::{Desc, bits};
use crate::group::{self, GROUP, GROUPS};
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::table::Table;
use crate::tlbi::{Reach, Scope};

/// Unfolds the group of the page `va`, if it is a folded one, so that its members can be changed
/// one by one.
///
/// Row B3. Witness of its absence: the order checker of the host tests (`r29_*`).
#[cold]
#[inline(never)]
pub(super) fn unfold<K: Kernel>(mmu: &Mmu<K>, table: &Table, va: VirtAddr, scope: Scope) {
    // What waits for the members is in memory then.
    backend::drain(mmu);
    let kernel = mmu.kernel();
    let number = Level::L3.index(va) / GROUP;
    let ptes = group::entries(table, number);
    if !group::is_member(kernel.load(&ptes[0])) {
        return;
    }
    let old: [Desc; GROUP] = core::array::from_fn(|i| store::swap(kernel, &ptes[i], Desc::INVALID));
    mmu.invalidate(
        core::iter::once(group::pages(va, number)),
        scope,
        Reach::Page,
    );
    for (pte, value) in ptes.iter().zip(group::folded(&old).unwrap_or(old)) {
        store::store(kernel, pte, group::alone(value));
    }
    kernel.current_counters().late_stores(2 * GROUP);
}

/// Folds every group that lies in `pages` at least in part and whose 16 entries have become one,
/// with one invalidation for all of them. `pages` is a part of `table`. Returns the number of
/// groups folded.
///
/// Nothing is folded in kernel mappings, nor in an interrupt.
#[cold]
#[inline(never)]
pub(super) fn fold<K: Kernel>(
    mmu: &Mmu<K>,
    table: &Table,
    pages: PageRange,
    scope: Scope,
) -> usize {
    let kernel = mmu.kernel();
    if !group::is_foldable(scope) || kernel.in_interrupt() {
        return 0;
    }
    // A group of which a member waits is folded by the drain already, with the invalidation that it
    // needs anyway.
    backend::drain(mmu);
    let first = Level::L3.index(pages.start());
    let mut broken = 0_u32;
    for number in first / GROUP..=(first + pages.pages() as usize - 1) / GROUP {
        let ptes = group::entries(table, number);
        let values: [Desc; GROUP] = core::array::from_fn(|i| kernel.load(&ptes[i]));
        if group::is_member(values[0]) || group::folded(&values).is_none() {
            continue;
        }
        for pte in ptes {
            // Emptied to learn the final access and dirty bits. Until the make, the value is kept
            // in the invalid entry.
            let old = store::swap(kernel, pte, Desc::INVALID);
            store::store(kernel, pte, Desc::from_u64(old.as_u64() & !bits::VALID));
        }
        broken |= 1 << number;
    }
    if broken == 0 {
        return 0;
    }
    let groups = (0..GROUPS).filter(|number| broken >> number & 1 != 0);
    let ranges = groups
        .clone()
        .map(|number| group::pages(pages.start(), number));
    mmu.invalidate(ranges, scope, Reach::Page);
    for number in groups {
        let ptes = group::entries(table, number);
        let kept = |pte| Desc::from_u64(kernel.load(pte).as_u64() | bits::VALID);
        let values: [Desc; GROUP] = core::array::from_fn(|i| kept(&ptes[i]));
        for (pte, value) in ptes.iter().zip(group::folded(&values).unwrap_or(values)) {
            store::store(kernel, pte, value);
        }
        kernel.current_counters().late_stores(3 * GROUP);
    }
    broken.count_ones() as usize
}
