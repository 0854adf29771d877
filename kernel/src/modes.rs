// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel does when it is up, as boot argument `mode=` says: the story of [`demo`], the
//! suites of [`selftest`], the long runs of [`soak`] and [`litmus`], or a bad end that is asked for.
//!
//! A crate of its own on top of the library, so that it can be compiled for size at any price
//! (package `modes`): most of it runs once, and what runs often is the library's. `bench` is not
//! here, because what it measures is compiled with it.
//!
//! Its files stand in the rooms that they belong to, and find the library's rooms under the same
//! names as the library itself does: `crate::mm` is [`kernel::mm`].

#![cfg_attr(target_os = "none", no_std)]
// On the host there is nothing to show.
#![cfg(target_os = "none")]

extern crate alloc;

// The library under the paths that it uses itself.
use kernel::{arch, bench, mm, platform, println, sched, skip, start, sync, text, wrap_errors};

pub mod demo;
pub mod litmus;
pub mod soak;

/// The suites, and how they are run. The framework is the library's ([`kernel::selftest`]).
pub mod selftest {
    pub use kernel::selftest::{expect, filter, prelude, registry, runner};

    pub mod provoke;
    pub mod suites;

    use self::registry::Registry;
    use crate::platform::{console::Console, exit::Status};
    use crate::{println, start};

    /// Runs what `filter` selects, with the log on the console, and says how it went.
    pub fn main(filter: filter::Filter<'_>) -> Status {
        let registry = match Registry::new(registry::registered()) {
            Ok(registry) => registry,
            Err(error) => {
                println!("error: {error}");
                return Status::Failure;
            }
        };
        let mut leaks = suites::KernelState::after_warm_up();
        match runner::run(
            &registry,
            filter,
            start::machine().kind,
            &mut leaks,
            &mut Console,
        ) {
            Ok(tally) if tally.fail == 0 => Status::Success,
            Ok(_) => Status::Failure,
            Err(error) => {
                println!("error: {error}");
                Status::Failure
            }
        }
    }
}
