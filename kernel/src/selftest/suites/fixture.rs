// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the suites share: pages to map, counts to compare, and the check that a
//! test left nothing behind.
//!
//! The helpers are kept out of line: a hundred tests use them, and the image has a size limit.

use core::fmt;
use core::ptr;

use mmu::{Backend, BarrierPolicy, Context, Counts, LazyMmuError, Prot};

use crate::arch::Arm64;
use crate::arch::probe::{self, Fault};
use crate::mm::frames::{FrameList, OutOfFrames};
use crate::mm::layout::linear_virt;
use crate::mm::vmap::{self, Area, VmapError};
use crate::mm::{MMU, frames, heap};
use crate::sched;
use crate::selftest::runner::LeakCheck;

/// Frames and an area that maps them. Dropping it undoes the mapping first.
pub(super) struct Pages {
    pub(super) area: Area,
    pub(super) frames: FrameList,
}

/// Why pages could not be had.
#[derive(Debug)]
pub(super) enum PagesError {
    Frames(OutOfFrames),
    Vmap(VmapError),
}

impl fmt::Display for PagesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(error) => error.fmt(f),
            Self::Vmap(error) => error.fmt(f),
        }
    }
}

impl Pages {
    /// `count` addresses and as many frames, not mapped.
    #[inline(never)]
    pub(super) fn unmapped(count: usize) -> Result<Self, PagesError> {
        let frames = FrameList::alloc(count).map_err(PagesError::Frames)?;
        let area = Area::reserve(count as u64).map_err(PagesError::Vmap)?;
        Ok(Self { area, frames })
    }

    /// `count` pages mapped read-write.
    #[inline(never)]
    pub(super) fn mapped(count: usize) -> Result<Self, PagesError> {
        let frames = FrameList::alloc(count).map_err(PagesError::Frames)?;
        let area = vmap::vmap(&frames, Prot::KERNEL).map_err(PagesError::Vmap)?;
        Ok(Self { area, frames })
    }

    /// Address of page `i`.
    pub(super) fn virt(&self, i: usize) -> u64 {
        self.area.start() + i as u64 * mmu::PAGE_SIZE
    }

    /// Writes `value` to the start of frame `i`, through the linear map.
    #[inline(never)]
    pub(super) fn fill(&self, i: usize, value: u64) {
        let place = linear_virt(self.frames[i].as_u64()) as usize;
        // SAFETY: the frame is ours; the linear map shows it there, aligned.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(place).write_volatile(value) };
    }

    /// Reads the start of frame `i`, through the linear map.
    pub(super) fn frame_value(&self, i: usize) -> u64 {
        let place = linear_virt(self.frames[i].as_u64()) as usize;
        // SAFETY: as in `fill`.
        unsafe { ptr::with_exposed_provenance::<u64>(place).read_volatile() }
    }
}

/// Writes to `virt`, which is the test's own memory or must fault.
pub(super) fn store(virt: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: the suites call this with addresses of frames they own, of pages that
    // nothing maps, and of pages that may not be written, where nothing is changed.
    unsafe { probe::try_write_u64(virt, value) }
}

/// The current task's counts.
#[inline(never)]
pub(super) fn counts() -> Counts {
    Arm64.counters().read()
}

/// What `action` executed.
pub(super) fn counted<R>(action: impl FnOnce() -> R) -> (R, Counts) {
    let before = counts();
    let result = action();
    (result, counts() - before)
}

/// Runs with another strategy and the classic policy, whose figures the suites
/// state; the chosen ones are restored on drop.
pub(super) struct With {
    backend: Backend,
    policy: BarrierPolicy,
}

impl With {
    #[inline(never)]
    pub(super) fn backend(backend: Backend) -> Result<Self, LazyMmuError> {
        let before = Self {
            backend: MMU.backend(),
            policy: MMU.policy(),
        };
        MMU.set_backend(backend)?;
        // Allowed on every CPU, so there is nothing to report.
        let _ = MMU.set_policy(BarrierPolicy::Classic);
        Ok(before)
    }
}

impl Drop for With {
    fn drop(&mut self) {
        // A test that ends inside a section is told so by the leak check; the
        // strategy can then not be restored, and need not be: the run fails.
        let _ = MMU.set_backend(self.backend);
        let _ = MMU.set_policy(self.policy);
    }
}

/// The leak check: frames, heap and lazy state are after a test what they were
/// before.
#[derive(Debug)]
pub struct KernelState(());

impl KernelState {
    /// Ready to compare. Makes and drops an area first: what the vmap area allocates
    /// once and keeps is not the first test's leak.
    pub fn after_warm_up() -> Self {
        drop(Area::reserve(1));
        Self(())
    }
}

/// Frames in use by others than the heap, heap bytes, the strategy, and the task's
/// lazy MMU state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    frames: usize,
    heap: usize,
    sections: (u8, u8),
    owed: mmu::Owed,
    backend: Backend,
    unbalanced: u64,
}

impl LeakCheck for KernelState {
    type Snapshot = Snapshot;

    fn snapshot(&mut self) -> Snapshot {
        let lazy = sched::current().lazy();
        let counts = counts();
        Snapshot {
            frames: frames::usage().used - heap::frames_held(),
            heap: heap::bytes_used(),
            sections: (lazy.enable_count(), lazy.pause_count()),
            owed: lazy.owed(),
            backend: MMU.backend(),
            unbalanced: counts.enter.wrapping_sub(counts.leave),
        }
    }

    fn difference(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        report: &mut dyn fmt::Write,
    ) -> fmt::Result {
        if before.frames != after.frames {
            writeln!(
                report,
                "{} frames were in use before the test and {} are now",
                before.frames, after.frames
            )?;
        }
        if before.heap != after.heap {
            writeln!(
                report,
                "{} bytes of heap were in use before the test and {} are now",
                before.heap, after.heap
            )?;
        }
        if before.sections != after.sections || before.owed != after.owed {
            writeln!(
                report,
                "the task's (enable, pause) was {:?}, owing {:?}, and is {:?}, owing {:?}",
                before.sections, before.owed, after.sections, after.owed
            )?;
        }
        if before.backend != after.backend {
            writeln!(
                report,
                "the backend was {} and is {}",
                before.backend, after.backend
            )?;
        }
        if before.unbalanced != after.unbalanced {
            writeln!(report, "the enter and leave hooks do not balance")?;
        }
        Ok(())
    }
}
