// SPDX-License-Identifier: MIT OR Apache-2.0
//! Panics that a test provokes: they print nothing, and the test learns where they occurred.
//!
//! A panic hook belongs to the process, and all tests of this binary run in one. The hook that is
//! installed here therefore asks a variable of the thread, and hands the panics of other threads to
//! the hook that was there before.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// A panic that was caught.
#[derive(Debug)]
pub struct Caught {
    pub payload: Box<dyn Any + Send>,
    pub file: String,
    pub line: u32,
}

thread_local! {
    /// The places of the panics of this thread while it is in [`catch`], `None` outside.
    static PLACES: RefCell<Option<Vec<(String, u32)>>> = const { RefCell::new(None) };
}

/// Runs `work` and returns the panic that ended it, if one did.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Caught> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|at| (at.file().to_owned(), at.line()));
            let expected = PLACES.with_borrow_mut(|places| match places {
                Some(places) => {
                    places.extend(place);
                    true
                }
                None => false,
            });
            if !expected {
                before(info);
            }
        }));
    });
    PLACES.set(Some(Vec::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    let places = PLACES.take();
    result.map_err(|payload| {
        let last = places.and_then(|mut places| places.pop());
        let (file, line) = last.unwrap_or_default();
        Caught {
            payload,
            file,
            line,
        }
    })
}
