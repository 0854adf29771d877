// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest of a few words, for which a test knows what is executed.
//!
//! ```text
//! 0x000  where CPU 0 begins, at EL1 with the MMU off: sets the vectors, then what the test writes,
//!        then the end by semihosting
//! 0x800  vectors; one that the test does not write ends the guest with status 1
//! ```

/// Where it is loaded: `-M virt` has memory there, behind the device tree.
pub const ADDRESS: u32 = 0x4028_0000;
/// Words in front of the vectors.
pub const VECTORS: usize = 0x800 / 4;
/// Words of one vector.
pub const VECTOR: usize = 0x80 / 4;
/// And of all.
const ALL_VECTORS: usize = 16 * VECTOR;

/// An exception from this level, synchronous.
pub const SYNC: usize = 4;
/// An interrupt at this level.
pub const IRQ: usize = 5;
/// An exception from EL0, synchronous.
pub const SYNC_FROM_EL0: usize = 8;

/// x0 to x30, or 31 for the zero register.
pub type Register = u32;
/// The zero register.
pub const XZR: Register = 31;

/// The words of a guest, written one after the other.
#[derive(Debug)]
pub struct Program {
    code: Vec<u32>,
    vectors: Vec<u32>,
}

impl Program {
    /// One that sets its vectors.
    pub fn new() -> Self {
        let fail = [exit(1).as_slice(), &[NOP; VECTOR]].concat();
        let mut program = Self {
            code: Vec::new(),
            vectors: fail[..VECTOR].repeat(ALL_VECTORS / VECTOR),
        };
        program.address(9, VECTORS);
        program.add(&[0xd518_c009, ISB]); // msr vbar_el1, x9
        program
    }

    /// What happens at a vector.
    pub fn at_vector(&mut self, vector: usize, words: &[u32]) {
        let start = vector * VECTOR;
        self.vectors[start..start + words.len()].copy_from_slice(words);
    }

    /// Adds words.
    pub fn add(&mut self, words: &[u32]) {
        self.code.extend_from_slice(words);
    }

    /// Adds the same word so many times.
    pub fn times(&mut self, count: usize, word: u32) {
        self.code.extend(std::iter::repeat_n(word, count));
    }

    /// Sets a register: two instructions.
    pub fn set(&mut self, register: Register, value: u32) {
        self.add(&set(register, value));
    }

    /// `adr`: the address of word `at` of the guest.
    pub fn address(&mut self, register: Register, at: usize) {
        let offset = (at as u32).wrapping_sub(self.here() as u32);
        // Bits 20:2 of the offset, which is a multiple of four bytes.
        self.add(&[0x1000_0000 | (offset & 0x7_ffff) << 5 | register]);
    }

    /// The number of the next word.
    pub fn here(&self) -> usize {
        self.code.len()
    }

    /// Begins a window: three instructions, none of which is in it.
    pub fn begin(&mut self, id: u32) {
        self.set(0, id);
        self.add(&[BEGIN]);
    }

    /// A window whose body leaves x0 alone.
    pub fn window(&mut self, id: u32, body: &[u32]) {
        self.begin(id);
        self.add(body);
        self.add(&[END]);
    }

    /// The bytes to be loaded, with the end.
    ///
    /// # Panics
    ///
    /// When a test has written so much that it would reach into the vectors.
    pub fn bytes(&self) -> Vec<u8> {
        let mut words = [self.code.as_slice(), &exit(0)].concat();
        assert!(words.len() <= VECTORS, "{} words are too many", words.len());
        words.resize(VECTORS, NOP);
        words.extend(&self.vectors);
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// The id of a window.
pub const fn id(op: u32, pages: u32) -> u32 {
    op << 24 | pages
}

/// `movz` and `movk` of the lower half of a register.
pub const fn set(register: Register, value: u32) -> [u32; 2] {
    [
        0xd280_0000 | (value & 0xffff) << 5 | register,
        0xf2a0_0000 | (value >> 16) << 5 | register,
    ]
}

/// SYS_EXIT of semihosting with a status, its parameters on the stack below the vectors.
const fn exit(status: u32) -> [u32; 9] {
    let [low, high] = set(1, 0x2_0026); // ADP_Stopped_ApplicationExit
    let [sp, sp_high] = set(2, ADDRESS + (VECTORS + ALL_VECTORS) as u32 * 4);
    [
        low,
        high,
        sp,
        sp_high,
        0xd280_0003 | status << 5, // movz x3, #status
        0xa900_0c41,               // stp x1, x3, [x2]
        0xaa02_03e1,               // mov x1, x2
        0xd280_0300,               // movz x0, #0x18
        0xd45e_0000,               // hlt #0xf000
    ]
}

pub const NOP: u32 = hint(0);
pub const BEGIN: u32 = hint(0x60);
pub const END: u32 = hint(0x61);
pub const REPORT: u32 = hint(0x62);
pub const FORGET: u32 = hint(0x63);
pub const ISB: u32 = 0xd503_3fdf;
pub const ERET: u32 = 0xd69f_03e0;
pub const SVC: u32 = 0xd400_0001;
pub const HVC: u32 = 0xd400_0002;

/// `hint #number`.
const fn hint(number: u32) -> u32 {
    0xd503_201f | number << 5
}

/// `dsb` of a domain and type, by its CRm.
pub const fn dsb(crm: u32) -> u32 {
    0xd503_309f | crm << 8
}

/// `dmb` of a domain and type, by its CRm.
pub const fn dmb(crm: u32) -> u32 {
    0xd503_30bf | crm << 8
}

/// `tlbi` by op1, CRm and op2, with the zero register.
pub const fn tlbi(op1: u32, crm: u32, op2: u32) -> u32 {
    0xd508_8000 | op1 << 16 | crm << 8 | op2 << 5 | XZR
}

/// `subs register, register, #1`.
pub const fn count_down(register: Register) -> u32 {
    0xf100_0400 | register << 5 | register
}

/// `b.ne` so many words back.
pub const fn back_if_not_zero(words: u32) -> u32 {
    0x5400_0001 | (words.wrapping_neg() & 0x7_ffff) << 5
}

/// `cbz register` so many words back.
pub const fn back_if_zero(register: Register, words: u32) -> u32 {
    0xb400_0000 | (words.wrapping_neg() & 0x7_ffff) << 5 | register
}

/// `b` so many words forward; negative ones backward.
pub const fn branch(words: i32) -> u32 {
    0x1400_0000 | words as u32 & 0x3ff_ffff
}

/// `ldr wN, [base]`.
pub const fn load(register: Register, base: Register) -> u32 {
    0xb940_0000 | base << 5 | register
}

/// `str wN, [base]`.
pub const fn store(register: Register, base: Register) -> u32 {
    0xb900_0000 | base << 5 | register
}

/// `mov xN, xM`.
pub const fn copy(to: Register, from: Register) -> u32 {
    0xaa00_03e0 | from << 16 | to
}
