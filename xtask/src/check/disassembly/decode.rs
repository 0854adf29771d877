// SPDX-License-Identifier: MIT OR Apache-2.0

//! A64 instructions, as far as the rules ask: what a word does to memory, caches, barriers, system
//! registers and the flow of control. By mask and value (DDI 0487, C4.1); everything else is
//! [`Op::Other`], which touches none of them.

use std::fmt;

/// What an instruction does; its operands are what the rules need of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Branch(u64),        // B, and where to
    Conditional(u64),   // B.cond, CBZ, TBZ and their opposites
    Call(u64),          // BL
    BranchRegister(u8), // BR
    CallRegister,       // BLR
    Return,             // RET
    ExceptionReturn,    // ERET
    Access(Access),     // a load or store of general registers that is not exclusive
    Literal(Literal),   // LDR of a literal
    Exclusive,          // LDXR, STXR and their family
    Atomic,             // an atomic of FEAT_LSE, compare-and-swap included
    UnknownAccess,      // a load or store that the decoder does not know
    Simd,               // floating point and vectors, memory accesses included
    Clean(Cache),       // DC by address
    SetWay,             // DC ISW, CSW, CISW
    ZeroBlock,          // DC ZVA and its tag-writing relatives
    Fetch,              // IC
    Tlbi,               // TLBI
    Dsb(u8),            // DSB, with CRm: domain and type
    Isb,                // ISB
    Event,              // SEV
    Write(u16),         // MSR to a system register, whose encoding is that of `register`
    Smc,                // SMC
    Other,              // anything else
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Write(register) => {
                let field = |low: u32, bits: u32| register >> low & ((1 << bits) - 1);
                let (op0, op1, op2) = (field(14, 2), field(11, 3), field(0, 3));
                let (crn, crm) = (field(7, 4), field(3, 4));
                write!(f, "msr s{op0}_{op1}_c{crn}_c{crm}_{op2}")
            }
            Self::Access(access) => {
                let what = if access.is_store { "store" } else { "load" };
                write!(f, "{what} of {} bytes at x{}", access.size, access.base)
            }
            Self::Literal(literal) => write!(f, "load of the literal at {:#x}", literal.at),
            ref other => write!(f, "{other:?}"),
        }
    }
}

/// Data cache maintenance by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    Invalidate,      // IVAC: discards
    Clean,           // CVAC: writes back to the point of coherency
    CleanInvalidate, // CIVAC: both
    ToUnification,   // CVAU: writes back to the point of unification
}

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub is_store: bool,
    /// Bytes of a register; a pair has two.
    pub size: u8,
    /// Register that holds the address.
    pub base: u8,
    /// Whether it is a load-acquire or store-release.
    pub is_ordered: bool,
    /// Whether an aligned base makes an aligned address.
    pub keeps_alignment: bool,
}

/// A load from an address that the instruction itself has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Literal {
    pub at: u64,
    pub size: u8,
    /// Where it goes.
    pub register: u8,
}

/// Register number of SP in an address.
pub const SP: u8 = 31;

/// Encoding of a system register in MSR and MRS, bits 20:5.
pub const fn register(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// `DSB SY`.
pub const SY: u8 = 0b1111;
/// `DSB ISH`.
pub const ISH: u8 = 0b1011;
/// `DSB NSH`.
pub const NSH: u8 = 0b0111;

/// Whether a DSB of kind `has` does what one of kind `wanted` does.
pub const fn is_as_strong(has: u8, wanted: u8) -> bool {
    /// How far: non-shareable, inner shareable, outer shareable, full system.
    const REACH: [u8; 4] = [2, 0, 1, 3];
    let waits_for_all = has & 3 == 3 || has & 3 == wanted & 3;
    waits_for_all && REACH[(has >> 2) as usize] >= REACH[(wanted >> 2) as usize]
}

/// Decodes the word at `address`.
pub fn decode(word: u32, address: u64) -> Op {
    let near = |bits: u32, low: u32| {
        let field = word >> low & ((1 << bits) - 1);
        let signed = i64::from(field) << (64 - bits) >> (64 - bits);
        address.wrapping_add_signed(signed * 4)
    };
    match word {
        w if w & 0xfc00_0000 == 0x1400_0000 => Op::Branch(near(26, 0)),
        w if w & 0xfc00_0000 == 0x9400_0000 => Op::Call(near(26, 0)),
        w if w & 0xff00_0000 == 0x5400_0000 => Op::Conditional(near(19, 5)),
        w if w & 0x7e00_0000 == 0x3400_0000 => Op::Conditional(near(19, 5)),
        w if w & 0x7e00_0000 == 0x3600_0000 => Op::Conditional(near(14, 5)),
        w if w & 0xffff_fc1f == 0xd61f_0000 => Op::BranchRegister((w >> 5 & 31) as u8),
        w if w & 0xffff_fc1f == 0xd65f_0000 => Op::Return,
        0xd69f_03e0 => Op::ExceptionReturn,
        // BLR, and what FEAT_PAuth adds to all four.
        w if w & 0xfe00_0000 == 0xd600_0000 => Op::CallRegister,
        w if w & 0xffe0_001f == 0xd400_0003 => Op::Smc,
        w if w & 0xffc0_0000 == 0xd500_0000 => system(w),
        w if w & 0x0a00_0000 == 0x0800_0000 => memory(w, near(19, 5)),
        w if w & 0x0e00_0000 == 0x0e00_0000 => Op::Simd,
        _ => Op::Other,
    }
}

/// Hints, barriers, SYS, MSR, MRS.
fn system(word: u32) -> Op {
    let crm = (word >> 8 & 15) as u8;
    if word & 0xffff_f01f == 0xd503_301f {
        return match word >> 5 & 7 {
            4 => Op::Dsb(crm),
            6 => Op::Isb,
            _ => Op::Other,
        };
    }
    if word == 0xd503_209f {
        return Op::Event;
    }
    // Reads: MRS, SYSL.
    if word >> 21 & 1 == 1 {
        return Op::Other;
    }
    let (op1, crn, op2) = (word >> 16 & 7, word >> 12 & 15, word >> 5 & 7);
    match (word >> 19 & 3, crn) {
        (1, 7) => match (op1, crm, op2) {
            (0, 6, 1) => Op::Clean(Cache::Invalidate),
            (3, 10, 1) => Op::Clean(Cache::Clean),
            (3, 14, 1) => Op::Clean(Cache::CleanInvalidate),
            (3, 11, 1) => Op::Clean(Cache::ToUnification),
            (0, 6 | 10 | 14, 2) => Op::SetWay,
            (3, 4, 1 | 3 | 4) => Op::ZeroBlock,
            (0, 1 | 5, 0) | (3, 5, 1) => Op::Fetch,
            _ => Op::Other,
        },
        (1, 8 | 9) => Op::Tlbi,
        (2 | 3, _) => Op::Write((word >> 5 & 0xffff) as u16),
        _ => Op::Other,
    }
}

/// Loads and stores; `literal` is where a literal of this word would be.
fn memory(word: u32, literal: u64) -> Op {
    let bits = |low: u32, count: u32| word >> low & ((1 << count) - 1);
    if bits(26, 1) == 1 {
        return Op::Simd;
    }
    const ORDERED: u32 = 0b00_1000;
    let base = bits(5, 5) as u8;
    let access = |is_store: bool, size: u8, keeps_alignment: bool| {
        Op::Access(Access {
            is_store,
            size,
            base,
            is_ordered: bits(24, 6) == ORDERED,
            keeps_alignment,
        })
    };
    let (size, opc) = (1_u8 << bits(30, 2), bits(22, 2));
    match bits(24, 6) {
        // Exclusives, compare-and-swap, and acquire and release without either.
        ORDERED => match (bits(23, 1), bits(21, 1)) {
            (0, 0) => Op::Exclusive,
            (0, _) if bits(31, 1) == 1 => Op::Exclusive,
            (1, 0) => access(bits(22, 1) == 0, size, true),
            _ => Op::Atomic,
        },
        0b01_1000 => match bits(30, 2) {
            // A prefetch accesses nothing.
            3 => Op::Other,
            kind => Op::Literal(Literal {
                at: literal,
                size: if kind == 1 { 8 } else { 4 },
                register: bits(0, 5) as u8,
            }),
        },
        // Pairs, whose offset counts in registers.
        0b10_1000 | 0b10_1001 => match bits(30, 2) {
            0 => access(bits(22, 1) == 0, 4, true),
            2 => access(bits(22, 1) == 0, 8, true),
            1 if bits(22, 1) == 1 => access(false, 4, true),
            _ => Op::UnknownAccess,
        },
        // PRFM.
        0b11_1000 | 0b11_1001 if size == 8 && opc == 2 => Op::Other,
        // The offset counts in units of the size.
        0b11_1001 => access(opc == 0, size, true),
        0b11_1000 => match (bits(21, 1), bits(10, 2)) {
            (0, _) => {
                let offset = i64::from(bits(12, 9)) << 55 >> 55;
                access(opc == 0, size, offset % i64::from(size) == 0)
            }
            // By a register, shifted by the size or not.
            (_, 2) => access(opc == 0, size, size == 1 || bits(12, 1) == 1),
            (_, 0) => Op::Atomic,
            _ => Op::UnknownAccess,
        },
        _ => Op::UnknownAccess,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u64 = 0x1000;

    fn op(word: u32) -> Op {
        decode(word, HERE)
    }

    fn access(is_store: bool, size: u8, base: u8, keeps_alignment: bool) -> Op {
        Op::Access(Access {
            is_store,
            size,
            base,
            is_ordered: false,
            keeps_alignment,
        })
    }

    #[test]
    fn flow_of_control() {
        for (word, expected) in [
            (0x1400_0002, Op::Branch(HERE + 8)),      // b .+8
            (0x97ff_ffff, Op::Call(HERE - 4)),        // bl .-4
            (0x5400_0041, Op::Conditional(HERE + 8)), // b.ne .+8
            (0xb4ff_ffe3, Op::Conditional(HERE - 4)), // cbz x3, .-4
            (0x3607_ffe4, Op::Conditional(HERE - 4)), // tbz w4, #0, .-4
            (0xb7f8_0044, Op::Conditional(HERE + 8)), // tbnz x4, #63, .+8
            (0xd61f_0100, Op::BranchRegister(8)),     // br x8
            (0xd63f_0100, Op::CallRegister),          // blr x8
            (0xd65f_03c0, Op::Return),                // ret
            (0xd65f_0220, Op::Return),                // ret x17
            (0xd69f_03e0, Op::ExceptionReturn),       // eret
            (0xd400_0003, Op::Smc),                   // smc #0
            (0xd400_0002, Op::Other),                 // hvc #0
            (0xd503_201f, Op::Other),                 // nop
            (0x8b01_0000, Op::Other),                 // add x0, x0, x1
        ] {
            assert_eq!(op(word), expected, "{word:#x}");
        }
    }

    #[test]
    fn barriers_maintenance_and_registers() {
        for (word, expected) in [
            (0xd503_3f9f, Op::Dsb(SY)),
            (0xd503_3b9f, Op::Dsb(ISH)),
            (0xd503_379f, Op::Dsb(NSH)),
            (0xd503_3abf, Op::Other), // dmb ishst
            (0xd503_3fdf, Op::Isb),
            (0xd503_209f, Op::Event),
            (0xd503_205f, Op::Other), // wfe
            (0xd508_7620, Op::Clean(Cache::Invalidate)),
            (0xd50b_7a28, Op::Clean(Cache::Clean)),
            (0xd50b_7e2c, Op::Clean(Cache::CleanInvalidate)),
            (0xd50b_7b2d, Op::Clean(Cache::ToUnification)),
            (0xd508_7e40, Op::SetWay),    // dc cisw, x0
            (0xd50b_7420, Op::ZeroBlock), // dc zva, x0
            (0xd508_751f, Op::Fetch),     // ic iallu
            (0xd50b_752c, Op::Fetch),     // ic ivau, x12
            (0xd508_871f, Op::Tlbi),      // tlbi vmalle1
            (0xd508_82a0, Op::Tlbi),      // sys #0, c8, c2, #5, x0: tlbi rvale1is
            (0xd508_7813, Op::Other),     // at s1e1r, x19
            (0xd518_1000, Op::Write(register(3, 0, 1, 0, 0))), // msr sctlr_el1, x0
            (0xd51b_e000, Op::Write(register(3, 3, 14, 0, 0))), // msr cntfrq_el0, x0
            (0xd53b_e008, Op::Other),     // mrs x8, cntfrq_el0
            (0xd503_42df, Op::Other),     // msr daifset, #2
        ] {
            assert_eq!(op(word), expected, "{word:#x}");
        }
    }

    #[test]
    fn people_read_the_register_and_the_kind_of_access() {
        assert_eq!(op(0xd518_1000).to_string(), "msr s3_0_c1_c0_0");
        assert_eq!(op(0xf900_0c41).to_string(), "store of 8 bytes at x2");
    }

    #[test]
    fn accesses() {
        for (word, expected) in [
            (0xa881_7c1f, access(true, 8, 0, true)), // stp xzr, xzr, [x0], #16
            (0xa940_0be1, access(false, 8, SP, true)), // ldp x1, x2, [sp]
            (0x6940_0be1, access(false, 4, SP, true)), // ldpsw x1, x2, [sp]
            (0xf900_0c41, access(true, 8, 2, true)), // str x1, [x2, #24]
            (0xb940_0445, access(false, 4, 2, true)), // ldr w5, [x2, #4]
            (0xb800_44c4, access(true, 4, 6, true)), // str w4, [x6], #4
            (0xf800_1041, access(true, 8, 2, false)), // stur x1, [x2, #1]
            (0xf85f_8041, access(false, 8, 2, true)), // ldur x1, [x2, #-8]
            (0xf823_78a4, access(true, 8, 5, true)), // str x4, [x5, x3, lsl #3]
            (0xf823_68a4, access(true, 8, 5, false)), // str x4, [x5, x3]
            (0x3863_68a4, access(false, 1, 5, true)), // ldrb w4, [x5, x3]
            (0xc85f_7d09, Op::Exclusive),            // ldxr x9, [x8]
            (0xc87f_0d02, Op::Exclusive),            // ldxp x2, x3, [x8]
            (0x885f_fd09, Op::Exclusive),            // ldaxr w9, [x8]
            (0xc8a0_7c41, Op::Atomic),               // cas x0, x1, [x2]
            (0x0820_7c82, Op::Atomic),               // casp w0, w1, w2, w3, [x4]
            (0xf820_0041, Op::Atomic),               // ldadd x0, x1, [x2]
            (
                0x5800_0048,
                Op::Literal(Literal {
                    at: HERE + 8,
                    size: 8,
                    register: 8,
                }),
            ),
            (
                0x1800_0020,
                Op::Literal(Literal {
                    at: HERE + 4,
                    size: 4,
                    register: 0,
                }),
            ),
            (0xf980_0020, Op::Other),         // prfm pldl1keep, [x1]
            (0x6d00_0000, Op::Simd),          // stp d0, d0, [x0]
            (0x4ea1_1c20, Op::Simd),          // mov v0.16b, v1.16b
            (0x1e60_2800, Op::Simd),          // fadd d0, d0, d0
            (0x1901_0400, Op::UnknownAccess), // cpyfp: memory copy
        ] {
            assert_eq!(op(word), expected, "{word:#x}");
        }
        // stlr x22, [x8]; ldarb w1, [x0]
        for (word, is_store, size, base) in [(0xc89f_fd16, true, 8, 8), (0x08df_fc01, false, 1, 0)]
        {
            let expected = Op::Access(Access {
                is_store,
                size,
                base,
                is_ordered: true,
                keeps_alignment: true,
            });
            assert_eq!(op(word), expected, "{word:#x}");
        }
    }

    #[test]
    fn a_barrier_is_as_strong_as_a_weaker_one() {
        const ISHST: u8 = 0b1010;
        for (has, wanted, expected) in [
            (SY, NSH, true),
            (ISH, NSH, true),
            (NSH, ISH, false),
            (ISH, SY, false),
            (ISHST, ISH, false),
            (ISH, ISHST, true),
        ] {
            assert_eq!(is_as_strong(has, wanted), expected, "{has:#b} {wanted:#b}");
        }
    }
}
