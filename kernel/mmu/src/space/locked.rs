// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`LockedSpace`]: an address space that several tasks share, behind the lock of its tables.
//!
//! # Why the lock is a part of the library
//!
//! What a section defers belongs to the task that opened it and waits on that task's CPU. The next
//! holder of the tables, on another CPU perhaps, decides by what memory holds. If a holder released
//! the lock while something waits, this could happen:
//!
//! ```text
//! CPU 0, in a section:   lock; protect(page); unlock      (the store waits)
//! CPU 1:                            lock; unmap_frames(page); unlock; the frame is used again
//! CPU 0, section's end:                                             the store that waits maps the frame
//! ```
//!
//! R43 forbids this, and no type of a plain lock knows of it. So an [`AddressSpace`] does not move
//! to another task ([`Send`]) except through a [`LockedSpace`], whose guard drains before it
//! releases the lock: waiting entries are stored, and waiting invalidations are executed. Barriers
//! stay deferred with their section (R5), because each CPU owes them to itself. It follows that
//! operations which are to share a batch are done under one guard.

use super::address_space::AddressSpace;
use crate::backend;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use lock_api::{Mutex, MutexGuard, RawMutex};

/// An address space behind the lock of its tables.
///
/// `R` is any lock that implements [`RawMutex`]: that of the crate `spin`, of `parking_lot`, or a
/// kernel's own, which may turn preemption off or sleep.
pub struct LockedSpace<'m, K: Kernel, R>(Mutex<R, Held<'m, K>>);

/// A space of which no CPU has anything waiting while it is not locked.
struct Held<'m, K: Kernel>(AddressSpace<'m, K>);

// SAFETY: an address space is not `Send` because of what may wait for it in the batch of its task's
// CPU. `LockedSpace::new` and the drop of each guard leave nothing waiting. What remains is memory
// that a lock hands on, and a reference to `Mmu<K>`.
unsafe impl<K: Kernel> Send for Held<'_, K> where Mmu<K>: Sync {}

impl<'m, K: Kernel, R: RawMutex> LockedSpace<'m, K, R> {
    /// Puts `space` behind a lock that nobody holds. What waits for it is drained.
    pub fn new(space: AddressSpace<'m, K>) -> Self {
        backend::drain_own(space.mmu());
        Self(Mutex::new(Held(space)))
    }

    /// Takes the lock.
    #[inline]
    pub fn lock(&self) -> SpaceGuard<'_, 'm, K, R> {
        SpaceGuard::new(self.0.lock())
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<SpaceGuard<'_, 'm, K, R>> {
        self.0.try_lock().map(SpaceGuard::new)
    }

    /// Takes the lock if nobody holds it, to look only. Nothing is drained afterwards, so a report
    /// of a fault or a panic may call this in the middle of a call of this library.
    pub fn try_look(&self) -> Option<impl Deref<Target = AddressSpace<'m, K>> + '_> {
        self.0.try_lock().map(View)
    }

    /// The space, from the only owner of the lock.
    pub fn into_inner(self) -> AddressSpace<'m, K> {
        self.0.into_inner().0
    }
}

impl<K: Kernel, R> fmt::Debug for LockedSpace<'_, K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedSpace")
    }
}

/// The space, locked. When this is dropped, what waits for the task is drained and then the lock
/// released.
#[must_use = "the lock is released when this is dropped"]
pub struct SpaceGuard<'a, 'm, K: Kernel, R: RawMutex> {
    space: MutexGuard<'a, R, Held<'m, K>>,
    /// The lock was taken in interrupt context, where nothing is deferred (R3).
    in_interrupt: bool,
    /// It is the task's whose batch it drains.
    _task: PhantomData<*const ()>,
}

impl<'a, 'm, K: Kernel, R: RawMutex> SpaceGuard<'a, 'm, K, R> {
    #[inline]
    fn new(space: MutexGuard<'a, R, Held<'m, K>>) -> Self {
        Self {
            in_interrupt: space.0.mmu().kernel().in_interrupt(),
            space,
            _task: PhantomData,
        }
    }
}

impl<'m, K: Kernel, R: RawMutex> Deref for SpaceGuard<'_, 'm, K, R> {
    type Target = AddressSpace<'m, K>;

    #[inline(always)]
    fn deref(&self) -> &AddressSpace<'m, K> {
        &self.space.0
    }
}

impl<K: Kernel, R: RawMutex> DerefMut for SpaceGuard<'_, '_, K, R> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.space.0
    }
}

impl<K: Kernel, R: RawMutex> Drop for SpaceGuard<'_, '_, K, R> {
    /// Witnesses: `tests/locked.rs`, the self-tests `backends.r43_*`. The field, and with it the
    /// lock, is dropped afterwards.
    #[inline]
    fn drop(&mut self) {
        // In an interrupt handler, what waits is the interrupted task's and not for this space. The
        // task that turned bottom halves off under the lock must drain all the same.
        if !self.in_interrupt {
            backend::drain_own(self.mmu());
        }
    }
}

impl<K: Kernel, R: RawMutex> fmt::Debug for SpaceGuard<'_, '_, K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// What [`LockedSpace::try_look`] returns.
struct View<'a, 'm, K: Kernel, R: RawMutex>(MutexGuard<'a, R, Held<'m, K>>);

impl<'m, K: Kernel, R: RawMutex> Deref for View<'_, 'm, K, R> {
    type Target = AddressSpace<'m, K>;

    fn deref(&self) -> &AddressSpace<'m, K> {
        &self.0.0
    }
}
