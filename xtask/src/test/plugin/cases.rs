// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs of a few instructions and what the plugin must have counted of them.

use super::program::{
    ADDRESS, BEGIN, END, ERET, FORGET, HVC, IRQ, ISB, NOP, Program, REPORT, SVC, SYNC,
    SYNC_FROM_EL0, VECTOR, VECTORS, XZR, back_if_not_zero, back_if_zero, branch, copy, count_down,
    dmb, dsb, id, load, set, store, tlbi,
};

/// A program, the machine for it, and its windows.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Writes it.
    pub write: fn(&mut Program),
    /// The machine.
    pub machine: Machine,
    /// What comes of it.
    pub expected: Expected,
}

/// What is special about the machine; it is `virt` with the CPU `max` and `-icount`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Nothing.
    Usual,
    /// The host's clock.
    HostClock,
    /// The guest begins at EL2.
    El2,
    /// Two CPUs with a thread each.
    TwoThreads,
    /// Two CPUs in one thread.
    OneThread,
}

/// What comes of a program.
pub enum Expected {
    /// These windows, and these problems behind them.
    Lines(&'static [&'static str]),
    /// QEMU ends before the guest begins, and says this.
    Refusal(&'static str),
}

use Expected::{Lines, Refusal};
use Machine::{El2, HostClock, OneThread, TwoThreads, Usual};

/// CRm of all barriers that have a name of their own as DSB and as DMB. The n-th is executed n times.
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
const UART: u32 = 0x0900_0018;

/// All of them.
#[rustfmt::skip]
pub const CASES: [Case; 22] = [
    Case { name: "empty_window", write: |p| p.window(id(0, 0), &[]), machine: Usual,
        expected: Lines(&["op=0 pages=0 execution=1 vcpu=0 instructions=0"]) },
    Case { name: "instructions", write: instructions, machine: Usual,
        expected: Lines(&["op=1 pages=16 execution=1 vcpu=0 instructions=26"]) },
    Case { name: "instructions_by_the_hosts_clock", write: instructions, machine: HostClock,
        expected: Lines(&["op=1 pages=16 execution=1 vcpu=0 instructions=26"]) },
    Case { name: "dsb", write: |p| barriers(p, dsb), machine: Usual,
        expected: Lines(&["op=2 pages=1 execution=1 vcpu=0 instructions=78 dsb.ish=9 dsb.ishld=7 dsb.ishst=8 \
            dsb.ld=10 dsb.nsh=6 dsb.nshld=4 dsb.nshst=5 dsb.osh=3 dsb.oshld=1 dsb.oshst=2 dsb.st=11 dsb.sy=12"]) },
    Case { name: "dmb", write: |p| barriers(p, dmb), machine: Usual,
        expected: Lines(&["op=2 pages=1 execution=1 vcpu=0 instructions=78 dmb.ish=9 dmb.ishld=7 dmb.ishst=8 \
            dmb.ld=10 dmb.nsh=6 dmb.nshld=4 dmb.nshst=5 dmb.osh=3 dmb.oshld=1 dmb.oshst=2 dmb.st=11 dmb.sy=12"]) },
    Case { name: "isb", write: |p| p.window(id(3, 1), &[ISB, NOP, ISB, ISB]), machine: Usual,
        expected: Lines(&["op=3 pages=1 execution=1 vcpu=0 instructions=4 isb=3"]) },
    Case { name: "tlbi", write: invalidations, machine: Usual,
        expected: Lines(&["op=4 pages=1 execution=1 vcpu=0 instructions=66 tlbi.aside1is=3 tlbi.rvaale1is=10 \
            tlbi.rvae1is=9 tlbi.vaae1is=4 tlbi.vaale1is=6 tlbi.vae1=8 tlbi.vae1is=2 tlbi.vale1is=5 \
            tlbi.vmalle1=1 tlbi.vmalle1is=7 tlbi.vmalle1os=11"]) },
    Case { name: "flush_in_a_loop", write: flush_in_a_loop, machine: Usual,
        expected: Lines(&["op=10 pages=300 execution=1 vcpu=0 instructions=905 dsb.ish=1 dsb.ishst=1 \
            tlbi.vaale1is=300 isb=1"]) },
    Case { name: "exceptions", write: exceptions, machine: Usual,
        expected: Lines(&["op=5 pages=1 execution=1 vcpu=0 instructions=7 eret=3 exceptions=3"]) },
    Case { name: "exceptions_at_el2", write: exceptions_at_el2, machine: El2,
        expected: Lines(&["op=5 pages=2 execution=1 vcpu=0 instructions=7 tlbi.alle1is=1 tlbi.vae2is=1 \
            tlbi.vmalls12e1is=1 eret=2 exceptions=2"]) },
    Case { name: "el0_and_back", write: el0_and_back, machine: Usual,
        expected: Lines(&["op=6 pages=2 execution=1 vcpu=0 instructions=3",
            "op=6 pages=1 execution=1 vcpu=0 instructions=13 eret=1 exceptions=1"]) },
    // The load is tried, fails, and is executed.
    Case { name: "fault", write: fault, machine: Usual,
        expected: Lines(&["op=5 pages=3 execution=1 vcpu=0 instructions=6 eret=1 exceptions=1"]) },
    Case { name: "fault_by_the_hosts_clock", write: fault, machine: HostClock,
        expected: Lines(&["op=5 pages=3 execution=1 vcpu=0 instructions=6 eret=1 exceptions=1"]) },
    Case { name: "interrupt", write: interrupt, machine: Usual,
        expected: Lines(&["op=5 pages=4 execution=1 vcpu=0 instructions=6 isb=1 eret=1 exceptions=1"]) },
    // With -icount QEMU begins a block anew that has such a load in its middle.
    Case { name: "device_register", write: |p| { p.set(4, UART); p.window(id(7, 1), &[NOP, load(5, 4), NOP, NOP]); },
        machine: Usual, expected: Lines(&["op=7 pages=1 execution=1 vcpu=0 instructions=4"]) },
    // Sets x0 twice on the way, by two instructions each time; the markers do not count.
    Case { name: "nested", write: nested, machine: Usual,
        expected: Lines(&["op=2 pages=0 execution=1 vcpu=0 instructions=2 isb=1",
            "op=1 pages=0 execution=1 vcpu=0 instructions=8 isb=1"]) },
    Case { name: "executed_again", write: executed_again, machine: Usual,
        expected: Lines(&["op=8 pages=1 execution=1 vcpu=0 instructions=1", "op=8 pages=1 execution=2 vcpu=0 instructions=1",
            "op=8 pages=1 execution=3 vcpu=0 instructions=1"]) },
    Case { name: "forget", write: forget, machine: Usual,
        expected: Lines(&["op=8 pages=1 execution=1 vcpu=0 instructions=2"]) },
    // What was reported cannot be forgotten.
    Case { name: "report", write: report, machine: Usual,
        expected: Lines(&["op=8 pages=1 execution=1 vcpu=0 instructions=1", "op=8 pages=1 execution=1 vcpu=0 instructions=2"]) },
    Case { name: "unpaired", write: |p| { p.set(0, id(9, 1)); p.add(&[END]); p.begin(id(9, 2)); }, machine: Usual,
        expected: Lines(&["window 0x9000001 (op 9, 1 pages) ended here, where it had not begun",
            "window 0x9000002 (op 9, 2 pages) began here and did not end"]) },
    Case { name: "two_cpus", write: two_cpus, machine: TwoThreads,
        expected: Lines(&["op=4 pages=1 execution=1 vcpu=1 instructions=3 isb=1", "op=4 pages=1 execution=2 vcpu=0 instructions=5"]) },
    Case { name: "two_cpus_in_one_thread", write: two_cpus, machine: OneThread,
        expected: Refusal("several CPUs in one thread") },
];

fn instructions(p: &mut Program) {
    p.begin(id(1, 16));
    p.times(4, NOP);
    p.set(2, 10);
    p.add(&[count_down(2), back_if_not_zero(1), END]);
}

fn barriers(p: &mut Program, barrier: fn(u32) -> u32) {
    p.begin(id(2, 1));
    for (n, crm) in (1..).zip(BARRIERS) {
        p.times(n, barrier(crm));
    }
    p.add(&[END]);
}

fn invalidations(p: &mut Program) {
    p.begin(id(4, 1));
    for (n, [op1, crm, op2]) in (1..).zip(TLBIS) {
        p.times(n, tlbi(op1, crm, op2));
    }
    p.add(&[END]);
}

/// As a kernel invalidates a range: `dsb ishst`, n times `tlbi vaale1is`, `dsb ish`, `isb`.
fn flush_in_a_loop(p: &mut Program) {
    p.begin(id(10, 300));
    p.add(&[dsb(10)]);
    p.set(2, 300);
    p.add(&[tlbi(0, 3, 7), count_down(2), back_if_not_zero(2)]);
    p.add(&[dsb(11), ISB, END]);
}

fn exceptions(p: &mut Program) {
    p.at_vector(SYNC, &[ERET]);
    p.window(id(5, 1), &[SVC, SVC, NOP, SVC]);
}

fn exceptions_at_el2(p: &mut Program) {
    p.at_vector(SYNC, &[ERET]);
    // msr vbar_el2, x9; msr vbar_el1, xzr: those of the level count.
    p.add(&[0xd51c_c009, 0xd518_c000 | XZR, ISB]);
    let [alle1is, vae2is, vmalls12e1is] = [4, 1, 6].map(|op2| tlbi(4, 3, op2));
    p.window(id(5, 2), &[alle1is, vae2is, SVC, vmalls12e1is, SVC]);
}

fn el0_and_back(p: &mut Program) {
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

fn fault(p: &mut Program) {
    p.at_vector(SYNC, &[copy(4, 3), ERET]);
    p.set(3, ADDRESS);
    p.set(4, NOWHERE);
    p.window(id(5, 3), &[NOP, load(5, 4), NOP]);
}

/// A CPU sends itself an interrupt by the GICv2.
fn interrupt(p: &mut Program) {
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

fn nested(p: &mut Program) {
    p.begin(id(1, 0));
    p.add(&[NOP]);
    p.window(id(2, 0), &[NOP, ISB]);
    p.add(&[NOP]);
    p.set(0, id(1, 0));
    p.add(&[END]);
}

fn executed_again(p: &mut Program) {
    p.set(2, 3);
    let start = p.here();
    p.window(id(8, 1), &[NOP]);
    p.add(&[count_down(2)]);
    let words = p.here() - start;
    p.add(&[back_if_not_zero(words as u32)]);
}

fn forget(p: &mut Program) {
    p.window(id(8, 1), &[NOP]);
    p.add(&[FORGET]);
    p.window(id(8, 1), &[NOP, NOP]);
}

fn report(p: &mut Program) {
    p.window(id(8, 1), &[NOP]);
    p.add(&[REPORT, FORGET]);
    p.window(id(8, 1), &[NOP, NOP]);
}

/// CPU 0 starts CPU 1 (PSCI), and has its own window when the other is through.
fn two_cpus(p: &mut Program) {
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
