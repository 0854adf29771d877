// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contiguous groups, judged entry by entry (R29).
//!
//! A group is 16 entries of a last-level table, and it is *folded* if its members carry the contiguous
//! hint. A TLB may then hold all of it as one entry. The rules:
//!
//! * at no moment is one valid member folded and another not: a TLB would hold two
//!   sizes for one address;
//! * a member that becomes valid in a folded group continues the others' frames, with their attributes;
//! * a folded group may be changed in place or emptied as a whole. That takes 16 stores, so in between its
//!   members differ. It must be whole again, or empty, when the invalidation of any of them
//!   is complete (later there is no reason for one), and when no section is open.
//!
//! So whoever changes a part of a folded group without breaking it is caught: by the invalidation of that
//! part, at the latest by the end of the section. What hardware ignores or sets by itself may differ: AF,
//! software's bits, and `AP[2]` under DBM.

use lazymmu::{PAGE_SIZE, bits};
use std::collections::BTreeSet;

pub(super) const GROUP: usize = 16;

/// Groups that were ever folded, as table and number.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeSet<(u64, usize)>);

const fn is_folded(raw: u64) -> bool {
    raw & (bits::VALID | bits::CONT) == bits::VALID | bits::CONT
}

const fn is_valid(raw: u64) -> bool {
    raw & bits::VALID != 0
}

/// What all members have in common: attributes, and the frame that the first one would have.
const fn common(raw: u64, member: usize) -> u64 {
    let mut raw = raw & !(bits::AF | bits::CONT | bits::SOFTWARE);
    if raw & bits::DBM != 0 {
        raw &= !bits::AP_READ_ONLY;
    }
    raw.wrapping_sub(member as u64 * PAGE_SIZE)
}

impl Groups {
    /// Whether the store of `new` over `old` says anything about a group.
    pub(super) fn concerns(&self, table: u64, index: usize, old: u64, new: u64) -> bool {
        (old | new) & bits::CONT != 0 || self.0.contains(&(table, index / GROUP))
    }

    /// A member became `now[index % GROUP]`.
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

    /// Groups of which nothing may be half done now.
    pub(super) fn all(&self) -> Vec<(u64, usize)> {
        self.0.iter().copied().collect()
    }

    /// `now` is no half-changed group.
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
