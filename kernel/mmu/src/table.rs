// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that hardware walks: [`Pte`], one entry, and [`Table`], 512 of them.
//!
//! A [`Pte`] is an atomic cell because software on other CPUs, table walkers, and hardware that
//! sets access and dirty bits may access it at the same time. A plain `u64` behind `&mut` would be
//! worse than a data race: the compiler may delete a store that only the walker reads, even before
//! a `dsb`, because the unique borrow implies that the assembly does not access the memory.
//!
//! Safe code outside of this crate cannot write an entry of a space, because it gets no reference
//! to one.

#![expect(clippy::disallowed_methods, reason = "it defines what stores")]

use crate::addr::ENTRIES;
use crate::desc::Desc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// One translation table entry in memory.
#[repr(transparent)]
pub struct Pte(AtomicU64);

impl Pte {
    /// An empty entry.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The virtual address of the entry, for implementations of [`crate::Hardware`] that store with
    /// instructions of their own.
    pub const fn as_ptr(&self) -> *mut u64 {
        self.0.as_ptr()
    }

    /// Reads the entry. All accesses are relaxed: barriers make the order towards the walker, which
    /// is a separate observer (R_TGRMW), and C11 orderings do not.
    #[inline]
    pub(crate) fn load(&self) -> Desc {
        Desc::from_u64(self.0.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn store(&self, desc: Desc) {
        self.0.store(desc.as_u64(), Ordering::Relaxed);
    }

    /// Empties the entry. Only for a table that no walker reaches.
    pub(crate) fn clear(&self) {
        self.store(Desc::INVALID);
    }

    #[inline]
    pub(crate) fn compare_exchange(&self, old: Desc, new: Desc) -> Result<Desc, Desc> {
        self.0
            .compare_exchange(
                old.as_u64(),
                new.as_u64(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .map(Desc::from_u64)
            .map_err(Desc::from_u64)
    }

    #[inline]
    pub(crate) fn swap(&self, desc: Desc) -> Desc {
        Desc::from_u64(self.0.swap(desc.as_u64(), Ordering::Relaxed))
    }
}

impl Default for Pte {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

/// A translation table of any level: 512 entries, 4 KiB, 4 KiB aligned.
#[repr(C, align(4096))]
pub struct Table {
    entries: [Pte; ENTRIES],
}

impl Table {
    /// A table of 512 empty entries.
    pub const fn new() -> Self {
        Self {
            entries: [const { Pte::new() }; ENTRIES],
        }
    }

    /// The entries in the order of their indices.
    pub const fn entries(&self) -> &[Pte; ENTRIES] {
        &self.entries
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.entries.iter().filter(|e| e.load().is_in_use()).count();
        write!(f, "Table {{ {used} of {ENTRIES} entries in use }}")
    }
}
