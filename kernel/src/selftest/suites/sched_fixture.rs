// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the suites about tasks share.

use core::time::Duration;

use lazymmu::{
    AddressSpace, Backing, Mapping, PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind, VirtAddr,
};

use super::fixture::patience;
use crate::arch::timer;
use crate::bench;
use crate::mm::MMU;
use crate::mm::frames::FrameList;
use crate::mm::kernel_space::Space;
use crate::mm::layout::VMAP;
use crate::sched::{self, Builder, JoinHandle, SpawnError};
use crate::selftest::expect::Outcome;
use crate::skip;

/// Waits for the end of `task`, and until whoever had its CPU has let go of it as well: what it
/// took of the heap is free only then, which on another CPU is a moment after the join.
pub(super) fn join_and_settle(task: JoinHandle<()>) {
    task.join();
    while !sched::is_quiet() {
        sched::yield_now();
    }
}

/// A space of one task's own, which no CPU translates with: what is done to it may be interrupted
/// anywhere, because no lock is held.
pub(super) struct Private {
    space: Space,
    pub(super) frames: FrameList,
}

impl Private {
    /// A space with `pages` pages mapped read-write.
    ///
    /// # Errors
    /// Memory is exhausted.
    pub(super) fn mapped(pages: usize) -> Result<Self, SpaceError> {
        let out = |_| SpaceError::OutOfTables {
            needed: pages,
            available: 0,
        };
        let frames = FrameList::alloc(pages).map_err(out)?;
        let mut own = Self {
            space: AddressSpace::new(&MMU, SpaceKind::Kernel)?,
            frames,
        };
        let (range, frames) = (Self::pages(0, pages as u64)?, &own.frames);
        own.space
            .map(range, Backing::Scattered(frames), Prot::KERNEL)?;
        Ok(own)
    }

    /// `count` pages of any such space, from page `first` on.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn pages(first: u64, count: u64) -> Result<PageRange, SpaceError> {
        Ok(PageRange::new(VMAP + first * PAGE_SIZE, count)?)
    }

    /// The space.
    pub(super) const fn space(&mut self) -> &mut Space {
        &mut self.space
    }

    /// What page `i` is mapped to, and how.
    pub(super) fn query(&self, i: u64) -> Option<Mapping> {
        self.space.query(VirtAddr::new(VMAP + i * PAGE_SIZE)?)
    }
}

/// Time slices of another length, until dropped.
pub(super) struct Slices {
    _longer: sched::Slices,
}

impl Slices {
    /// Slices so long that no test sees one end, in force on return: for tests that count switches.
    pub(super) fn endless() -> Self {
        let slices = Self {
            _longer: sched::Slices::longest(),
        };
        // The next one begins with a switch.
        sched::sleep(Duration::from_micros(50));
        slices
    }

    /// Slices of `length`, from the next switch on.
    pub(super) fn of(length: Duration) -> Self {
        Self {
            _longer: sched::Slices::of(ticks(length) as u32),
        }
    }
}

/// `time` in ticks of the timer.
pub(super) fn ticks(time: Duration) -> u64 {
    (time.as_nanos() * u128::from(timer::frequency()) / 1_000_000_000) as u64
}

/// Runs `work` in a task of its own on CPU number `cpu`.
///
/// # Errors
/// Those of [`Builder::spawn`].
pub(super) fn pinned<T: Send + 'static>(
    name: &'static str,
    cpu: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, SpawnError> {
    Builder::new(name).pinned(cpu).spawn(work)
}

/// Whether the timer ticks once per instruction: in QEMU with `-cpu max -icount shift=0`, and
/// nowhere else.
pub(super) fn ticks_count_instructions() -> bool {
    bench::check_clock().is_ok()
}

/// The numbers of the CPUs that are online.
pub(super) fn cpus() -> impl Iterator<Item = usize> {
    let online = sched::online();
    (0..sched::MAX_CPUS).filter(move |cpu| online.has(*cpu))
}

/// A CPU that is not the tests' own.
pub(super) fn second_cpu() -> Result<usize, Outcome> {
    match cpus().find(|cpu| *cpu != 0) {
        Some(cpu) => Ok(cpu),
        None => skip!("one CPU only: run with --smp 2"),
    }
}

/// How often `cpu` has switched.
pub(super) fn switches_of_cpu(cpu: usize) -> u64 {
    sched::stats(cpu).switches
}

/// Waits, asleep in between, until `condition` holds; `false` if it does not within [`patience`].
pub(super) fn settle(mut condition: impl FnMut() -> bool) -> bool {
    let until = patience();
    while !condition() {
        if timer::ticks() > until {
            return false;
        }
        sched::sleep(Duration::from_micros(200));
    }
    true
}
