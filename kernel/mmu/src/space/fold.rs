// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folding and unfolding contiguous groups in tables.
//!
//! Both are a break-before-make of whole groups (R29): all 16 entries are made invalid, then
//! invalidated, then written. Between the first load of an entry and the last store no other code
//! may change the group, so the caller must hold the address space. For this reason the end of a
//! section never folds.

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
/// Source: row B3. The order checker of the host tests notices a missing unfold (`r29_*`).
#[cold]
#[inline(never)]
pub(super) fn unfold<K: Kernel>(mmu: &Mmu<K>, table: &Table, va: VirtAddr, scope: Scope) {
    // Afterwards memory holds every value that waits for the members.
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

/// Folds every group that lies at least in part in `pages` and whose 16 entries can be one group.
/// `pages` lies in the last-level table `table`. Returns the number of groups folded.
///
/// All groups share one break, one invalidation and one make: two stores per entry, and one set of
/// barriers. If no group can be folded, nothing is executed; for most groups one or two loads
/// decide that. Kernel mappings are not folded. In interrupt context nothing is folded.
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
    // Afterwards memory holds every value that waits for the members.
    backend::drain(mmu);
    let first = Level::L3.index(pages.start());
    let mut broken = 0_u32;
    for number in first / GROUP..=(first + pages.pages() as usize - 1) / GROUP {
        let ptes = group::entries(table, number);
        let value = |i: usize| kernel.load(&ptes[i]);
        if group::is_member(value(0)) || !group::can_be_one(value) {
            continue;
        }
        // Until the make, the invalid entries hold the values, with the final access and dirty
        // bits.
        for pte in ptes {
            store::make_invalid(kernel, pte);
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
    mmu.invalidate(PageRange::all_joined(ranges), scope, Reach::Page);
    for number in groups {
        let ptes = group::entries(table, number);
        let kept = |pte| Desc::from_u64(kernel.load(pte).as_u64() | bits::VALID);
        let values: [Desc; GROUP] = core::array::from_fn(|i| kept(&ptes[i]));
        for (pte, value) in ptes.iter().zip(group::folded(&values).unwrap_or(values)) {
            store::store(kernel, pte, value);
        }
    }
    let folded = broken.count_ones() as usize;
    kernel.current_counters().late_stores(2 * GROUP * folded);
    folded
}
