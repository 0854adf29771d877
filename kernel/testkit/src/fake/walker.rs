// SPDX-License-Identifier: MIT OR Apache-2.0
//! A table walker that sets access and dirty bits in entries (R24).
//!
//! The library requires TCR_EL1.{HA,HD} to be 0 today, but its queues must not rely on that.

use super::{Watched, cell};
use lazymmu::{Frame, Pte, TableFrames};
use std::cell::Cell;
use std::sync::atomic::Ordering;

/// A change that hardware makes right before the kernel's next write to the entry.
#[derive(Clone, Copy, Debug)]
struct Race {
    entry: usize,
    set: u64,
    clear: u64,
}

/// The walker of one CPU.
#[derive(Debug, Default)]
pub(super) struct Walker(Cell<Option<Race>>);

impl<F: TableFrames> Watched<F> {
    fn entry(&self, table: Frame, index: usize) -> &Pte {
        &self.table(table.as_u64()).entries()[index]
    }

    /// The value of the entry in memory.
    pub fn memory(&self, table: Frame, index: usize) -> u64 {
        cell(self.entry(table, index)).load(Ordering::Relaxed)
    }

    /// Sets and clears bits of the entry now, as hardware does. Nothing is recorded, because it is
    /// not a store of the kernel.
    pub fn walker_writes(&self, table: Frame, index: usize, set: u64, clear: u64) {
        let cell = cell(self.entry(table, index));
        cell.store(
            cell.load(Ordering::Relaxed) & !clear | set,
            Ordering::Relaxed,
        );
    }

    /// [`Watched::walker_writes`], right before the kernel's next write to the entry.
    pub fn walker_races(&self, table: Frame, index: usize, set: u64, clear: u64) {
        let entry = self.entry(table, index).as_ptr() as usize;
        self.walker.0.set(Some(Race { entry, set, clear }));
    }

    pub(super) fn let_walker_race(&self, pte: &Pte) {
        if let Some(race) = self.walker.0.get()
            && race.entry == pte.as_ptr() as usize
        {
            self.walker.0.set(None);
            let cell = cell(pte);
            cell.store(
                cell.load(Ordering::Relaxed) & !race.clear | race.set,
                Ordering::Relaxed,
            );
        }
    }
}
