// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLB maintenance as values: operands, and the operations that cover a range.
//!
//! A wrong operand invalidates the wrong entries. If a bit of a kernel address reaches into the TTL
//! field, it tells the CPU that the entry is at another level, and the invalidation may have no
//! effect. So this module is the only place that computes operands, and it masks the address.
//!
//! [`plan`] covers a range with the operations that the CPUs have, and invalidates everything where
//! Linux does: without range operations from 512 pages on (Linux's `MAX_DVM_OPS`, which bounds the
//! time that broadcasts take and is not the point from which invalidating everything is faster),
//! with them above 2^21 pages.

use crate::addr::{Asid, Level, PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr};

/// A TLB maintenance instruction of the EL1&0 regime, stage 1.
///
/// All of them are broadcast to the Inner Shareable domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TlbiOp {
    /// `TLBI VMALLE1IS`: every entry of every ASID. No operand.
    Vmalle1is,
    /// `TLBI ASIDE1IS`: every non-global entry of one ASID.
    Aside1is,
    /// `TLBI VAE1IS`: one page, one ASID, all levels of the walk.
    Vae1is,
    /// `TLBI VALE1IS`: one page, one ASID, the last level only.
    Vale1is,
    /// `TLBI VAAE1IS`: one page, all ASIDs, all levels of the walk.
    Vaae1is,
    /// `TLBI VAALE1IS`: one page, all ASIDs, the last level only.
    Vaale1is,
    /// `TLBI RVAE1IS` (FEAT_TLBIRANGE): a range, one ASID, all levels.
    Rvae1is,
    /// `TLBI RVALE1IS` (FEAT_TLBIRANGE): a range, one ASID, last level.
    Rvale1is,
    /// `TLBI RVAAE1IS` (FEAT_TLBIRANGE): a range, all ASIDs, all levels.
    Rvaae1is,
    /// `TLBI RVAALE1IS` (FEAT_TLBIRANGE): a range, all ASIDs, last level.
    Rvaale1is,
}

/// The features of the CPUs for TLB maintenance. A feature may be set only if every CPU of the
/// system has it; `repeat` must be set if any CPU has the erratum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlbFeatures {
    /// FEAT_TTL: operands may carry the level (ID_AA64MMFR2_EL1.TTL).
    pub ttl: bool,
    /// FEAT_TLBIRANGE (ID_AA64ISAR0_EL1.TLB = 2).
    pub range: bool,
    /// Erratum: a second TLBI and DSB before memory is reused (R34;
    /// CVE-2025-10263 lists most Arm cores from Cortex-A76 on).
    pub repeat: bool,
}

/// The ASIDs whose entries an operation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Global entries and entries of every ASID. For kernel mappings, which are global.
    AllAsids,
    /// Non-global entries of one ASID.
    Asid(Asid),
}

/// The levels of the walk whose cached entries an operation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Pages: last-level entries at level 3. With FEAT_TTL the operand says so, and a block in the
    /// range may stay in the TLB.
    Page,
    /// Last-level entries at any level, pages and blocks. For changed leaves whose tables stay.
    Leaf,
    /// Entries of all levels. For a table that is about to be freed (R32).
    Walk,
}

/// Without range operations, everything is invalidated from this number of pages on.
pub const MAX_DVM_OPS: u64 = 512;
/// With range operations, everything is invalidated above this number of pages.
pub const MAX_RANGE_PAGES: u64 = 1 << 21;

/// The operand of the by-address forms: `address[55:12]` in bits `[43:0]`, TTL in `[47:44]`, ASID
/// in `[63:48]` (Arm ARM C5.5, TLBI VAE1). `ttl` is the level of the entries, or `None` if it is
/// not known or the CPUs lack FEAT_TTL.
pub const fn va_operand(va: VirtAddr, scope: Scope, ttl: Option<Level>) -> u64 {
    let address = (va.as_u64() >> PAGE_SHIFT) & ((1 << 44) - 1);
    let ttl = match ttl {
        Some(level) => GRANULE_4K << 2 | level as u64,
        None => 0,
    };
    asid_operand(scope) | ttl << 44 | address
}

/// The operand of the range forms: BADDR in bits `[36:0]` in units of 4 KiB, TTL in `[38:37]`, NUM
/// in `[43:39]`, SCALE in `[45:44]`, TG in `[47:46]`, ASID in `[63:48]`. The operation covers `(num
/// + 1) << (5 * scale + 1)` pages from `va` on. `num` is at most 31 and `scale` at most 3.
///
/// # Panics
/// If `num` or `scale` is larger: the operand would name another range.
pub const fn range_operand(
    va: VirtAddr,
    scope: Scope,
    ttl: Option<Level>,
    scale: u64,
    num: u64,
) -> u64 {
    assert!(scale <= 3 && num <= 31, "SCALE has two bits, NUM has five");
    range_fields(va, scope, ttl, scale, num)
}

/// [`range_operand`] without its check, for the `scale` and `num` that [`plan`] has computed.
const fn range_fields(va: VirtAddr, scope: Scope, ttl: Option<Level>, scale: u64, num: u64) -> u64 {
    let base = (va.as_u64() >> PAGE_SHIFT) & ((1 << 37) - 1);
    let ttl = match ttl {
        Some(level) => level as u64,
        None => 0,
    };
    asid_operand(scope) | GRANULE_4K << 46 | scale << 44 | num << 39 | ttl << 37 | base
}

/// The ASID in bits `[63:48]`, all other bits zero. This is also the operand of `ASIDE1IS`.
pub const fn asid_operand(scope: Scope) -> u64 {
    match scope {
        Scope::AllAsids => 0,
        Scope::Asid(asid) => (asid.0 as u64) << 48,
    }
}

/// The encoding of a 4 KiB granule, in the TTL field and in the TG field of range operands.
const GRANULE_4K: u64 = 0b01;

/// The operation that invalidates every entry of `scope`, those of tables included, with its
/// operand.
pub const fn everything(scope: Scope) -> (TlbiOp, u64) {
    match scope {
        Scope::AllAsids => (TlbiOp::Vmalle1is, 0),
        Scope::Asid(_) => (TlbiOp::Aside1is, asid_operand(scope)),
    }
}

/// Whether an invalidation of `pages` pages is replaced by one of the whole scope.
pub(crate) const fn is_everything(pages: u64, features: TlbFeatures) -> bool {
    if features.range {
        pages > MAX_RANGE_PAGES
    } else {
        pages >= MAX_DVM_OPS
    }
}

/// Yields the operations that invalidate `range`, with their operands, in ascending order of
/// address. The barriers before and after them are the caller's task.
pub fn plan(
    range: PageRange,
    scope: Scope,
    reach: Reach,
    features: TlbFeatures,
) -> impl Iterator<Item = (TlbiOp, u64)> {
    let by_all_asids = matches!(scope, Scope::AllAsids);
    let all = is_everything(range.pages(), features);
    let every_level = matches!(reach, Reach::Walk);
    let single = match (by_all_asids, every_level) {
        (true, false) => TlbiOp::Vaale1is,
        (true, true) => TlbiOp::Vaae1is,
        (false, false) => TlbiOp::Vale1is,
        (false, true) => TlbiOp::Vae1is,
    };
    let ranged = match (by_all_asids, every_level) {
        (true, false) => TlbiOp::Rvaale1is,
        (true, true) => TlbiOp::Rvaae1is,
        (false, false) => TlbiOp::Rvale1is,
        (false, true) => TlbiOp::Rvae1is,
    };
    // The TTL field must be true for every entry that is to be invalidated. `Reach::Page` has one
    // level; with the others the entries may have several.
    let ttl = match reach {
        Reach::Page if features.ttl => Some(Level::L3),
        _ => None,
    };
    let mut at = range.start();
    let mut left = range.pages();
    let mut scale = 3;
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        if all {
            left = 0;
            return Some(everything(scope));
        }
        let (operation, pages) = if features.range && left >= 2 {
            while left >> (5 * scale + 1) == 0 {
                scale -= 1;
            }
            let units = (left >> (5 * scale + 1)).min(32);
            let operand = range_fields(at, scope, ttl, scale, units - 1);
            ((ranged, operand), units << (5 * scale + 1))
        } else {
            ((single, va_operand(at, scope, ttl)), 1)
        };
        left -= pages;
        // At the end of a half there is no next address, and no operation follows.
        at = at.offset(pages * PAGE_SIZE).unwrap_or(at);
        Some(operation)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Half;

    const RANGE: TlbFeatures = TlbFeatures {
        ttl: true,
        range: true,
        repeat: false,
    };
    const PLAIN: TlbFeatures = TlbFeatures {
        ttl: false,
        range: false,
        repeat: false,
    };

    fn range(start: u64, pages: u64) -> PageRange {
        PageRange::new(start, pages).unwrap()
    }

    #[test]
    fn r33_upper_half_addresses_do_not_leak_into_ttl_or_asid() {
        for raw in [
            Half::Upper.start(),
            0xffff_8000_1234_5000,
            Half::Upper.end() - PAGE_SIZE,
        ] {
            let va = VirtAddr::new(raw).unwrap();
            assert_eq!(va_operand(va, Scope::AllAsids, None) >> 44, 0);
            let asid = Scope::Asid(Asid(0xabcd));
            assert_eq!(va_operand(va, asid, Some(Level::L3)) >> 44, 0xabcd7);
            let operand = range_operand(va, asid, Some(Level::L3), 2, 5);
            assert_eq!(operand >> 48, 0xabcd);
            // TG 01, SCALE 10, NUM 00101, TTL 11.
            assert_eq!(operand >> 37 & 0x7ff, 0b011_0001_0111);
        }
    }

    #[test]
    fn r33_a_plan_covers_its_range_exactly() {
        for pages in [
            1,
            2,
            3,
            63,
            64,
            65,
            511,
            512,
            513,
            4096,
            70_001,
            MAX_RANGE_PAGES,
        ] {
            let mut next = 0xffff_8000_0000_0000 >> PAGE_SHIFT & ((1 << 37) - 1);
            let mut operations = 0;
            let asked = range(0xffff_8000_0000_0000, pages);
            for (op, operand) in plan(asked, Scope::AllAsids, Reach::Leaf, RANGE) {
                operations += 1;
                match op {
                    TlbiOp::Rvaale1is => {
                        assert_eq!(operand & ((1 << 37) - 1), next);
                        let (scale, num) = (operand >> 44 & 3, operand >> 39 & 31);
                        next += (num + 1) << (5 * scale + 1);
                    }
                    TlbiOp::Vaale1is => {
                        assert_eq!(operand & ((1 << 37) - 1), next);
                        next += 1;
                    }
                    other => panic!("{other:?} for {pages} pages"),
                }
            }
            assert_eq!(
                next,
                (asked.end() >> PAGE_SHIFT) & ((1 << 37) - 1),
                "{pages} pages"
            );
            assert!(operations <= 5, "{pages} pages took {operations}");
        }
    }

    /// The operand holds a level only if it is known: an operation with the level of a page may
    /// leave a block in the TLB.
    #[test]
    fn r33_only_pages_carry_a_level() {
        let block = range(0xffff_8000_0020_0000, 512);
        let ttl = |reach, features: TlbFeatures, (op, operand): (TlbiOp, u64)| {
            let field = if features.range && op != TlbiOp::Vaale1is && op != TlbiOp::Vaae1is {
                operand >> 37 & 3
            } else {
                operand >> 44 & 0xf
            };
            (field, reach)
        };
        for features in [
            RANGE,
            TlbFeatures {
                range: false,
                ..RANGE
            },
        ] {
            for pages in [1, 2, 511] {
                let part = range(block.start().as_u64(), pages);
                for reach in [Reach::Page, Reach::Leaf, Reach::Walk] {
                    for operation in plan(part, Scope::AllAsids, reach, features) {
                        let (field, _) = ttl(reach, features, operation);
                        assert_eq!(field & 3, if reach == Reach::Page { 3 } else { 0 });
                    }
                }
            }
        }
        let plain = TlbFeatures {
            ttl: false,
            ..RANGE
        };
        let (_, operand) = plan(block, Scope::AllAsids, Reach::Page, plain)
            .next()
            .unwrap();
        assert_eq!(operand >> 37 & 3, 0, "without FEAT_TTL");
    }

    #[test]
    fn plans_fall_back_where_linux_does() {
        let base = 0xffff_8000_0000_0000;
        let last = |pages, scope, features| {
            plan(range(base, pages), scope, Reach::Leaf, features)
                .last()
                .unwrap()
                .0
        };
        let count = |pages, features| {
            plan(range(base, pages), Scope::AllAsids, Reach::Leaf, features).count()
        };
        assert_eq!(count(511, PLAIN), 511);
        assert_eq!(count(512, PLAIN), 1);
        assert_eq!(last(512, Scope::AllAsids, PLAIN), TlbiOp::Vmalle1is);
        assert_eq!(last(512, Scope::Asid(Asid(1)), PLAIN), TlbiOp::Aside1is);
        assert_eq!(count(MAX_RANGE_PAGES, RANGE), 1);
        assert_eq!(
            last(MAX_RANGE_PAGES + 1, Scope::AllAsids, RANGE),
            TlbiOp::Vmalle1is
        );
    }
}
