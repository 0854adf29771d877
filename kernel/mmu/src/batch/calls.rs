// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue of [`crate::Backend::Multicall`]: stores and invalidations in the order of their
//! requests.

use crate::addr::{Frame, PageRange, PhysAddr};
use crate::desc::Desc;
use crate::tlbi::Scope;
use core::cell::Cell;
use core::fmt;

/// Capacity of the queue, in calls.
pub const MULTICALLS: usize = 32;

/// A call to a [`Hypervisor`](crate::Hypervisor).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Writes a leaf entry. Xen: `mmu_update`, with `MMU_PT_UPDATE_PRESERVE_AD`.
    Store {
        /// Physical address of the entry.
        entry: PhysAddr,
        /// What the entry held when its new value was computed. Access and dirty bits that the
        /// walker set since then are kept (R24).
        seen: Desc,
        /// The new value, valid.
        new: Desc,
    },
    /// Invalidates the last-level TLB entries of a range, on every CPU. Xen: `mmuext_op` with
    /// `MMUEXT_TLB_FLUSH_MULTI` or `MMUEXT_INVLPG_MULTI`.
    Invalidate {
        /// The pages.
        range: PageRange,
        /// The address space whose translations these are.
        scope: Scope,
    },
}

/// The queue: calls that wait, in the order in which they were made.
pub(crate) struct Calls {
    len: Cell<usize>,
    calls: [Cell<Call>; MULTICALLS],
}

/// The value of an unused element of the queue: all bytes are zero.
pub(crate) const NO_CALL: Call = Call::Store {
    entry: Frame::ZERO.base(),
    seen: Desc::INVALID,
    new: Desc::INVALID,
};

impl Calls {
    pub(crate) const fn new() -> Self {
        Self {
            len: Cell::new(0),
            calls: [const { Cell::new(NO_CALL) }; MULTICALLS],
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len.get() == MULTICALLS
    }

    /// The calls that wait, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Call> {
        self.calls[..self.len.get()].iter().map(Cell::get)
    }

    /// Moves all calls to the beginning of `calls`. Returns how many there are.
    #[inline(always)]
    pub(crate) fn take(&self, calls: &mut [Call; MULTICALLS]) -> usize {
        for (call, queued) in calls.iter_mut().zip(&self.calls) {
            *call = queued.get();
        }
        self.len.replace(0)
    }

    /// Appends `call`, or joins it with the last call if both invalidate ranges of one scope that
    /// touch. (Xen likewise extends the last call if the next one is the same operation.)
    ///
    /// # Panics
    /// If the queue is full.
    #[inline(always)]
    pub(crate) fn push(&self, call: Call) {
        let len = self.len.get();
        if let Some(last) = len.checked_sub(1)
            && let (
                Call::Invalidate { range, scope },
                Call::Invalidate {
                    range: with,
                    scope: of,
                },
            ) = (self.calls[last].get(), call)
            && scope == of
            && let Some(range) = range.joined(with)
        {
            self.calls[last].set(Call::Invalidate { range, scope });
            return;
        }
        self.calls[len].set(call);
        self.len.set(len + 1);
    }

    /// The value that waits for entry `index` of `table`: the one of the last call (R20).
    pub(crate) fn waiting(&self, table: Frame, index: usize) -> Option<Desc> {
        let at = entry_address(table, index);
        self.iter().rev().find_map(|call| match call {
            Call::Store { entry, new, .. } if entry == at => Some(new),
            _ => None,
        })
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The physical address of entry `index` of `table`.
pub(crate) const fn entry_address(table: Frame, index: usize) -> PhysAddr {
    table.base().entry(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desc::Prot;

    #[test]
    fn r20_the_last_value_that_waits_is_the_entry_s() {
        let calls = Calls::new();
        let table = Frame::from_u64(0x7000).unwrap();
        let entry = entry_address(table, 5);
        assert_eq!((entry.as_u64(), entry.index_in_table()), (0x7028, 5));
        let page = |pa| Desc::page(Frame::from_u64(pa).unwrap(), Prot::KERNEL);
        for (i, pa) in [0x1000, 0x2000].into_iter().enumerate() {
            calls.calls[i].set(Call::Store {
                entry,
                seen: Desc::INVALID,
                new: page(pa),
            });
        }
        calls.len.set(2);
        assert_eq!(calls.waiting(table, 5), Some(page(0x2000)));
        assert_eq!(calls.waiting(table, 4), None);
    }
}
