// SPDX-License-Identifier: GPL-2.0-or-later

//! Which instructions are counted one by one, and what they are called.
//!
//! Encodings are those of the A64 instruction set (Arm ARM C4.1.1, C5.1.3 for TLBI; DDI 0487);
//! names are what an assembler takes, in lower case.

use std::borrow::Cow;

/// A mark that the guest sets by an unallocated hint, which is a NOP to the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// `hint #0x60`: a window begins; x0 has its id.
    Begin,
    /// `hint #0x61`: a window ends; x0 has its id.
    End,
    /// `hint #0x62`: what has ended is to be written now.
    Report,
    /// `hint #0x63`: what has ended and was not written is to be forgotten, and all numbering.
    Forget,
}

impl Marker {
    /// All of them, from hint 0x60 on.
    const ALL: [Self; 4] = [Self::Begin, Self::End, Self::Report, Self::Forget];

    /// The marker that an instruction is.
    pub fn of(word: u32) -> Option<Self> {
        const FIRST: u32 = hint(0x60);
        Self::ALL
            .into_iter()
            .zip((FIRST..).step_by(0x20))
            .find_map(|(marker, hint)| (hint == word).then_some(marker))
    }
}

/// `hint #number`.
const fn hint(number: u32) -> u32 {
    0xd503_201f | number << 5
}

/// Place of a count in the array of a CPU.
pub type Slot = usize;

/// All instructions, markers excepted.
pub const INSTRUCTIONS: Slot = 0;
/// ISB.
pub const ISB: Slot = 1;
/// ERET, ERETAA, ERETAB.
pub const ERET: Slot = 2;
/// Exceptions taken.
pub const EXCEPTIONS: Slot = 3;
/// DSB by CRm (16), then DSB with the qualifier nXS (4).
const DSB: Slot = 4;
const DSB_NXS: Slot = DSB + 16;
/// DMB by CRm.
const DMB: Slot = DSB_NXS + 4;
/// TLBI by nXS, op1, CRm, op2 (1, 3, 3 and 3 bits).
const TLBI: Slot = DMB + 16;
/// Number of counts.
pub const SLOTS: usize = TLBI + (1 << 10);

/// A kind of instruction that is counted by its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data synchronization barriers, by domain and type.
    Dsb,
    /// Data memory barriers, by domain and type.
    Dmb,
    /// TLB invalidations, by operation.
    Tlbi,
}

impl Kind {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 3] = [Self::Dsb, Self::Dmb, Self::Tlbi];

    /// The mnemonic.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dsb => "dsb",
            Self::Dmb => "dmb",
            Self::Tlbi => "tlbi",
        }
    }

    /// The counts of this kind.
    pub fn slots(self) -> std::ops::Range<Slot> {
        match self {
            Self::Dsb => DSB..DMB,
            Self::Dmb => DMB..TLBI,
            Self::Tlbi => TLBI..SLOTS,
        }
    }
}

/// Where an instruction is counted besides [`INSTRUCTIONS`].
pub fn slot(word: u32) -> Option<Slot> {
    let bits = |from: u32, count: u32| (word >> from & ((1 << count) - 1)) as Slot;
    let crm = bits(8, 4);
    match word {
        // ERET, ERETAA, ERETAB.
        0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff => return Some(ERET),
        _ => {}
    }
    match word & 0xffff_f0ff {
        0xd503_309f => return Some(DSB + crm),
        0xd503_30bf => return Some(DMB + crm),
        0xd503_30df => return Some(ISB),
        // CRm is imm2:10.
        0xd503_303f if crm & 3 == 2 => return Some(DSB_NXS + (crm >> 2)),
        _ => {}
    }
    // SYS #op1, C8 or C9 (nXS), Cm, #op2. No operation has a CRm above 7.
    let operation = matches!(word & 0xfff8_f000, 0xd508_8000 | 0xd508_9000) && crm < 8;
    operation.then(|| TLBI + (bits(12, 1) << 9 | bits(16, 3) << 6 | crm << 3 | bits(5, 3)))
}

/// What a count of one of the [kinds](Kind) is called.
pub fn name(slot: Slot) -> Cow<'static, str> {
    match slot {
        DSB..DSB_NXS => dsb(slot - DSB),
        DSB_NXS..DMB => ["oshnxs", "nshnxs", "ishnxs", "synxs"][slot - DSB_NXS].into(),
        DMB..TLBI => barrier(slot - DMB),
        TLBI..SLOTS => tlbi(slot - TLBI),
        _ => "".into(),
    }
}

fn dsb(crm: usize) -> Cow<'static, str> {
    match crm {
        0 => "ssbb".into(),
        4 => "pssbb".into(),
        _ => barrier(crm),
    }
}

fn barrier(crm: usize) -> Cow<'static, str> {
    let name = match crm {
        1 => "oshld",
        2 => "oshst",
        3 => "osh",
        5 => "nshld",
        6 => "nshst",
        7 => "nsh",
        9 => "ishld",
        10 => "ishst",
        11 => "ish",
        13 => "ld",
        14 => "st",
        15 => "sy",
        reserved => return format!("#{reserved}").into(),
    };
    name.into()
}

fn tlbi(operation: usize) -> Cow<'static, str> {
    let [nxs, op1, crm, op2] = [
        operation >> 9,
        operation >> 6 & 7,
        operation >> 3 & 7,
        operation & 7,
    ];
    let known = TLBIS.iter().find(|(known, _)| *known == [op1, crm, op2]);
    match (known, nxs) {
        (Some((_, name)), 0) => (*name).into(),
        (Some((_, name)), _) => format!("{name}nxs").into(),
        (None, _) => format!("s1_{op1}_c{}_c{crm}_{op2}", 8 + nxs).into(),
    }
}

/// The operations, by op1, CRm, op2.
#[rustfmt::skip]
const TLBIS: [([usize; 3], &str); 85] = [
    ([0, 1, 0], "vmalle1os"), ([0, 1, 1], "vae1os"), ([0, 1, 2], "aside1os"),
    ([0, 1, 3], "vaae1os"), ([0, 1, 5], "vale1os"), ([0, 1, 7], "vaale1os"),
    ([0, 2, 1], "rvae1is"), ([0, 2, 3], "rvaae1is"), ([0, 2, 5], "rvale1is"), ([0, 2, 7], "rvaale1is"),
    ([0, 3, 0], "vmalle1is"), ([0, 3, 1], "vae1is"), ([0, 3, 2], "aside1is"),
    ([0, 3, 3], "vaae1is"), ([0, 3, 5], "vale1is"), ([0, 3, 7], "vaale1is"),
    ([0, 5, 1], "rvae1os"), ([0, 5, 3], "rvaae1os"), ([0, 5, 5], "rvale1os"), ([0, 5, 7], "rvaale1os"),
    ([0, 6, 1], "rvae1"), ([0, 6, 3], "rvaae1"), ([0, 6, 5], "rvale1"), ([0, 6, 7], "rvaale1"),
    ([0, 7, 0], "vmalle1"), ([0, 7, 1], "vae1"), ([0, 7, 2], "aside1"),
    ([0, 7, 3], "vaae1"), ([0, 7, 5], "vale1"), ([0, 7, 7], "vaale1"),
    ([4, 0, 1], "ipas2e1is"), ([4, 0, 2], "ripas2e1is"), ([4, 0, 5], "ipas2le1is"), ([4, 0, 6], "ripas2le1is"),
    ([4, 1, 0], "alle2os"), ([4, 1, 1], "vae2os"), ([4, 1, 4], "alle1os"),
    ([4, 1, 5], "vale2os"), ([4, 1, 6], "vmalls12e1os"),
    ([4, 2, 1], "rvae2is"), ([4, 2, 2], "vmallws2e1is"), ([4, 2, 5], "rvale2is"),
    ([4, 3, 0], "alle2is"), ([4, 3, 1], "vae2is"), ([4, 3, 4], "alle1is"),
    ([4, 3, 5], "vale2is"), ([4, 3, 6], "vmalls12e1is"),
    ([4, 4, 0], "ipas2e1os"), ([4, 4, 1], "ipas2e1"), ([4, 4, 2], "ripas2e1"), ([4, 4, 3], "ripas2e1os"),
    ([4, 4, 4], "ipas2le1os"), ([4, 4, 5], "ipas2le1"), ([4, 4, 6], "ripas2le1"), ([4, 4, 7], "ripas2le1os"),
    ([4, 5, 1], "rvae2os"), ([4, 5, 2], "vmallws2e1os"), ([4, 5, 5], "rvale2os"),
    ([4, 6, 1], "rvae2"), ([4, 6, 2], "vmallws2e1"), ([4, 6, 5], "rvale2"),
    ([4, 7, 0], "alle2"), ([4, 7, 1], "vae2"), ([4, 7, 4], "alle1"),
    ([4, 7, 5], "vale2"), ([4, 7, 6], "vmalls12e1"),
    ([6, 1, 0], "alle3os"), ([6, 1, 1], "vae3os"), ([6, 1, 4], "paallos"), ([6, 1, 5], "vale3os"),
    ([6, 2, 1], "rvae3is"), ([6, 2, 5], "rvale3is"),
    ([6, 3, 0], "alle3is"), ([6, 3, 1], "vae3is"), ([6, 3, 5], "vale3is"),
    ([6, 4, 3], "rpaos"), ([6, 4, 7], "rpalos"),
    ([6, 5, 1], "rvae3os"), ([6, 5, 5], "rvale3os"),
    ([6, 6, 1], "rvae3"), ([6, 6, 5], "rvale3"),
    ([6, 7, 0], "alle3"), ([6, 7, 1], "vae3"), ([6, 7, 4], "paall"), ([6, 7, 5], "vale3"),
];
