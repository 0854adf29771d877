// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad ends on purpose: what a report looks like, and whether whoever reads it
//! (`cargo xtask`) understands it. Linux: LKDTM.

use core::hint::black_box;
use core::ptr;

use crate::mm::vmap::Area;
use crate::platform::bootargs::Provocation;
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
