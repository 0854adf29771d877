// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables come and go: reserve, link, free.

use super::{AddressSpace, Hole, LeafTable};
use crate::addr::{ENTRIES, Frame, Level, PageRange, VirtAddr};
use crate::backend;
use crate::desc::Desc;
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::table::Pte;
use crate::tlbi::Reach;

/// Tables reserved for one request. They are chained through their own first
/// entries, so that a request of any size needs no other memory; what is not used
/// goes back on drop.
pub(super) struct Spare<'m, K: Kernel> {
    mmu: &'m Mmu<K>,
    first: Option<Frame>,
    len: usize,
}

impl<'m, K: Kernel> Spare<'m, K> {
    /// Reserves `needed` zeroed tables.
    pub(super) fn reserve(mmu: &'m Mmu<K>, needed: usize) -> Result<Self, SpaceError> {
        let mut spare = Self {
            mmu,
            first: None,
            len: 0,
        };
        while spare.len < needed {
            let Some(frame) = mmu.kernel().alloc_table() else {
                return Err(SpaceError::OutOfTables {
                    needed,
                    available: spare.len,
                });
            };
            spare.chain(frame, spare.first.map_or(0, Frame::as_u64));
            spare.first = Some(frame);
            spare.len += 1;
        }
        Ok(spare)
    }

    /// The next reserved table, zeroed.
    fn take(&mut self) -> Option<Frame> {
        let frame = self.first?;
        // SAFETY: the frame is reserved, hence allocated, and in nobody else's hands.
        let table = unsafe { self.mmu.kernel().table_ptr(frame).as_ref() };
        let next = self.mmu.kernel().load(&table.entries()[0]);
        self.first = Frame::from_u64(next.as_u64()).filter(|f| f.as_u64() != 0);
        self.len -= 1;
        self.chain(frame, 0);
        Some(frame)
    }

    fn chain(&self, frame: Frame, next: u64) {
        // SAFETY: as in `take`.
        let table = unsafe { self.mmu.kernel().table_ptr(frame).as_ref() };
        self.mmu
            .kernel()
            .store(&table.entries()[0], Desc::from_u64(next));
    }
}

impl<K: Kernel> Drop for Spare<'_, K> {
    fn drop(&mut self) {
        while let Some(frame) = self.take() {
            // SAFETY: `take` unchained it, and a reserved table was never linked.
            unsafe { self.mmu.kernel().free_table(frame) };
        }
    }
}

impl<K: Kernel> AddressSpace<'_, K> {
    /// How many tables are missing for the first page of `piece`, given where the
    /// walk ended. `range` is the request that `piece` is cut from: a table shared by
    /// several pieces is counted at the first of them.
    pub(super) fn missing(range: PageRange, piece: PageRange, hole: Hole) -> usize {
        let va = piece.start();
        let first_in =
            |level: Level| va == range.start() || va.as_u64() & (level.table_span() - 1) == 0;
        match hole.level {
            Level::L0 => 1 + usize::from(first_in(Level::L2)) + usize::from(first_in(Level::L1)),
            Level::L1 => 1 + usize::from(first_in(Level::L2)),
            Level::L2 | Level::L3 => 1,
        }
    }

    /// Descends to the last-level table of `va`, linking reserved tables where
    /// the walk ends early.
    pub(super) fn build_leaf_table(&self, va: VirtAddr, spare: &mut Spare<'_, K>) -> LeafTable<'_> {
        if let Ok(found) = self.leaf_table(va) {
            return found;
        }
        let mut table = self.table(self.root);
        let mut above: Option<(&Pte, Level)> = None;
        for level in [Level::L0, Level::L1, Level::L2] {
            let entry = &table.entries()[level.index(va)];
            let mut link = self.load(entry);
            if !link.is_table(level) {
                let frame = spare.take().expect("reserve() counted every missing table");
                link = Desc::table(frame);
                self.write_link(level, entry, link);
                if let Some((parent, parent_level)) = above {
                    self.add_population(parent_level, parent, 1);
                }
            }
            table = self.table(link.frame());
            above = Some((entry, level));
        }
        match self.leaf_table(va) {
            Ok(found) => found,
            Err(_) => unreachable!("the loop above linked every level"),
        }
    }

    /// Writes a table entry: the one place where tables are linked and unlinked.
    fn write_link(&self, level: Level, entry: &Pte, link: Desc) {
        let kernel = self.mmu.kernel();
        if link.is_valid() {
            self.mmu.order_before_link();
        }
        kernel.store(entry, link);
        kernel.counters().links(1);
        backend::complete(self.mmu, level, link);
    }

    /// Adds to the population kept in the entry that links a table. Hardware
    /// ignores these bits, so the store owes no barrier and no invalidation.
    #[inline]
    pub(super) fn add_population(&self, level: Level, parent: &Pte, change: isize) {
        let link = self.load(parent);
        debug_assert!(link.is_table(level));
        // Checked in every build: a wrong number would reach into the address field.
        let population = link.population().checked_add_signed(change);
        let Some(population) = population.filter(|n| *n <= ENTRIES) else {
            panic!("population {} {change:+} of {link:?}", link.population());
        };
        self.mmu
            .kernel()
            .store(parent, link.with_population(population));
    }

    /// Copies the top-level entries of `other` for `range`, so that both spaces
    /// share the tables below. Returns the number of entries copied.
    ///
    /// # Safety
    /// From now on only one of the two spaces may link or free tables in
    /// `range`, and the shared tables outlive both.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`], or [`SpaceError::AlreadyMapped`] if this space
    /// has an entry there.
    pub unsafe fn share_tables(
        &mut self,
        other: &Self,
        range: PageRange,
    ) -> Result<usize, SpaceError> {
        self.check_half(range)?;
        other.check_half(range)?;
        let (here, there) = (self.table(self.root), self.table(other.root));
        let first = Level::L0.index(range.start());
        let last = ((range.end() - 1) >> Level::L0.shift()) as usize & (ENTRIES - 1);
        for (i, piece) in (first..=last).zip(range.per_entry(Level::L0)) {
            let entry = self.load(&here.entries()[i]);
            if entry.is_in_use() {
                let va = piece.start();
                let level = Level::L0;
                return Err(SpaceError::AlreadyMapped { va, entry, level });
            }
        }
        let mut copied = 0;
        for i in first..=last {
            let link = self.load(&there.entries()[i]);
            if link.is_table(Level::L0) {
                self.write_link(Level::L0, &here.entries()[i], link);
                copied += 1;
            }
        }
        Ok(copied)
    }

    /// Frees every table below the root that lies inside `range` and has no entry in
    /// use. Linux: `free_pgd_range()`, for the empty ones. Returns how many tables were
    /// given back.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`].
    pub fn free_empty_tables(&mut self, range: PageRange) -> Result<usize, SpaceError> {
        self.check_half(range)?;
        let mut freed = 0;
        for level in [Level::L2, Level::L1, Level::L0] {
            for piece in range.per_entry(level) {
                freed += usize::from(self.free_if_empty(level, piece));
            }
        }
        Ok(freed)
    }

    /// Frees the table that `level`'s entry for `piece` links, if it is empty.
    fn free_if_empty(&self, level: Level, piece: PageRange) -> bool {
        let va = piece.start();
        let mut table = self.table(self.root);
        let mut above: Option<(&Pte, Level)> = None;
        for at in Level::ALL {
            let entry = &table.entries()[at.index(va)];
            let link = self.load(entry);
            if !link.is_table(at) {
                return false;
            }
            if at == level {
                if link.population() != 0 {
                    return false;
                }
                self.write_link(level, entry, Desc::INVALID);
                if let Some((parent, parent_level)) = above {
                    self.add_population(parent_level, parent, -1);
                }
                // R32: no walker may still hold the entry when the frame is reused, so
                // the invalidation is one that reaches table entries. One page of the
                // table's span is enough: entries of the walk are matched by any
                // address they serve.
                let page = PageRange::new(va.as_u64(), 1).unwrap_or(piece);
                self.mmu
                    .flush_tlb_range(page, self.kind.scope(), Reach::Walk);
                // SAFETY: the table came from `alloc_table`, its only link was cleared
                // above, and the invalidation of all levels is complete.
                unsafe { self.mmu.kernel().free_table(link.frame()) };
                return true;
            }
            table = self.table(link.frame());
            above = Some((entry, at));
        }
        false
    }

    /// Frees the whole tree, root included, and every TLB entry of the space.
    /// Leaves are dropped; their frames stay with whoever mapped them.
    ///
    /// # Safety
    /// No CPU uses the root in a TTBR, and no table is shared.
    pub unsafe fn destroy(self) {
        // R25: frames return only after the invalidation completed; with the root out of
        // use no new entry can be cached meanwhile.
        self.mmu.flush_tlb_all(self.kind.scope());
        self.free_tree(Level::L0, self.root);
    }

    fn free_tree(&self, level: Level, frame: Frame) {
        if let Some(next) = level.next() {
            for entry in self.table(frame).entries() {
                let link = self.load(entry);
                if link.is_table(level) {
                    self.free_tree(next, link.frame());
                }
            }
        }
        // SAFETY: `destroy`'s caller and its invalidation vouch that nothing
        // walks this tree any more.
        unsafe { self.mmu.kernel().free_table(frame) };
    }
}
