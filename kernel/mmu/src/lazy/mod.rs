// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lazy MMU mode: sections in which the cost of page-table writes is deferred.
//!
//! # The contract
//!
//! This is Linux's generic contract, one for one. Every task has two counters, and four calls
//! change them:
//!
//! | call      | refused if (R8)      | counter            | hook                              |
//! |-----------|----------------------|--------------------|-----------------------------------|
//! | `enable`  | `enable_count` = 255 | `enable_count` + 1 | `enter` if it was 0               |
//! | `disable` | `enable_count` = 0   | `enable_count` - 1 | `leave` if now 0, else **`flush`** |
//! | `pause`   | `pause_count` = 255  | `pause_count` + 1  | `leave` if it was 0 and enabled   |
//! | `resume`  | `pause_count` = 0    | `pause_count` - 1  | `enter` if now 0 and enabled      |
//!
//! In interrupt context all four calls do nothing (R3), and while paused `enable` and `disable` do
//! nothing (R6): such calls are ignored, not queued. A caller may rely on three things:
//!
//! * after **any** effective `disable`, at any depth, and after `pause` and `flush`,
//!   all its earlier writes have taken effect (R5);
//! * while paused, and in an interrupt, each write takes effect at once;
//! * the state belongs to the task, and neither a context switch nor an interrupt
//!   changes it (R11, R12).
//!
//! A caller may not access memory through a mapping that it has made in the section that is still
//! open (R19), and it may not sleep there unless the strategy allows it (R38;
//! [`Lazy::might_sleep`]).
//!
//! # What differs from Linux
//!
//! * A counter that would wrap is refused with [`LazyMmuError`](crate::LazyMmuError) and stays as
//!   it is; Linux warns in debug builds and wraps.
//! * Sections and pauses are guards that close when they are dropped ([`LazySection`],
//!   [`LazyPause`]), so that every exit path closes them (R39). The raw calls on [`Lazy`] are for
//!   patterns that are not lexical, and for tests.
//! * Announced ranges nest, and they survive pauses ([`Lazy::enable_fast_pte_range`]).
//! * A loop that must sleep leaves all levels at once and re-enters them afterwards
//!   ([`Lazy::suspend_all`]).
//! * A task that ends inside a section leaves all levels ([`Lazy::exit`]).
//!
//! # What happens at the end of a section
//!
//! [`Lazy::disable`] (`lazy/mode.rs`) decrements the counter and ends the ranges that were
//! announced at the depth that is left. Then its hook (`lazy/hooks.rs`), at any depth:
//!
//! 1. drains this CPU's batch: stores that wait go to memory, and pages that wait for their
//!    invalidation are invalidated (`backend/drain.rs`);
//! 2. at depth 0, lets the task lose its CPU again, if its strategy had bound it;
//! 3. executes the barriers that the task owes by then, at most one `DSB ISHST` and one `ISB`
//!    (`mmu/barriers.rs`).
//!
//! A table in `docs/strategies.md`, "The end of a section", says what the first and the last step
//! execute with each strategy.
//!
//! A [`FastPteRange`](crate::FastPteRange) folds its contiguous groups before it leaves its
//! section.
//!
//! The end of a section, a suspension, [`Lazy::exit`] and a context switch touch no other entry,
//! because their caller need not hold the address space any more. Work that only the holder of a
//! space may do, such as folding contiguous groups, is a call of that space
//! ([`crate::AddressSpace::fold_contiguous`]):
//!
//! ```text
//! task A: announce a range, map 16 pages, drain, unlock the space
//! task B:                                         lock, unmap page 10, unlock
//! task A: disable                                 (must not look at page 10 and write it again)
//! ```

mod exit;
mod guard;
mod hooks;
mod mode;
mod suspend;
mod switch;

pub use guard::{LazyPause, LazySection};
pub use mode::Lazy;
pub use suspend::LazySuspended;
