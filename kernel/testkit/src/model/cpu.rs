// SPDX-License-Identifier: MIT OR Apache-2.0
//! One CPU: what its barriers have ordered, completed and synchronized.
//!
//! A CPU has five views. Each holds the stores and TLBIs after which some kind of later access is
//! ordered:
//!
//! * `seen`: what loads of this CPU have observed. It grows by reading a flag, and orders faults
//!   with ETS2 (R_NNFPF).
//! * `acquired`: what was observed before later explicit accesses. It grows by an acquire, `DMB
//!   LD`, `DMB ISH` and DSB, and orders later stores; see also row X5.
//! * `locked`: what the loop that took a lock has observed. It grows by taking a lock, and orders
//!   any later DSB and any later CSE (see below).
//! * `done`: what is complete. It grows by a DSB according to its type, and orders later TLBIs
//!   (rows U2, U3).
//! * `synced`: what was `done` at the last context synchronization event (CSE). It grows by an ISB,
//!   an exception entry and an ERET, and orders every later walk and fetch.
//!
//! A DSB of type stores or full adds the CPU's own stores to `done` (R_SPVBD, rows M5 and M6), and
//! only a full one adds its own TLBIs (R_YNJCP, row U4). A walk may have been made at any time
//! since the last CSE, so `done` alone forbids nothing (row M3).
//!
//! Taking a lock is more than an acquire. Its atomic operation also *writes*, after the releasing
//! store in coherence order, so a DSB of stores that completes this write also completes what came
//! before the release. And the loop around the atomic is a control dependency, so a CSE after it
//! comes after what the loop has observed (`MP.RTf.inv+dmb+ctrl-isb`).

use super::view::View;

/// The type of a DMB or DSB of the inner shareable domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Barrier {
    /// `ISHST`: stores only.
    St,
    /// `ISHLD`: loads, before everything later.
    Ld,
    /// `ISH`: everything.
    Full,
}

impl Barrier {
    const fn stores(self) -> bool {
        matches!(self, Self::St | Self::Full)
    }

    const fn loads(self) -> bool {
        matches!(self, Self::Ld | Self::Full)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    id: usize,
    /// The number of stores so far.
    stores: u32,
    /// The number of TLBIs so far.
    tlbis: u32,
    /// Own stores that are ordered before later own stores.
    ordered: u32,
    pub seen: View,
    pub acquired: View,
    locked: View,
    pub done: View,
    pub synced: View,
    /// TLBIs that were complete when the last broadcast one was issued.
    before_last: u32,
    /// TLBIs that are complete and were followed by another one that is complete as well (R34).
    repeated: u32,
}

impl Cpu {
    pub const fn new(id: usize) -> Self {
        Self {
            id,
            stores: 0,
            tlbis: 0,
            ordered: 0,
            seen: View::EMPTY,
            acquired: View::EMPTY,
            locked: View::EMPTY,
            done: View::EMPTY,
            synced: View::EMPTY,
            before_last: 0,
            repeated: 0,
        }
    }

    /// Counts a store and returns its number.
    pub const fn store(&mut self) -> u32 {
        self.stores += 1;
        self.stores
    }

    /// Counts a TLBI and returns its number.
    pub const fn tlbi(&mut self, broadcast: bool) -> u32 {
        if broadcast {
            self.before_last = self.done.tlbis[self.id];
        }
        self.tlbis += 1;
        self.tlbis
    }

    pub fn dmb(&mut self, kind: Barrier) {
        if kind.stores() {
            self.ordered = self.stores;
        }
        if kind.loads() {
            self.acquired = self.seen;
        }
    }

    pub fn dsb(&mut self, kind: Barrier) {
        self.dmb(kind);
        if kind.stores() {
            self.done.stores[self.id] = self.stores;
            self.done.join(&self.locked);
        }
        if kind.loads() {
            self.done.join(&self.seen);
        }
        if kind == Barrier::Full {
            self.done.tlbis[self.id] = self.tlbis;
            self.repeated = self.before_last;
        }
    }

    /// A context synchronization event: ISB, exception entry or exception return.
    pub fn cse(&mut self) {
        self.synced = self.done.joined(&self.locked);
    }

    /// What a CPU learns that reads a plain store of this one: this CPU's stores before its last
    /// DMB or DSB of stores, what it had observed before its last one of loads, and its completed
    /// TLBIs.
    pub fn published(&self) -> View {
        let mut view = self.acquired;
        view.stores[self.id] = view.stores[self.id].max(self.ordered);
        view.tlbis[self.id] = self.done.tlbis[self.id];
        view
    }

    /// What a CPU learns that reads a store-release of this one: everything before it in program
    /// order, and its completed TLBIs.
    pub fn released(&self) -> View {
        let mut view = self.everything();
        view.tlbis[self.id] = self.done.tlbis[self.id];
        view
    }

    /// All stores of this CPU, and all that it has observed. Only program order is needed for that
    /// (used for ETS2).
    pub fn everything(&self) -> View {
        let mut view = self.seen;
        view.stores[self.id] = self.stores;
        view
    }

    /// A load of this CPU observes a store that carries `view`.
    pub fn observe(&mut self, view: &View) {
        self.seen.join(view);
    }

    /// A load with acquire semantics observes a store that carries `view`.
    pub fn acquire(&mut self, view: &View) {
        self.seen.join(view);
        self.acquired.join(view);
    }

    /// This CPU takes a lock that was released with `view`.
    pub fn lock(&mut self, view: &View) {
        self.acquire(view);
        self.locked.join(view);
    }

    /// Whether TLBI `number` of CPU `issuer` is ordered before later accesses of this CPU that
    /// would succeed through a cached entry. On the issuer, with ETS2 and for data, the DSB is
    /// enough (R_BLDZX, row U5); otherwise a CSE is needed (rows U8, P4, B3).
    pub const fn follows(&self, issuer: usize, number: u32, ets2_data: bool) -> bool {
        let by_dsb = ets2_data && issuer == self.id;
        let view = if by_dsb { &self.done } else { &self.synced };
        number <= view.tlbis[issuer]
    }

    /// Whether TLBI `number` of this CPU is complete, so that no other CPU uses what it invalidated
    /// (row U7). With `repeat`, another TLBI and DSB must have followed (R34).
    pub const fn completed(&self, number: u32, repeat: bool) -> bool {
        if repeat {
            number <= self.repeated
        } else {
            number <= self.done.tlbis[self.id]
        }
    }

    /// Makes everything that any CPU has done so far, `all`, visible to this CPU.
    pub const fn settle(&mut self, all: View) {
        self.seen = all;
        self.acquired = all;
        self.done = all;
        self.synced = all;
        self.ordered = self.stores;
        self.repeated = self.tlbis;
        self.before_last = self.tlbis;
    }

    pub const fn id(&self) -> usize {
        self.id
    }

    /// The numbers of the last store and the last TLBI.
    pub const fn issued(&self) -> (u32, u32) {
        (self.stores, self.tlbis)
    }
}
