// SPDX-License-Identifier: MIT OR Apache-2.0
#![doc = include_str!("../README.md")]
//!
//! # Where to start
//!
//! Start with the traits [`Hardware`], [`TableFrames`] and [`Context`], which a kernel implements.
//! Then read [`Mmu`], [`AddressSpace`] with [`Backing`] and [`Prot`], and the contract in the
//! [`lazy`] module. Reports and dumps use [`Counts`], [`AddressSpace::walk`] and
//! [`AddressSpace::for_each_leaf`]. A kernel that writes the entries of its tables itself can use
//! [`Desc`], [`bbm::check`] and [`tlbi::plan`] alone.

#![cfg_attr(not(test), no_std)]

// The layers, from the bottom to the top. A module imports from its own layer and from those below
// it, which `cargo xtask check layers` checks.
//
// 1. Plain values: addr, bbm, counters, desc, error, group, policy, strategy, table, tlbi.
// 2. The data of a CPU and of a task: batch, task.
// 3. Instructions: aarch64.
// 4. The traits that a kernel implements: hardware.
// 5. Configuration, barriers, invalidations: mmu.
// 6. Ready parts of a kernel: one_task, table_pool.
// 7. Strategies: backend.
// 8. Lazy MMU mode: lazy.
// 9. Address spaces: space.
#[cfg(all(target_arch = "aarch64", not(any(unix, windows))))]
pub mod aarch64;
mod addr;
mod backend;
mod batch;
pub mod bbm;
mod counters;
mod desc;
mod error;
mod group;
mod hardware;
pub mod lazy;
mod mmu;
#[cfg(doctest)]
mod must_not_compile;
mod one_task;
mod policy;
mod space;
mod strategy;
mod table;
mod table_pool;
mod task;
pub mod tlbi;

pub use addr::{
    Asid, ENTRIES, Frame, Half, Level, PA_BITS, PAGE_SHIFT, PAGE_SIZE, PageRange, PhysAddr,
    RangeError, VA_BITS, VirtAddr,
};
pub use batch::{BATCHED_RANGES, Batch, Call, DEFERRED_TABLES, MULTICALLS};
pub use counters::{Counters, Counts};
pub use desc::{Desc, MemoryType, Prot, bits};
pub use error::{LazyMmuError, NoEts2, SpaceError};
pub use hardware::{Context, Hardware, Hypervisor, Kernel, TableFrames};
pub use lazy::{Lazy, LazyPause, LazySection, LazySuspended};
pub use mmu::{Features, Mmu};
pub use one_task::OneTask;
pub use policy::{BarrierPolicy, Owed};
pub use space::{
    AddressSpace, Backing, FastPteRange, LockedSpace, Mapping, MmuGather, PendingInvalidation,
    PteRef, SpaceGuard, SpaceKind,
};
pub use strategy::Backend;
pub use table::{Pte, Table};
pub use table_pool::TablePool;
pub use task::{LazyMmuSnapshot, LazyMmuState};
pub use tlbi::{Reach, Scope, TlbFeatures, TlbiOp};
