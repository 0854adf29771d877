// SPDX-License-Identifier: MIT OR Apache-2.0
//! The TLBI planner: whatever the range, scope, reach and CPU, the operations cover
//! the range exactly, in ascending order without overlap, and no operand carries a bit
//! that it should not (R33).

#![no_main]

use arbitrary::Arbitrary;
use lazymmu::tlbi::{self, MAX_DVM_OPS, MAX_RANGE_PAGES, Reach, Scope};
use lazymmu::{Asid, Half, PAGE_SIZE, PageRange, TlbFeatures, TlbiOp};
// Operands are decoded by the tests' checker, which shares no code with the library.
use lazymmu_testkit::fake::order::Named;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    upper: bool,
    /// Counted from the end of the half, where addresses run out.
    from_end: bool,
    offset: u64,
    pages: u64,
    /// Keeps the number of pages below two to this, so that all sizes are met.
    magnitude: u8,
    asid: Option<u16>,
    walk: bool,
    ttl: bool,
    range: bool,
}

impl Input {
    fn range(&self) -> Option<PageRange> {
        let half = match self.upper {
            true => Half::Upper,
            false => Half::Lower,
        };
        let all = (half.end() - half.start()) / PAGE_SIZE;
        let pages = 1 + self.pages % (1 << (self.magnitude % 24));
        let offset = match self.from_end {
            true => all.checked_sub(pages + self.offset % 3)?,
            false => self.offset % all,
        };
        PageRange::new(half.start() + offset * PAGE_SIZE, pages).ok()
    }
}

/// Address bits of the single forms, `[43:0]`, and of the range forms, `[36:0]`.
const SINGLE: u64 = (1 << 44) - 1;
const RANGED: u64 = (1 << 37) - 1;

fuzz_target!(|input: Input| {
    let Some(range) = input.range() else {
        return;
    };
    let scope = match input.asid {
        Some(asid) => Scope::Asid(Asid(asid)),
        None => Scope::AllAsids,
    };
    let reach = match input.walk {
        true => Reach::Walk,
        false => Reach::Leaf,
    };
    let features = TlbFeatures {
        ttl: input.ttl,
        range: input.range,
        repeat: false,
    };
    let asid_field = u64::from(input.asid.unwrap_or(0)) << 48;
    let mut next = range.start().as_u64();
    let (mut operations, mut everything) = (0, false);
    for (op, operand) in tlbi::plan(range, scope, reach, features) {
        operations += 1;
        let named = Named::decode(op, operand);
        assert_eq!(named.asid, input.asid, "{op:?} is of another scope");
        let Some((first, pages)) = named.pages else {
            assert_eq!(operand, asid_field);
            everything = true;
            continue;
        };
        let expected_ttl = (input.ttl && !input.walk).then_some(3);
        assert_eq!((named.leaf_only, named.ttl), (!input.walk, expected_ttl));
        let ranged = matches!(
            op,
            TlbiOp::Rvae1is | TlbiOp::Rvale1is | TlbiOp::Rvaae1is | TlbiOp::Rvaale1is
        );
        assert!(!ranged || input.range, "{op:?} needs FEAT_TLBIRANGE");
        let page = next >> 12;
        assert_eq!(first, page & RANGED, "a gap or an overlap at {next:#x}");
        let address = if ranged { RANGED } else { SINGLE };
        assert_eq!(operand & address, page & address);
        let rest = operand & !address;
        let fields = match (ranged, expected_ttl) {
            (true, ttl) => 1 << 46 | operand & 0x7f << 39 | ttl.map_or(0, |_| 3 << 37),
            (false, ttl) => ttl.map_or(0, |_| 0b0111 << 44),
        };
        assert_eq!(
            rest,
            asid_field | fields,
            "stray bits in {operand:#x} of {op:?}"
        );
        next = next.wrapping_add(pages * PAGE_SIZE);
    }
    let too_many = match input.range {
        true => range.pages() > MAX_RANGE_PAGES,
        false => range.pages() >= MAX_DVM_OPS,
    };
    assert_eq!(everything, too_many);
    if everything {
        assert_eq!(operations, 1);
    } else {
        assert_eq!(next, range.end(), "the plan ends elsewhere");
        // One operation per scale, and one page.
        assert!(!input.range || operations <= 5);
    }
});
