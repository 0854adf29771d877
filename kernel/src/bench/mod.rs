// SPDX-License-Identifier: MIT OR Apache-2.0
//! The measured windows: how many instructions and barriers the library's hot paths execute,
//! as compiled into this kernel. What `mode=counts` does; `cargo xtask counts` reads it.
//!
//! Instructions are ticks of the generic timer, which is true in one place only: under QEMU
//! with `-cpu max` (a counter of 1 GHz) and `-icount shift=0,sleep=off` (an instruction takes a
//! nanosecond). Anywhere else the kernel says so and refuses. Barriers and
//! TLBIs are the library's own counts.
//!
//! Each window is executed [`REPETITIONS`] times with IRQs masked, and the cheapest is taken; an
//! empty window, which is subtracted, is what the measuring itself costs. One line for each
//! size and operation comes out:
//!
//! ```text
//! counts backend=defer-barriers policy=classic
//! count op=8 pages=512 instructions=1234 spread=0 ptes=512 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
//! ```
//!
//! `spread` is by how much the dearest repetition was dearer; `ish` are those of the DSB that are `DSB ISH`, the others
//! are `DSB ISHST`, as are all `DMB`.
//!
//! With `mode=bench` the counter is outside of the machine, a QEMU plugin that knows the marks of the
//! windows ([`window`]), on any CPU; the lines have no `instructions` and no `spread` then.

mod ground;
mod scheduler;
mod windows;

use core::fmt;
use core::hint::black_box;

use lazymmu::{Context, Counts, SpaceError};

use self::ground::Ground;
use self::windows::{Body, STEPS, Step};
use crate::arch::window::{self, ROUND, WindowId};
use crate::arch::{Arm64, interrupts, timer};
use crate::mm::MMU;
use crate::mm::frames::OutOfFrames;
use crate::mm::vmap::VmapError;
use crate::platform::exit::Status;
use crate::println;
use crate::sched::SpawnError;
use crate::text::Text;

/// Pages of a window, as far as boot argument `pages=` allows. The marginal cost is taken between 512 and 4096.
const SIZES: [usize; 6] = [1, 16, 512, 4096, 65_536, 1_048_576];

/// The largest window of which each page is a call of its own.
const MOST_CALLS: usize = 65_536;

/// The window of nothing.
const EMPTY: Body = |_| Ok(());

/// Times that each window is executed.
const REPETITIONS: usize = 3;

/// Why nothing was measured.
#[derive(Debug)]
pub enum BenchError {
    /// The timer does not tick once per instruction.
    Clock {
        /// Instructions executed.
        executed: u64,
        /// Ticks meanwhile.
        ticks: u64,
    },
    /// Physical memory is exhausted.
    Frames(OutOfFrames),
    /// The vmap area refused.
    Vmap(VmapError),
    /// The address space refused.
    Space(SpaceError),
    /// There is no second task.
    Spawn(SpawnError),
}

impl From<OutOfFrames> for BenchError {
    fn from(error: OutOfFrames) -> Self {
        Self::Frames(error)
    }
}

impl From<VmapError> for BenchError {
    fn from(error: VmapError) -> Self {
        Self::Vmap(error)
    }
}

impl From<SpaceError> for BenchError {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clock { executed, ticks } => write!(
                f,
                "{executed} instructions took {ticks} ticks of the timer, which counts instructions \
                 only under QEMU with -cpu max -icount shift=0,sleep=off: use cargo xtask counts"
            ),
            Self::Frames(error) => error.fmt(f),
            Self::Vmap(error) => error.fmt(f),
            Self::Space(error) => error.fmt(f),
            Self::Spawn(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BenchError {}

/// Who counts instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// The generic timer, which has to tick once per instruction.
    Timer,
    /// Somebody outside, by the marks of the windows.
    Outside,
}

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
    // The smallest is always measured.
    let sizes = &SIZES[..SIZES.partition_point(|pages| *pages <= most).max(1)];
    let mut ground = Ground::new(sizes[sizes.len() - 1])?;
    for &pages in sizes {
        ground.use_pages(pages)?;
        let mut empty = Best::NONE;
        let mut best = [Best::NONE; STEPS.len()];
        for _ in 0..REPETITIONS {
            empty.improve(measure(&mut ground, 0, EMPTY)?);
            for (step, best) in STEPS.iter().zip(&mut best) {
                match *step {
                    Step::Calls(..) | Step::Undo(_) if pages > MOST_CALLS => {}
                    Step::Prepare(body) | Step::Undo(body) => body(&mut ground)?,
                    Step::Window(op, body) | Step::Calls(op, body) => {
                        best.improve(measure(&mut ground, op, body)?);
                    }
                }
            }
        }
        for (step, best) in STEPS.iter().zip(&best) {
            if let Step::Window(op, _) | Step::Calls(op, _) = step {
                best.print(counter, *op, pages, empty.ticks);
            }
        }
    }
    // It holds the lock of the kernel's space.
    drop(ground);
    scheduler::measure(counter)
}

/// Whether the timer ticks once per instruction. Compares two loops of known length: what surrounds them
/// cancels out.
///
/// # Errors
/// [`BenchError::Clock`]: it does not.
pub fn check_clock() -> Result<(), BenchError> {
    const ROUNDS: u64 = 10_000;
    let _masked = interrupts::mask();
    let ticks = [ROUNDS, 2 * ROUNDS].map(|rounds| {
        let start = timer::ticks();
        window::spend(black_box(rounds));
        timer::ticks().wrapping_sub(start)
    });
    let (executed, ticks) = (ROUNDS * ROUND, ticks[1].wrapping_sub(ticks[0]));
    if executed == ticks {
        Ok(())
    } else {
        Err(BenchError::Clock { executed, ticks })
    }
}

/// Never inlined, so that the same code surrounds each window, the empty one included.
#[inline(never)]
fn measure(ground: &mut Ground, op: u8, body: Body) -> Result<(u64, Counts), SpaceError> {
    let id = WindowId::new(op, ground.pages);
    let body = black_box(body);
    let _masked = interrupts::mask();
    let before = Arm64.counters().read();
    window::begin(id);
    let start = timer::ticks();
    let result = body(ground);
    let ticks = timer::ticks().wrapping_sub(start);
    window::end(id);
    result.map(|()| (ticks, Arm64.counters().read() - before))
}

/// The cheapest repetition of a window.
#[derive(Clone, Copy)]
struct Best {
    ticks: u64,
    dearest: u64,
    counts: Option<Counts>,
}

impl Best {
    const NONE: Self = Self {
        ticks: u64::MAX,
        dearest: 0,
        counts: None,
    };

    fn improve(&mut self, (ticks, counts): (u64, Counts)) {
        self.dearest = self.dearest.max(ticks);
        if ticks < self.ticks {
            self.ticks = ticks;
            self.counts = Some(counts);
        }
    }

    fn print(&self, counter: Counter, op: u8, pages: usize, empty: u64) {
        // A window that was left out.
        let Some(counts) = self.counts else { return };
        println!(
            "count op={op} pages={pages}{} ptes={} dsb={} isb={} tlbi={} ish={} dmb={}",
            self.taken(counter, empty),
            counts.ptes,
            counts.dsb(),
            counts.isb,
            counts.tlbi,
            counts.dsb_ish,
            counts.dmb_ishst
        );
    }

    /// What the timer says, without what the measuring itself costs, for a line.
    fn taken(&self, counter: Counter, empty: u64) -> Text<64> {
        match counter {
            Counter::Timer => Text::from_arguments(format_args!(
                " instructions={} spread={}",
                self.ticks.saturating_sub(empty),
                self.dearest - self.ticks
            )),
            Counter::Outside => Text::new(),
        }
    }
}
