// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demonstration that `cargo xtask run` shows: lazy MMU mode in five chapters.
//!
//! 1. [`one_page`]: which barriers the write of one page-table entry owes, and why;
//! 2. [`savings`]: what is executed for 1 to 65 536 pages, as a table, with Linux's figures beside
//!    ours;
//! 3. [`contract`]: nesting, pause and flush, with the counts after each step;
//! 4. [`backends`]: one scenario with the strategies of five architectures;
//! 5. [`tasks`]: sections across context switches, on one CPU and from one CPU to another.
//!
//! Each chapter chooses its own strategy and barrier policy, and restores those that `lazy=` and
//! `policy=` chose at boot.
//!
//! Every figure is read from the counters during the run. Linux's figures are the only exception:
//! they were measured elsewhere.

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
    /// The vmap area refused a request.
    Vmap(VmapError),
    /// The address space refused a request.
    Space(SpaceError),
    /// Lazy MMU mode refused a call.
    Lazy(LazyMmuError),
    /// The strategy or policy of a chapter could not be put in force.
    Terms(TermsError),
    /// A page does not show the contents of its frame.
    ReadBack {
        /// The address read.
        virt: u64,
        /// The value in the frame.
        expected: u64,
        /// The value read at the address.
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

/// Runs the demonstration on the console.
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

/// Runs the demonstration on `out`.
///
/// # Errors
/// The first error. Everything that was mapped is unmapped by then.
pub fn run(out: &mut dyn fmt::Write) -> Result<(), DemoError> {
    one_page::tell(out)?;
    savings::tell(out)?;
    contract::tell(out)?;
    backends::tell(out)?;
    tasks::tell(out)
}

/// Puts `backend` and `policy` in force until the result is dropped.
fn terms(backend: Backend, policy: BarrierPolicy) -> Result<Terms, TermsError> {
    // SAFETY: a chapter takes its terms before it starts tasks, and joins them before it drops the
    // terms.
    unsafe { Terms::take(backend, policy) }
}

/// What is owed, as a table entry.
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
