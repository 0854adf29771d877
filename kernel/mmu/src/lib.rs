// SPDX-License-Identifier: MIT OR Apache-2.0
#![doc = include_str!("../README.md")]
//!
//! # Where to start
//!
//! The traits [`Hardware`], [`TableFrames`] and [`Context`]; then [`Mmu`],
//! [`AddressSpace`] with [`Backing`] and [`Prot`], and the [`lazy`] module's contract. For reports:
//! [`Counts`], [`AddressSpace::walk`], [`AddressSpace::for_each_leaf`]. For kernels that write entries of
//! their own tables: [`Desc`], [`bbm::check`] and [`tlbi::plan`] stand alone.

#![cfg_attr(not(test), no_std)]

mod addr;
mod backend;
pub mod bbm;
mod contiguous;
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
pub use backend::{BATCHED_RANGES, Backend, Batch, Call, DEFERRED_TABLES, Hypervisor, MULTICALLS};
pub use counters::{Counters, Counts};
pub use desc::{Desc, MemoryType, Prot, bits};
pub use error::SpaceError;
pub use hardware::{Context, Hardware, Kernel, TableFrames, TlbiOp};
pub use lazy::{Lazy, LazyMmuError, LazyMmuState, LazyPause, LazySection, LazySuspended};
pub use mmu::{Features, Mmu, NoEts2};
pub use policy::{BarrierPolicy, Owed};
pub use space::{
    AddressSpace, Backing, FastPteRange, Mapping, MmuGather, PendingFlush, PteRef, SpaceKind,
};
pub use table::{Pte, Table};
pub use tlbi::TlbFeatures;
