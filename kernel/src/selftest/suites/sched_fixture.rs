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

/// Waits for the end of `task`, and until its [`Task`](sched::Task) is freed. On another CPU that
/// happens a moment after the join, and its heap memory is free only then.
pub(super) fn join_and_settle(task: JoinHandle<()>) {
    task.join();
    while !sched::is_quiet() {
        sched::yield_now();
    }
}

/// An address space that one task owns and no CPU translates with. No lock is held while it is
/// changed, so each change may be preempted anywhere.
pub(super) struct Private {
    space: Space,
    pub(super) frames: FrameList,
}

impl Private {
    /// Creates a space with `pages` pages mapped read-write.
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

    /// The addresses of `count` pages of any such space, from page `first` on.
    ///
    /// # Errors
    /// `count` is 0.
    pub(super) fn pages(first: u64, count: u64) -> Result<PageRange, SpaceError> {
        Ok(PageRange::new(VMAP + first * PAGE_SIZE, count)?)
    }

    /// The space.
    pub(super) const fn space(&mut self) -> &mut Space {
        &mut self.space
    }

    /// The mapping of page `i`.
    pub(super) fn query(&self, i: u64) -> Option<Mapping> {
        self.space.query(VirtAddr::new(VMAP + i * PAGE_SIZE)?)
    }
}

/// Time slices of another length, until this is dropped.
pub(super) struct Slices {
    _longer: sched::Slices,
}

impl Slices {
    /// Makes slices so long that no test sees one end; they are in force on return. They are for
    /// tests that count switches.
    pub(super) fn endless() -> Self {
        let slices = Self {
            _longer: sched::Slices::longest(),
        };
        // The next slice begins with a switch.
        sched::sleep(Duration::from_micros(50));
        slices
    }

    /// Makes slices of `length`, from the next switch on.
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

/// The number of a CPU on which the tests themselves do not run.
pub(super) fn second_cpu() -> Result<usize, Outcome> {
    match cpus().find(|cpu| *cpu != 0) {
        Some(cpu) => Ok(cpu),
        None => skip!("one CPU only: run with --smp 2"),
    }
}

/// The number of switches of `cpu`.
pub(super) fn switches_of_cpu(cpu: usize) -> u64 {
    sched::stats(cpu).switches
}

/// Sleeps until `condition` holds; `false` if it does not within [`patience`].
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
