// SPDX-License-Identifier: MIT OR Apache-2.0

//! Errors that carry an exit status, and how any error is shown.
//!
//! An ordinary error ends xtask with status 1. A [`Failure`] says which status
//! it is instead, so that a script can tell a panic (2) from a hang (124).

use crate::output;
use anyhow::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// Status of a run that was ended because it hung, as `timeout(1)` uses it.
pub const HUNG: u8 = 124;
/// Status after Ctrl-C, as shells report SIGINT.
pub const INTERRUPTED: u8 = 130;
/// Status when the reader of the output has gone, as shells report SIGPIPE.
pub const READER_GONE: u8 = 141;

/// An error with an exit status of its own.
#[derive(Debug)]
pub struct Failure {
    /// Exit status of xtask.
    pub status: u8,
    /// What happened.
    pub report: String,
    /// What to do next, empty if there is nothing to say.
    pub next: String,
}

impl Failure {
    /// Wraps a report and its exit status.
    pub fn new(status: u8, report: impl Into<String>) -> Self {
        Self {
            status,
            report: report.into(),
            next: String::new(),
        }
    }

    /// Adds what to do next.
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)?;
        if self.next.is_empty() {
            return Ok(());
        }
        write!(f, "\n{}", self.next)
    }
}

impl std::error::Error for Failure {}

/// Prints `error` to standard error and returns the status to end with.
pub fn show(error: &Error) -> ExitCode {
    let report = format!("{error:#}");
    if !report.is_empty() {
        eprintln!("error: {report}");
    }
    ExitCode::from(
        error
            .downcast_ref::<Failure>()
            .map_or(1, |failure| failure.status),
    )
}

/// Prints help, or what is wrong with the command line, and returns the status to end with.
///
/// Not clap's own 2, which is the status of a kernel that panicked.
pub fn show_usage(usage: &clap::Error) -> ExitCode {
    let printed = usage.print().and_then(|()| io::stdout().flush());
    // If standard error is closed, no reader is left to tell.
    if !usage.use_stderr() {
        output::settle(printed);
    }
    ExitCode::from(output::lost().unwrap_or(u8::from(usage.use_stderr())))
}
