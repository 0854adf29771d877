// SPDX-License-Identifier: MIT OR Apache-2.0
//! Callbacks that panic or fail at a chosen call.

use super::Fault;
use lazymmu::{Frame, SpaceError, VirtAddr};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

/// The payload of a callback's panic, or the error that it returns.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The fault that the step has chosen.
    Fault,
    /// An error of the library.
    Space(SpaceError),
}

impl From<SpaceError> for Stop {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

/// Counts the calls of a callback, and lets the chosen one panic or fail.
pub(super) struct Callback {
    fault: Option<(Fault, usize)>,
    calls: Cell<usize>,
}

impl Callback {
    pub(super) const fn new(fault: Option<(Fault, u8)>) -> Self {
        let fault = match fault {
            Some((fault, at)) => Some((fault, at as usize)),
            None => None,
        };
        let calls = Cell::new(0);
        Self { fault, calls }
    }

    /// Ends one call of the callback, after its work for one entry or frame. Panics or fails here.
    pub(super) fn worked(&self) -> Result<(), Stop> {
        let call = self.calls.replace(self.calls.get() + 1);
        match self.fault {
            // Not by `panic!`, which would print a message.
            Some((Fault::Panics, at)) if at == call => panic::resume_unwind(Box::new(Stop::Fault)),
            Some((Fault::Fails, at)) if at == call => Err(Stop::Fault),
            _ => Ok(()),
        }
    }

    /// The number of entries among `n` for which it is called, and the result of the library's
    /// call: `None` if the callback panics.
    pub(super) fn ends(&self, n: usize) -> (usize, Option<Result<(), Stop>>) {
        match self.fault {
            Some((Fault::Panics, at)) if at < n => (at + 1, None),
            Some((Fault::Fails, at)) if at < n => (at + 1, Some(Err(Stop::Fault))),
            _ => (n, Some(Ok(()))),
        }
    }

    /// A callback that passes frames to `take`. It can panic, but cannot return an error.
    pub(super) fn taking(
        &self,
        mut take: impl FnMut(VirtAddr, Frame),
    ) -> impl FnMut(VirtAddr, Frame) {
        move |va, frame| {
            take(va, frame);
            let _ = self.worked();
        }
    }

    /// For a callback that cannot return an error: the number of calls among `n`, and whether it
    /// panics.
    pub(super) fn reaches(&self, n: usize) -> (usize, bool) {
        match self.fault {
            Some((Fault::Panics, at)) if at < n => (at + 1, true),
            _ => (n, false),
        }
    }
}

/// The result of `work`, or `None` if a callback has panicked in it.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Some(result),
        Err(thrown) if thrown.is::<Stop>() => None,
        Err(thrown) => panic::resume_unwind(thrown),
    }
}
