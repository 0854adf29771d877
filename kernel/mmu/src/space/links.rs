// SPDX-License-Identifier: MIT OR Apache-2.0
//! Table descriptors (*links*): the one place that links and unlinks tables, and that writes the
//! bits of a link that hardware ignores.
//!
//! These bits say how many entries of the table are in use (the *population*), and whether the
//! table may hold a leaf that is not Normal write-back memory. A store that changes nothing else
//! owes no barrier and no invalidation.

#![expect(clippy::disallowed_methods, reason = "it stores links of tables")]

use crate::addr::{ENTRIES, Level};
use crate::backend;
use crate::desc::{Desc, Prot};
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::table::Pte;

/// Stores `link`, a table descriptor or [`Desc::INVALID`], to `entry` of `level`, and notes or pays
/// what the store owes.
pub(super) fn write<K: Kernel>(mmu: &Mmu<K>, level: Level, entry: &Pte, link: Desc) {
    let kernel = mmu.kernel();
    if link.is_valid() {
        mmu.order_before_link();
    }
    kernel.store(entry, link);
    kernel.current_counters().links(1);
    backend::account_link(mmu, level, link);
}

/// Adds to the population in `parent`, the entry that links a table, unless it is unknown.
#[inline]
pub(super) fn add_population<K: Kernel>(mmu: &Mmu<K>, parent: &Pte, change: isize) {
    if let Some(before) = mmu.kernel().load(parent).population() {
        set_population(mmu, parent, before, change);
    }
}

/// Sets the population in `parent` to `before + change`.
#[inline]
pub(super) fn set_population<K: Kernel>(mmu: &Mmu<K>, parent: &Pte, before: usize, change: isize) {
    let link = mmu.kernel().load(parent);
    // Checked in every build: a wrong number would reach into the address field.
    let population = before.wrapping_add_signed(change);
    assert!(
        population <= ENTRIES,
        "a table's population is off: {before} {change:+}"
    );
    mmu.kernel().store(parent, link.with_population(population));
}

/// Marks the population in `parent`, which holds `link`, as unknown, before the entries of the
/// table are changed one by one. Returns the marked descriptor.
pub(super) fn forget_population<K: Kernel>(mmu: &Mmu<K>, parent: &Pte, link: Desc) -> Desc {
    let link = link.with_unknown_population();
    mmu.kernel().store(parent, link);
    link
}

/// Sets the population in `parent`, which holds `link`, to `entries`. The memory types of these
/// entries are not known, so the link says that they may differ.
pub(super) fn set_counted<K: Kernel>(mmu: &Mmu<K>, parent: &Pte, link: Desc, entries: usize) {
    let link = link.with_mixed_leaves().with_population(entries);
    mmu.kernel().store(parent, link);
}

/// Adds one to the population in `parent`, which holds `link` with a known population below 512.
#[inline(always)]
pub(super) fn add_one<K: Kernel>(mmu: &Mmu<K>, parent: &Pte, link: Desc) {
    mmu.kernel().store(parent, link.with_one_more());
}

/// If `prot` is not Normal write-back memory, notes in `parent` that its table may hold such a
/// leaf.
#[inline(always)]
pub(super) fn note_memory_type<K: Kernel>(mmu: &Mmu<K>, parent: &Pte, prot: Prot) {
    if !prot.is_normal() {
        let link = mmu.kernel().load(parent).with_mixed_leaves();
        mmu.kernel().store(parent, link);
    }
}
