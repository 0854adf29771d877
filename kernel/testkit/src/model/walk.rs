// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses: the set of outcomes that the history allows.
//!
//! A walk reads one version of one entry per level. It may read, or find in a TLB:
//!
//! * A version that a **TLB may hold** (a link, or a leaf with the access flag). It may be used
//!   from its store on, accessed or not (row V1), until a TLBI that names it, was issued when a
//!   newer version was complete (R27, rows U1-U3), and is itself complete for the accessing CPU
//!   ([`Cpu::follows`], rows U4-U6, U8). Whether the entry can be cached again after the TLBI,
//!   through a link that was still cached, is computed level by level ([`Machine::death`]).
//! * A version that **faults**. It may be read until the CPU must see a newer version. That is so
//!   if the newer one was completed by a DSB before the CPU's last CSE (rows M3-M8, X3); or if the
//!   walk followed a link that was stored after it (T2); or if an address dependency carries it
//!   (X3); or, with ETS2, if it comes before the access in program order or in what the CPU has
//!   observed (R_NNFPF, rows M1-M3, X1, X2); or if another CPU has issued a TLBI that names the
//!   address when the newer version was complete, and that TLBI is complete before the access
//!   (X5). Row X5 also forbids a fault through a link that such a TLBI removed. Whether it also
//!   forbids a stale *success* is row U9, on which the models disagree: this machine allows the
//!   success.
//! * A member of a **contiguous group**. It translates all 16 pages, and each page may be cached
//!   separately: a TLBI removes only the page that it names.
//!
//! A block may be looked up by every address that it translates, so a TLBI for any of them
//! invalidates it.
//!
//! [`Cpu::follows`]: super::cpu::Cpu::follows

use super::machine::{Machine, RootId, Token};
use super::memory::{Location, SHIFT, TableId, Version, VersionId, is_cacheable, is_link};
use super::outcome::{Kind, Outcome, Outcomes};
use super::tlbi::{Entry, Tlbi};
use super::view::View;
use lazymmu::{PAGE_SHIFT, bits};

/// In place of the index of a TLBI: no TLBI has ended the use.
pub const NEVER: u32 = u32::MAX;

/// The reason for asking whether an entry may still be used.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// An access of a CPU.
    Access {
        kind: Kind,
        /// The flag that the address was computed from.
        address_from: Option<&'a Token>,
    },
    /// An access of a CPU that ends in a fault.
    Fault { kind: Kind },
    /// The reuse of the memory to which it translates. Translations are in use until their TLBI is
    /// complete on the CPU that issued it (rows U5, U7; R25, R32, R34).
    Reuse,
}

/// How long the links to a table may be used, as the index of the TLBI that ended it: for an access
/// that succeeds, and for one that faults.
#[derive(Clone, Copy, Debug)]
struct Way {
    to_page: u32,
    to_fault: u32,
}

impl Way {
    const fn until(end: u32) -> Self {
        Self {
            to_page: end,
            to_fault: end,
        }
    }
}

/// The arguments of a walk, and its result.
struct Walk<'a> {
    cpu: usize,
    page: u64,
    asid: Option<u16>,
    question: Question<'a>,
    /// Stores that a fault must see, in addition to those that the links on the way carry.
    faults_see: View,
    out: Outcomes,
}

impl Machine {
    /// The possible outcomes of an access by `cpu` to `va` through the tree `root`. `address_from`
    /// is the flag from which the address was computed, if there is one.
    pub fn access(
        &self,
        cpu: usize,
        root: RootId,
        va: u64,
        kind: Kind,
        address_from: Option<&Token>,
    ) -> Outcomes {
        let question = Question::Access { kind, address_from };
        self.outcomes(cpu, root, va, question)
    }

    /// A CPU that may still access the page `frame` through `va`, if there is one.
    pub fn user_of_frame(&self, root: RootId, va: u64, frame: u64) -> Option<usize> {
        (0..self.cpus.len()).find(|cpu| {
            let out = self.outcomes(*cpu, root, va, Question::Reuse);
            out.as_slice()
                .iter()
                .any(|o| matches!(o, Outcome::Page { page, .. } if *page == frame))
        })
    }

    fn outcomes(&self, cpu: usize, root: RootId, va: u64, question: Question<'_>) -> Outcomes {
        let asid = self.roots[root.0 as usize].asid;
        let mut walk = Walk {
            cpu,
            page: va >> PAGE_SHIFT,
            asid,
            question,
            faults_see: self.faults_see(cpu, question),
            out: Outcomes::none(),
        };
        for (i, other) in self.roots.iter().enumerate() {
            // Entries are tagged by ASID, not by root: those of a former owner may still be cached.
            let own = i == root.0 as usize;
            if !own && (asid.is_none() || other.asid != asid || other.gone) {
                continue;
            }
            let way = Way::until(other.retired.unwrap_or(NEVER));
            self.walk_table(&mut walk, other.table, 0, way, View::EMPTY);
        }
        walk.out
    }

    /// The stores that each fault of this access must see.
    fn faults_see(&self, cpu: usize, question: Question<'_>) -> View {
        let cpu = &self.cpus[cpu];
        let mut view = cpu.synced;
        if let Question::Access { kind, address_from } = question {
            if let Some(token) = address_from {
                view.join(token);
            }
            if self.model.ets2 && kind.is_data() {
                view.join(&cpu.everything());
            }
        }
        view
    }

    fn walk_table(&self, walk: &mut Walk<'_>, table: TableId, level: u8, way: Way, must: View) {
        let record = self.memory.table(table);
        if record.freed_early {
            if way.to_page == NEVER {
                walk.out.add(Outcome::Garbage);
            }
            return;
        }
        let shift = SHIFT[level as usize] - PAGE_SHIFT;
        let index = (walk.page >> shift & 511) as u16;
        self.walk_entry(walk, Location { table, index }, level, way, must);
        if record.contiguous && level == 3 {
            self.walk_group(walk, Location { table, index }, way, must);
        }
    }

    fn walk_entry(&self, walk: &mut Walk<'_>, at: Location, level: u8, way: Way, must: View) {
        // Whether a newer version forbids a fault to read an older one.
        let mut fault_seen = false;
        for (id, version) in self.memory.versions(at) {
            let raw = version.raw;
            if !is_cacheable(level, raw) {
                if way.to_fault == NEVER && !fault_seen && !self.fault_is_over(walk, at, id, level)
                {
                    walk.out.add(if raw & bits::VALID == 0 {
                        Outcome::Translation { level }
                    } else {
                        Outcome::AccessFlag
                    });
                }
            } else {
                let to_page = self.death(walk, at, id, level, way.to_page, walk.question);
                if is_link(level, raw) {
                    let to_fault = match walk.question {
                        // Without any TLBI the second computation has the same result.
                        _ if to_page == NEVER && self.tlbis.is_empty() => NEVER,
                        Question::Access { kind, .. } => {
                            let question = Question::Fault { kind };
                            self.death(walk, at, id, level, way.to_fault, question)
                        }
                        _ => to_page,
                    };
                    let way = Way { to_page, to_fault };
                    self.follow(walk, version, level, way, must);
                } else if to_page == NEVER {
                    self.add_leaf(walk, version, level);
                }
            }
            if must.has(version.stamp) {
                return;
            }
            fault_seen |= walk.faults_see.has(version.stamp);
        }
        if self.memory.reaches_zeroes(at) {
            let reachable = way.to_fault == NEVER && !fault_seen;
            if reachable && !self.fault_is_over(walk, at, VersionId::ZEROES, level) {
                walk.out.add(Outcome::Translation { level });
            }
            // The memory before the zeroes may have looked like a valid entry, and may be cached by
            // now. Only an order that the links on the way carry keeps a walker from it (R18).
            let ordered = must.has(self.memory.table(at.table).zeroed);
            if !ordered && way.to_page == NEVER {
                walk.out.add(Outcome::Garbage);
            }
        }
    }

    fn follow(&self, walk: &mut Walk<'_>, link: &Version, level: u8, way: Way, mut must: View) {
        match link.child {
            Some(child) => {
                // The walker's address dependency: after reading the link it sees what was ordered
                // before the store of the link (T2).
                must.join(self.memory.view_of(link));
                self.walk_table(walk, child, level + 1, way, must);
            }
            None if way.to_page == NEVER => walk.out.add(Outcome::Garbage),
            None => {}
        }
    }

    /// Adds the outcomes of the other members of a contiguous group.
    fn walk_group(&self, walk: &mut Walk<'_>, at: Location, way: Way, must: View) {
        const GROUP: u16 = 16;
        let first = at.index & !(GROUP - 1);
        for index in (first..first + GROUP).filter(|index| *index != at.index) {
            let member = Location { index, ..at };
            for (id, version) in self.memory.versions(member) {
                if version.raw & bits::CONT != 0
                    && is_cacheable(3, version.raw)
                    && self.death(walk, member, id, 3, way.to_page, walk.question) == NEVER
                {
                    self.add_leaf(walk, version, 3);
                }
                if must.has(version.stamp) {
                    break;
                }
            }
        }
    }

    fn add_leaf(&self, walk: &mut Walk<'_>, version: &Version, level: u8) {
        let kind = match walk.question {
            Question::Access { kind, .. } => kind,
            _ => Kind::Read,
        };
        let user = walk.asid.is_some();
        let outcome = Outcome::of_leaf(version.raw, level, walk.page, kind, user);
        walk.out.add(outcome);
    }

    /// Whether row X5 forbids the fault: a TLBI of another CPU that names the entry was issued when
    /// a newer version was complete, and completed before this access. Explicit accesses only.
    fn fault_is_over(&self, walk: &Walk<'_>, at: Location, id: VersionId, level: u8) -> bool {
        let Question::Access { kind, .. } = walk.question else {
            return false;
        };
        if !kind.is_data() || self.memory.newest(at) == id {
            return false;
        }
        let cpu = &self.cpus[walk.cpu];
        let entry = self.entry(walk, id, level);
        self.tlbis.iter().any(|tlbi| {
            tlbi.broadcast
                && tlbi.cpu != walk.cpu
                && tlbi.number <= cpu.acquired.tlbis[tlbi.cpu]
                && tlbi.covers(&entry)
                && self.is_superseded(at, id, &tlbi.done)
        })
    }

    /// The TLB entry of a version in this walk, as maintenance sees it.
    fn entry(&self, walk: &Walk<'_>, id: VersionId, level: u8) -> Entry {
        let raw = match id {
            VersionId::ZEROES => 0,
            id => self.memory.version(id).raw,
        };
        let span = 1 << (SHIFT[level as usize] - PAGE_SHIFT);
        let global = walk.asid.is_none() || !is_link(level, raw) && raw & bits::NG == 0;
        Entry {
            level,
            leaf: !is_link(level, raw),
            pages: (walk.page & !(span - 1), span),
            asid: if global { None } else { walk.asid },
        }
    }

    /// The index of the TLBI after which the version cannot be used any more in this walk;
    /// [`NEVER`] if there is none. `prefix` is that index for the link before it.
    ///
    /// A TLBI that names the entry removes it. It does not come back if it cannot be read again:
    /// because a newer version was complete when the TLBI was issued, or because the link to its
    /// table could no longer be used by then.
    fn death(
        &self,
        walk: &Walk<'_>,
        at: Location,
        id: VersionId,
        level: u8,
        prefix: u32,
        question: Question<'_>,
    ) -> u32 {
        let newest = self.memory.newest(at) == id;
        if newest && prefix == NEVER {
            return NEVER;
        }
        let entry = self.entry(walk, id, level);
        self.ended_by(walk.cpu, question, &entry, |index, tlbi| {
            prefix <= index || !newest && self.is_superseded(at, id, &tlbi.done)
        })
    }

    /// The index of the first TLBI that names `entry`, is complete for `cpu` and `question`, and
    /// satisfies `gone`; `NEVER` if there is none.
    pub fn ended_by(
        &self,
        cpu: usize,
        question: Question<'_>,
        entry: &Entry,
        gone: impl Fn(u32, &Tlbi) -> bool,
    ) -> u32 {
        let ends = |(index, tlbi): &(usize, &Tlbi)| {
            tlbi.covers(entry)
                && self.counts(cpu, question, tlbi, entry.asid.is_none())
                && gone(*index as u32, tlbi)
        };
        let found = self.tlbis.iter().enumerate().find(ends);
        found.map_or(NEVER, |(index, _)| index as u32)
    }

    fn counts(&self, cpu: usize, question: Question<'_>, tlbi: &Tlbi, global: bool) -> bool {
        let (own, ets2) = (tlbi.cpu == cpu, self.model.ets2);
        if !own && !tlbi.broadcast {
            return false;
        }
        match question {
            Question::Access { kind, .. } => {
                self.cpus[cpu].follows(tlbi.cpu, tlbi.number, ets2 && kind.is_data())
            }
            Question::Fault { kind } => {
                let acquired = &self.cpus[cpu].acquired;
                let x5 = !own && kind.is_data() && tlbi.number <= acquired.tlbis[tlbi.cpu];
                x5 || self.cpus[cpu].follows(tlbi.cpu, tlbi.number, ets2 && kind.is_data())
            }
            Question::Reuse => {
                let repeat = self.model.repeat_tlbi;
                let complete = self.cpus[tlbi.cpu].completed(tlbi.number, repeat);
                // For the issuer's own accesses a CSE is needed as well. A user mapping is used
                // only after an exception return, which is one.
                complete && (!own || !global || self.cpus[cpu].follows(cpu, tlbi.number, ets2))
            }
        }
    }

    /// Whether `done` holds a newer version of the entry than `id`.
    pub fn is_superseded(&self, at: Location, id: VersionId, done: &View) -> bool {
        self.memory
            .versions(at)
            .take_while(|(newer, _)| *newer != id)
            .any(|(_, version)| done.has(version.stamp))
    }
}
