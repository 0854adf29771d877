// SPDX-License-Identifier: MIT OR Apache-2.0
//! An address space: a root table and what can be done with it.
//!
//! # Protocol
//!
//! Each operation takes a half-open range of pages and goes through the same steps:
//!
//! 1. **check** the whole request: half, attributes, frames, what is mapped now;
//! 2. **reserve** memory for every table that will be needed;
//! 3. **open** a lazy section, or join the caller's;
//! 4. **write**, one walk per last-level table: a new table is ordered before the
//!    entry that links it (R18), a run of leaves goes through the backend;
//! 5. **invalidate** where entries were live (R27), still inside the section, so that
//!    the invalidation's barriers pay what the writes owe;
//! 6. **leave** the section, if it is the operation's own, which pays the rest.
//!
//! After step 2 nothing can fail, so nothing needs to be rolled back.
//!
//! # Population
//!
//! How many entries of a table are in use is kept in the ignored bits of the
//! descriptor that links it. With it, "is the whole table free" and "is the whole table
//! mapped" are one comparison instead of 512, and an empty table can be found and freed.
//!
//! # Emptied, not invalidated
//!
//! Some operations leave the invalidation of what they emptied to the caller, so that
//! many share one. The space remembers the hull of these addresses, and mapping inside it
//! invalidates it first: a forgotten flush costs a barrier, never a stale
//! translation behind a new mapping (R27, R29). The *frames* are another matter: they are the
//! caller's, and may not be reused before the flush (R25).
//!
//! # Who locks
//!
//! The operations take `&mut self`: one caller at a time, which the embedding kernel
//! ensures with the lock of its choice. Hardware walks at any time. What changes
//! between a check and its write is therefore only what hardware sets, and with
//! TCR_EL1.{HA,HD} = 0 that is nothing.

mod apply;
mod cursor;
mod fast_range;
mod gather;
mod last;
mod leaf;
mod map;
mod protect;
mod quick;
mod tables;
mod unflushed;
mod unmap;

pub use apply::PteRef;
pub use fast_range::FastPteRange;
pub use gather::MmuGather;
pub use map::Backing;
pub use unmap::PendingFlush;

use self::last::LastTable;
use self::unflushed::Unflushed;

use crate::addr::{Asid, ENTRIES, Frame, Half, Level, PageRange, RangeError, VirtAddr};
use crate::backend::{self, Duty};
use crate::desc::{Desc, Prot};
use crate::error::SpaceError;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::table::{Pte, Table};
use crate::tlbi::{Reach, Scope};
use core::fmt;

/// Which half an address space translates, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceKind {
    /// TTBR1: global mappings, closed to EL0.
    Kernel,
    /// TTBR0: non-global mappings of one ASID.
    User(Asid),
}

impl SpaceKind {
    /// The half of the address space.
    pub const fn half(self) -> Half {
        match self {
            Self::Kernel => Half::Upper,
            Self::User(_) => Half::Lower,
        }
    }

    /// Refuses attributes of the other privilege.
    #[inline]
    pub(crate) fn check_prot(self, prot: Prot) -> Result<(), SpaceError> {
        if prot.is_user() != matches!(self, Self::User(_)) {
            return Err(SpaceError::WrongPrivilege { prot });
        }
        Ok(())
    }

    /// Whose TLB entries an invalidation must hit.
    pub const fn scope(self) -> Scope {
        match self {
            Self::Kernel => Scope::AllAsids,
            Self::User(asid) => Scope::Asid(asid),
        }
    }
}

/// A tree of translation tables.
pub struct AddressSpace<'m, K: Kernel> {
    mmu: &'m Mmu<K>,
    root: Frame,
    kind: SpaceKind,
    /// What may be changed; `None` for the whole half.
    window: Option<PageRange>,
    unflushed: Unflushed,
    last: LastTable,
}

/// What an address translates to.
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
    /// [`SpaceError::OutOfTables`] without memory for the root.
    pub fn new(mmu: &'m Mmu<K>, kind: SpaceKind) -> Result<Self, SpaceError> {
        let root = mmu.kernel().alloc_table().ok_or(SpaceError::OutOfTables {
            needed: 1,
            available: 0,
        })?;
        Ok(Self {
            mmu,
            root,
            kind,
            window: None,
            unflushed: Unflushed::new(),
            last: LastTable::new(),
        })
    }

    /// Takes over a tree of tables that exists.
    ///
    /// # Safety
    /// `root` is a table that [`crate::TableFrames::table_ptr`] finds, and so are all tables
    /// it leads to. Nobody else writes them from now on. Their populations are right, or
    /// nothing that they translate is mapped, changed or unmapped through this space:
    /// tables written by other code have none, so the library takes them for empty.
    pub const unsafe fn from_root(mmu: &'m Mmu<K>, kind: SpaceKind, root: Frame) -> Self {
        Self {
            mmu,
            root,
            kind,
            window: None,
            unflushed: Unflushed::new(),
            last: LastTable::new(),
        }
    }

    /// Refuses from now on to change anything outside of `window`, with
    /// [`SpaceError::OutsideWindow`]. Queries and walks stay free.
    ///
    /// For a space that is live: which addresses may safely be unmapped, the library
    /// cannot know; whoever installs the root can.
    pub fn restrict(&mut self, window: PageRange) {
        self.window = Some(window);
        self.last.forget();
    }

    /// The root table's frame, the address for TTBR0_EL1 or TTBR1_EL1.
    pub const fn root(&self) -> Frame {
        self.root
    }

    /// Which half, and whose.
    pub const fn kind(&self) -> SpaceKind {
        self.kind
    }

    /// The library instance the space works with.
    pub const fn mmu(&self) -> &'m Mmu<K> {
        self.mmu
    }

    /// What `va` translates to, or `None` if a walk faults.
    pub fn query(&self, va: VirtAddr) -> Option<Mapping> {
        let mut found = None;
        self.walk(va, |level, entry| {
            if entry.is_leaf(level) {
                found = Some(Mapping { entry, level });
            }
        });
        found
    }

    /// Follows the walk of `va` as hardware would, and shows each descriptor
    /// it reads, the last one included, whatever it is. For reports.
    pub fn walk(&self, va: VirtAddr, mut visit: impl FnMut(Level, Desc)) {
        if va.half() != self.kind.half() {
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

    /// Shows every leaf of the tree in ascending order of address: the first
    /// address it translates, its level and the entry.
    pub fn for_each_leaf(&self, mut visit: impl FnMut(u64, Level, Desc)) {
        self.visit_leaves(Level::L0, self.root, self.kind.half().start(), &mut visit);
    }

    fn visit_leaves(
        &self,
        level: Level,
        table: Frame,
        start: u64,
        visit: &mut impl FnMut(u64, Level, Desc),
    ) {
        for i in 0..ENTRIES {
            let entry = self.entry(level, table, i);
            let at = start + i as u64 * level.entry_span();
            match level.next() {
                Some(next) if entry.is_table(level) => {
                    self.visit_leaves(next, entry.frame(), at, visit);
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
            Level::L3 => backend::read(self.mmu, table, index, pte),
            // Links never wait.
            _ => self.load(pte),
        }
    }

    /// The last-level table that translates `va`, if there is one: what
    /// [`crate::Lazy::enable_fast_pte_range`] is told. Linux: `pte_offset_map()`.
    pub fn last_level_table(&self, va: VirtAddr) -> Option<Frame> {
        let mut found = None;
        self.walk(va, |level, entry| {
            if level == Level::L2 && entry.is_table(level) {
                found = Some(entry.frame());
            }
        });
        found
    }

    /// Invalidates the last-level TLB entries of `range` on all CPUs, and waits. What
    /// waits on this CPU is executed before (R26). A backend that invalidates by itself what it writes
    /// over would not need it; asked for, it is done all the same.
    ///
    /// # Errors
    /// [`SpaceError::WrongHalf`].
    pub fn flush_tlb_range(&self, range: PageRange) -> Result<(), SpaceError> {
        self.check_half(range)?;
        self.invalidate(range);
        Ok(())
    }

    /// The operation's part of the invalidation of `range`.
    fn settle(&self, duty: Duty, range: PageRange) {
        match duty {
            Duty::Caller => self.invalidate(range),
            Duty::Backend => backend::drain(self.mmu),
        }
    }

    /// Invalidates the leaves of `range`, and takes note of it.
    fn invalidate(&self, range: PageRange) {
        self.mmu
            .flush_tlb_range(range, self.kind.scope(), Reach::Leaf);
        self.unflushed.flushed(range);
    }

    /// R27, R29: before an address is mapped again, what a TLB may still hold
    /// for it is invalidated.
    #[inline]
    fn invalidate_before_reuse(&self, range: PageRange) {
        if self.unflushed.meets(range) {
            self.invalidate_unflushed();
        }
        backend::before_make(self.mmu, self.kind.scope(), range);
    }

    #[cold]
    fn invalidate_unflushed(&self) {
        if let Some(hull) = self.unflushed.hull() {
            self.invalidate(hull);
        }
    }

    #[inline(always)]
    fn table(&self, frame: Frame) -> &Table {
        // SAFETY: `frame` is the root or stands in a valid table descriptor of this
        // tree, so it came from `alloc_table` (or `from_root`'s caller vouched for it) and
        // lives until `&mut self` frees it; `table_ptr` is valid for such frames.
        unsafe { self.mmu.kernel().table_ptr(frame).as_ref() }
    }

    #[inline(always)]
    fn load(&self, pte: &Pte) -> Desc {
        self.mmu.kernel().load(pte)
    }

    fn check_half(&self, range: PageRange) -> Result<(), SpaceError> {
        let half = self.kind.half();
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

    fn check_one_table(&self, range: PageRange) -> Result<(), SpaceError> {
        if range.is_in_one_table(Level::L3) {
            return Ok(());
        }
        Err(SpaceError::Range(RangeError::CrossesTable {
            start: range.start().as_u64(),
            pages: range.pages(),
        }))
    }

    fn check_request(&self, range: PageRange, prot: Prot) -> Result<(), SpaceError> {
        self.check_half(range)?;
        self.kind.check_prot(prot)
    }
}

impl<K: Kernel> fmt::Debug for AddressSpace<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "AddressSpace {{ {:?}, root {:#x} }}",
            self.kind,
            self.root.as_u64()
        )
    }
}
