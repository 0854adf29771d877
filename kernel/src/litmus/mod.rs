// SPDX-License-Identifier: MIT OR Apache-2.0

//! What only hardware shows: `mode=litmus iterations=N`.
//!
//! Two tables come out. [`spurious`] counts how often a page that was just made valid still faults,
//! on the same CPU, by what stands between the entry's store and the load: the reason for every barrier
//! that lazy MMU mode defers, on this board. [`costs`] says what those barriers and invalidations take in
//! cycles: what there is to save.
//!
//! Under QEMU both are exercised for a moment, and say that their figures mean nothing there. The run fails
//! where a fault is counted that the architecture rules out.

mod costs;
pub(crate) mod spurious;

use core::fmt;

use lazymmu::{LazyMmuError, SpaceError};

use self::spurious::{Ground, WAYS, Way};
use crate::arch::probe::Fault;
use crate::mm::terms::TermsError;
use crate::platform::exit::Status;
use crate::selftest::runner;
use crate::selftest::suites::fixture::PagesError;
use crate::{println, start, wrap_errors};

/// Rounds of each test on hardware: enough for what a Cortex-A72 shows once in a million.
const ON_HARDWARE: u32 = 10_000_000;
/// The same where nothing is to be seen.
const EMULATED: u32 = 2000;

/// Rounds between two lines that say how far it is: seconds on a board, which whoever reads its log takes for
/// hung after a minute of silence.
const PART: u32 = 1_000_000;

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum LitmusError {
    /// There are no pages.
    Pages(PagesError),
    /// The address space refused.
    Space(SpaceError),
    /// Lazy MMU mode refused.
    Lazy(LazyMmuError),
    /// The strategy cannot be had.
    Terms(TermsError),
    /// There is no table for a page whose neighbors are mapped.
    NoTable,
    /// A fault of another kind.
    Fault(Fault),
    /// The page shows what is not in its frame.
    Value(u64),
}

wrap_errors!(LitmusError {
    PagesError => Pages,
    SpaceError => Space,
    LazyMmuError => Lazy,
    TermsError => Terms,
});

impl fmt::Display for LitmusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(error) => error.fmt(f),
            Self::Space(error) => error.fmt(f),
            Self::Lazy(error) => error.fmt(f),
            Self::Terms(error) => error.fmt(f),
            Self::NoTable => f.write_str("the page has no table although its neighbors are mapped"),
            Self::Fault(fault) => write!(f, "not a translation fault: {fault}"),
            Self::Value(found) => write!(f, "the page shows {found:#x}: the mapping is wrong"),
        }
    }
}

impl core::error::Error for LitmusError {}

/// Runs both and prints their tables.
#[must_use]
pub fn main(iterations: Option<u32>) -> Status {
    match run(iterations) {
        Ok(status) => status,
        Err(error) => {
            println!("error: {error}");
            Status::Failure
        }
    }
}

fn run(iterations: Option<u32>) -> Result<Status, LitmusError> {
    let machine = start::machine();
    let is_emulated = machine.kind == runner::Machine::Emulated;
    let iterations = iterations.unwrap_or(if is_emulated { EMULATED } else { ON_HARDWARE });
    let ground = Ground::new()?;
    let mut status = Status::Success;
    println!("An entry is made valid and its page is read by the same CPU, with in between:\n");
    println!("  {:<24}| faults / iterations", "");
    for way in WAYS {
        let faults = count(&ground, &way, iterations)?;
        let verdict = if faults != 0 && way.is_safe {
            status = Status::Failure;
            ": must be 0"
        } else {
            ""
        };
        println!("  {:<24}| {faults} / {iterations}{verdict}", way.name);
    }
    if is_emulated {
        println!("\nhw-only: QEMU has no store buffer, so these zeros mean nothing.");
    }
    println!();
    costs::show(machine, ground.page());
    Ok(status)
}

/// The faults of all `iterations`, with a line after each [`PART`] but the last.
fn count(ground: &Ground, way: &Way, iterations: u32) -> Result<u32, LitmusError> {
    let (mut faults, mut done) = (0, 0);
    while done < iterations {
        let part = PART.min(iterations - done);
        faults += ground.faults(way, part)?;
        done += part;
        if done < iterations {
            println!("  ... {done} of {iterations}");
        }
    }
    Ok(faults)
}
