// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the selected tests one after the other and writes the log.
//!
//! There is a leak check around every test: what the [`LeakCheck`] counts must be the same before
//! and after. A test that leaves something behind fails even if all its expectations held, and the
//! log says what was left. The leak check then restores what it can, so that one failure does not
//! cause failures of all later tests.
//!
//! Nothing is written before it is known that the selection contains a test, so an error of the
//! filter is the only output.

use core::fmt::{self, Write};

use super::expect::{Outcome, TestResult};
use super::ktap::{Ktap, Tally, Verdict};
use super::registry::{Body, Registry, Test, Witness};
use crate::filter::{Filter, Selection};
use crate::machine::Kind;
use crate::text::Text;

/// What must be the same before and after every test: frames, lazy state, the interrupt mask, and
/// anything else that a test can change for later ones.
pub trait LeakCheck {
    /// The state at one moment.
    type Snapshot;

    /// Returns the state now. It allocates nothing that it would count itself.
    fn snapshot(&mut self) -> Self::Snapshot;

    /// Writes what differs between the two states, one line for each difference, and nothing at all
    /// if the test left everything as it was.
    ///
    /// # Errors
    /// Only those of `report`.
    fn difference(
        &mut self,
        before: &Self::Snapshot,
        after: &Self::Snapshot,
        report: &mut dyn Write,
    ) -> fmt::Result;

    /// Restores what differs from `before` and can be restored, and writes one line for each thing
    /// that was restored.
    ///
    /// # Errors
    /// Only those of `report`.
    fn restore(&mut self, before: &Self::Snapshot, report: &mut dyn Write) -> fmt::Result;
}

/// Runs the tests of `registry` that `filter` selects.
///
/// # Errors
/// No test is selected, or `out` failed.
pub fn run<'a, L: LeakCheck>(
    registry: &'a Registry,
    filter: Filter<'a>,
    machine: Kind,
    leaks: &mut L,
    out: &mut dyn Write,
) -> Result<Tally, RunError<'a>> {
    let select = Selection::Below(filter);
    let selected = || {
        let suites = registry.suites().iter();
        suites.filter(|suite| any_selected(suite.tests, select.enter(suite.name)))
    };
    let count = selected().count();
    if count == 0 {
        return Err(RunError::NothingSelected { filter, registry });
    }
    let mut run = Run {
        machine,
        leaks,
        log: Ktap::new(out),
    };
    let mut total = Tally::default();
    run.log.begin_log(count)?;
    for (index, suite) in selected().enumerate() {
        let selection = select.enter(suite.name);
        total.add(run.group(0, index + 1, suite.name, suite.tests, selection)?);
    }
    run.log.end_log(total)?;
    Ok(total)
}

/// Whether `selection` selects a test among `tests` or in their groups.
fn any_selected(tests: &[Test], selection: Selection<'_>) -> bool {
    tests.iter().any(|test| is_selected(test, selection))
}

fn is_selected(test: &Test, selection: Selection<'_>) -> bool {
    match (&test.body, selection.enter(test.name)) {
        (_, Selection::Nothing) | (Body::Run { .. }, Selection::Below(_)) => false,
        (Body::Run { .. }, Selection::Everything) => true,
        (Body::Group(tests), selection) => any_selected(tests, selection),
    }
}

struct Run<'a, L> {
    machine: Kind,
    leaks: &'a mut L,
    log: Ktap<'a>,
}

impl<L: LeakCheck> Run<'_, L> {
    /// Runs the selected ones of `tests` and writes the result of their group at `depth`. It
    /// recurses into groups, as deep as `registry` allows.
    fn group(
        &mut self,
        depth: usize,
        number: usize,
        name: &str,
        tests: &[Test],
        selection: Selection<'_>,
    ) -> Result<Tally, fmt::Error> {
        let selected = || tests.iter().filter(|test| is_selected(test, selection));
        self.log.begin_group(depth + 1, name, selected().count())?;
        let mut tally = Tally::default();
        for (index, test) in selected().enumerate() {
            let number = index + 1;
            tally.add(match test.body {
                Body::Run { witness, run } => {
                    self.test(depth + 1, number, test.name, witness, run)?
                }
                Body::Group(tests) => {
                    let selection = selection.enter(test.name);
                    self.group(depth + 1, number, test.name, tests, selection)?
                }
            });
        }
        let verdict = if tally.fail > 0 {
            Verdict::Fail
        } else if tally.pass == 0 {
            Verdict::Skip("all tests skipped")
        } else {
            Verdict::Pass
        };
        self.log.tally(depth, name, tally)?;
        self.log.result(depth, number, name, verdict)?;
        Ok(tally)
    }

    fn test(
        &mut self,
        depth: usize,
        number: usize,
        name: &str,
        witness: Witness,
        run: fn() -> TestResult,
    ) -> Result<Tally, fmt::Error> {
        let tag = witness.tag();
        self.log
            .diagnostic(depth, format_args!("{name}.tag"), format_args!("{tag}"))?;
        if witness == Witness::HwOnly && self.machine == Kind::Emulated {
            let reason = "hw-only: QEMU does not model what this shows";
            self.log
                .result(depth, number, name, Verdict::Skip(reason))?;
            return Ok(Tally {
                skip: 1,
                ..Tally::default()
            });
        }
        let before = self.leaks.snapshot();
        let outcome = run();
        let after = self.leaks.snapshot();
        let mut leak = Text::<MAX_LEAK>::new();
        self.leaks.difference(&before, &after, &mut leak)?;

        let subject = format_args!("{name}");
        if let Err(Outcome::Failure(failure)) = &outcome {
            self.log
                .diagnostic(depth, subject, format_args!("{failure}"))?;
        }
        let leaked = !leak.as_str().is_empty();
        if leaked {
            self.log
                .diagnostic(depth, subject, format_args!("LEAK\n{leak}"))?;
            leak = Text::new();
            self.leaks.restore(&before, &mut leak)?;
            if !leak.as_str().is_empty() {
                self.log
                    .diagnostic(depth, subject, format_args!("RESTORED\n{leak}"))?;
            }
        }
        let mut tally = Tally::default();
        let verdict = match &outcome {
            _ if leaked => Verdict::Fail,
            Ok(()) => Verdict::Pass,
            Err(Outcome::Failure(_)) => Verdict::Fail,
            Err(Outcome::Skip(reason)) => Verdict::Skip(reason.as_str()),
        };
        match verdict {
            Verdict::Pass => tally.pass = 1,
            Verdict::Fail => tally.fail = 1,
            Verdict::Skip(_) => tally.skip = 1,
        }
        self.log.result(depth, number, name, verdict)?;
        Ok(tally)
    }
}

/// The maximum length of the description of a leak, and of what was restored, in bytes.
const MAX_LEAK: usize = 512;

/// Why no tests ran, or not all of them.
#[derive(Clone, Copy, Debug)]
pub enum RunError<'a> {
    /// The filter selects no test.
    NothingSelected {
        /// The filter.
        filter: Filter<'a>,
        /// The tests that it could have selected.
        registry: &'a Registry,
    },
    /// The log could not be written.
    Output,
}

impl From<fmt::Error> for RunError<'_> {
    fn from(_: fmt::Error) -> Self {
        Self::Output
    }
}

impl fmt::Display for RunError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingSelected { filter, registry } if registry.suites().is_empty() => write!(
                f,
                "no self-test matches filter={}: the image has no suites at all, so linker.ld does \
                 not keep the section .selftest",
                filter.as_str()
            ),
            Self::NothingSelected { filter, registry } => {
                write!(
                    f,
                    "no self-test matches filter={}: use suite or suite.test, with * for any \
                     characters; the suites are",
                    filter.as_str()
                )?;
                for suite in registry.suites() {
                    write!(f, " {}", suite.name)?;
                }
                Ok(())
            }
            Self::Output => f.write_str("the self-test log could not be written to the console"),
        }
    }
}

impl core::error::Error for RunError<'_> {}

#[cfg(test)]
mod tests;
