// SPDX-License-Identifier: MIT OR Apache-2.0

//! Litmus tests: what only hardware shows, with `mode=litmus iterations=N`.
//!
//! The run prints two tables. [`spurious`](crate::spurious) counts how often a page that was just
//! made valid still faults on the same CPU, for each sequence of instructions between the store of
//! the entry and the load. This is the reason for every barrier that lazy MMU mode defers, on this
//! board. [`costs`] measures what those barriers and invalidations take in cycles, which is what
//! deferring can save.
//!
//! Under QEMU both run only briefly, and say that their figures mean nothing there. The run fails
//! if a fault is counted that the architecture rules out.

mod costs;

use crate::machine::Kind;
use crate::platform::exit::Status;
use crate::spurious::{Ground, LitmusError, WAYS, Way};
use crate::{println, start};

/// The rounds of each test on hardware: enough for an event that a Cortex-A72 shows once in a
/// million.
const ON_HARDWARE: u32 = 10_000_000;
/// The same under QEMU, where no fault can occur.
const EMULATED: u32 = 2000;

/// The rounds between two lines of progress. A part takes seconds on a board, and a log that stays
/// silent for a minute looks like a hang.
const PART: u32 = 1_000_000;

/// Runs both tests and prints their tables.
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
    let is_emulated = machine.kind == Kind::Emulated;
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

/// The number of faults in all `iterations`. Prints a line after each [`PART`] but the last.
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
