// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue of [`crate::Backend::DeferStores`]: values that wait to be stored to the entries of
//! two tables.
//!
//! A slot belongs to one table of one address space. For each of the 512 entries it can hold the
//! value that waits, what the entry held when its first value began to wait, and whether the entry
//! still has to be invalidated.

use super::bitmap::Bitmap;
use crate::addr::{ENTRIES, Frame, PageRange, VirtAddr};
use crate::desc::Desc;
use crate::tlbi::Scope;
use core::cell::Cell;
use core::fmt;

/// Capacity of the queue, in tables. Two are enough for source and destination of a move, as in
/// Linux's `move_ptes()`.
pub const DEFERRED_TABLES: usize = 2;

/// The values and invalidations that wait for one table.
pub(crate) struct Slot {
    /// The table; `None` if the slot is free.
    pub(crate) table: Cell<Option<Frame>>,
    /// First address that the table translates.
    pub(crate) start: Cell<VirtAddr>,
    pub(crate) scope: Cell<Scope>,
    /// Entries whose value waits.
    pub(crate) waiting: Bitmap,
    pub(crate) values: [Cell<Desc>; ENTRIES],
    /// What the entry held when its first value began to wait.
    pub(crate) seen: [Cell<Desc>; ENTRIES],
    /// Entries that were live, were emptied or replaced, and are not invalidated yet.
    pub(crate) stale: Bitmap,
}

/// The slots of a CPU.
pub(crate) struct Slots {
    slots: [Slot; DEFERRED_TABLES],
    /// The index of the slot that makes room next if all are taken.
    turn: Cell<usize>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            table: Cell::new(None),
            start: Cell::new(VirtAddr::ZERO),
            scope: Cell::new(Scope::AllAsids),
            waiting: Bitmap::new(),
            values: [const { Cell::new(Desc::INVALID) }; ENTRIES],
            seen: [const { Cell::new(Desc::INVALID) }; ENTRIES],
            stale: Bitmap::new(),
        }
    }

    /// The value that waits for entry `i`, if there is one.
    #[inline]
    pub(crate) fn waiting(&self, i: usize) -> Option<Desc> {
        self.waiting.has(i).then(|| self.values[i].get())
    }

    /// Lets `new` wait for entry `i`; `now` is what the entry holds in memory.
    pub(crate) fn put(&self, i: usize, now: Desc, new: Desc) {
        if !self.waiting.has(i) {
            self.waiting.set(i);
            self.seen[i].set(now);
        }
        self.values[i].set(new);
    }

    /// Notes that the pages of `range` were invalidated, or will be by the caller.
    pub(crate) fn invalidated(&self, range: PageRange) {
        for i in self.stale.iter() {
            if range.covers(self.pages(i, 1)) {
                self.stale.clear(i);
            }
        }
    }

    /// `pages` pages of the table from entry `first` on.
    pub(crate) fn pages(&self, first: usize, pages: usize) -> PageRange {
        PageRange::of_table(self.start.get()).part(first, pages)
    }
}

impl Slots {
    pub(crate) const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; DEFERRED_TABLES],
            turn: Cell::new(0),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.table.get().is_none())
    }

    /// All slots, in use or not.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// The slot of `table`, which translates addresses from `start` on in `scope`. The frame alone
    /// does not identify the slot, because it may have become another table since the slot was
    /// taken.
    pub(crate) fn of(&self, table: Frame, start: VirtAddr, scope: Scope) -> Option<&Slot> {
        self.iter().find(|slot| {
            slot.table.get() == Some(table)
                && slot.start.get() == start
                && slot.scope.get() == scope
        })
    }

    /// All slots, in ascending order of address.
    pub(crate) fn by_address(&self) -> [&Slot; DEFERRED_TABLES] {
        let [a, b] = &self.slots;
        if a.start.get() <= b.start.get() {
            [a, b]
        } else {
            [b, a]
        }
    }

    /// A slot that is free.
    pub(crate) fn free(&self) -> Option<&Slot> {
        self.iter().find(|slot| slot.table.get().is_none())
    }

    /// The slot that makes room for another table: the next one in turn for which `may` is true.
    pub(crate) fn next_in_turn(&self, may: impl Fn(&Slot) -> bool) -> Option<&Slot> {
        let turn = self.turn.get();
        let mut all = (turn..turn + DEFERRED_TABLES).map(|i| i % DEFERRED_TABLES);
        let i = all.find(|i| may(&self.slots[*i]))?;
        self.turn.set((i + 1) % DEFERRED_TABLES);
        Some(&self.slots[i])
    }

    /// Whether a store or an invalidation waits for `pages` of `scope`, and of `table` if it is
    /// given.
    pub(crate) fn concern(&self, table: Option<Frame>, scope: Scope, pages: PageRange) -> bool {
        self.iter().any(|slot| {
            let is_it = slot
                .table
                .get()
                .is_some_and(|of| table.is_none_or(|t| t == of));
            let mut runs = slot.waiting.runs().chain(slot.stale.runs());
            is_it
                && slot.scope.get() == scope
                && runs.any(|(first, n)| slot.pages(first, n).meets(pages))
        })
    }

    /// The value that waits for entry `index` of `table`.
    pub(crate) fn waiting(&self, table: Frame, index: usize) -> Option<Desc> {
        self.iter()
            .filter(|slot| slot.table.get() == Some(table))
            .find_map(|slot| slot.waiting(index))
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.slots.iter().filter(|slot| slot.table.get().is_some());
        f.debug_list()
            .entries(used.map(|slot| (slot.start.get(), slot.waiting.len(), slot.stale.len())))
            .finish()
    }
}
