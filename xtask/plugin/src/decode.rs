// SPDX-License-Identifier: GPL-2.0-or-later

//! Which instructions are counted one by one, and what they are called.
//!
//! Encodings are those of the A64 instruction set (Arm ARM C4.1.1, C5.1.3 for TLBI; DDI 0487);
//! names are what an assembler takes, in lower case.

use std::borrow::Cow;
use std::ops::Range;

/// A mark that the guest sets by an unallocated hint, which is a NOP to the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// `hint #0x60`: a window begins; x0 has its id, `op << 24 | pages`.
    Begin,
    /// `hint #0x61`: a window ends; x0 has its id.
    End,
    /// `hint #0x62`: the windows that have ended are written now; the rest is when QEMU ends.
    Report,
    /// `hint #0x63`: the windows that have ended and were not written are forgotten, and so is how
    /// often each id has ended.
    Forget,
}

impl Marker {
    /// All of them, from hint 0x60 on.
    const ALL: [Self; 4] = [Self::Begin, Self::End, Self::Report, Self::Forget];

    /// The marker that an instruction is.
    pub fn of(word: u32) -> Option<Self> {
        /// `hint #0x60`; the number is in bits 11:5.
        const FIRST: u32 = 0xd503_2c1f;
        let number = word.checked_sub(FIRST)?;
        let marker = Self::ALL.get(number as usize >> 5)?;
        (number % 0x20 == 0).then_some(*marker)
    }
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

/// The instructions that are counted by their operand, in the order of the report.
pub const KINDS: [(&str, Range<Slot>); 3] =
    [("dsb", DSB..DMB), ("dmb", DMB..TLBI), ("tlbi", TLBI..SLOTS)];

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

/// What a count of one of the [kinds](KINDS) is called.
pub fn name(slot: Slot) -> Cow<'static, str> {
    match slot {
        DSB..DSB_NXS => match slot - DSB {
            0 => "ssbb".into(),
            4 => "pssbb".into(),
            crm => BARRIERS[crm].into(),
        },
        DSB_NXS..DMB => ["oshnxs", "nshnxs", "ishnxs", "synxs"][slot - DSB_NXS].into(),
        DMB..TLBI => BARRIERS[slot - DMB].into(),
        TLBI..SLOTS => tlbi(slot - TLBI),
        _ => "".into(),
    }
}

fn tlbi(operation: usize) -> Cow<'static, str> {
    let field = |low: u32| operation >> low & 7;
    let (nxs, op1, crm, op2) = (operation >> 9, field(6), field(3), field(0));
    let row = TLBIS.iter().find(|row| (row.0, row.1) == (op1, crm));
    match (row.map_or("", |row| row.2[op2]), nxs) {
        ("", _) => format!("s1_{op1}_c{}_c{crm}_{op2}", 8 + nxs).into(),
        (name, 0) => name.into(),
        (name, _) => format!("{name}nxs").into(),
    }
}

/// Domain and type of a barrier, by CRm.
#[rustfmt::skip]
const BARRIERS: [&str; 16] = [
    "#0", "oshld", "oshst", "osh", "#4", "nshld", "nshst", "nsh",
    "#8", "ishld", "ishst", "ish", "#12", "ld", "st", "sy",
];

/// The operations: op1, CRm, and a name for each op2 that has one.
#[rustfmt::skip]
const TLBIS: [(usize, usize, [&str; 8]); 21] = [
    (0, 1, ["vmalle1os", "vae1os", "aside1os", "vaae1os", "", "vale1os", "", "vaale1os"]),
    (0, 2, ["", "rvae1is", "", "rvaae1is", "", "rvale1is", "", "rvaale1is"]),
    (0, 3, ["vmalle1is", "vae1is", "aside1is", "vaae1is", "", "vale1is", "", "vaale1is"]),
    (0, 5, ["", "rvae1os", "", "rvaae1os", "", "rvale1os", "", "rvaale1os"]),
    (0, 6, ["", "rvae1", "", "rvaae1", "", "rvale1", "", "rvaale1"]),
    (0, 7, ["vmalle1", "vae1", "aside1", "vaae1", "", "vale1", "", "vaale1"]),
    (4, 0, ["", "ipas2e1is", "ripas2e1is", "", "", "ipas2le1is", "ripas2le1is", ""]),
    (4, 1, ["alle2os", "vae2os", "", "", "alle1os", "vale2os", "vmalls12e1os", ""]),
    (4, 2, ["", "rvae2is", "vmallws2e1is", "", "", "rvale2is", "", ""]),
    (4, 3, ["alle2is", "vae2is", "", "", "alle1is", "vale2is", "vmalls12e1is", ""]),
    (4, 4, ["ipas2e1os", "ipas2e1", "ripas2e1", "ripas2e1os", "ipas2le1os", "ipas2le1", "ripas2le1", "ripas2le1os"]),
    (4, 5, ["", "rvae2os", "vmallws2e1os", "", "", "rvale2os", "", ""]),
    (4, 6, ["", "rvae2", "vmallws2e1", "", "", "rvale2", "", ""]),
    (4, 7, ["alle2", "vae2", "", "", "alle1", "vale2", "vmalls12e1", ""]),
    (6, 1, ["alle3os", "vae3os", "", "", "paallos", "vale3os", "", ""]),
    (6, 2, ["", "rvae3is", "", "", "", "rvale3is", "", ""]),
    (6, 3, ["alle3is", "vae3is", "", "", "", "vale3is", "", ""]),
    (6, 4, ["", "", "", "rpaos", "", "", "", "rpalos"]),
    (6, 5, ["", "rvae3os", "", "", "", "rvale3os", "", ""]),
    (6, 6, ["", "rvae3", "", "", "", "rvale3", "", ""]),
    (6, 7, ["alle3", "vae3", "", "", "paall", "vale3", "", ""]),
];
