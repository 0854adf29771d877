// SPDX-License-Identifier: MIT OR Apache-2.0
//! Views: vector clocks of stores and of TLBIs, which express order.
//!
//! The stores of one CPU are numbered, and so are its TLBIs. A [`View`] holds, for each CPU, the
//! number up to which they are included. A prefix is enough, because each barrier orders or
//! completes *everything* of its kind that comes before it in program order.
//!
//! A view does not depend on the order in which a test executes the CPUs. It grows only by barriers
//! and by observing another CPU's flag, so an outcome is forbidden only if the program itself
//! forbids it.

/// The number of CPUs of a machine.
pub const CPUS: usize = 3;

/// A store: its CPU, and its number among the stores of that CPU, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(u32);

impl Stamp {
    /// A store that precedes every other one and is in every view.
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
    /// For each CPU, the number of its last store in the set.
    pub stores: [u32; CPUS],
    /// For each CPU, the number of its last TLBI in the set.
    pub tlbis: [u32; CPUS],
}

impl View {
    pub const EMPTY: Self = Self {
        stores: [0; CPUS],
        tlbis: [0; CPUS],
    };

    /// The set with `store`, if it is the next store of its CPU. Otherwise the same set, because a
    /// prefix cannot express that a later store was observed and an earlier one was not.
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
