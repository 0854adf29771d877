// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`AddressSpace`]: construction, queries, and the checks with which every operation begins.

use super::kind::SpaceKind;
use super::write::Writer;
use crate::addr::{Asid, ENTRIES, Frame, Level, PageRange, RangeError, VirtAddr};
use crate::backend;
use crate::desc::{Desc, Prot};
use crate::error::{LazyMmuError, SpaceError};
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::table::{Pte, Table};
use core::cell::Cell;
use core::marker::PhantomData;
use core::{fmt, mem};

/// A tree of translation tables.
///
/// A space stays with the task that made it, because what a section defers waits on that task's
/// CPU. Tasks share a space through a [`LockedSpace`](crate::LockedSpace).
///
/// # Dropping a space
///
/// Until the root has been asked for, no CPU can have walked the tables, so dropping the space
/// frees them. Frames that are still mapped stay with their owners. The caller is the only holder
/// of the space (R43), so nothing waits for the space in another task's batch.
///
/// After [`AddressSpace::root`], [`AddressSpace::from_root`] or [`AddressSpace::share_tables`] a
/// CPU may walk the tables, and only the caller knows when that has ended. Such a space ends by
/// [`AddressSpace::destroy`], which is `unsafe`, or by [`AddressSpace::into_root`]. If it is
/// dropped instead, its tables stay allocated, and the drop reports [`LazyMmuError::TablesLeaked`]
/// ([`Context::report`](crate::Context::report)).
pub struct AddressSpace<'m, K: Kernel> {
    pub(super) writer: Writer<'m, K>,
    pub(super) root: Frame,
    /// Whether all tables are the space's own, and no CPU can have walked them.
    pub(super) is_private: Cell<bool>,
    /// The pages that may be changed; `None` for the whole half.
    window: Option<PageRange>,
    /// Not `Send`: what waits for the space waits in the batch of its task's CPU.
    _task: PhantomData<*const ()>,
}

/// The leaf that translates an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The leaf.
    pub entry: Desc,
    /// Its level: L3 for a page, L2 or L1 for a block.
    pub level: Level,
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// An empty address space with a root table of its own.
    ///
    /// # Errors
    /// [`SpaceError::OutOfTables`] if there is no memory for the root.
    pub fn new(mmu: &'m Mmu<K>, kind: SpaceKind) -> Result<Self, SpaceError> {
        let root = mmu.kernel().alloc_table().ok_or(SpaceError::OutOfTables {
            needed: 1,
            available: 0,
        })?;
        // SAFETY: the table is new and zeroed, so it has no entry and links no table.
        let space = unsafe { Self::from_counted_root(mmu, kind, root) };
        space.is_private.set(true);
        Ok(space)
    }

    /// An empty address space of the kernel: the half of TTBR1.
    ///
    /// # Errors
    /// As [`AddressSpace::new`].
    pub fn new_kernel(mmu: &'m Mmu<K>) -> Result<Self, SpaceError> {
        Self::new(mmu, SpaceKind::Kernel)
    }

    /// An empty address space of user programs: the half of TTBR0, under `asid`.
    ///
    /// # Errors
    /// As [`AddressSpace::new`].
    pub fn new_user(mmu: &'m Mmu<K>, asid: Asid) -> Result<Self, SpaceError> {
        Self::new(mmu, SpaceKind::User(asid))
    }

    /// Takes over an existing tree of tables, which other code has built or
    /// [`AddressSpace::into_root`] has given up.
    ///
    /// Reads every entry of every table once, to count how many are in use: the library keeps that
    /// number in bits of each link that hardware ignores. An entry that is not zero and yet
    /// translates nothing, because it is invalid or its type is not defined, is emptied. Blocks
    /// stay, and operations on pages refuse them.
    ///
    /// # Safety
    /// `root`, and every table that it leads to, is a table that [`crate::TableFrames::table_ptr`]
    /// finds. Each of these tables has one link. No other code writes them from now on, and no
    /// store to them waits in a batch.
    pub unsafe fn from_root(mmu: &'m Mmu<K>, kind: SpaceKind, root: Frame) -> Self {
        // SAFETY: this function has the same contract, and sets the populations before another call
        // can read them.
        let space = unsafe { Self::from_counted_root(mmu, kind, root) };
        space.count_entries(Level::L0, root);
        space
    }

    /// [`AddressSpace::from_root`] for a tree that this library has built, whose links hold the
    /// numbers of entries in use already. No table is read.
    ///
    /// # Safety
    /// As for [`AddressSpace::from_root`], except that stores to the tables may wait in a batch.
    /// All tables are as another `AddressSpace` has left them, and that one is not used while this
    /// one lives.
    pub const unsafe fn from_counted_root(mmu: &'m Mmu<K>, kind: SpaceKind, root: Frame) -> Self {
        Self {
            writer: Writer::new(mmu, kind),
            root,
            is_private: Cell::new(false),
            window: None,
            _task: PhantomData,
        }
    }

    /// Gives the tables up, and returns the root for [`AddressSpace::from_root`]. Entries that were
    /// emptied and not invalidated yet are invalidated first.
    pub fn into_root(self) -> Frame {
        self.writer.invalidate_stale();
        let root = self.root;
        mem::forget(self);
        root
    }

    /// Restricts the space to `window`: from now on, changes and invalidations of a range that is
    /// not inside `window` fail with [`SpaceError::OutsideWindow`]. Queries and walks stay possible
    /// for all addresses.
    ///
    /// There is one exception at the edges. If only a part of a contiguous group lies inside,
    /// folding the group ([`AddressSpace::fold_contiguous`]) and unfolding it also rewrite its
    /// entries outside, with the same frames and permissions, and these pages fault for a moment as
    /// well.
    ///
    /// Use it for a space that CPUs walk: the code that installs the root knows which addresses may
    /// be unmapped safely, and the library does not.
    pub fn restrict(&mut self, window: PageRange) {
        self.window = Some(window);
        self.writer.forget_last();
    }

    /// The root table's frame, the address for TTBR0_EL1 or TTBR1_EL1. From now on a CPU may walk
    /// the tables, so dropping the space no longer frees them.
    pub fn root(&self) -> Frame {
        self.is_private.set(false);
        self.root
    }

    /// Which half the space translates, and for which ASID.
    pub const fn kind(&self) -> SpaceKind {
        self.writer.kind()
    }

    /// The library instance that the space uses.
    #[inline(always)]
    pub const fn mmu(&self) -> &'m Mmu<K> {
        self.writer.mmu()
    }

    /// The leaf that translates `va`, or `None` if a walk faults. A value that waits counts as
    /// stored.
    pub fn query(&self, va: VirtAddr) -> Option<Mapping> {
        let mut found = None;
        self.walk(va, |level, entry| {
            if entry.is_leaf(level) {
                found = Some(Mapping { entry, level });
            }
        });
        found
    }

    /// Walks the tables for `va` as hardware would, and passes each descriptor on the way to
    /// `visit`, including the last one, valid or not. Meant for diagnostics.
    pub fn walk(&self, va: VirtAddr, mut visit: impl FnMut(Level, Desc)) {
        if va.half() != self.kind().half() {
            return;
        }
        let mut table = self.root;
        for level in Level::ALL {
            let entry = self.entry(level, table, level.index(va));
            visit(level, entry);
            if !entry.is_table(level) {
                return;
            }
            table = entry.frame();
        }
    }

    /// Passes every leaf of the tree to `visit`, in ascending order of address: the first byte
    /// address that it translates, its level and the entry.
    pub fn for_each_leaf(&self, mut visit: impl FnMut(u64, Level, Desc)) {
        let start = self.kind().half().start();
        let last = start + (Level::L0.table_span() - 1);
        self.visit_leaves((Level::L0, self.root, start), (start, last), &mut visit);
    }

    /// [`AddressSpace::for_each_leaf`] for the leaves that translate a page of `range`. A block may
    /// begin before `range`. A range of the other half has no leaves. An entry without a table is
    /// skipped with all addresses that it would translate. Linux: `walk_page_range()`.
    pub fn for_each_leaf_in(&self, range: PageRange, mut visit: impl FnMut(u64, Level, Desc)) {
        let start = self.kind().half().start();
        let bounds = (range.start().as_u64(), range.end() - 1);
        if range.half() == self.kind().half() {
            self.visit_leaves((Level::L0, self.root, start), bounds, &mut visit);
        }
    }

    /// Passes those leaves in and below `table` to `visit` that translate an address in
    /// `first..=last`. `table` is of `level` and translates the addresses from `start` on.
    fn visit_leaves(
        &self,
        (level, table, start): (Level, Frame, u64),
        (first, last): (u64, u64),
        visit: &mut impl FnMut(u64, Level, Desc),
    ) {
        for i in 0..ENTRIES {
            let at = start + i as u64 * level.entry_span();
            if at + (level.entry_span() - 1) < first || last < at {
                continue;
            }
            let entry = self.entry(level, table, i);
            match level.next() {
                Some(next) if entry.is_table(level) => {
                    self.visit_leaves((next, entry.frame(), at), (first, last), visit);
                }
                _ if entry.is_leaf(level) => visit(at, level, entry),
                _ => {}
            }
        }
    }

    /// The value of entry `index` of `table`, which is of `level`.
    fn entry(&self, level: Level, table: Frame, index: usize) -> Desc {
        let pte = &self.table(table).entries()[index];
        match level {
            Level::L3 => backend::read(self.mmu(), table, index, pte),
            // Links never wait.
            _ => self.load(pte),
        }
    }

    /// The last-level table that translates `va`, if there is one. It is the argument `table` of
    /// [`crate::Lazy::enable_fast_pte_range`]. Linux: `pte_offset_map()`.
    pub fn last_level_table(&self, va: VirtAddr) -> Option<Frame> {
        let mut found = None;
        self.walk(va, |level, entry| {
            if level == Level::L2 && entry.is_table(level) {
                found = Some(entry.frame());
            }
        });
        found
    }

    /// Drains what waits on this CPU, invalidates the last-level TLB entries of `range` on all
    /// CPUs, and waits until that is complete (R26). Linux: `flush_tlb_range()`. A strategy that
    /// invalidates changed entries itself ([`crate::Backend::invalidates`]) does not need the call;
    /// the invalidation is executed nevertheless.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`], [`SpaceError::OutsideWindow`].
    pub fn invalidate_range(&self, range: PageRange) -> Result<(), SpaceError> {
        self.check_range(range)?;
        self.writer.invalidate(range);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn table(&self, frame: Frame) -> &Table {
        // SAFETY: `frame` is the root or the address in a valid table descriptor of this tree. So
        // it came from `alloc_table`, or the caller of `from_root` has promised that `table_ptr`
        // finds it. It is not freed while this reference lives, because freeing needs `&mut self`.
        unsafe { self.mmu().kernel().table_ptr(frame).as_ref() }
    }

    #[inline(always)]
    pub(super) fn load(&self, pte: &Pte) -> Desc {
        self.mmu().kernel().load(pte)
    }

    pub(super) fn check_range(&self, range: PageRange) -> Result<(), SpaceError> {
        let half = self.kind().half();
        if range.half() != half {
            return Err(SpaceError::WrongHalf { range, half });
        }
        match self.window {
            Some(window) if !window.covers(range) => {
                Err(SpaceError::OutsideWindow { range, window })
            }
            _ => Ok(()),
        }
    }

    /// Whether all of `pages` may be changed.
    pub(super) fn may_change(&self, pages: PageRange) -> bool {
        self.window.is_none_or(|window| window.covers(pages))
    }

    pub(super) fn check_one_table(&self, range: PageRange) -> Result<(), SpaceError> {
        if range.is_in_one_table(Level::L3) {
            return Ok(());
        }
        Err(SpaceError::Range(RangeError::CrossesTable {
            start: range.start().as_u64(),
            pages: range.pages(),
        }))
    }

    pub(super) fn check_request(&self, range: PageRange, prot: Prot) -> Result<(), SpaceError> {
        self.check_range(range)?;
        self.kind().check_prot(prot)
    }
}

impl<K: Kernel> Drop for AddressSpace<'_, K> {
    fn drop(&mut self) {
        if self.is_private.get() && !self.has_open_range(Level::L0, self.root) {
            self.free_private();
        } else {
            self.mmu().kernel().report(LazyMmuError::TablesLeaked);
        }
    }
}

impl<K: Kernel> fmt::Debug for AddressSpace<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "AddressSpace {{ {:?}, root {:#x} }}",
            self.kind(),
            self.root.as_u64()
        )
    }
}
