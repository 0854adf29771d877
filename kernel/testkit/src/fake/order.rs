// SPDX-License-Identifier: MIT OR Apache-2.0
//! The order checker: rules that it applies to every store of every test.
//!
//! The checker knows one CPU, the tables, and a TLB that caches everything that it is allowed to.
//! For each entry whose old value the TLB may hold, it remembers the state of the invalidation:
//! written, completed by a `DSB`, named by a TLBI, and gone after the `DSB ISH` (R27). It panics
//! with the number of the rule on
//!
//! * a table that is linked before its contents are ordered (R18);
//! * an entry that is made valid again before the invalidation is complete (R27, R29);
//! * a live entry that is replaced in place by one that needs break-before-make (R29);
//! * a table that is freed while an entry links it, or while a walker may hold its link (R32);
//! * a frame that is given back, or in which a table is allocated, while a TLB may translate an
//!   address to it (R25). A test reports frames that it gives back to
//!   [`super::Watched::give_back`].
//!
//! Several tables may link one table, because spaces share tables. A TLB holds the translations of
//! such a table under the ASID of each tree that has reached it, and each of them must be
//! invalidated. Translations of a kernel tree are global: an invalidation of one ASID does not
//! reach them.
//!
//! The checker shares no code with the library: it decodes operands and attributes itself.

use lazymmu::{TlbiOp, bits};
use std::collections::{BTreeMap, BTreeSet};

/// The kind of a store, which follows from the place of the entry in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An entry of a last-level table.
    Leaf,
    /// A table linked or unlinked, at this level.
    Link(u8),
    /// Only the population in the ignored bits of a link changed.
    Population,
    /// The table is not linked, so no walker reaches it.
    Scratch,
}

/// The ASID of a tree, `None` for a kernel tree.
type Tree = Option<u16>;

/// The place of a table in the trees.
#[derive(Clone, Debug)]
struct Place {
    /// The level of the table, 0 for a root.
    level: u8,
    /// The first address that it translates.
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
    /// The address in the old value: of a table, or at level 3 of a page.
    frame: u64,
    /// Whether the old value was a link.
    is_link: bool,
    /// Table and index of the entry; `None` after the table was freed.
    at: Option<(u64, usize)>,
}

/// The key of a TLB entry. It includes the table, because two spaces of one ASID may each have an
/// entry for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tree: Tree,
    level: u8,
    va: u64,
    table: u64,
}

/// The order checker: the places of tables, and the invalidations that are not complete.
#[derive(Debug, Default)]
pub(super) struct Order {
    places: BTreeMap<u64, Place>,
    /// Tables whose links were cleared and which are not free yet.
    unlinked: BTreeMap<u64, Place>,
    unordered: BTreeSet<u64>,
    stale: BTreeMap<Key, Stale>,
    /// Whether a store to a table that no known root reaches is a mistake of the test.
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
    /// Adds the root of a new tree.
    pub(super) fn add_root(&mut self, frame: u64, base: u64, tree: Tree) {
        self.add_table(frame, 0, base, tree);
    }

    /// Adds a table of a tree that other code has built before the machine was told of it.
    pub(super) fn add_table(&mut self, frame: u64, level: u8, base: u64, tree: Tree) {
        let table = Place {
            level,
            base,
            trees: vec![tree],
            links: BTreeSet::new(),
        };
        self.places.insert(frame, table);
    }

    /// From now on, a valid entry that is stored to a table which no known root reaches is a
    /// mistake of the test.
    pub(super) fn know_every_root(&mut self) {
        self.every_root_is_known = true;
    }

    /// Adds a new table. Its zeroes are stores, which must be ordered before it is linked.
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

    /// Checks that the frame to which `va` of this tree was mapped may be reused.
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

    /// [`Order::all_invalidated`], except for pages for which `may` is true.
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

    /// Checks the store of `new` over `old` to entry `index` of the table at `frame`. Returns its
    /// kind.
    pub(super) fn store(&mut self, frame: u64, index: usize, old: u64, new: u64) -> Role {
        if let Some(place) = self.unlinked.get(&frame) {
            // A walker may still reach the table until the invalidation is complete.
            assert!(
                !is_live(place.level, new),
                "R32: {new:#x} is written to table {frame:#x}, unlinked but still walked"
            );
            return Role::Scratch;
        }
        let Some(place) = self.places.get(&frame) else {
            // Stores to a new table are allowed: the links in chains of spare tables are not valid.
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

    /// Notes that the entry `at` links `child`. The table of `at` has a place.
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

    /// Notes that `trees` reach `table` and the tables below it.
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
            // A new table has no tables below it, and a known one has gained no tree.
            return;
        }
        let is_below = |place: &Place| place.links.iter().any(|(from, _)| *from == table);
        let below = self.places.iter().filter(|(_, place)| is_below(place));
        let below: Vec<u64> = below.map(|(table, _)| *table).collect();
        for table in below {
            self.reach(table, trees);
        }
    }

    /// Notes that the entry `at` no longer links `child`. The trees that have reached it by this
    /// link may still have cached translations of the tables below.
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

    /// Checks that a table may be freed, and removes it. Not for the teardown of a whole tree.
    pub(super) fn free(&mut self, frame: u64) {
        assert!(
            !self.stale.values().any(|s| s.is_link && s.frame == frame),
            "R32: table {frame:#x} is freed while a walker may hold its link"
        );
        self.forget(frame);
    }

    /// Removes a table of a tree that no walker uses any more.
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

    /// A `DSB ISH`. Returns table and index of the leaves whose invalidation it completes.
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
    /// The number of the first page and the number of pages; `None` for all addresses.
    pub pages: Option<(u64, u64)>,
    /// The ASID that it names; `None` for all of them.
    pub asid: Option<u16>,
    /// Whether it invalidates only leaves, and no links.
    pub leaf_only: bool,
    /// The level in the TTL field, if there is one.
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
        // An operation of one ASID does not reach global entries.
        let whose = self.asid.is_none() || self.asid == tree;
        hit && whose && !(self.leaf_only && is_link) && self.ttl.is_none_or(|ttl| ttl == level)
    }
}
