// SPDX-License-Identifier: MIT OR Apache-2.0
//! The callbacks of the caller, which may panic or fail at any of their calls.

use super::Fault;
use lazymmu::{Frame, SpaceError, VirtAddr};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

/// What a callback panics with, or returns.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It was this step's fault.
    Fault,
    /// The library has refused.
    Space(SpaceError),
}

impl From<SpaceError> for Stop {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

/// Counts the calls of a callback, and knows the one that goes wrong.
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

    /// The callback has done its work for one entry or frame. This is where it panics or fails.
    pub(super) fn worked(&self) -> Result<(), Stop> {
        let call = self.calls.replace(self.calls.get() + 1);
        match self.fault {
            // Not by `panic!`, which would tell the world.
            Some((Fault::Panics, at)) if at == call => panic::resume_unwind(Box::new(Stop::Fault)),
            Some((Fault::Fails, at)) if at == call => Err(Stop::Fault),
            _ => Ok(()),
        }
    }

    /// How many of `n` entries it sees, and what the call returns: `None` if it panics.
    pub(super) fn ends(&self, n: usize) -> (usize, Option<Result<(), Stop>>) {
        match self.fault {
            Some((Fault::Panics, at)) if at < n => (at + 1, None),
            Some((Fault::Fails, at)) if at < n => (at + 1, Some(Err(Stop::Fault))),
            _ => (n, Some(Ok(()))),
        }
    }

    /// The callback that takes frames by `take`. It cannot fail, but it can panic.
    pub(super) fn taking(
        &self,
        mut take: impl FnMut(VirtAddr, Frame),
    ) -> impl FnMut(VirtAddr, Frame) {
        move |va, frame| {
            take(va, frame);
            let _ = self.worked();
        }
    }

    /// How many of `n` entries or frames it sees, if it cannot fail, and whether it panics.
    pub(super) fn reaches(&self, n: usize) -> (usize, bool) {
        match self.fault {
            Some((Fault::Panics, at)) if at < n => (at + 1, true),
            _ => (n, false),
        }
    }
}

/// What `work` returns, or `None` if a callback has panicked in it.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Some(result),
        Err(thrown) if thrown.is::<Stop>() => None,
        Err(thrown) => panic::resume_unwind(thrown),
    }
}
