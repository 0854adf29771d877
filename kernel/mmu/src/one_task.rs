// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ready [`Context`] for code that runs as one task, on one CPU, without interrupts: a boot
//! stage, a first experiment, a test.

use crate::addr::Frame;
use crate::batch::Batch;
use crate::counters::Counters;
use crate::error::LazyMmuError;
#[cfg(all(target_arch = "aarch64", not(any(unix, windows))))]
use crate::hardware::Hardware;
use crate::hardware::{Context, TableFrames};
#[cfg(all(target_arch = "aarch64", not(any(unix, windows))))]
use crate::mmu::Mmu;
use crate::table::Table;
use crate::task::LazyMmuState;
use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// A kernel of one task. It takes its tables from `F`, and on bare AArch64 it executes this crate's
/// instructions.
///
/// It is neither `Send` nor `Sync`, so its [`Mmu`](crate::Mmu) stays with the CPU or thread that
/// made it: the CPU that has stored must execute the barrier that it owes (R17). Interrupt handlers
/// must not use it. It has a [`Batch`], so every strategy can be chosen.
///
/// `Mmu::for_one_task` binds the library to it. On bare AArch64 that is a function of this crate. A
/// host has no arm64 instructions; there the trait `ForOneTask` of `lazymmu-testkit` has a function
/// of the same name, which binds the library to the machine of the test kit.
pub struct OneTask<F> {
    frames: F,
    state: LazyMmuState,
    counters: Counters,
    batch: Batch,
    last_report: Cell<Option<LazyMmuError>>,
    _cpu: PhantomData<*mut ()>,
}

impl<F> OneTask<F> {
    /// A kernel whose tables come from `frames`.
    pub const fn new(frames: F) -> Self {
        Self {
            frames,
            state: LazyMmuState::new(),
            counters: Counters::new(),
            // SAFETY: only `batch` returns it. The type is neither `Send` nor `Sync`, so one flow
            // of control uses it.
            batch: unsafe { Batch::new() },
            last_report: Cell::new(None),
            _cpu: PhantomData,
        }
    }

    /// Takes the last error that the library could not return to a caller ([`Context::report`]),
    /// for example because a guard was dropped where its section cannot be closed (R39).
    pub fn take_report(&self) -> Option<LazyMmuError> {
        self.last_report.take()
    }
}

// SAFETY: each method calls that of `F`, which has made the same promise.
unsafe impl<F: TableFrames> TableFrames for OneTask<F> {
    fn alloc_table(&self) -> Option<Frame> {
        self.frames.alloc_table()
    }

    unsafe fn free_table(&self, frame: Frame) {
        // SAFETY: this function has the contract of the one that it calls.
        unsafe { self.frames.free_table(frame) }
    }

    #[inline(always)]
    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        self.frames.table_ptr(frame)
    }
}

// SAFETY: there is one task, one CPU and no interrupt, so each method always returns the same.
unsafe impl<F> Context for OneTask<F> {
    #[inline(always)]
    unsafe fn lazy(&self) -> &LazyMmuState {
        &self.state
    }

    #[inline(always)]
    fn in_interrupt(&self) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn counters(&self) -> &Counters {
        &self.counters
    }

    fn batch(&self) -> Option<&Batch> {
        Some(&self.batch)
    }

    fn report(&self, error: LazyMmuError) {
        self.last_report.set(Some(error));
    }
}

#[cfg(all(target_arch = "aarch64", not(any(unix, windows))))]
// SAFETY: nothing is overridden: each method executes this crate's instruction.
unsafe impl<F> Hardware for OneTask<F> {}

#[cfg(all(target_arch = "aarch64", not(any(unix, windows))))]
impl<F: TableFrames> Mmu<OneTask<F>> {
    /// Binds the library to one task without interrupts, with tables from `frames`, for example a
    /// [`TablePool`](crate::TablePool), and with this crate's instructions.
    pub const fn for_one_task(frames: F) -> Self {
        Self::new(OneTask::new(frames))
    }
}

impl<F> fmt::Debug for OneTask<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneTask")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
