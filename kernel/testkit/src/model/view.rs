// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is ordered before what: vector clocks of stores and of invalidations.
//!
//! Stores of one CPU are numbered, and so are its TLBIs. A [`View`] says, for each CPU, up to
//! which number they are included. A prefix is enough: each barrier orders or completes
//! *everything* of its kind that stands before it in program order.
//!
//! A view never depends on which CPU happened to run first in a test. It grows by barriers, by
//! observing another CPU's flag, and by nothing else, so an outcome is forbidden only if
//! the program itself forbids it.

/// CPUs of a machine, at most.
pub const CPUS: usize = 3;

/// A store: which CPU's, and its number there, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(u32);

impl Stamp {
    /// A store that precedes everything and is seen by everybody.
    pub const GENESIS: Self = Self(0);

    pub const fn new(cpu: usize, number: u32) -> Self {
        Self((cpu as u32) << 28 | number)
    }

    const fn cpu(self) -> usize {
        (self.0 >> 28) as usize
    }

    const fn number(self) -> u32 {
        self.0 & ((1 << 28) - 1)
    }
}

/// A set of stores and of completed TLBIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Per CPU, the number of its last store in the set.
    pub stores: [u32; CPUS],
    /// Per CPU, the number of its last TLBI in the set.
    pub tlbis: [u32; CPUS],
}

impl View {
    pub const EMPTY: Self = Self {
        stores: [0; CPUS],
        tlbis: [0; CPUS],
    };

    /// The set with one store more. Only if the store is the next of its CPU: a prefix cannot
    /// say that a later one was seen and an earlier one was not, and then says less.
    pub const fn including(mut self, store: Stamp) -> Self {
        let last = &mut self.stores[store.cpu()];
        if store.number() == *last + 1 {
            *last += 1;
        }
        self
    }

    pub const fn has(&self, store: Stamp) -> bool {
        store.number() <= self.stores[store.cpu()]
    }

    pub fn join(&mut self, other: &Self) {
        for cpu in 0..CPUS {
            self.stores[cpu] = self.stores[cpu].max(other.stores[cpu]);
            self.tlbis[cpu] = self.tlbis[cpu].max(other.tlbis[cpu]);
        }
    }

    pub fn joined(mut self, other: &Self) -> Self {
        self.join(other);
        self
    }
}
