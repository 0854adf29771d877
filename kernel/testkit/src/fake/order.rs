// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules that every store of every test is held to, whatever the test is about.
//!
//! One CPU, tables and a TLB that caches whatever it may. For each entry whose old value a
//! TLB may hold, the checker remembers how far its invalidation has come:
//! written, completed by a `DSB`, named by a TLBI, gone after the `DSB ISH` (R27). It panics,
//! naming the rule, on
//!
//! * a table linked before its contents are ordered (R18);
//! * an entry made valid again before the invalidation is complete (R27, R29);
//! * a live entry replaced in place by one that needs break-before-make (R29);
//! * a table given back while an entry links it, or a walker may hold its link (R32).
//!
//! It shares no code with the library: operands and attributes are decoded here.

use lazymmu::{TlbiOp, bits};
use std::collections::{BTreeMap, BTreeSet};

/// What a store was, judged by where the entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An entry of a last-level table.
    Leaf,
    /// A table linked or unlinked, at this level.
    Link(u8),
    /// Only the population kept in a link's ignored bits changed.
    Population,
    /// The table is not reachable: nobody walks it.
    Scratch,
}

/// Where a table hangs in its tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Level of the table, 0 for a root.
    pub level: u8,
    /// First address it translates.
    pub base: u64,
    /// ASID of the tree, `None` for the kernel's.
    pub asid: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Written,
    Completed,
    Named,
}

#[derive(Clone, Copy, Debug)]
struct Stale {
    stage: Stage,
    /// The table that the old value linked.
    link: Option<u64>,
    /// Table and index of the entry; `None` when the table is gone.
    at: Option<(u64, usize)>,
}

/// The rules, and how far each entry has come.
#[derive(Debug, Default)]
pub(super) struct Order {
    places: BTreeMap<u64, Place>,
    /// Tables whose link is cleared and which are not free yet.
    unlinked: BTreeMap<u64, Place>,
    unordered: BTreeSet<u64>,
    stale: BTreeMap<(Option<u16>, u8, u64), Stale>,
    /// Whether a table that is written and reached from no known root is a mistake of the test.
    every_root_is_known: bool,
}

const SHIFT: [u32; 4] = [39, 30, 21, 12];

fn is_table(level: u8, raw: u64) -> bool {
    level < 3 && raw & 0b11 == 0b11
}

/// Whether a TLB may hold the entry: a table, or a leaf with the access flag.
fn is_live(level: u8, raw: u64) -> bool {
    is_table(level, raw) || raw & (bits::VALID | bits::AF) == bits::VALID | bits::AF
}

impl Order {
    /// A root comes into being.
    pub(super) fn add_root(&mut self, frame: u64, base: u64, asid: Option<u16>) {
        let level = 0;
        self.places.insert(frame, Place { level, base, asid });
    }

    /// From now on, a valid entry in a table that no known root reaches is a mistake of the test.
    pub(super) fn know_every_root(&mut self) {
        self.every_root_is_known = true;
    }

    /// A table is allocated: its zeroes are stores like any other.
    pub(super) fn alloc(&mut self, frame: u64) {
        self.unordered.insert(frame);
    }

    /// Whether the invalidation of every entry is complete.
    pub(super) fn all_invalidated(&self) -> bool {
        self.stale.is_empty()
    }

    /// The same, but for pages that `may` names.
    pub(super) fn all_invalidated_but(&self, may: impl Fn(Option<u16>, u64) -> bool) -> bool {
        let mut stale = self.stale.keys();
        stale.all(|&(asid, level, va)| level == 3 && may(asid, va))
    }

    /// Whether a TLB may still translate `va` by an old leaf.
    pub(super) fn may_be_cached(&self, asid: Option<u16>, va: u64) -> bool {
        self.stale.contains_key(&(asid, 3, va))
    }

    pub(super) fn store(&mut self, frame: u64, index: usize, old: u64, new: u64) -> Role {
        if let Some(place) = self.unlinked.get(&frame) {
            // A walker may still get here until the invalidation is complete.
            assert!(
                !is_live(place.level, new),
                "R32: {new:#x} is written to table {frame:#x}, unlinked but still walked"
            );
            return Role::Scratch;
        }
        let Some(&Place { level, base, asid }) = self.places.get(&frame) else {
            // The links of chains of spare tables are not valid.
            assert!(
                !self.every_root_is_known || new & bits::VALID == 0,
                "{new:#x} is stored to table {frame:#x}, which no root that this machine knows reaches: \
                 build the space with fake::new_space (for_one_task watches its first space only)"
            );
            self.unordered.insert(frame);
            return Role::Scratch;
        };
        let va = base + ((index as u64) << SHIFT[level as usize]);
        let tables = (is_table(level, old), is_table(level, new));
        if tables == (true, true) && (old ^ new) & !bits::TABLE_SOFTWARE == 0 {
            return Role::Population;
        }
        let key = (asid, level, va);
        match (is_live(level, old), is_live(level, new)) {
            (true, true) => {
                let in_place = bits::AP_READ_ONLY
                    | bits::AP_USER
                    | bits::PXN
                    | bits::UXN
                    | bits::DBM
                    | bits::SOFTWARE;
                assert!(
                    tables == (false, false) && (old ^ new) & !in_place == 0,
                    "R29: {old:#x} at {va:#x} is replaced by {new:#x} without a break"
                );
            }
            (false, true) => assert!(
                !self.stale.contains_key(&key),
                "R27: {va:#x} is made valid before its invalidation is complete"
            ),
            _ => {}
        }
        if is_live(level, old) && old != new {
            let link = tables.0.then_some(old & bits::ADDRESS);
            let stage = Stage::Written;
            let at = Some((frame, index));
            self.stale.insert(key, Stale { stage, link, at });
        }
        if tables == (true, false) {
            let child = old & bits::ADDRESS;
            if let Some(place) = self.places.remove(&child) {
                self.unlinked.insert(child, place);
            }
        }
        if tables.1 {
            let child = new & bits::ADDRESS;
            assert!(
                !self.unordered.contains(&child),
                "R18: table {child:#x} is linked before its contents are ordered"
            );
            let level = level + 1;
            let base = va;
            self.places.insert(child, Place { level, base, asid });
        }
        if level == 3 {
            Role::Leaf
        } else {
            Role::Link(level)
        }
    }

    /// A table goes back to the allocator, outside the teardown of a whole tree.
    pub(super) fn free(&mut self, frame: u64) {
        assert!(
            self.stale.values().all(|s| s.link != Some(frame)),
            "R32: table {frame:#x} is freed while a walker may hold its link"
        );
        self.forget(frame);
    }

    /// A table of a tree that nobody walks any more.
    pub(super) fn forget(&mut self, frame: u64) {
        self.places.remove(&frame);
        self.unlinked.remove(&frame);
        self.unordered.remove(&frame);
        let is_gone = |at: &mut (u64, usize)| at.0 == frame;
        for stale in self.stale.values_mut() {
            stale.at.take_if(is_gone);
        }
    }

    pub(super) fn dmb_ishst(&mut self) {
        self.unordered.clear();
    }

    pub(super) fn dsb_ishst(&mut self) {
        self.unordered.clear();
        for stale in self.stale.values_mut() {
            stale.stage = stale.stage.max(Stage::Completed);
        }
    }

    /// Returns table and index of the leaves whose invalidation this completes.
    pub(super) fn dsb_ish(&mut self) -> Vec<(u64, usize)> {
        let mut done = Vec::new();
        self.stale.retain(|(_, level, _), stale| {
            let is_done = stale.stage == Stage::Named;
            if is_done && *level == 3 {
                done.extend(stale.at);
            }
            !is_done
        });
        self.dsb_ishst();
        done
    }

    pub(super) fn tlbi(&mut self, op: TlbiOp, operand: u64) {
        let named = Named::decode(op, operand);
        for (&(asid, level, va), stale) in &mut self.stale {
            if stale.stage == Stage::Completed && named.covers(asid, level, va, stale.link) {
                stale.stage = Stage::Named;
            }
        }
    }
}

/// A decoded TLBI (Arm ARM C5.5).
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// First page and number of pages, in units of 4 KiB; `None` for everything.
    pub pages: Option<(u64, u64)>,
    /// The ASID that it names; `None` for all of them.
    pub asid: Option<u16>,
    /// Whether it leaves links to tables alone.
    pub leaf_only: bool,
    /// Level that the operand promises.
    pub ttl: Option<u8>,
}

/// Address bits that both operand forms carry: `[48:12]`.
const PAGE_MASK: u64 = (1 << 37) - 1;

impl Named {
    /// Decodes an operation and the value of its register.
    pub fn decode(op: TlbiOp, operand: u64) -> Self {
        use TlbiOp as Op;
        let asid = Some((operand >> 48) as u16);
        let leaf_only = matches!(
            op,
            Op::Vale1is | Op::Vaale1is | Op::Rvale1is | Op::Rvaale1is
        );
        let single = || {
            let ttl = match operand >> 44 & 0xf {
                0 => None,
                ttl => {
                    assert_eq!(ttl >> 2, 0b01, "TTL of another granule in {operand:#x}");
                    Some((ttl & 3) as u8)
                }
            };
            (Some((operand & PAGE_MASK, 1)), ttl)
        };
        let range = || {
            assert_eq!(operand >> 46 & 3, 0b01, "TG is not 4 KiB in {operand:#x}");
            let (scale, num) = (operand >> 44 & 3, operand >> 39 & 31);
            let ttl = (operand >> 37 & 3) as u8;
            let pages = (num + 1) << (5 * scale + 1);
            (
                Some((operand & PAGE_MASK, pages)),
                (ttl != 0).then_some(ttl),
            )
        };
        let ((pages, ttl), asid) = match op {
            Op::Vmalle1is => ((None, None), None),
            Op::Aside1is => ((None, None), asid),
            Op::Vae1is | Op::Vale1is => (single(), asid),
            Op::Vaae1is | Op::Vaale1is => (single(), None),
            Op::Rvae1is | Op::Rvale1is => (range(), asid),
            Op::Rvaae1is | Op::Rvaale1is => (range(), None),
        };
        Self {
            pages,
            asid,
            leaf_only,
            ttl,
        }
    }

    fn covers(&self, asid: Option<u16>, level: u8, va: u64, link: Option<u64>) -> bool {
        let span = 1 << (SHIFT[level as usize] - 12);
        let first = va >> 12 & PAGE_MASK;
        let hit = self
            .pages
            .is_none_or(|(from, n)| from < first + span && first < from + n);
        // An operation of one ASID leaves global entries alone.
        let whose = self.asid.is_none() || self.asid == asid;
        hit && whose
            && !(self.leaf_only && link.is_some())
            && self.ttl.is_none_or(|ttl| ttl == level)
    }
}
