// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other CPUs: each is online, each has what must be its own, and interrupts reach the CPU to
//! which they are sent.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{
    CNTKCTL_EL1, CPACR_EL1, CurrentEL, MAIR_EL1, SCTLR_EL1, SPSel, TCR_EL1, TTBR0_EL1, TTBR1_EL1,
    VBAR_EL1,
};
use arrayvec::ArrayVec;
use tock_registers::interfaces::Readable;

use super::fixture::{spin_for, spin_until};
use crate::arch::percpu;
use crate::arch::probe::try_read_u8;
use crate::arch::relax::cpu_relax;
use crate::arch::timer;
use crate::machine::MAX_CPUS;
use crate::mm::MMU;
use crate::platform::bootargs::BootArguments;
use crate::platform::devicetree::EnableMethod;
use crate::platform::interrupts::{self, IntId, InterruptError};
use crate::selftest::prelude::*;
use crate::smp::call::{CallError, call};
use crate::stack::Stack;
use crate::start;

suite! {
    name: "smp",
    order: 41,
    tests: [
        case!(QemuVisible, every_cpu_that_may_run_is_online),
        case!(QemuVisible, each_has_a_number_an_affinity_and_stacks_of_its_own),
        case!(QemuVisible, a_function_runs_on_the_cpu_that_is_called),
        case!(QemuVisible, each_runs_with_the_registers_of_the_boot_cpu),
        case!(QemuVisible, all_counters_tell_the_same_time),
        case!(HwOnly, all_count_cycles_if_one_does),
        case!(QemuVisible, all_have_what_the_library_relies_on),
        case!(QemuVisible, an_interrupt_arrives_where_it_is_sent_and_only_there),
        case!(QemuVisible, an_interrupt_to_the_others_reaches_each_of_them_once),
        case!(QemuVisible, a_series_of_interrupts_arrives_one_by_one),
        case!(QemuVisible, each_cpu_enables_its_own_private_interrupts),
        case!(QemuVisible, nobody_sends_what_cannot_be_sent),
    ],
}

/// Skips a test that needs another CPU.
macro_rules! need_another_cpu {
    () => {
        if percpu::online_count() < 2 {
            skip!("one CPU is online: run with --smp 4");
        }
    };
}

fn every_cpu_that_may_run_is_online() -> TestResult {
    let machine = start::machine();
    let cpus = &machine.description.cpus;
    if cpus.len() < 2 {
        skip!("the machine has one CPU: run with --smp 4");
    }
    if machine.entry_el == 3
        && cpus
            .iter()
            .any(|cpu| cpu.enable_method == EnableMethod::Psci)
    {
        skip!("entered at EL3, where there is no firmware to start CPUs: run with --el 2");
    }
    let text = machine.description.boot_arguments.as_str();
    let allowed = expect_ok!(BootArguments::parse(text)).cpus;
    expect_eq!(percpu::online_count(), cpus.len().min(allowed));
    Ok(())
}

fn each_has_a_number_an_affinity_and_stacks_of_its_own() -> TestResult {
    need_another_cpu!();
    let known = &start::machine().description.cpus;
    let mut stacks: ArrayVec<Stack, { 2 * MAX_CPUS }> = ArrayVec::new();
    for (expected, cpu) in percpu::online().enumerate() {
        expect_eq!(cpu.index() as usize, expected);
        expect!(known.iter().any(|known| known.mpidr == cpu.affinity()));
        let same = percpu::online().filter(|other| other.affinity() == cpu.affinity());
        expect_eq!(same.count(), 1);
        for stack in [cpu.stack(), cpu.emergency_stack()] {
            expect!(stack.top - stack.bottom >= 16 << 10, "of CPU {expected}");
            expect!(
                stacks
                    .iter()
                    .all(|other| stack.top <= other.bottom || other.top <= stack.bottom),
                "of CPU {expected}"
            );
            // Both ends are mapped, and the page below is a guard.
            expect_ok!(try_read_u8(stack.bottom).map_err(|_| "the bottom faults"));
            expect_ok!(try_read_u8(stack.top - 1).map_err(|_| "the top faults"));
            expect!(try_read_u8(stack.bottom - 1).is_err(), "of CPU {expected}");
            stacks.push(stack);
        }
    }
    Ok(())
}

/// A value from a called function.
static SEEN: AtomicU64 = AtomicU64::new(0);

fn a_function_runs_on_the_cpu_that_is_called() -> TestResult {
    for cpu in percpu::online() {
        SEEN.store(0, Ordering::Relaxed);
        let function = |argument| {
            let here = percpu::current();
            let depth = u64::from(crate::sched::interrupt_depth());
            let found = argument << 32 | depth << 16 | u64::from(here.index());
            SEEN.store(found, Ordering::Relaxed);
        };
        expect_ok!(call(cpu.index(), function, 7));
        let expected = 7 << 32 | 1 << 16 | u64::from(cpu.index());
        expect_eq!(SEEN.load(Ordering::Relaxed), expected);
        SEEN.store(0, Ordering::Relaxed);
        expect_ok!(call(
            cpu.index(),
            |_| SEEN.store(percpu::this_cpu_affinity(), Ordering::Relaxed),
            0
        ));
        expect_eq!(SEEN.load(Ordering::Relaxed), cpu.affinity());
    }
    let beyond = percpu::online_count() as u32;
    expect_eq!(
        call(beyond, |_| {}, 0),
        Err(CallError::Interrupt(InterruptError::NoSuchCpu {
            index: beyond
        }))
    );
    Ok(())
}

/// The registers that determine how a CPU translates, traps and takes exceptions.
fn registers() -> [u64; 10] {
    [
        SCTLR_EL1.get(),
        TCR_EL1.get(),
        MAIR_EL1.get(),
        TTBR0_EL1.get(),
        TTBR1_EL1.get(),
        VBAR_EL1.get(),
        CPACR_EL1.get(),
        CNTKCTL_EL1.get(),
        CurrentEL.get(),
        SPSel.get(),
    ]
}

fn each_runs_with_the_registers_of_the_boot_cpu() -> TestResult {
    static FOUND: [AtomicU64; 10] = [const { AtomicU64::new(0) }; 10];
    need_another_cpu!();
    let expected = registers();
    for cpu in percpu::online() {
        let function = |_| {
            for (place, value) in FOUND.iter().zip(registers()) {
                place.store(value, Ordering::Relaxed);
            }
        };
        expect_ok!(call(cpu.index(), function, 0));
        let found = FOUND.each_ref().map(|place| place.load(Ordering::Relaxed));
        for (found, expected) in found.iter().zip(expected) {
            expect_eq!(*found, expected, "of CPU {}", cpu.index());
        }
    }
    Ok(())
}

/// The physical counter is common to all CPUs, and the virtual counter must equal it: CNTVOFF_EL2
/// is each CPU's own.
fn all_counters_tell_the_same_time() -> TestResult {
    need_another_cpu!();
    for cpu in percpu::online() {
        let before = timer::ticks();
        expect_ok!(call(
            cpu.index(),
            |_| SEEN.store(timer::ticks(), Ordering::Relaxed),
            0
        ));
        let (seen, after) = (SEEN.load(Ordering::Relaxed), timer::ticks());
        expect!(
            before <= seen && seen <= after,
            "of CPU {}: {before}, {seen}, {after}",
            cpu.index()
        );
    }
    Ok(())
}

/// A task reads the counter of the CPU that it runs on, which may be any.
fn all_count_cycles_if_one_does() -> TestResult {
    need_another_cpu!();
    if let Err(why) = start::machine().counts_cycles() {
        skip!("{why}");
    }
    for cpu in percpu::online() {
        let function = |_| {
            let start = timer::cycles();
            let until = timer::ticks() + timer::frequency() / 50_000 + 1;
            while timer::ticks() < until && timer::cycles() == start {
                cpu_relax();
            }
            SEEN.store(timer::cycles().wrapping_sub(start), Ordering::Relaxed);
        };
        expect_ok!(call(cpu.index(), function, 0));
        expect!(SEEN.load(Ordering::Relaxed) > 0, "on CPU {}", cpu.index());
    }
    Ok(())
}

fn all_have_what_the_library_relies_on() -> TestResult {
    use crate::arch::features::{Ets, Features};
    need_another_cpu!();
    for cpu in percpu::online() {
        SEEN.store(0, Ordering::Relaxed);
        let function = |_| {
            let (has, used) = (Features::of_this_cpu(), MMU.features());
            let enough = (has.tlb_range || !used.tlb.range)
                && (has.ttl || !used.tlb.ttl)
                && (has.ets >= Ets::Ets2 || !used.ets2)
                && (used.tlb.repeat || !has.repeat_tlbi);
            SEEN.store(1 + u64::from(enough), Ordering::Relaxed);
        };
        expect_ok!(call(cpu.index(), function, 0));
        expect_eq!(SEEN.load(Ordering::Relaxed), 2, "on CPU {}", cpu.index());
    }
    Ok(())
}

/// How many interrupts arrived on each CPU.
static ARRIVED: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn arrivals() -> [u32; MAX_CPUS] {
    ARRIVED
        .each_ref()
        .map(|count| count.load(Ordering::Acquire))
}

fn forget_arrivals() {
    for count in &ARRIVED {
        count.store(0, Ordering::Release);
    }
}

/// Waits for `expected` arrivals in total, and then a little longer for additional ones.
fn wait_for_arrivals(expected: u32) {
    spin_until(|| arrivals().iter().sum::<u32>() >= expected);
    spin_for(timer::frequency() / 500);
}

fn count_here(_: IntId) {
    let here = percpu::current().index() as usize;
    ARRIVED[here].fetch_add(1, Ordering::Release);
}

/// The interrupt of these tests.
const SGI: IntId = IntId::sgi(4);

/// An interrupt with a handler that is enabled on every CPU. The drop disables and unregisters it.
struct Everywhere(IntId);

impl Everywhere {
    fn new(id: IntId, handler: interrupts::Handler) -> Result<Self, Outcome> {
        expect_ok!(interrupts::register(id, handler));
        let everywhere = Self(id);
        forget_arrivals();
        for cpu in percpu::online() {
            SEEN.store(0, Ordering::Relaxed);
            let function = |number| {
                let enabled = interrupts::enable(IntId::sgi(number as u32));
                SEEN.store(u64::from(enabled.is_ok()), Ordering::Relaxed);
            };
            expect_ok!(call(cpu.index(), function, u64::from(id.raw_value())));
            expect_eq!(SEEN.load(Ordering::Relaxed), 1, "on CPU {}", cpu.index());
        }
        Ok(everywhere)
    }
}

impl Drop for Everywhere {
    fn drop(&mut self) {
        for cpu in percpu::online() {
            let function = |number| {
                // It fails only for SGIs that do not exist.
                let _ = interrupts::disable(IntId::sgi(number as u32));
            };
            if let Err(error) = call(cpu.index(), function, u64::from(self.0.raw_value())) {
                log::error!("{:?} stays enabled on CPU {}: {error}", self.0, cpu.index());
            }
        }
        if let Err(error) = interrupts::unregister(self.0) {
            log::error!("{:?} stays registered: {error}", self.0);
        }
    }
}

fn an_interrupt_arrives_where_it_is_sent_and_only_there() -> TestResult {
    need_another_cpu!();
    let _sgi = Everywhere::new(SGI, count_here)?;
    for cpu in percpu::online() {
        forget_arrivals();
        for round in 1..=3 {
            expect_ok!(interrupts::send(SGI, cpu.index()));
            wait_for_arrivals(round);
        }
        let mut expected = [0; MAX_CPUS];
        expected[cpu.index() as usize] = 3;
        expect_eq!(arrivals(), expected, "sent to CPU {}", cpu.index());
    }
    Ok(())
}

fn an_interrupt_to_the_others_reaches_each_of_them_once() -> TestResult {
    need_another_cpu!();
    let _sgi = Everywhere::new(SGI, count_here)?;
    // It is sent from this CPU, and then from another one.
    for from in percpu::online().take(2) {
        forget_arrivals();
        let function = |_| {
            if let Err(error) = interrupts::send_to_others(SGI) {
                log::error!("{error}");
            }
        };
        expect_ok!(call(from.index(), function, 0));
        wait_for_arrivals(percpu::online_count() as u32 - 1);
        let mut expected = [0; MAX_CPUS];
        for cpu in percpu::online().filter(|cpu| cpu.index() != from.index()) {
            expected[cpu.index() as usize] = 1;
        }
        expect_eq!(arrivals(), expected, "from CPU {}", from.index());
    }
    Ok(())
}

/// The value that the sender stored.
static SENT: AtomicU64 = AtomicU64::new(0);
/// The number of handlers that loaded another value.
static STALE: AtomicU64 = AtomicU64::new(0);

/// Each round's number is stored before its interrupt is sent, and the handlers compare. Under QEMU
/// the test passes even without the barrier between the two.
fn a_series_of_interrupts_arrives_one_by_one() -> TestResult {
    need_another_cpu!();
    STALE.store(0, Ordering::Relaxed);
    let handler = |id| {
        let here = percpu::current().index() as usize;
        let expected = u64::from(ARRIVED[here].load(Ordering::Relaxed)) + 1;
        if SENT.load(Ordering::Relaxed) != expected {
            STALE.fetch_add(1, Ordering::Relaxed);
        }
        count_here(id);
    };
    let _sgi = Everywhere::new(SGI, handler)?;
    let others = percpu::online_count() as u32 - 1;
    for round in 1..=20 {
        SENT.store(round, Ordering::Relaxed);
        expect_ok!(interrupts::send_to_others(SGI));
        spin_until(|| arrivals().iter().sum::<u32>() >= others * round as u32);
    }
    expect_eq!(arrivals().iter().sum::<u32>(), 20 * others);
    expect_eq!(STALE.load(Ordering::Relaxed), 0);
    Ok(())
}

/// Handles the physical timer: counts the interrupt and stops the timer.
fn timer_handler(id: IntId) {
    timer::physical::disarm();
    count_here(id);
}

fn each_cpu_enables_its_own_private_interrupts() -> TestResult {
    need_another_cpu!();
    let Some(number) = start::machine().description.timer.physical_timer else {
        skip!("the device tree names no interrupt for the physical timer");
    };
    let id = IntId::ppi(number - 16);
    expect_ok!(interrupts::register(id, timer_handler));
    let result = timers_interrupt_their_own_cpu(number);
    timer::physical::disarm();
    expect_ok!(interrupts::unregister(id));
    result
}

/// The timers of the other CPUs fire in turn. This CPU's timer fires all the time, but its
/// interrupt is not enabled here.
fn timers_interrupt_their_own_cpu(number: u32) -> TestResult {
    let here = percpu::current().index();
    timer::physical::arm(1);
    for cpu in percpu::online().filter(|cpu| cpu.index() != here) {
        forget_arrivals();
        let start = |number| {
            // After an error no interrupt comes, which the test notices.
            let _ = interrupts::enable(IntId::ppi(number as u32 - 16));
            timer::physical::arm(1);
        };
        let stop = |number| {
            timer::physical::disarm();
            let _ = interrupts::disable(IntId::ppi(number as u32 - 16));
        };
        expect_ok!(call(cpu.index(), start, u64::from(number)));
        wait_for_arrivals(1);
        expect_ok!(call(cpu.index(), stop, u64::from(number)));
        let mut expected = [0; MAX_CPUS];
        expected[cpu.index() as usize] = 1;
        expect_eq!(arrivals(), expected, "enabled on CPU {}", cpu.index());
    }
    Ok(())
}

fn nobody_sends_what_cannot_be_sent() -> TestResult {
    let ppi = IntId::ppi(3);
    let refused = Err(InterruptError::NotSendable(ppi));
    expect_eq!(interrupts::send(ppi, 0), refused);
    expect_eq!(interrupts::send_to_self(ppi), refused);
    expect_eq!(interrupts::send_to_others(ppi), refused);
    expect_eq!(
        interrupts::send(SGI, MAX_CPUS as u32),
        Err(InterruptError::NoSuchCpu {
            index: MAX_CPUS as u32
        })
    );
    Ok(())
}
