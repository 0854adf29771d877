// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table that says which function handles which interrupt.
//!
//! Lookups take no lock, because each entry of the tables is an atomic. The 32 private interrupts
//! are found by their number. Their handlers are the same on all CPUs, and each CPU enables its own
//! interrupts. There are few shared interrupts, and they are in a list.

use super::{Handler, IntId, InterruptError};
use crate::sync::IrqLock;
use core::{
    mem, ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

/// How many shared interrupts can have a handler.
pub const MAX_SHARED: usize = 16;
/// SGIs and PPIs.
const PRIVATE: usize = 32;

/// A [`Handler`] or nothing.
struct Place(AtomicPtr<()>);

impl Place {
    const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    #[inline(always)]
    fn get(&self) -> Option<Handler> {
        let handler = self.0.load(Ordering::Acquire);
        if handler.is_null() {
            return None;
        }
        // SAFETY: only `set` stores values other than null, and it stores a `Handler`.
        Some(unsafe { mem::transmute::<*mut (), Handler>(handler) })
    }

    fn set(&self, handler: Option<Handler>) {
        let pointer = handler.map_or(ptr::null_mut(), |handler| handler as *mut ());
        self.0.store(pointer, Ordering::Release);
    }
}

/// A shared interrupt.
struct Shared {
    /// Its number, or 0.
    id: AtomicU32,
    handler: Place,
}

static PRIVATE_HANDLERS: [Place; PRIVATE] = [const { Place::new() }; PRIVATE];

static SHARED_HANDLERS: [Shared; MAX_SHARED] = [const {
    Shared {
        id: AtomicU32::new(0),
        handler: Place::new(),
    }
}; MAX_SHARED];

/// Held while the tables change; readers do not take it.
static CHANGE: IrqLock<()> = IrqLock::new(());

/// The handler of interrupt `id`.
#[inline(always)]
pub(super) fn find(id: IntId) -> Option<Handler> {
    let number = id.raw_value();
    match PRIVATE_HANDLERS.get(number as usize) {
        Some(place) => place.get(),
        None => find_shared(number),
    }
}

fn find_shared(number: u32) -> Option<Handler> {
    SHARED_HANDLERS
        .iter()
        .find(|shared| shared.id.load(Ordering::Acquire) == number)?
        .handler
        .get()
}

/// Enters `handler` for `id`.
pub(super) fn add(id: IntId, handler: Handler) -> Result<(), InterruptError> {
    let number = id.raw_value();
    let _change = CHANGE.lock();
    if find(id).is_some() {
        return Err(InterruptError::Taken(id));
    }
    if let Some(place) = PRIVATE_HANDLERS.get(number as usize) {
        place.set(Some(handler));
        return Ok(());
    }
    let free = SHARED_HANDLERS
        .iter()
        .find(|shared| shared.id.load(Ordering::Relaxed) == 0)
        .ok_or(InterruptError::Full)?;
    free.handler.set(Some(handler));
    // The number is stored last, so that a reader that finds the number also finds its handler.
    free.id.store(number, Ordering::Release);
    Ok(())
}

/// Removes the handler of `id`, if it has one. It may still be running on another CPU.
pub(super) fn remove(id: IntId) {
    let number = id.raw_value();
    let _change = CHANGE.lock();
    if let Some(place) = PRIVATE_HANDLERS.get(number as usize) {
        place.set(None);
        return;
    }
    for shared in &SHARED_HANDLERS {
        if shared.id.load(Ordering::Relaxed) == number {
            shared.id.store(0, Ordering::Release);
            shared.handler.set(None);
        }
    }
}
