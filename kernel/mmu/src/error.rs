// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a request was refused: by an address space, by lazy MMU mode, by the configuration.
//!
//! Each operation checks its whole request and reserves all memory before it writes the first
//! entry. So after an error, tables, populations, frames and the task's lazy state are as before
//! the call.

use crate::addr::{Frame, Half, Level, PageRange, RangeError, VirtAddr};
use crate::bbm::Violation;
use crate::desc::{Desc, Prot};
use core::fmt;

/// A refused request; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceError {
    /// The numbers make no range.
    Range(RangeError),
    /// The range lies in the half this address space does not translate.
    WrongHalf {
        /// What was asked for.
        range: PageRange,
        /// What the space translates.
        half: Half,
    },
    /// The range lies, in part at least, outside of what may be changed through this
    /// value ([`crate::AddressSpace::restrict`]).
    OutsideWindow {
        /// What was asked for.
        range: PageRange,
        /// What may be changed.
        window: PageRange,
    },
    /// A user attribute in the kernel's space or the reverse.
    WrongPrivilege {
        /// What was asked for.
        prot: Prot,
    },
    /// The number of frames is not the number of pages.
    BackingLength {
        /// Pages in the range.
        pages: u64,
        /// Frames given.
        frames: u64,
    },
    /// Contiguous frames would leave the 48-bit physical address space.
    BackingEnd {
        /// First frame.
        first: Frame,
        /// Pages in the range.
        pages: u64,
    },
    /// A page of the range is mapped, or in use by an entry made invalid.
    AlreadyMapped {
        /// First such page.
        va: VirtAddr,
        /// Its entry.
        entry: Desc,
        /// The level of the entry.
        level: Level,
    },
    /// A page of the range is not mapped.
    NotMapped {
        /// First such page.
        va: VirtAddr,
    },
    /// A page of the range belongs to a block of 2 MiB or 1 GiB.
    Block {
        /// First such page.
        va: VirtAddr,
        /// Level of the block.
        level: Level,
    },
    /// No memory for the tables that the request needs.
    OutOfTables {
        /// Tables needed in total.
        needed: usize,
        /// Tables that could be had; all were given back.
        available: usize,
    },
    /// The change needs break-before-make (R29).
    BreakBeforeMake {
        /// First page concerned.
        va: VirtAddr,
        /// What would change.
        violation: Violation,
    },
    /// A range was announced for a table that does not translate it.
    WrongTable {
        /// First page of the range.
        va: VirtAddr,
        /// The table that was named.
        table: Frame,
    },
    /// Tables of a user space were to be shared. An invalidation of one space reaches the entries of its own ASID, and the
    /// translations of the other would stay (R25).
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
                "range {range} is not in the {half:?} half ({:#x}..{:#x}) that this address space translates: take addresses of that half, or a space of the other kind",
                half.start(),
                half.end()
            ),
            Self::OutsideWindow { range, window } => write!(
                f,
                "range {range} is not inside {window}, to which AddressSpace::restrict limits changes: take addresses inside of it"
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
                "{pages} pages from {:#x} end beyond 2^48 bytes of physical address space: map fewer pages, or lower frames",
                first.as_u64()
            ),
            Self::AlreadyMapped { va, entry, .. } if !entry.is_valid() => write!(
                f,
                "{va} is in use by an invalid entry ({entry}), as an MmuGather leaves it that was forgotten: free it by AddressSpace::unmap_existing"
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

/// A broken rule of the contract. The counters are as before the call.
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
    /// A guard was dropped in another interrupt context, or on the other side
    /// of a pause, than it was made in: its level cannot be closed (R39).
    Asymmetric,
    /// [`crate::Mmu::set_backend`] was called inside a section.
    InSection,
    /// The backend defers more than barriers, and the kernel gives its CPUs no [`crate::Batch`].
    NoBatch,
    /// The task would lose its CPU in an active section, and the backend does not allow it (R38).
    NotPreemptible,
    /// The task ended inside of a section, a pause or a suspension (R39).
    EndedInside,
    /// [`crate::Lazy::exit`] was called in an interrupt, which cannot end the task (R3).
    InInterrupt,
    /// An address space whose tables a CPU may walk was dropped; they stay allocated.
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
                "an AddressSpace was dropped after its root had been asked for, and its tables stay allocated: end it by destroy() when no CPU uses the root any more, or keep the tables by into_root()"
            }
        })
    }
}

impl core::error::Error for LazyMmuError {}

/// FEAT_ETS2 is asked for and some CPU lacks it.
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
