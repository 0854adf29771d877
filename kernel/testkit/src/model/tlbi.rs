// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLB maintenance: the entries that an operation names, and what was complete when it was issued.
//!
//! This module decodes operands from their bits (Arm ARM C5.5), independently of the library, which
//! encodes them. An operation with a TTL does not invalidate an entry of another level (R33).

use super::view::View;
use lazymmu::TlbiOp;

/// One TLBI, or several in a row that differ only in their page.
#[derive(Clone, Copy, Debug)]
pub struct Tlbi {
    pub cpu: usize,
    /// The number among the TLBIs of the CPU.
    pub number: u32,
    pub broadcast: bool,
    /// What was complete when it was issued. A value that one of these stores has replaced cannot
    /// be read by a walk and cached again (R27, rows U2 and U3).
    pub done: View,
    op: TlbiOp,
    named: Named,
}

/// A decoded operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    /// The number of the first page and the number of pages; `None` for all addresses.
    pages: Option<(u64, u64)>,
    asid: Option<u16>,
    leaf_only: bool,
    /// The only level whose entries the operation invalidates; `None` for all levels.
    ttl: Option<u8>,
}

/// The properties of a TLB entry by which maintenance selects it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The level of the descriptor, 0..=3.
    pub level: u8,
    pub leaf: bool,
    /// The number of the first page by which the entry is looked up, and the number of such pages.
    pub pages: (u64, u64),
    /// `None` for a global leaf and for tables of the kernel half.
    pub asid: Option<u16>,
}

/// The bits of a page number that both operand forms have.
const PAGE_MASK: u64 = (1 << 37) - 1;

impl Named {
    fn decode(op: TlbiOp, operand: u64) -> Self {
        use TlbiOp as Op;
        let leaf_only = matches!(
            op,
            Op::Vale1is | Op::Vaale1is | Op::Rvale1is | Op::Rvaale1is
        );
        let single = || {
            let ttl = operand >> 44 & 0xf;
            // A TTL of another granule names no entry of this machine.
            let level = if ttl >> 2 == 1 { ttl & 3 } else { 7 };
            let ttl = (ttl != 0).then_some(level as u8);
            (Some((operand & PAGE_MASK, 1)), ttl)
        };
        let range = || {
            let (scale, num) = (operand >> 44 & 3, operand >> 39 & 31);
            let pages = match operand >> 46 & 3 {
                1 => (num + 1) << (5 * scale + 1),
                // With another granule the operation may do nothing.
                _ => 0,
            };
            let ttl = (operand >> 37 & 3) as u8;
            (
                Some((operand & PAGE_MASK, pages)),
                (ttl != 0).then_some(ttl),
            )
        };
        let of_one = Some((operand >> 48) as u16);
        let ((pages, ttl), asid) = match op {
            Op::Vmalle1is => ((None, None), None),
            Op::Aside1is => ((None, None), of_one),
            Op::Vae1is | Op::Vale1is => (single(), of_one),
            Op::Vaae1is | Op::Vaale1is => (single(), None),
            Op::Rvae1is | Op::Rvale1is => (range(), of_one),
            Op::Rvaae1is | Op::Rvaale1is => (range(), None),
        };
        Self {
            pages,
            asid,
            leaf_only,
            ttl,
        }
    }

    fn covers(&self, entry: &Entry) -> bool {
        if self.leaf_only && !entry.leaf || self.ttl.is_some_and(|ttl| ttl != entry.level) {
            return false;
        }
        let whose = match (self.asid, entry.asid) {
            (None, _) => true,
            (Some(named), Some(tag)) => named == tag,
            // ASIDE1 does not invalidate global entries; VAE1 invalidates global leaves as well.
            (Some(_), None) => self.pages.is_some() && entry.leaf,
        };
        let (first, pages) = entry.pages;
        let first = first & PAGE_MASK;
        whose
            && self
                .pages
                .is_none_or(|(from, n)| from < first + pages && first < from + n)
    }
}

impl Tlbi {
    pub fn new(
        cpu: usize,
        number: u32,
        broadcast: bool,
        done: View,
        op: TlbiOp,
        operand: u64,
    ) -> Self {
        Self {
            cpu,
            number,
            broadcast,
            done,
            op,
            named: Named::decode(op, operand),
        }
    }

    pub fn covers(&self, entry: &Entry) -> bool {
        self.named.covers(entry)
    }

    /// Adds an operation of the same CPU on the next page that was issued right after this one, so
    /// that both are one operation from then on. Returns whether that was possible.
    pub fn extend(&mut self, done: &View, broadcast: bool, op: TlbiOp, operand: u64) -> bool {
        let next = Named::decode(op, operand);
        let alike = self.op == op && self.broadcast == broadcast && self.done == *done;
        if let (true, Some((from, n)), Some((page, 1))) = (alike, self.named.pages, next.pages)
            && (next.asid, next.leaf_only, next.ttl)
                == (self.named.asid, self.named.leaf_only, self.named.ttl)
            && page == from + n
        {
            self.named.pages = Some((from, n + 1));
            return true;
        }
        false
    }
}
