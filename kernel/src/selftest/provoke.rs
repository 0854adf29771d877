// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ends the kernel on purpose in a bad way, to show its report, and to test that `cargo xtask`
//! understands the report. Linux: LKDTM.

use core::hint::black_box;
use core::ptr;
use core::time::Duration;

use lazymmu::Backend;

use crate::arch::percpu;
use crate::arch::relax::cpu_relax;
use crate::arch::timer;
use crate::mm::vmap::Area;
use crate::mm::{MMU, kernel_space};
use crate::platform::bootargs::Provocation;
use crate::platform::interrupts::{self, IntId};
use crate::println;
use crate::sched;
use crate::smp::call::call;

/// Ends the kernel in the way `end`. It does not return.
pub fn run(end: Provocation) -> ! {
    println!("provoking: {end:?}");
    match end {
        Provocation::Panic => outer(|| panic!("provoked")),
        Provocation::PanicElsewhere => outer(panic_on_the_other_cpus),
        Provocation::Exception => outer(write_to_an_unmapped_page),
        Provocation::StackOverflow => outer(|| {
            recurse(0);
        }),
        Provocation::TaskOverflow => outer(overflow_in_a_task),
        Provocation::SleepInSection => outer(sleep_in_a_section),
        Provocation::Jump => outer(jump_to_an_unmapped_page),
        Provocation::LockInInterrupt => outer(lock_in_an_interrupt),
        Provocation::Hang => outer(|| {
            loop {
                cpu_relax();
            }
        }),
    }
    unreachable!("{end:?} came back")
}

/// A stack frame that the backtrace must show.
#[inline(never)]
fn outer(end: fn()) {
    end();
    black_box(());
}

fn write_to_an_unmapped_page() {
    if let Ok(area) = Area::reserve(1) {
        let page = ptr::with_exposed_provenance_mut::<u64>(area.start() as usize);
        // SAFETY: nothing is mapped there, so nothing is written: the store faults, as intended.
        unsafe { page.write_volatile(1) };
    }
}

fn overflow_in_a_task() {
    let task = sched::spawn("deep", || recurse(0));
    println!("ended: {:?}", task.map(sched::JoinHandle::join));
}

/// R38: the report names the section, and where it was opened.
fn sleep_in_a_section() {
    // SAFETY: no other task works with page tables in this mode.
    let backend = unsafe { MMU.set_backend(Backend::DeferStores) };
    let section = MMU.lazy().section();
    println!(
        "in a section: {:?}",
        backend.and(section.as_ref().map(|_| ()).map_err(|error| *error))
    );
    sched::sleep(Duration::from_millis(1));
}

/// Calls an address of the vmap area as a function. The fault looks almost like that of
/// `arch::probe::try_exec`, and must not be taken for one.
fn jump_to_an_unmapped_page() {
    if let Ok(area) = Area::reserve(1) {
        let page = ptr::with_exposed_provenance::<()>(area.start() as usize);
        // SAFETY: a function pointer is as large as a pointer, and not null here.
        let function = unsafe { core::mem::transmute::<*const (), extern "C" fn()>(page) };
        function();
    }
}

/// Locks the kernel's address space in an interrupt handler, which must be refused, because the
/// interrupted code may hold the lock.
fn lock_in_an_interrupt() {
    let id = IntId::sgi(5);
    let sent = interrupts::register(id, |_| drop(kernel_space::lock()))
        .and_then(|()| interrupts::enable(id))
        .and_then(|()| interrupts::send_to_self(id));
    println!("sent: {sent:?}");
    let until = timer::ticks() + 10 * timer::frequency();
    while timer::ticks() < until {
        cpu_relax();
    }
}

/// Sends all other CPUs an interrupt in which they panic, and continues to print. One complete
/// report must come out, and nothing else with it.
fn panic_on_the_other_cpus() {
    let id = IntId::sgi(5);
    let panics = |_| panic!("provoked by another CPU");
    let registered = interrupts::register(id, panics);
    for cpu in percpu::online().filter(|cpu| cpu.index() != 0) {
        let enabled = call(
            cpu.index(),
            |number| {
                // If it fails, no interrupt arrives, which is noticed below.
                let _ = interrupts::enable(IntId::sgi(number as u32));
            },
            5,
        );
        println!("CPU {}: {enabled:?}", cpu.index());
    }
    println!("registered: {registered:?}");
    println!("sent: {:?}", interrupts::send_to_others(id));
    let until = timer::ticks() + 10 * timer::frequency();
    while timer::ticks() < until {
        println!("still here");
    }
}

/// Recurses until the stack's guard page stops it.
#[inline(never)]
#[expect(
    unconditional_recursion,
    reason = "it is ended by the stack's guard page, which is what it is for"
)]
fn recurse(depth: u64) -> u64 {
    let frame = [depth; 16];
    black_box(&frame);
    recurse(black_box(depth) + 1) + frame[3]
}
