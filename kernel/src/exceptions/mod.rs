// SPDX-License-Identifier: MIT OR Apache-2.0

//! Exception handling: an interrupt is dispatched, a probe returns its fault as an error, and
//! everything else is reported.
//!
//! A report ends the kernel with status 3. It works even if the kernel is broken: it runs on the
//! emergency stack and prints through a writer without locks. A fault inside a report causes a
//! shorter one.

mod handler;
mod report;
