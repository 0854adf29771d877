// SPDX-License-Identifier: MIT OR Apache-2.0
//! An address space: a root table, and the operations on the tree below it.
//!
//! # Protocol
//!
//! Each operation takes a half-open range of pages and goes through the same steps:
//!
//! 1. **check** the whole request: half, attributes, frames, what is mapped now;
//! 2. **reserve** memory for every table that will be needed;
//! 3. **open** a lazy section, or join the caller's;
//! 4. **write**, with one walk per last-level table: a new table is ordered before the entry that
//!    links it (R18), and a run of leaves goes through the [writer](mod@write);
//! 5. **invalidate** where entries were live (R27), still inside the section, so that
//!    the invalidation's barriers pay what the writes owe;
//! 6. **leave** the section, if it is the operation's own, which pays the rest.
//!
//! After step 2 nothing can fail, so no operation needs a rollback.
//!
//! # Population
//!
//! The entry that links a table holds the *population* of that table: how many of its entries are
//! in use. It is kept in bits that hardware ignores. With it, one comparison instead of 512 loads
//! decides whether a whole table is empty or fully mapped, and empty tables can be found and freed.
//!
//! # Emptied, not invalidated
//!
//! Some operations leave the invalidation of the entries that they empty to the caller, so that
//! many operations share one. The space remembers the hull of these addresses, and mapping inside
//! the hull invalidates it first. A forgotten invalidation then costs barriers, but never leaves a
//! stale translation for a new mapping (R27, R29). The space does not protect the *frames*: they
//! belong to the caller, and must not be reused before the invalidation (R25).
//!
//! # One holder at a time
//!
//! The operations take `&mut self`, so a space has one caller at a time. A space stays with the
//! task that made it; several tasks share one through a [`LockedSpace`](locked), with a lock that
//! the kernel chooses. Software touches an entry only as the holder of the space, or in the drain
//! of what the holder has let wait. Table walkers read at any time. Between a check and its write,
//! therefore, only hardware can change an entry, and with TCR_EL1.{HA,HD} = 0 it does not.

mod address_space;
mod announce;
mod apply;
mod fast_range;
mod fold;
mod gather;
mod kind;
mod leaf_table;
mod links;
mod locked;
mod map;
mod protect;
mod ranges;
mod spare;
mod stale;
mod tables;
mod unmap;
mod walk;
mod write;

pub use address_space::{AddressSpace, Mapping};
pub use apply::PteRef;
pub use fast_range::FastPteRange;
pub use gather::MmuGather;
pub use kind::SpaceKind;
pub use locked::{LockedSpace, SpaceGuard};
pub use map::Backing;
pub use unmap::PendingInvalidation;
