// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mode=selftest`: runs the kernel's own suites, with the log on the console.

use super::registry::{self, Registry};
use super::{runner, suites};
use crate::filter::Filter;
use crate::platform::{console::Console, exit::Status};
use crate::{println, start};

/// Runs the tests that `filter` selects, and returns whether all of them passed.
#[must_use]
pub fn main(filter: Filter<'_>) -> Status {
    let registry = match Registry::new(registry::registered()) {
        Ok(registry) => registry,
        Err(error) => {
            println!("error: {error}");
            return Status::Failure;
        }
    };
    let mut leaks = suites::KernelState::after_warm_up();
    let machine = start::machine().kind;
    match runner::run(&registry, filter, machine, &mut leaks, &mut Console) {
        Ok(tally) if tally.fail == 0 => Status::Success,
        Ok(_) => Status::Failure,
        Err(error) => {
            println!("error: {error}");
            Status::Failure
        }
    }
}
