// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the kernel does with an exception: it handles an interrupt, lets a probe fail, and reports
//! everything else.
//!
//! A report ends the kernel with status 3. It is written so that it gets out of a broken kernel:
//! on the emergency stack, through a writer without locks, and a fault inside of it makes a shorter
//! one.

mod handler;
mod report;
