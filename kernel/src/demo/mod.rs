// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `cargo xtask run` shows: lazy MMU mode in five chapters.
//!
//! 1. [`one_page`]: what writing one page-table entry owes, and why;
//! 2. [`savings`]: a table of what is executed for 1 to 65 536 pages, with Linux's
//!    figures beside ours;
//! 3. [`contract`]: nesting, pause and flush, with the counts after each step;
//! 4. [`backends`]: one scenario with the strategies of five architectures;
//! 5. [`tasks`]: sections across context switches, on one CPU and from one to another.
//!
//! Each chapter chooses its own strategy and barrier policy; what `lazy=` and `policy=` chose at
//! boot is in force again afterwards.
//!
//! Every figure is read from the counters while the reader watches; nothing printed is
//! written down beforehand but Linux's figures, which were measured elsewhere.

mod backends;
mod contract;
mod one_page;
mod savings;
mod tasks;
mod workload;

use core::fmt;

use lazymmu::{Backend, BarrierPolicy, LazyMmuError, Owed, SpaceError};

use crate::mm::frames::OutOfFrames;
use crate::mm::terms::{Terms, TermsError};
use crate::mm::vmap::VmapError;
use crate::platform::console::Console;
use crate::platform::exit::Status;
use crate::println;
use crate::sched::{NoSuchCpu, SpawnError};
use crate::wrap_errors;

/// Why the demonstration ended early.
#[derive(Debug)]
pub enum DemoError {
    /// Physical memory is exhausted.
    Frames(OutOfFrames),
    /// The vmap area refused.
    Vmap(VmapError),
    /// The address space refused.
    Space(SpaceError),
    /// Lazy MMU mode refused.
    Lazy(LazyMmuError),
    /// The strategy or policy of a chapter cannot be had.
    Terms(TermsError),
    /// A page shows other contents than its frame has.
    ReadBack {
        /// The address read.
        virt: u64,
        /// What the frame was filled with.
        expected: u64,
        /// What the address shows.
        found: u64,
    },
    /// A task could not be started.
    Spawn(SpawnError),
    /// A task could not be moved.
    Cpu(NoSuchCpu),
    /// The console failed.
    Console(fmt::Error),
}

wrap_errors!(DemoError {
    OutOfFrames => Frames,
    VmapError => Vmap,
    SpaceError => Space,
    LazyMmuError => Lazy,
    TermsError => Terms,
    SpawnError => Spawn,
    NoSuchCpu => Cpu,
    fmt::Error => Console,
});

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(error) => error.fmt(f),
            Self::Vmap(error) => error.fmt(f),
            Self::Space(error) => error.fmt(f),
            Self::Lazy(error) => error.fmt(f),
            Self::Terms(error) => error.fmt(f),
            Self::Spawn(error) => error.fmt(f),
            Self::Cpu(error) => error.fmt(f),
            Self::ReadBack {
                virt,
                expected,
                found,
            } => write!(
                f,
                "{virt:#x} shows {found:#x} where its frame holds {expected:#x}: the mapping is wrong"
            ),
            Self::Console(_) => f.write_str("the console failed"),
        }
    }
}

impl core::error::Error for DemoError {}

/// Tells the story on the console.
#[must_use]
pub fn main() -> Status {
    match run(&mut Console) {
        Ok(()) => Status::Success,
        Err(error) => {
            println!("error: {error}");
            Status::Failure
        }
    }
}

/// Tells the story on `out`.
///
/// # Errors
/// The first thing that went wrong; what was mapped is unmapped by then.
pub fn run(out: &mut dyn fmt::Write) -> Result<(), DemoError> {
    one_page::tell(out)?;
    savings::tell(out)?;
    contract::tell(out)?;
    backends::tell(out)?;
    tasks::tell(out)
}

/// Runs with `backend` and `policy`, until dropped.
fn terms(backend: Backend, policy: BarrierPolicy) -> Result<Terms, TermsError> {
    // SAFETY: a chapter takes its terms before it starts tasks, and joins them before it drops the
    // terms.
    unsafe { Terms::take(backend, policy) }
}

/// What is owed, in words of a table.
fn owed_text(owed: Owed) -> &'static str {
    match (owed.contains(Owed::STORES), owed.contains(Owed::CONTEXT)) {
        (true, true) => "DSB + ISB",
        (true, false) => "DSB",
        (false, true) => "ISB",
        (false, false) => "nothing",
    }
}

/// Writes a chapter's title.
fn title(out: &mut dyn fmt::Write, number: u8, text: &str) -> fmt::Result {
    writeln!(out, "\n== {number}. {text} ==\n")
}
