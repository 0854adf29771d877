// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine model: a simulated machine on which a missing barrier shows in every run.
//!
//! An emulator and real CPUs cannot test this library: under an emulator the library works with all
//! barriers deleted, and a real CPU fails once in a million times. This machine does not choose one
//! outcome of an access. From the history of stores, barriers and invalidations it computes the
//! *set* of outcomes that the architecture allows ([`Machine::access`]), and a test requires that
//! the set contains only the outcome of the contract. So each run finds a missing barrier by its
//! consequence.
//!
//! # The rules, and the files that implement them
//!
//! | subject                                             | rule or row             | file       |
//! |-----------------------------------------------------|-------------------------|------------|
//! | order is a set of stores, never a moment in time    | multi-copy atomicity, X4| `view`     |
//! | DSB completes by type and for its CPU; CSE after it | R_SPVBD, M3-M8, R17     | `cpu`      |
//! | what a flag carries: plain, release, DMB, DSB       | X1-X3                   | `cpu`      |
//! | values of an entry, and links with their contents   | R18, T1, T2             | `memory`   |
//! | what a TLBI names: address, ASID, level, TTL, range | R33, U6                 | `tlbi`     |
//! | cached until invalidated, used or not               | R27, R31, U1-U5, U8, V1 | `walk`     |
//! | old values at other CPUs after a shootdown          | B1-B4, P1-P4, U7        | `walk`     |
//! | faults of new entries; ETS2                         | R_NNFPF, M1-M9, X1-X5   | `walk`     |
//! | contiguous groups, blocks, ASIDs that return        | R29, R33                | `walk`     |
//! | frames and tables given back; repeated TLBI         | R25, R32, R34, U5, U7   | `reuse`    |
//!
//! The library's test `model/verdicts.rs` compares the machine with the verdicts of Arm's own
//! model.
//!
//! # How to use it
//!
//! [`litmus`] runs straight-line programs of instructions. [`Sim`] is a kernel for the library: it
//! implements [`lazymmu::Hardware`], [`lazymmu::TableFrames`] and [`lazymmu::Context`].
//! [`Saboteur`] is the same kernel with instructions left out. The [`scenarios`] run on both, and
//! on any other kernel that implements [`Modelled`]; [`world`] has the helpers that they share.
//!
//! # What it does not model
//!
//! * contents of pages, instruction caches, and the order of data accesses among each other;
//! * access and dirty bits set by hardware (TCR_EL1.{HA,HD} = 0, as the library requires);
//! * stage 2, the outer shareable domain, non-shareable barriers, FEAT_ExS, FEAT_BBM levels;
//! * TLB conflict aborts: two entries for one address show as two outcomes, and if they differ only
//!   in size, not at all (the checker of [`crate::fake`] checks the stores themselves, R29);
//! * the passing of time: without a barrier, a store may stay invisible for ever;
//! * FEAT_ETS3, and the accesses that R_NNFPF excludes (SIMD and SVE).
//!
//! Where sources disagree about the architecture, or a view cannot express a set of stores because
//! it is not a prefix, the machine allows more: row U9 (a stale success after `DMB LD`), a walk
//! that read a store whose predecessors are not ordered before it, and a page of a contiguous group
//! that no operation named.

mod cpu;
mod hardware;
pub mod litmus;
mod machine;
mod memory;
mod modelled;
mod outcome;
mod queues;
mod reuse;
mod saboteur;
pub mod scenarios;
mod sim;
mod tlbi;
pub mod trace;
mod view;
mod walk;
pub mod world;

pub use cpu::Barrier;
pub use machine::{Machine, Model, RootId, Token};
pub use memory::{Location, TableId};
pub use modelled::Modelled;
pub use outcome::{Kind, Outcome, Outcomes};
pub use reuse::Hazard;
pub use saboteur::{Plan, Sabotage, Saboteur};
pub use sim::{Executed, Sim, Switch};
pub use view::CPUS;
