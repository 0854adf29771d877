// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors of address spaces, of lazy MMU mode and of the configuration.
//!
//! Each operation checks its whole request and reserves all memory before it writes the first
//! entry. So after an error, tables, populations, frames and the task's lazy state are as before
//! the call.

use crate::addr::{Frame, Half, Level, PageRange, RangeError, VirtAddr};
use crate::bbm::Violation;
use crate::desc::{Desc, Prot};
use core::fmt;

/// Why an address space has refused a request. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceError {
    /// The addresses do not form a valid range.
    Range(RangeError),
    /// The range lies in the half that this address space does not translate.
    WrongHalf {
        /// The range of the request.
        range: PageRange,
        /// The half that the space translates.
        half: Half,
    },
    /// The range lies at least in part outside the pages that may be changed
    /// ([`crate::AddressSpace::restrict`]).
    OutsideWindow {
        /// The range of the request.
        range: PageRange,
        /// The pages that may be changed.
        window: PageRange,
    },
    /// User attributes in a kernel space, or the reverse.
    WrongPrivilege {
        /// The attributes of the request.
        prot: Prot,
    },
    /// The number of frames is not the number of pages.
    BackingLength {
        /// The number of pages in the range.
        pages: u64,
        /// The number of frames in the list.
        frames: u64,
    },
    /// Contiguous frames would leave the 48-bit physical address space.
    BackingEnd {
        /// The first frame.
        first: Frame,
        /// The number of pages in the range.
        pages: u64,
    },
    /// A page of the range is mapped, or its entry was made invalid and is still in use.
    AlreadyMapped {
        /// The first such page.
        va: VirtAddr,
        /// Its entry.
        entry: Desc,
        /// The level of the entry.
        level: Level,
    },
    /// A page of the range is not mapped.
    NotMapped {
        /// The first such page.
        va: VirtAddr,
    },
    /// A page of the range belongs to a block of 2 MiB or 1 GiB.
    Block {
        /// The first such page.
        va: VirtAddr,
        /// The level of the block.
        level: Level,
    },
    /// There is not enough memory for the tables that the request needs.
    OutOfTables {
        /// The number of tables that the request needs.
        needed: usize,
        /// The number of tables that were available. All of them were freed again.
        available: usize,
    },
    /// The change needs break-before-make (R29).
    BreakBeforeMake {
        /// The first such page.
        va: VirtAddr,
        /// The part of the entry that would change.
        violation: Violation,
    },
    /// A range was announced with a table that does not translate it.
    WrongTable {
        /// The first page of the range.
        va: VirtAddr,
        /// The table of the request.
        table: Frame,
    },
    /// [`crate::AddressSpace::share_tables`] was called for a user space. An invalidation of one
    /// space would reach only the entries of its own ASID, and those of the other ASID would stay
    /// in the TLBs (R25).
    SharedByUsers,
    /// The section around the operation could not be opened.
    Lazy(LazyMmuError),
}

impl From<RangeError> for SpaceError {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<LazyMmuError> for SpaceError {
    fn from(error: LazyMmuError) -> Self {
        Self::Lazy(error)
    }
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Range(error) => error.fmt(f),
            Self::WrongHalf { range, half } => write!(
                f,
                "range {range} is not in the {half:?} half ({:#x}..{:#x}) that this address space translates: use addresses of that half, or a space of the other kind",
                half.start(),
                half.end()
            ),
            Self::OutsideWindow { range, window } => write!(
                f,
                "range {range} is not inside {window}, to which AddressSpace::restrict limits changes: use addresses inside that range"
            ),
            Self::WrongPrivilege { prot } if prot.is_user() => write!(
                f,
                "user attributes ({prot}) in a kernel address space: use one of Prot::KERNEL, KERNEL_RO, KERNEL_ROX and DEVICE, or a user space"
            ),
            Self::WrongPrivilege { prot } => write!(
                f,
                "kernel attributes ({prot}) in a user address space: use one of Prot::USER, USER_RO and USER_ROX, or a kernel space"
            ),
            Self::BackingLength { pages, frames } => write!(
                f,
                "{frames} frames given for {pages} pages: give one frame per page"
            ),
            Self::BackingEnd { first, pages } => write!(
                f,
                "{pages} pages from {:#x} end above 2^48, the end of the physical address space: map fewer pages, or lower frames",
                first.as_u64()
            ),
            Self::AlreadyMapped { va, entry, .. } if !entry.is_valid() => write!(
                f,
                "{va} is in use by an invalid entry ({entry}), which a forgotten MmuGather has left: free it with AddressSpace::unmap_existing"
            ),
            Self::AlreadyMapped { va, entry, level } => write!(
                f,
                "{va} is in use at level {} ({}): unmap it first",
                level as u8,
                entry.at(level)
            ),
            Self::NotMapped { va } => write!(f, "{va} is not mapped: ask for mapped pages only"),
            Self::Block { va, level } => write!(
                f,
                "{va} belongs to a block of {} KiB, and only 4 KiB pages can be changed: leave the block out of the range",
                level.entry_span() >> 10
            ),
            Self::OutOfTables { needed, available } => write!(
                f,
                "{needed} page tables are needed and memory for {available} is free: free memory or map less"
            ),
            Self::BreakBeforeMake { va, violation } => write!(
                f,
                "{va}: {violation}, which needs break-before-make (R29): use remap, or unmap and map again"
            ),
            Self::WrongTable { va, table } => write!(
                f,
                "{va} is not translated by the last-level table at {:#x}: ask AddressSpace::last_level_table",
                table.as_u64()
            ),
            Self::SharedByUsers => f.write_str(
                "user spaces cannot share tables (R25): map the frames in each of them, or share those of kernel spaces",
            ),
            Self::Lazy(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SpaceError {}

/// A broken rule of the contract of lazy MMU mode. The task's counters are as before the call,
/// except after [`LazyMmuError::EndedInside`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LazyMmuError {
    /// `enable` at depth 255.
    EnableOverflow,
    /// `disable` without a section.
    EnableUnderflow,
    /// `pause` at depth 255.
    PauseOverflow,
    /// `resume` without a pause.
    PauseUnderflow,
    /// A guard was made in interrupt context and dropped outside of it, or made in a pause and
    /// dropped after it, or the reverse. Its level cannot be closed (R39).
    Asymmetric,
    /// [`crate::Mmu::set_backend`] was called inside a section.
    InSection,
    /// The strategy defers more than barriers, and [`crate::Context::batch`] returns `None`.
    NoBatch,
    /// The task would lose its CPU in an active section, and the strategy does not allow that, or
    /// the library is working on the CPU's batch (R38).
    NotPreemptible,
    /// The task ended inside a section, a pause or a suspension (R39).
    EndedInside,
    /// [`crate::Lazy::exit`] was called in an interrupt, which cannot end the task (R3).
    InInterrupt,
    /// An address space was dropped whose tables a CPU may walk. The tables stay allocated.
    TablesLeaked,
}

impl fmt::Display for LazyMmuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EnableOverflow => {
                "lazy MMU mode is enabled 255 times already (R8): a section is opened in a loop and never closed"
            }
            Self::EnableUnderflow => {
                "lazy MMU mode is disabled without being enabled (R8): pair each disable with one enable in the same context"
            }
            Self::PauseOverflow => {
                "lazy MMU mode is paused 255 times already (R8): a pause is opened in a loop and never closed"
            }
            Self::PauseUnderflow => {
                "lazy MMU mode is resumed without being paused (R8): pair each resume with one pause"
            }
            Self::Asymmetric => {
                "a lazy MMU section or pause ends in another interrupt or pause context than it began in (R39): close it where it was opened"
            }
            Self::InSection => {
                "the lazy MMU backend cannot change inside a section: leave all sections first"
            }
            Self::NoBatch => {
                "this lazy MMU backend needs a Batch per CPU: return one from Context::batch(), or choose eager or defer-barriers"
            }
            Self::NotPreemptible => {
                "this lazy MMU backend keeps its batch on the CPU, so a task must not sleep or be preempted in a section (R38): leave all sections first, as suspend_all() does"
            }
            Self::EndedInside => {
                "a task ends inside a lazy MMU section, pause or suspension (R39): close every level before its function returns; what it had deferred has taken effect"
            }
            Self::InInterrupt => {
                "Lazy::exit was called in an interrupt and did nothing (R3): call it as the task that ends"
            }
            Self::TablesLeaked => {
                "an AddressSpace was dropped although a CPU may walk its tables, so they stay allocated: end it with destroy() when no CPU uses the root any more, or keep the tables with into_root()"
            }
        })
    }
}

impl core::error::Error for LazyMmuError {}

/// The barrier policy `ets2` was chosen, and the features say that a CPU lacks FEAT_ETS2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEts2;

impl fmt::Display for NoEts2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "barrier policy ets2 needs FEAT_ETS2 (ID_AA64MMFR1_EL1.ETS >= 2) on every CPU: use policy classic",
        )
    }
}

impl core::error::Error for NoEts2 {}
