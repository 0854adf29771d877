// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine model where no litmus test of the table goes: what a TLBI names, contiguous
//! groups, blocks, cached links, ASIDs, memory that comes back.

use lazymmu::tlbi::{Scope, asid_operand, range_operand, va_operand};
use lazymmu::{Asid, Level, PAGE_SIZE, Prot, TlbiOp, VirtAddr, bits};
use lazymmu_testkit::model::{
    self, Barrier, Hazard, Kind, Location, Machine, Model, Outcome, RootId, TableId,
};

const POOL: u64 = 0x4000_0000;
const ASID: u16 = 7;

/// One tree, its tables linked at index 0 of each level: frames 0 to 3.
struct Tree {
    machine: Machine,
    root: RootId,
    tables: Vec<TableId>,
    base: u64,
}

impl Tree {
    fn new(asid: Option<u16>) -> Self {
        let mut machine = Machine::new(Model::default(), POOL, 8);
        let tables: Vec<_> = (0..6).map(|frame| machine.alloc(0, frame)).collect();
        let base = if asid.is_some() {
            0
        } else {
            lazymmu::Half::Upper.start()
        };
        let root = machine.add_root(0, base, asid);
        let mut tree = Self {
            machine,
            root,
            tables,
            base,
        };
        for level in 0..3 {
            tree.machine.dmb(0, Barrier::Full);
            tree.store(level, 0, link(level + 1));
        }
        tree.machine.settle();
        tree
    }

    fn store(&mut self, table: usize, index: u16, raw: u64) {
        let table = self.tables[table];
        self.machine.store(0, Location { table, index }, raw);
    }

    /// An old leaf of the last-level table.
    fn with_leaf(mut self, index: u16, raw: u64) -> Self {
        self.store(3, index, raw);
        self.machine.settle();
        self
    }

    /// The break-before-make sequence of R27 around the operations, ended by a CSE.
    fn invalidate(&mut self, operations: &[(TlbiOp, u64)]) {
        self.machine.dsb(0, Barrier::St);
        for &(op, operand) in operations {
            self.machine.tlbi(0, op, operand, true);
        }
        self.machine.dsb(0, Barrier::Full);
        self.machine.cse(0);
    }

    fn va(&self, page: u64) -> VirtAddr {
        VirtAddr::new(self.base + page * PAGE_SIZE).expect("canonical")
    }

    fn read(&self, page: u64) -> model::Outcomes {
        let va = self.va(page).as_u64();
        self.machine.access(0, self.root, va, Kind::Read, None)
    }

    fn gives(&self, page: u64, frame: u64) -> bool {
        let reached =
            |o: &Outcome| matches!(o, Outcome::Page { page, .. } if *page == frame * PAGE_SIZE);
        self.read(page).as_slice().iter().any(reached)
    }
}

const fn link(frame: usize) -> u64 {
    (POOL + frame as u64 * PAGE_SIZE) | bits::TABLE_OR_PAGE | bits::VALID
}

const fn leaf(frame: u64, prot: Prot) -> u64 {
    (frame * PAGE_SIZE) | prot.as_u64() | bits::TABLE_OR_PAGE
}

/// Whether a stale kernel leaf at page 3 survives these operations.
fn kernel_leaf_survives(operations: impl Fn(&Tree) -> Vec<(TlbiOp, u64)>) -> bool {
    let mut tree = Tree::new(None).with_leaf(3, leaf(5, Prot::KERNEL));
    tree.store(3, 3, 0);
    let operations = operations(&tree);
    tree.invalidate(&operations);
    tree.gives(3, 5)
}

#[test]
fn r33_an_operation_must_name_the_address_and_the_level() {
    let by_va = |page, ttl| {
        move |tree: &Tree| {
            let operand = va_operand(tree.va(page), Scope::AllAsids, ttl);
            vec![(TlbiOp::Vaale1is, operand)]
        }
    };
    assert!(!kernel_leaf_survives(by_va(3, None)));
    assert!(!kernel_leaf_survives(by_va(3, Some(Level::L3))));
    assert!(kernel_leaf_survives(by_va(4, None)), "its neighbor");
    assert!(
        kernel_leaf_survives(by_va(3, Some(Level::L2))),
        "a wrong promise"
    );
    // Address bits that leak into the TTL make it one of another granule (AN, LK).
    assert!(kernel_leaf_survives(|tree| {
        let operand = tree.va(3).as_u64() >> lazymmu::PAGE_SHIFT;
        vec![(TlbiOp::Vaale1is, operand & !(0xf << 44) | 0xb << 44)]
    }));
}

#[test]
fn r33_a_range_covers_what_its_formula_says() {
    let ranged = |from, scale, num| {
        move |tree: &Tree| {
            let va = tree.va(from);
            let operand = range_operand(va, Scope::AllAsids, Some(Level::L3), scale, num);
            vec![(TlbiOp::Rvaale1is, operand)]
        }
    };
    assert!(!kernel_leaf_survives(ranged(2, 0, 0)), "pages 2 and 3");
    assert!(kernel_leaf_survives(ranged(1, 0, 0)), "pages 1 and 2");
    assert!(!kernel_leaf_survives(ranged(0, 0, 1)), "pages 0 to 3");
    assert!(kernel_leaf_survives(ranged(4, 1, 31)));
}

#[test]
fn r33_an_asid_tells_spaces_apart_and_globals_have_none() {
    let scope = |asid| Scope::Asid(Asid(asid));
    let survives = |op, operand: fn(&Tree, u16) -> u64, asid| {
        let mut tree = Tree::new(Some(ASID)).with_leaf(3, leaf(5, Prot::USER));
        tree.store(3, 3, 0);
        let operand = operand(&tree, asid);
        tree.invalidate(&[(op, operand)]);
        tree.gives(3, 5)
    };
    let whole = |_: &Tree, asid| asid_operand(Scope::Asid(Asid(asid)));
    assert!(!survives(TlbiOp::Aside1is, whole, ASID));
    assert!(survives(TlbiOp::Aside1is, whole, ASID + 1));
    let page = |tree: &Tree, asid| va_operand(tree.va(3), Scope::Asid(Asid(asid)), None);
    assert!(!survives(TlbiOp::Vale1is, page, ASID));
    assert!(survives(TlbiOp::Vale1is, page, ASID + 1));
    assert!(kernel_leaf_survives(|_| {
        vec![(TlbiOp::Aside1is, asid_operand(scope(ASID)))]
    }));
    assert!(!kernel_leaf_survives(|_| vec![(TlbiOp::Vmalle1is, 0)]));
}

/// One entry of a group translates all 16 pages, in fragments of any size.
#[test]
fn r29_a_contiguous_group_goes_as_a_whole() {
    let cont = |i: u64| leaf(0x40 + i, Prot::KERNEL) | bits::CONT;
    let mut tree = Tree::new(None);
    for i in 16..32_u16 {
        tree.store(3, i, cont(u64::from(i) - 16));
    }
    tree.machine.settle();
    assert!(tree.gives(16, 0x40) && tree.gives(31, 0x4f));
    let one = |tree: &Tree, page| {
        let operand = va_operand(tree.va(page), Scope::AllAsids, Some(Level::L3));
        (TlbiOp::Vaale1is, operand)
    };
    // One entry emptied and invalidated, its neighbors still say how it is translated.
    tree.store(3, 20, 0);
    let operation = one(&tree, 20);
    tree.invalidate(&[operation]);
    assert!(tree.gives(20, 0x44));
    // All emptied, but one page invalidated: fragments of the others stay.
    for i in 16..32 {
        tree.store(3, i, 0);
    }
    tree.invalidate(&[operation]);
    assert!(!tree.gives(20, 0x44) && tree.gives(21, 0x45));
    let all: Vec<_> = (16..32).map(|page| one(&tree, page)).collect();
    tree.invalidate(&all);
    assert!((16..32).all(|page| tree.read(page).only_faults()));
}

/// A block is found by any address that it serves.
#[test]
fn r33_a_block_goes_by_any_of_its_addresses() {
    let block = leaf(0x600, Prot::KERNEL) & !bits::TABLE_OR_PAGE;
    let mut tree = Tree::new(None);
    tree.store(2, 1, block);
    tree.machine.settle();
    let (first, other) = (512, 512 + 77);
    assert!(tree.gives(other, 0x600 + 77));
    tree.store(2, 1, 0);
    let pages = va_operand(tree.va(first), Scope::AllAsids, Some(Level::L3));
    tree.invalidate(&[(TlbiOp::Vaale1is, pages)]);
    assert!(tree.gives(other, 0x600 + 77), "TTL 3 is not its level");
    let operand = va_operand(tree.va(first), Scope::AllAsids, None);
    tree.invalidate(&[(TlbiOp::Vaale1is, operand)]);
    assert!(tree.read(other).only_faults());
}

/// R32: a cached link leads to the old table, whatever it holds by now, until an operation
/// of all levels names it. A leaf that is cached itself needs no link.
#[test]
fn r32_cached_links_and_cached_leaves_go_one_by_one() {
    let mut tree = Tree::new(None).with_leaf(3, leaf(5, Prot::KERNEL));
    tree.store(2, 0, 0);
    let operand = va_operand(tree.va(3), Scope::AllAsids, None);
    tree.invalidate(&[(TlbiOp::Vaale1is, operand)]);
    assert!(tree.gives(3, 5), "the link is cached: leaf-only leaves it");
    let neighbor = va_operand(tree.va(4), Scope::AllAsids, None);
    tree.invalidate(&[(TlbiOp::Vaae1is, neighbor)]);
    assert!(tree.gives(3, 5), "the link is gone, the leaf is cached");
    tree.invalidate(&[(TlbiOp::Vaale1is, operand)]);
    assert!(tree.read(3).only_faults());
}

#[test]
fn r32_a_table_is_free_after_an_operation_of_all_levels() {
    for (op, early) in [(TlbiOp::Vaale1is, true), (TlbiOp::Vaae1is, false)] {
        let mut tree = Tree::new(None);
        tree.store(2, 0, 0);
        let operand = va_operand(tree.va(0), Scope::AllAsids, None);
        tree.invalidate(&[(op, operand)]);
        let frame = POOL + 3 * PAGE_SIZE;
        let hazard = tree.machine.free(tree.tables[3], frame);
        assert_eq!(hazard, early.then_some(Hazard::Table { frame, cpu: 0 }));
        // A walker that gets there reads whatever its next owner writes.
        assert_eq!(tree.read(3).contains(Outcome::Garbage), early);
    }
}

/// An ASID that has a new owner shows what was cached for the old one.
#[test]
fn r33_an_asid_is_invalidated_before_it_is_given_again() {
    for invalidated in [false, true] {
        let mut tree = Tree::new(Some(ASID)).with_leaf(3, leaf(5, Prot::USER));
        tree.machine.retire_root(tree.root);
        if invalidated {
            let operand = asid_operand(Scope::Asid(Asid(ASID)));
            tree.invalidate(&[(TlbiOp::Aside1is, operand)]);
        }
        tree.root = tree.machine.add_root(5, 0, Some(ASID));
        assert_eq!(tree.gives(3, 5), !invalidated);
    }
}

/// A fault is not cached, so a valid entry needs no invalidation, only completion (R31).
#[test]
fn r31_an_invalid_entry_leaves_nothing_behind() {
    let mut tree = Tree::new(None);
    tree.store(3, 3, leaf(5, Prot::KERNEL) & !bits::AF);
    tree.machine.settle();
    assert!(tree.read(3).is_only(Outcome::AccessFlag));
    tree.store(3, 3, leaf(6, Prot::KERNEL));
    tree.machine.dsb(0, Barrier::St);
    tree.machine.cse(0);
    assert!(tree.gives(3, 6) && tree.read(3).as_slice().len() == 1);
}
