// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checker of contiguous groups, which checks each store to a member (R29).
//!
//! A group is 16 entries of a last-level table. It is *folded* if its members have the contiguous
//! hint; a TLB may then hold all of it as one entry. The rules:
//!
//! * At no moment one valid member has the hint and another has not: a TLB would hold entries of
//!   two sizes for one address.
//! * A member that becomes valid in a folded group continues the frames of the others, with their
//!   attributes.
//! * A folded group may be changed in place or emptied as a whole. That takes 16 stores, so its
//!   members differ in between. They must match again, or be empty, when the invalidation of one of
//!   them is complete, and when no section is open.
//!
//! So a change of a part of a folded group without a break is found by the invalidation of that
//! part, or at the latest by the end of the section. Bits that hardware ignores or sets by itself
//! may differ: AF, the bits for software, and `AP[2]` if DBM is set.

use lazymmu::{PAGE_SIZE, bits};
use std::collections::BTreeSet;

pub(super) const GROUP: usize = 16;

/// The groups that have been folded at some time, as table and number in the table.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeSet<(u64, usize)>);

const fn is_folded(raw: u64) -> bool {
    raw & (bits::VALID | bits::CONT) == bits::VALID | bits::CONT
}

const fn is_valid(raw: u64) -> bool {
    raw & bits::VALID != 0
}

/// The bits that all members must have in common: the attributes, and the frame of the first
/// member, computed from that of member number `member`.
const fn common(raw: u64, member: usize) -> u64 {
    let mut raw = raw & !(bits::AF | bits::CONT | bits::SOFTWARE);
    if raw & bits::DBM != 0 {
        raw &= !bits::AP_READ_ONLY;
    }
    raw.wrapping_sub(member as u64 * PAGE_SIZE)
}

impl Groups {
    /// Whether the store of `new` over `old` may change a group that is or was folded.
    pub(super) fn concerns(&self, table: u64, index: usize, old: u64, new: u64) -> bool {
        (old | new) & bits::CONT != 0 || self.0.contains(&(table, index / GROUP))
    }

    /// Checks a group after the store to entry `index`, which held `old` before. `now` is the group
    /// after the store.
    pub(super) fn stored(&mut self, table: u64, index: usize, old: u64, now: &[u64; GROUP]) {
        let member = index % GROUP;
        let new = now[member];
        if is_folded(new) {
            self.0.insert((table, index / GROUP));
        }
        if !is_valid(new) {
            return;
        }
        let place = format!("entry {index} of table {table:#x}");
        for (i, &other) in now.iter().enumerate().filter(|(_, raw)| is_valid(**raw)) {
            assert_eq!(
                is_folded(other),
                is_folded(new),
                "R29: {place} becomes {new:#x} next to entry {i} of its group, {other:#x}"
            );
            let is_made = !is_valid(old) && is_folded(new);
            assert!(
                !is_made || common(other, i) == common(new, member),
                "R29: {place}, {new:#x}, does not continue entry {i} of its group, {other:#x}"
            );
        }
    }

    /// All groups that have been folded at some time.
    pub(super) fn all(&self) -> Vec<(u64, usize)> {
        self.0.iter().copied().collect()
    }

    /// Checks that the members of `now` match and are aligned, or that none of them has the hint.
    pub(super) fn check_whole(table: u64, group: usize, now: &[u64; GROUP]) {
        let members = now.iter().filter(|raw| is_folded(**raw)).count();
        assert!(
            members == 0 || members == GROUP,
            "R29: {members} of 16 entries of group {group} of table {table:#x} are left"
        );
        let first = common(now[0], 0);
        let alike = |(i, raw): (usize, &u64)| common(*raw, i) == first;
        assert!(
            members == 0 || now.iter().enumerate().all(alike),
            "R29: the entries of group {group} of table {table:#x} differ: {now:#x?}"
        );
        let base = first & bits::ADDRESS;
        assert!(
            members == 0 || base.is_multiple_of(GROUP as u64 * PAGE_SIZE),
            "R29: group {group} of table {table:#x} begins at {base:#x}"
        );
    }

    pub(super) fn forget(&mut self, table: u64) {
        self.0.retain(|(of, _)| *of != table);
    }
}
