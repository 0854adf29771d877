// SPDX-License-Identifier: MIT OR Apache-2.0
//! What hardware writes into entries by itself: access and dirty bits (R24).
//!
//! The library keeps TCR_EL1.{HA,HD} clear, but its queues must not be what forbids setting them.

use super::{Watched, cell};
use lazymmu::{Frame, Pte, TableFrames};
use std::cell::Cell;
use std::sync::atomic::Ordering;

/// A change that hardware makes at the moment at which the kernel next writes the entry.
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

    /// What the entry holds in memory.
    pub fn memory(&self, table: Frame, index: usize) -> u64 {
        cell(self.entry(table, index)).load(Ordering::Relaxed)
    }

    /// Hardware sets and clears bits of the entry, now. No store of the kernel's, so nothing is recorded.
    pub fn walker_writes(&self, table: Frame, index: usize, set: u64, clear: u64) {
        let cell = cell(self.entry(table, index));
        cell.store(
            cell.load(Ordering::Relaxed) & !clear | set,
            Ordering::Relaxed,
        );
    }

    /// The same, right before the kernel's next write to the entry.
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
