// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures the windows, and prints a line for each.

use core::hint::black_box;

use lazymmu::{Counts, SpaceError};

use super::best::{BenchError, Best, Counter};
use super::ground::Site;
use super::scheduler;
use super::windows::{self, Ground, STEPS, Step};
use crate::arch::window::{self, ROUND, WindowId};
use crate::arch::{Arm64, interrupts, timer};
use crate::mm::MMU;
use crate::mm::kernel_space::SpaceGuard;
use crate::platform::exit::Status;
use crate::println;

/// The sizes of the windows in pages, up to the limit of boot argument `pages=`. The marginal cost
/// is computed between 512 and 4096.
const SIZES: [usize; 6] = [1, 16, 512, 4096, 65_536, 1_048_576];

/// The largest number of pages for which windows with one call per page are measured.
const MOST_CALLS: usize = 65_536;

/// The body of the empty window.
const EMPTY: Body = |_| Ok(());

type Body = windows::Body<SpaceGuard, Arm64>;

/// One repetition.
const REPETITION: [Step<SpaceGuard, Arm64>; STEPS] = windows::steps();

/// How many times each window is executed.
const REPETITIONS: usize = 3;

/// Measures everything, with windows of up to `pages` pages, and prints it.
#[must_use]
pub fn main(counter: Counter, pages: u32) -> Status {
    match run(counter, pages as usize) {
        Ok(()) => Status::Success,
        Err(error) => {
            println!("error: {error}");
            Status::Failure
        }
    }
}

fn run(counter: Counter, most: usize) -> Result<(), BenchError> {
    if counter == Counter::Timer {
        check_clock()?;
    }
    println!("counts backend={} policy={}", MMU.backend(), MMU.policy());
    // The smallest size is always measured.
    let sizes = &SIZES[..SIZES.partition_point(|pages| *pages <= most).max(1)];
    let mut ground = Site::new(sizes[sizes.len() - 1])?;
    for &pages in sizes {
        ground.use_pages(pages)?;
        let mut empty = Best::NONE;
        let mut best = [Best::NONE; STEPS];
        for _ in 0..REPETITIONS {
            empty.improve(measure(&mut ground, 0, EMPTY)?);
            for (step, best) in REPETITION.iter().zip(&mut best) {
                match *step {
                    Step::Calls(..) | Step::Undo(_) if pages > MOST_CALLS => {}
                    Step::Prepare(body) | Step::Undo(body) => body(&mut ground)?,
                    Step::Window(op, body) | Step::Calls(op, body) => {
                        best.improve(measure(&mut ground, op, body)?);
                    }
                }
            }
        }
        for (step, best) in REPETITION.iter().zip(&best) {
            if let Step::Window(op, _) | Step::Calls(op, _) = step {
                best.print(counter, *op, pages, empty.ticks);
            }
        }
    }
    // The ground holds the lock of the kernel's address space.
    drop(ground);
    scheduler::measure(counter)
}

/// Checks whether the timer ticks once per instruction. It compares two loops of known length, so
/// that the cost of the code around them cancels out.
///
/// # Errors
/// [`BenchError::Clock`] if it does not.
pub fn check_clock() -> Result<(), BenchError> {
    const ROUNDS: u64 = 10_000;
    let _masked = interrupts::mask();
    let ticks = [ROUNDS, 2 * ROUNDS].map(|rounds| {
        let start = timer::ticks();
        window::spend(black_box(rounds));
        timer::ticks().wrapping_sub(start)
    });
    let executed = ROUNDS * ROUND;
    if ticks[1].checked_sub(ticks[0]) == Some(executed) {
        Ok(())
    } else {
        Err(BenchError::Clock { executed, ticks })
    }
}

/// Executes `body` as one window. It is never inlined, so that the same code surrounds each window,
/// including the empty one.
#[inline(never)]
fn measure(
    ground: &mut Ground<SpaceGuard, Arm64>,
    op: u8,
    body: Body,
) -> Result<(u64, Counts), SpaceError> {
    let id = WindowId::new(op, ground.pages);
    let body = black_box(body);
    let _masked = interrupts::mask();
    let before = MMU.counts();
    window::begin(id);
    let start = timer::ticks();
    let result = body(ground);
    let ticks = timer::ticks().wrapping_sub(start);
    window::end(id);
    result.map(|()| (ticks, MMU.counts() - before))
}
