// SPDX-License-Identifier: MIT OR Apache-2.0
//! Self-tests inside the running kernel, reported as KTAP.
//!
//! A suite is a static that names its tests. [`suite!`](crate::suite) puts it into a linker
//! section, so a new file with a suite needs no other registration than its `mod` line. A test is a
//! function that returns a [`TestResult`](expect::TestResult). If an expectation does not hold, its
//! `expect` macro returns from the test, with the place and the values.
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
//! The parts, in the order in which a run uses them: [`registry`] collects and checks the suites,
//! [`filter`](crate::filter) selects tests, [`runner`] runs them one by one with a leak check
//! around each, [`expect`] describes failures, and [`ktap`] writes the lines of the log, which
//! `ktap_reader` reads on the host.
//!
//! Names consist of lower-case letters, digits, `_` and `-`. The path of a test is its names joined
//! by dots, and `filter=` matches that path.
//!
//! A panic or an unexpected exception is not caught. It ends the run with its own report and
//! status, and the log up to there shows which test it was. Tests do not run in parallel.

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
