// SPDX-License-Identifier: MIT OR Apache-2.0

//! What only hardware shows: `mode=litmus iterations=N`.
//!
//! Two tables come out. [`spurious`](crate::spurious) counts how often a page that was just made valid still faults,
//! on the same CPU, by what stands between the entry's store and the load: the reason for every barrier
//! that lazy MMU mode defers, on this board. [`costs`] says what those barriers and invalidations take in
//! cycles: what there is to save.
//!
//! Under QEMU both are exercised for a moment, and say that their figures mean nothing there. The run fails
//! where a fault is counted that the architecture rules out.

mod costs;

use crate::machine::Kind;
use crate::platform::exit::Status;
use crate::spurious::{Ground, LitmusError, WAYS, Way};
use crate::{println, start};

/// Rounds of each test on hardware: enough for what a Cortex-A72 shows once in a million.
const ON_HARDWARE: u32 = 10_000_000;
/// The same where nothing is to be seen.
const EMULATED: u32 = 2000;

/// Rounds between two lines that say how far it is: seconds on a board, which whoever reads its log takes for
/// hung after a minute of silence.
const PART: u32 = 1_000_000;

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
