// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs of a few instructions.

use super::program::{
    ADDRESS, BEGIN, END, ERET, FORGET, HVC, IRQ, ISB, NOP, Program, REPORT, SVC, SYNC,
    SYNC_FROM_EL0, VECTOR, VECTORS, XZR, back_if_not_zero, back_if_zero, branch, copy, count_down,
    dmb, dsb, id, load, set, store, tlbi,
};

/// CRm of all barriers that have a name of their own as DSB and as DMB. The n-th is executed n
/// times.
const BARRIERS: [u32; 12] = [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15];
/// op1, CRm and op2 of some TLBI at EL1. The n-th is executed n times.
#[rustfmt::skip]
const TLBIS: [[u32; 3]; 11] = [
    [0, 7, 0], [0, 3, 1], [0, 3, 2], [0, 3, 3], [0, 3, 5], [0, 3, 7], [0, 3, 0], [0, 7, 1],
    [0, 2, 1], [0, 2, 7], [0, 1, 0],
];

/// A word of memory that CPUs share.
const FLAG: u32 = ADDRESS + 0x2000;
/// On `virt` there is nothing.
const NOWHERE: u32 = 0x0f00_0000;
/// The flag register of the UART.
pub const UART: u32 = 0x0900_0018;

pub fn instructions(p: &mut Program) {
    p.begin(id(1, 16));
    p.times(4, NOP);
    p.set(2, 10);
    p.add(&[count_down(2), back_if_not_zero(1), END]);
}

pub fn barriers(p: &mut Program, barrier: fn(u32) -> u32) {
    p.begin(id(2, 1));
    for (n, crm) in (1..).zip(BARRIERS) {
        p.times(n, barrier(crm));
    }
    p.add(&[END]);
}

pub fn invalidations(p: &mut Program) {
    p.begin(id(4, 1));
    for (n, [op1, crm, op2]) in (1..).zip(TLBIS) {
        p.times(n, tlbi(op1, crm, op2));
    }
    p.add(&[END]);
}

/// As a kernel invalidates a range: `dsb ishst`, n times `tlbi vaale1is`, `dsb ish`, `isb`.
pub fn flush_in_a_loop(p: &mut Program) {
    p.begin(id(10, 300));
    p.add(&[dsb(10)]);
    p.set(2, 300);
    p.add(&[tlbi(0, 3, 7), count_down(2), back_if_not_zero(2)]);
    p.add(&[dsb(11), ISB, END]);
}

pub fn exceptions(p: &mut Program) {
    p.at_vector(SYNC, &[ERET]);
    p.window(id(5, 1), &[SVC, SVC, NOP, SVC]);
}

pub fn exceptions_at_el2(p: &mut Program) {
    p.at_vector(SYNC, &[ERET]);
    // msr vbar_el2, x9; msr vbar_el1, xzr: those of the level count.
    p.add(&[0xd51c_c009, 0xd518_c000 | XZR, ISB]);
    let [alle1is, vae2is, vmalls12e1is] = [4, 1, 6].map(|op2| tlbi(4, 3, op2));
    p.window(id(5, 2), &[alle1is, vae2is, SVC, vmalls12e1is, SVC]);
}

pub fn el0_and_back(p: &mut Program) {
    p.begin(id(6, 1));
    p.add(&[0xd518_4000 | XZR]); // msr spsr_el1, xzr
    let el0 = p.here() + 3;
    p.address(9, el0);
    p.add(&[0xd518_4029, ERET]); // msr elr_el1, x9
    p.window(id(6, 2), &[NOP, NOP, NOP]);
    p.set(0, id(6, 1));
    p.add(&[SVC]);
    // Not to where it came from: that is EL0.
    let vector = VECTORS + SYNC_FROM_EL0 * VECTOR;
    p.at_vector(SYNC_FROM_EL0, &[branch(p.here() as i32 - vector as i32)]);
    p.add(&[END]);
}

pub fn fault(p: &mut Program) {
    p.at_vector(SYNC, &[copy(4, 3), ERET]);
    p.set(3, ADDRESS);
    p.set(4, NOWHERE);
    p.window(id(5, 3), &[NOP, load(5, 4), NOP]);
}

/// A CPU sends itself an interrupt by the GICv2.
pub fn interrupt(p: &mut Program) {
    const GICD_CTLR: u32 = 0x0800_0000;
    const GICD_SGIR: u32 = 0x0800_0f00;
    const GICC_CTLR: u32 = 0x0801_0000;
    const GICC_PMR: u32 = 0x0801_0004;
    const GICC_IAR: u32 = 0x0801_000c;
    const GICC_EOIR: u32 = 0x0801_0010;
    for (register, value) in [(GICD_CTLR, 1), (GICC_CTLR, 1), (GICC_PMR, 0xff)] {
        p.set(4, register);
        p.set(5, value);
        p.add(&[store(5, 4)]);
    }
    p.set(4, GICC_IAR);
    p.set(5, GICC_EOIR);
    p.at_vector(IRQ, &[load(6, 4), store(6, 5), ERET]);
    p.set(7, GICD_SGIR);
    p.set(8, 2 << 24);
    p.add(&[0xd503_42ff]); // msr daifclr, #2
    // An ISB ends QEMU's block, and between blocks it takes interrupts.
    p.window(id(5, 4), &[store(8, 7), ISB, NOP]);
}

pub fn nested(p: &mut Program) {
    p.begin(id(1, 0));
    p.add(&[NOP]);
    p.window(id(2, 0), &[NOP, ISB]);
    p.add(&[NOP]);
    p.set(0, id(1, 0));
    p.add(&[END]);
}

pub fn executed_again(p: &mut Program) {
    p.set(2, 3);
    let start = p.here();
    p.window(id(8, 1), &[NOP]);
    p.add(&[count_down(2)]);
    let words = p.here() - start;
    p.add(&[back_if_not_zero(words as u32)]);
}

pub fn forget(p: &mut Program) {
    p.window(id(8, 1), &[NOP]);
    p.add(&[FORGET]);
    p.window(id(8, 1), &[NOP, NOP]);
}

pub fn report(p: &mut Program) {
    p.window(id(8, 1), &[NOP]);
    p.add(&[REPORT, FORGET]);
    p.window(id(8, 1), &[NOP, NOP]);
}

/// CPU 0 starts CPU 1 (PSCI), and has its own window when the other is through.
pub fn two_cpus(p: &mut Program) {
    const CPU_ON: u32 = 0xc400_0003;
    let mut other = [set(5, FLAG), set(0, id(4, 1))].concat();
    other.extend([BEGIN, NOP, ISB, NOP, END]);
    other.extend(set(6, 1));
    other.extend([store(6, 5), branch(0)]);
    p.add(&[branch(other.len() as i32 + 1)]);
    let entry = p.here();
    p.add(&other);
    for (register, value) in [(0, CPU_ON), (1, 1), (3, 0)] {
        p.set(register, value);
    }
    p.address(2, entry);
    p.add(&[HVC]);
    p.set(5, FLAG);
    p.add(&[load(6, 5), back_if_zero(6, 1)]);
    p.window(id(4, 1), &[NOP; 5]);
}
