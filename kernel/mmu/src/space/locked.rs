// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`LockedSpace`]: an address space that several tasks share, behind the lock of its tables.
//!
//! # Why the lock is a part of the library
//!
//! What a section defers belongs to the task that opened it and waits on that task's CPU. The next
//! holder of the lock may run on another CPU and sees only what memory holds. If a holder released
//! the lock while a store waits, this could happen:
//!
//! ```text
//! CPU 0, in a section:   lock; protect(page); unlock      (the store waits)
//! CPU 1:                            lock; unmap_frames(page); unlock; the frame is used again
//! CPU 0, section's end:  the store that waits maps the frame again
//! ```
//!
//! R43 forbids this, and the type of a plain lock does not enforce it. So an [`AddressSpace`] is
//! not [`Send`]; it reaches another task only through a [`LockedSpace`], whose guard drains before
//! it releases the lock: waiting entries are stored, and waiting invalidations are executed.
//! Barriers stay deferred until the section's end (R5), because the barriers of one CPU do nothing
//! for another (R37). Operations share a batch only if they are done under one guard.

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
/// `R` is any lock that implements [`RawMutex`]: the lock of the crate `spin` or `parking_lot`, or
/// one of the kernel, which may turn preemption off or sleep.
pub struct LockedSpace<'m, K: Kernel, R>(Mutex<R, Held<'m, K>>);

/// A space for which nothing waits on any CPU while the lock is free.
struct Held<'m, K: Kernel>(AddressSpace<'m, K>);

// SAFETY: an address space is not `Send` because stores and invalidations may wait for it in the
// batch of its task's CPU. `LockedSpace::new` and the drop of each guard leave nothing waiting. The
// rest of it is memory, which only the holder of the lock accesses, and a reference to `Mmu<K>`.
unsafe impl<K: Kernel> Send for Held<'_, K> where Mmu<K>: Sync {}

impl<'m, K: Kernel, R: RawMutex> LockedSpace<'m, K, R> {
    /// Puts `space` behind a free lock. What waits for the space is drained first.
    pub fn new(space: AddressSpace<'m, K>) -> Self {
        backend::drain_own(space.mmu());
        Self(Mutex::new(Held(space)))
    }

    /// Takes the lock.
    #[inline]
    pub fn lock(&self) -> SpaceGuard<'_, 'm, K, R> {
        SpaceGuard::new(self.0.lock())
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<SpaceGuard<'_, 'm, K, R>> {
        self.0.try_lock().map(SpaceGuard::new)
    }

    /// Takes the lock if it is free, for reading only. Releasing it drains nothing, so a fault or
    /// panic report may use it even if it interrupts a call of this library.
    pub fn try_look(&self) -> Option<impl Deref<Target = AddressSpace<'m, K>> + '_> {
        self.0.try_lock().map(View)
    }

    /// Gives the space back. The caller owns the lock, so no guard exists.
    pub fn into_inner(self) -> AddressSpace<'m, K> {
        self.0.into_inner().0
    }
}

impl<K: Kernel, R> fmt::Debug for LockedSpace<'_, K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedSpace")
    }
}

/// The space, locked. Dropping the guard drains what the task has let wait, and then releases the
/// lock.
#[must_use = "the lock is released when this is dropped"]
pub struct SpaceGuard<'a, 'm, K: Kernel, R: RawMutex> {
    space: MutexGuard<'a, R, Held<'m, K>>,
    /// Whether the lock was taken in interrupt context, where nothing is deferred (R3).
    in_interrupt: bool,
    /// Not `Send`: the guard drains the batch of the task that took the lock.
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
    /// Drains. The field `space`, and with it the lock, is dropped afterwards. Tests that notice a
    /// missing drain: `tests/library/locked.rs`, the self-tests `backends.r43_*`.
    #[inline]
    fn drop(&mut self) {
        // If an interrupt handler took the lock, what waits belongs to the interrupted task and is
        // not for this space. A task that took the lock and then turned bottom halves off is in
        // interrupt context now, but must drain.
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

/// The result of [`LockedSpace::try_look`].
struct View<'a, 'm, K: Kernel, R: RawMutex>(MutexGuard<'a, R, Held<'m, K>>);

impl<'m, K: Kernel, R: RawMutex> Deref for View<'_, 'm, K, R> {
    type Target = AddressSpace<'m, K>;

    fn deref(&self) -> &AddressSpace<'m, K> {
        &self.0.0
    }
}
