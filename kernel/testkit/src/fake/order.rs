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
//! * a table given back while an entry links it, or a walker may hold its link (R32);
//! * a frame given back, or a table allocated in one, while a TLB may translate an address to it (R25). Who
//!   gives frames back says so by [`super::Watched::give_back`].
//!
//! A table may be linked by several others: spaces share it. A TLB holds what it translates under the
//! ASID of each tree that has reached it, and each of them must be invalidated. What a kernel's tree
//! translates is global: an invalidation of one ASID leaves it alone.
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

/// The ASID of a tree, `None` for a kernel's.
type Tree = Option<u16>;

/// Where a table hangs.
#[derive(Clone, Debug)]
struct Place {
    /// Level of the table, 0 for a root.
    level: u8,
    /// First address it translates.
    base: u64,
    /// Each tree that has reached it so far.
    trees: Vec<Tree>,
    /// The entries that link it, as table and index.
    links: BTreeSet<(u64, usize)>,
}

impl Place {
    const fn va(&self, index: usize) -> u64 {
        self.base + ((index as u64) << SHIFT[self.level as usize])
    }
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
    /// What the old value led to: a table, or at level 3 a page.
    frame: u64,
    /// Whether it was a table.
    is_link: bool,
    /// Table and index of the entry; `None` when the table is gone.
    at: Option<(u64, usize)>,
}

/// An entry in the view of a TLB, in a table of this frame: spaces of one ASID may have an entry each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tree: Tree,
    level: u8,
    va: u64,
    table: u64,
}

/// The rules, and how far each entry has come.
#[derive(Debug, Default)]
pub(super) struct Order {
    places: BTreeMap<u64, Place>,
    /// Tables whose link is cleared and which are not free yet.
    unlinked: BTreeMap<u64, Place>,
    unordered: BTreeSet<u64>,
    stale: BTreeMap<Key, Stale>,
    /// Whether a table that is written and reached from no known root is a mistake of the test.
    every_root_is_known: bool,
}

pub(super) const SHIFT: [u32; 4] = [39, 30, 21, 12];

fn is_table(level: u8, raw: u64) -> bool {
    level < 3 && raw & 0b11 == 0b11
}

/// Whether a TLB may hold the entry: a table, or a leaf with the access flag.
fn is_live(level: u8, raw: u64) -> bool {
    let is_leaf = match level {
        0 => false,
        3 => raw & 0b11 == 0b11,
        _ => raw & 0b11 == 0b01,
    };
    is_table(level, raw) || is_leaf && raw & bits::AF != 0
}

impl Order {
    /// A root comes into being.
    pub(super) fn add_root(&mut self, frame: u64, base: u64, tree: Tree) {
        self.add_table(frame, 0, base, tree);
    }

    /// A table is linked in a tree of other code, which was not watched when it was.
    pub(super) fn add_table(&mut self, frame: u64, level: u8, base: u64, tree: Tree) {
        let table = Place {
            level,
            base,
            trees: vec![tree],
            links: BTreeSet::new(),
        };
        self.places.insert(frame, table);
    }

    /// From now on, a valid entry in a table that no known root reaches is a mistake of the test.
    pub(super) fn know_every_root(&mut self) {
        self.every_root_is_known = true;
    }

    /// A table is allocated: its zeroes are stores like any other.
    pub(super) fn alloc(&mut self, frame: u64) {
        let translated = self
            .stale
            .iter()
            .find(|(_, s)| !s.is_link && s.frame == frame);
        if let Some((Key { tree, va, .. }, _)) = translated {
            panic!(
                "R25: frame {frame:#x} becomes a table while a TLB may translate {va:#x} of {tree:?} to it"
            );
        }
        self.unordered.insert(frame);
    }

    /// The frame that `va` of this tree was mapped to may be used for something else.
    pub(super) fn give_back(&self, tree: Tree, va: u64, frame: u64) {
        for (key, stale) in &self.stale {
            let is_it = (key.level, key.va, stale.frame) == (3, va, frame);
            let shares = |place: &Place| place.trees.contains(&tree);
            let is_here = key.tree == tree || self.places.get(&key.table).is_some_and(shares);
            assert!(
                !(is_it && is_here),
                "R25: frame {frame:#x} is given back while a TLB may translate {va:#x} of {:?} to it",
                key.tree
            );
        }
    }

    /// Whether the invalidation of every entry is complete.
    pub(super) fn all_invalidated(&self) -> bool {
        self.stale.is_empty()
    }

    /// The same, but for pages that `may` names.
    pub(super) fn all_invalidated_but(&self, may: impl Fn(Tree, u64) -> bool) -> bool {
        let mut stale = self.stale.keys();
        stale.all(|key| key.level == 3 && may(key.tree, key.va))
    }

    /// Whether a TLB may still translate `va` by an old leaf.
    pub(super) fn may_be_cached(&self, tree: Tree, va: u64) -> bool {
        self.is_stale(tree, 3, va)
    }

    fn is_stale(&self, tree: Tree, level: u8, va: u64) -> bool {
        let [first, last] = [0, u64::MAX].map(|table| Key {
            tree,
            level,
            va,
            table,
        });
        self.stale.range(first..=last).next().is_some()
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
        let Some(place) = self.places.get(&frame) else {
            // The links of chains of spare tables are not valid.
            assert!(
                !self.every_root_is_known || new & bits::VALID == 0,
                "{new:#x} is stored to table {frame:#x}, which no root that this machine knows reaches: \
                 build the space with fake::new_space (for_one_task watches its first space only)"
            );
            self.unordered.insert(frame);
            return Role::Scratch;
        };
        let (level, va) = (place.level, place.va(index));
        let tables = (is_table(level, old), is_table(level, new));
        if tables == (true, true) && (old ^ new) & !bits::TABLE_SOFTWARE == 0 {
            return Role::Population;
        }
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
                !place
                    .trees
                    .iter()
                    .any(|tree| self.is_stale(*tree, level, va)),
                "R27: {va:#x} is made valid before its invalidation is complete"
            ),
            _ => {}
        }
        if is_live(level, old) && old != new {
            for &tree in &place.trees {
                let key = Key {
                    tree,
                    level,
                    va,
                    table: frame,
                };
                let stale = Stale {
                    stage: Stage::Written,
                    frame: old & bits::ADDRESS,
                    is_link: tables.0,
                    at: Some((frame, index)),
                };
                self.stale.insert(key, stale);
            }
        }
        if tables == (true, false) {
            self.unlink(old & bits::ADDRESS, (frame, index));
        }
        if tables.1 {
            let child = new & bits::ADDRESS;
            assert!(
                !self.unordered.contains(&child),
                "R18: table {child:#x} is linked before its contents are ordered"
            );
            self.link(child, (frame, index));
        }
        if level == 3 {
            Role::Leaf
        } else {
            Role::Link(level)
        }
    }

    /// The entry `at`, which is that of a table with a place, links `child`.
    fn link(&mut self, child: u64, at: (u64, usize)) {
        let parent = &self.places[&at.0];
        let (level, base, trees) = (parent.level + 1, parent.va(at.1), parent.trees.clone());
        let place = self.places.entry(child).or_insert(Place {
            level,
            base,
            trees: Vec::new(),
            links: BTreeSet::new(),
        });
        assert_eq!(
            (place.level, place.base),
            (level, base),
            "table {child:#x} is linked at two places"
        );
        place.links.insert(at);
        self.reach(child, &trees);
    }

    /// The trees reach a table, and the tables below it.
    fn reach(&mut self, table: u64, trees: &[Tree]) {
        let Some(place) = self.places.get_mut(&table) else {
            return;
        };
        let before = place.trees.len();
        for tree in trees {
            if !place.trees.contains(tree) {
                place.trees.push(*tree);
            }
        }
        if before == 0 || before == place.trees.len() {
            // Nothing is below a table that comes new into a tree.
            return;
        }
        let is_below = |place: &Place| place.links.iter().any(|(from, _)| *from == table);
        let below = self.places.iter().filter(|(_, place)| is_below(place));
        let below: Vec<u64> = below.map(|(table, _)| *table).collect();
        for table in below {
            self.reach(table, trees);
        }
    }

    /// The entry `at` links `child` no more. The trees that have reached it this way may still have cached what is below.
    fn unlink(&mut self, child: u64, at: (u64, usize)) {
        if let Some(place) = self.places.get_mut(&child) {
            place.links.remove(&at);
            if place.links.is_empty()
                && let Some(place) = self.places.remove(&child)
            {
                self.unlinked.insert(child, place);
            }
        }
    }

    /// A table goes back to the allocator, outside the teardown of a whole tree.
    pub(super) fn free(&mut self, frame: u64) {
        assert!(
            !self.stale.values().any(|s| s.is_link && s.frame == frame),
            "R32: table {frame:#x} is freed while a walker may hold its link"
        );
        self.forget(frame);
    }

    /// A table of a tree that nobody walks any more.
    pub(super) fn forget(&mut self, frame: u64) {
        self.places.remove(&frame);
        self.unlinked.remove(&frame);
        self.unordered.remove(&frame);
        for place in self.places.values_mut() {
            place.links.retain(|(from, _)| *from != frame);
        }
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
        self.stale.retain(|key, stale| {
            let is_done = stale.stage == Stage::Named;
            if is_done && key.level == 3 {
                done.extend(stale.at);
            }
            !is_done
        });
        self.dsb_ishst();
        done
    }

    pub(super) fn tlbi(&mut self, op: TlbiOp, operand: u64) {
        let named = Named::decode(op, operand);
        for (key, stale) in &mut self.stale {
            if stale.stage == Stage::Completed && named.covers(*key, stale.is_link) {
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

    fn covers(&self, key: Key, is_link: bool) -> bool {
        let Key {
            tree, level, va, ..
        } = key;
        let span = 1 << (SHIFT[level as usize] - 12);
        let first = va >> 12 & PAGE_MASK;
        let hit = self
            .pages
            .is_none_or(|(from, n)| from < first + span && first < from + n);
        // An operation of one ASID leaves global entries alone.
        let whose = self.asid.is_none() || self.asid == tree;
        hit && whose && !(self.leaf_only && is_link) && self.ttl.is_none_or(|ttl| ttl == level)
    }
}
