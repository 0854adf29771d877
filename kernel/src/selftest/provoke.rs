// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad ends on purpose: what a report looks like, and whether whoever reads it
//! (`cargo xtask`) understands it. Linux: LKDTM.

use core::hint::black_box;
use core::ptr;

use crate::arch::timer;
use crate::mm::kernel_space;
use crate::mm::vmap::Area;
use crate::platform::bootargs::Provocation;
use crate::platform::interrupts::{self, IntId};
use crate::println;

/// Ends the kernel in the way that is asked for. Does not return.
pub fn run(end: Provocation) -> ! {
    println!("provoking: {end:?}");
    match end {
        Provocation::Panic => outer(|| panic!("provoked")),
        Provocation::Exception => outer(write_to_an_unmapped_page),
        Provocation::StackOverflow => outer(|| {
            recurse(0);
        }),
        Provocation::Jump => outer(jump_to_an_unmapped_page),
        Provocation::LockInInterrupt => outer(lock_in_an_interrupt),
        Provocation::Hang => outer(|| {
            loop {
                core::hint::spin_loop();
            }
        }),
    }
    unreachable!("{end:?} came back")
}

/// A frame that the backtrace must show.
#[inline(never)]
fn outer(end: fn()) {
    end();
    black_box(());
}

fn write_to_an_unmapped_page() {
    if let Ok(area) = Area::reserve(1) {
        let page = ptr::with_exposed_provenance_mut::<u64>(area.start() as usize);
        // SAFETY: nothing is mapped there, so nothing is written: the store faults, which is
        // what this function is for.
        unsafe { page.write_volatile(1) };
    }
}

/// Calls an address of the vmap area as a function: a fault that looks almost like that of
/// `arch::probe::try_exec`, and must not be taken for it.
fn jump_to_an_unmapped_page() {
    if let Ok(area) = Area::reserve(1) {
        let page = ptr::with_exposed_provenance::<()>(area.start() as usize);
        // SAFETY: a function pointer is as large as a pointer, and not null here.
        let function = unsafe { core::mem::transmute::<*const (), extern "C" fn()>(page) };
        function();
    }
}

/// Asks for the kernel's address space in an interrupt handler, which must be refused:
/// the interrupted code may hold its lock.
fn lock_in_an_interrupt() {
    let id = IntId::sgi(6);
    let sent = interrupts::register(id, |_| drop(kernel_space::lock()))
        .and_then(|()| interrupts::enable(id))
        .and_then(|()| interrupts::send_to_self(id));
    println!("sent: {sent:?}");
    let until = timer::ticks() + timer::frequency();
    while timer::ticks() < until {
        core::hint::spin_loop();
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
