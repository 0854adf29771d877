// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures what barriers and TLB invalidations cost on this CPU, in cycles.
//!
//! Each operation is executed many times with interrupts masked, once with nothing to wait for, and
//! once after stores to [`LINES`] cache lines. The row `nothing` shows what the loop, the call and
//! the stores take by themselves, and it is subtracted from the others. The addresses are the
//! kernel's and therefore global, so the forms for all ASIDs are measured in place of VAE1 and
//! VAE1IS.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use lazymmu::tlbi::{Scope, range_operand, va_operand};
use lazymmu::{ENTRIES, VirtAddr};

use crate::arch::timer;
use crate::arch::{barrier, interrupts, tlbi};
use crate::println;
use crate::start::Machine;

/// The number of cache lines that are stored to before the operation, 64 bytes apart.
const LINES: usize = 8;
/// How many times each operation is executed.
const ROUNDS: u64 = 1000;
/// The same where the result is not shown.
const EXERCISE: u64 = 4;

/// An operation. Its argument holds two TLBI operands: one for a page, and one for a range.
struct Operation {
    name: &'static str,
    run: fn([u64; 2]),
}

/// The first row is subtracted from the others. The last one needs FEAT_TLBIRANGE.
#[rustfmt::skip]
const OPERATIONS: [Operation; 11] = [
    Operation { name: "nothing", run: |_| () },
    Operation { name: "DMB ISHST", run: |_| barrier::dmb_ishst() },
    Operation { name: "DSB NSH", run: |_| barrier::dsb_nsh() },
    Operation { name: "DSB ISHST", run: |_| barrier::dsb_ishst() },
    Operation { name: "DSB ISH", run: |_| barrier::dsb_ish() },
    Operation { name: "DSB SY", run: |_| barrier::dsb_sy() },
    Operation { name: "ISB", run: |_| barrier::isb() },
    Operation { name: "DSB ISHST, ISB", run: |_| { barrier::dsb_ishst(); barrier::isb(); } },
    Operation { name: "TLBI VAALE1, DSB NSH", run: |at| { tlbi::vaale1(at[0]); barrier::dsb_nsh(); } },
    Operation { name: "TLBI VAALE1IS, DSB ISH", run: |at| { tlbi::vaale1is(at[0]); barrier::dsb_ish(); } },
    Operation { name: "TLBI RVAALE1IS, DSB ISH", run: |at| { tlbi::rvaale1is(at[1]); barrier::dsb_ish(); } },
];

/// Prints the table, or the reason why there is none. Each word of `page` but the first may be
/// written.
pub(super) fn show(machine: &Machine, page: &[AtomicU64; ENTRIES]) {
    let real = machine.counts_cycles();
    let (clock, rounds): (fn() -> u64, u64) = match real {
        Ok(()) => (timer::cycles, ROUNDS),
        Err(reason) => {
            println!("Cycles are not shown: {reason}");
            (timer::ticks, EXERCISE)
        }
    };
    let last = OPERATIONS.len() - usize::from(!machine.features.tlb_range);
    let at = VirtAddr::new(page.as_ptr().addr() as u64).map_or([0; 2], |va| {
        // 64 pages: (1 + 1) << (5 * 1).
        [
            va_operand(va, Scope::AllAsids, None),
            range_operand(va, Scope::AllAsids, None, 1, 0),
        ]
    });
    // Interrupts are masked so that one CPU's counter is read. Each CPU has started its own
    // counter.
    let _masked = interrupts::mask();
    if real.is_ok() {
        println!("  {:<24}| cycles | after stores to {LINES} lines", "");
    }
    let mut empty = [0; 2];
    for (number, operation) in OPERATIONS[..last].iter().enumerate() {
        let took = [0, LINES].map(|lines| {
            let start = clock();
            for round in 0..rounds {
                for line in 0..lines {
                    page[1 + line * 8].store(round, Ordering::Relaxed);
                }
                black_box(operation.run)(black_box(at));
            }
            clock().wrapping_sub(start) / rounds
        });
        if number == 0 {
            empty = took;
        }
        if real.is_ok() {
            let [idle, behind] = match number {
                0 => took,
                _ => [0, 1].map(|i: usize| took[i].saturating_sub(empty[i])),
            };
            println!("  {:<24}| {idle:6} | {behind:6}", operation.name);
        }
    }
}
