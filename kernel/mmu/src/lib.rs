// SPDX-License-Identifier: MIT OR Apache-2.0
//! arm64 page tables and lazy MMU mode.
//!
//! Translation tables of the 4 KiB granule with 48-bit addresses, and *lazy MMU
//! mode*: sections in which the barriers that page-table writes need are deferred and
//! paid once. No assembly and no kernel types: the machine is reached through
//! [`Hardware`], memory through [`TableFrames`], the running task through [`Context`],
//! and what the host tests prove is the code that runs.
//!
//! Start with [`Mmu`], [`AddressSpace`] and the [`lazy`] module's contract.

#![cfg_attr(not(test), no_std)]

mod addr;
mod backend;
pub mod bbm;
mod counters;
mod desc;
mod error;
mod hardware;
pub mod lazy;
mod mmu;
mod policy;
mod space;
mod table;
pub mod tlbi;

pub use addr::{
    Asid, ENTRIES, Frame, Half, Level, PA_BITS, PAGE_SHIFT, PAGE_SIZE, PageRange, PhysAddr,
    RangeError, VA_BITS, VirtAddr,
};
pub use backend::Backend;
pub use counters::{Counters, Counts};
pub use desc::{Desc, MemoryType, Prot, bits};
pub use error::SpaceError;
pub use hardware::{Context, Hardware, Kernel, TableFrames, TlbiOp};
pub use lazy::{Lazy, LazyMmuError, LazyMmuState, LazyPause, LazySection};
pub use mmu::{Features, Mmu, NoEts2};
pub use policy::{BarrierPolicy, Owed};
pub use space::{AddressSpace, Backing, FastPteRange, Mapping, PendingFlush, PteRef, SpaceKind};
pub use table::{Pte, Table};
pub use tlbi::TlbFeatures;
