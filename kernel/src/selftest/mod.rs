// SPDX-License-Identifier: MIT OR Apache-2.0
//! Self-tests inside the running kernel, reported as KTAP.
//!
//! A suite is a static that names its tests; [`suite!`](crate::suite) puts it
//! into a linker section, so that adding a file with a suite is all it takes to
//! run it. A test is a function that returns a [`TestResult`](expect::TestResult); the `expect`
//! macros return from it with the place and the values.
//!
//! ```ignore
//! use crate::selftest::prelude::*;
//!
//! suite! {
//!     name: "tables",
//!     order: 20,
//!     tests: [
//!         case!(QemuVisible, map_and_read_back),
//!         cases!(TraceOnly, one_barrier_per_section, { one: 1, sixteen: 16, table: 512 }),
//!         group!("errors", [case!(QemuVisible, unaligned_is_refused)]),
//!     ],
//! }
//!
//! fn map_and_read_back() -> TestResult {
//!     let page = expect_ok!(map_one());
//!     expect_eq!(page.read(), 42);
//!     Ok(())
//! }
//!
//! fn one_barrier_per_section(pages: usize) -> TestResult { /* ... */ Ok(()) }
//! ```
//!
//! The parts, in the order in which a run uses them: [`registry`] collects and
//! checks the suites, [`filter`](crate::filter) selects, [`runner`] runs them one by one with
//! a leak check around each, [`expect`] makes failures, [`ktap`] writes lines, which `ktap_reader`
//! reads on the host.
//!
//! Names are made of lower-case letters, digits, `_` and `-`; a test's path is
//! its names joined by dots, and it is what `filter=` matches.
//!
//! What it does not do: it catches no panic and no unexpected exception; those
//! end the run with their own report and status, and the log up to there says
//! which test it was. It does not run tests in parallel.

pub mod expect;
pub mod ktap;
#[cfg(not(target_os = "none"))]
pub mod ktap_reader;
#[cfg(target_os = "none")]
mod main;
pub mod prelude;
#[cfg(target_os = "none")]
pub mod provoke;
pub mod registry;
pub mod runner;
#[cfg(target_os = "none")]
mod suites;

#[cfg(target_os = "none")]
pub use self::main::main;
