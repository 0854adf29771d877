// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen PV's lazy MMU mode: stores and invalidations in one queue, executed in order.
//!
//! A Xen guest may not write its page tables; it asks the hypervisor, for entry writes and for
//! TLB maintenance alike, and lazy MMU mode collects such calls (32, `MC_BATCH`) for one
//! transition. Since all goes through one queue, the order between a write and a flush is the
//! order in which they were asked for, without any rule about it (R26).
//!
//! [`Hypervisor`] executes the calls. Without one the library does it itself, on this very CPU, which
//! shows the strategy and its semantics on a machine where nobody else could.
//!
//! Drained when the section is left, paused or flushed; when the queue is full; when frames are to
//! be given back; and when the CPU changes hands, which is why a task may be preempted in a
//! section. As in Xen, `ptep_get_and_clear` does not wait: the value that it returns must
//! hold the final access and dirty bits. So entries are emptied at once, behind whatever waits,
//! and only their invalidation is queued. Outside of an active section nothing waits.

use super::defer_barriers::DeferBarriers;
use super::{Duty, Fill, Run, Strategy, Was, preserve};
use crate::addr::{Frame, Level, PageRange, PhysAddr};
use crate::desc::Desc;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::policy::{self, Owed};
use crate::table::Pte;
use crate::tlbi::{Reach, Scope};
use core::cell::Cell;
use core::fmt;

/// Calls that wait at most.
pub const MULTICALLS: usize = 32;

/// What a [`Hypervisor`] is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Writes a leaf entry. Xen: `mmu_update`, with `MMU_PT_UPDATE_PRESERVE_AD`.
    Store {
        /// Physical address of the entry.
        entry: PhysAddr,
        /// What the entry held when its new value was computed. Access and dirty bits that the walker
        /// set since then are kept (R24).
        seen: Desc,
        /// The new value, valid.
        new: Desc,
    },
    /// Invalidates the last-level TLB entries of a range, on every CPU. Xen: `mmuext_op` with
    /// `MMUEXT_TLB_FLUSH_MULTI` or `MMUEXT_INVLPG_MULTI`.
    Invalidate {
        /// The pages.
        range: PageRange,
        /// Whose translations.
        scope: Scope,
    },
}

/// Who executes the calls of [`crate::Backend::Multicall`].
pub trait Hypervisor {
    /// Executes `calls` in order. When it returns, walkers of every CPU see the stores, each
    /// invalidation is complete, and this CPU's context is synchronized (the return from a hypercall
    /// is an exception return, so it is).
    fn multicall(&self, calls: &[Call]);
}

/// Calls that wait, in order.
pub(super) struct Fifo {
    len: Cell<usize>,
    calls: [Cell<Call>; MULTICALLS],
}

/// What a place of the queue holds before it is used: all zeroes.
const NO_CALL: Call = Call::Store {
    entry: Frame::ZERO.base(),
    seen: Desc::INVALID,
    new: Desc::INVALID,
};

impl Fifo {
    pub(super) const fn new() -> Self {
        Self {
            len: Cell::new(0),
            calls: [const { Cell::new(NO_CALL) }; MULTICALLS],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    fn calls(&self) -> impl DoubleEndedIterator<Item = Call> {
        self.calls[..self.len.get()].iter().map(Cell::get)
    }

    /// The value that waits for entry `index` of `table`: the last one counts (R20).
    pub(super) fn waiting(&self, table: Frame, index: usize) -> Option<Desc> {
        let at = entry_address(table, index);
        self.calls().rev().find_map(|call| match call {
            Call::Store { entry, new, .. } if entry == at => Some(new),
            _ => None,
        })
    }
}

impl fmt::Debug for Fifo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.calls()).finish()
    }
}

const fn entry_address(table: Frame, index: usize) -> PhysAddr {
    table.base().entry(index)
}

#[derive(Debug)]
pub(super) struct Multicall;

impl Fifo {
    /// Executes what waits.
    pub(super) fn drain<K: Kernel>(&self, mmu: &Mmu<K>) {
        let len = self.len.get();
        if len == 0 {
            return;
        }
        let kernel = mmu.kernel();
        kernel.counters().drains(1);
        let mut calls = [NO_CALL; MULTICALLS];
        for (call, queued) in calls.iter_mut().zip(&self.calls) {
            *call = queued.get();
        }
        self.len.set(0);
        let calls = &calls[..len];
        match kernel.hypervisor() {
            Some(hypervisor) => {
                kernel.counters().late_stores(stores(calls));
                hypervisor.multicall(calls);
            }
            None => execute(mmu, calls),
        }
    }

    fn push<K: Kernel>(&self, mmu: &Mmu<K>, call: Call) {
        if self.len.get() == MULTICALLS {
            self.drain(mmu);
        }
        let len = self.len.get();
        // The same operation twice in a row is one call with more arguments.
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
}

impl Multicall {
    /// R27: the invalidation of what was live in `range`, in its turn or now.
    pub(super) fn invalidate<K: Kernel>(mmu: &Mmu<K>, scope: Scope, range: PageRange) {
        super::invalidate_later_or_now(mmu, scope, range, |batch| {
            batch.fifo.push(mmu, Call::Invalidate { range, scope });
        });
    }

    /// Entries are emptied behind everything that waits for them.
    pub(super) fn before_emptying<K: Kernel>(mmu: &Mmu<K>) {
        mmu.with_batch(|batch| {
            let is_store = |call| matches!(call, Call::Store { .. });
            if batch.fifo.calls().any(is_store) {
                batch.fifo.drain(mmu);
            }
        });
    }
}

fn stores(calls: &[Call]) -> usize {
    let is_store = |call: &&Call| matches!(call, Call::Store { .. });
    calls.iter().filter(is_store).count()
}

/// The library as its own hypervisor. What the stores owe is owed by the section as usual, and is
/// not executed at every drain.
///
/// Invalidations share their barriers as far as they can: one may wait for later changes of other entries, but
/// not for a make, which may be the second half of a break-before-make (R29), nor for
/// another address space's.
fn execute<K: Kernel>(mmu: &Mmu<K>, calls: &[Call]) {
    let mut done = 0;
    let mut waiting = None;
    for (i, call) in calls.iter().enumerate() {
        let goes_on = match *call {
            Call::Store { seen, .. } => seen.is_valid() || waiting.is_none(),
            Call::Invalidate { scope, .. } => waiting.is_none_or(|other| other == scope),
        };
        if !goes_on {
            invalidate_all(mmu, &calls[done..i], waiting);
            (done, waiting) = (i, None);
        }
        match *call {
            Call::Store { entry, seen, new } => execute_store(mmu, entry, seen, new),
            Call::Invalidate { scope, .. } => waiting = Some(scope),
        }
    }
    invalidate_all(mmu, &calls[done..], waiting);
}

/// The invalidations among `calls`, all of one scope.
fn invalidate_all<K: Kernel>(mmu: &Mmu<K>, calls: &[Call], scope: Option<Scope>) {
    if let Some(scope) = scope {
        let ranges = calls.iter().filter_map(|call| match call {
            Call::Invalidate { range, .. } => Some(*range),
            Call::Store { .. } => None,
        });
        mmu.invalidate(joined(ranges), scope, Reach::Leaf);
    }
}

/// The same pages, neighbors as one range.
fn joined(
    ranges: impl Iterator<Item = PageRange> + Clone,
) -> impl Iterator<Item = PageRange> + Clone {
    let mut ranges = ranges.peekable();
    core::iter::from_fn(move || {
        let mut range = ranges.next()?;
        while let Some(both) = ranges.peek().and_then(|next| range.joined(*next)) {
            range = both;
            ranges.next();
        }
        Some(range)
    })
}

fn execute_store<K: Kernel>(mmu: &Mmu<K>, entry: PhysAddr, seen: Desc, new: Desc) {
    let kernel = mmu.kernel();
    let table = kernel.table_ptr(entry.frame());
    // SAFETY: the frame is that of a table in which an entry was written in this section. It is
    // alive: an entry whose value waits counts as in use, and only tables without any are freed; and
    // `destroy` drains first, and asks that nobody else has such a section.
    let table = unsafe { table.as_ref() };
    let pte: &Pte = &table.entries()[entry.index_in_table()];
    kernel.counters().late_stores(1);
    if seen.is_valid() {
        preserve::replace(kernel, pte, seen, new);
    } else {
        kernel.store(pte, new);
    }
    let owed = policy::owed_by(mmu.policy(), Level::L3, new);
    kernel.lazy().owe(owed);
}

impl Strategy for Multicall {
    fn write_run<K: Kernel>(
        mmu: &Mmu<K>,
        run: Run<'_>,
        fill: Fill<'_>,
        was: Was,
        owed: Owed,
    ) -> Duty {
        let is_active = mmu.lazy().is_lazy_mmu_mode_active();
        let makes = fill.sample().is_valid();
        if is_active && makes {
            mmu.kernel().counters().deferred(run.ptes.len());
            mmu.wait_in_batch(|batch| {
                for (i, pte) in run.ptes.iter().enumerate() {
                    let index = run.first() + i;
                    let waiting = batch.fifo.waiting(run.table, index);
                    let seen = waiting.unwrap_or_else(|| mmu.kernel().load(pte));
                    let call = Call::Store {
                        entry: entry_address(run.table, index),
                        seen,
                        new: fill.value(i, seen),
                    };
                    batch.fifo.push(mmu, call);
                }
            });
        } else {
            if is_active {
                Self::before_emptying(mmu);
            }
            DeferBarriers::write_run(mmu, run, fill, was, owed);
        }
        if was == Was::Live {
            Self::invalidate(mmu, run.scope, run.pages);
        }
        Duty::Backend
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desc::Prot;

    #[test]
    fn r20_the_last_value_that_waits_is_the_entry_s() {
        let fifo = Fifo::new();
        let table = Frame::from_u64(0x7000).unwrap();
        let entry = entry_address(table, 5);
        assert_eq!((entry.as_u64(), entry.index_in_table()), (0x7028, 5));
        let page = |pa| Desc::page(Frame::from_u64(pa).unwrap(), Prot::KERNEL);
        for (i, pa) in [0x1000, 0x2000].into_iter().enumerate() {
            fifo.calls[i].set(Call::Store {
                entry,
                seen: Desc::INVALID,
                new: page(pa),
            });
        }
        fifo.len.set(2);
        assert_eq!(fifo.waiting(table, 5), Some(page(0x2000)));
        assert_eq!(fifo.waiting(table, 4), None);
    }
}
