// SPDX-License-Identifier: MIT OR Apache-2.0
//! The traits that a kernel implements.
//!
//! * [`Hardware`]: accesses to entries, barriers and TLB invalidations. The library reaches the
//!   machine only by this trait. On bare AArch64 each method has a body that executes the
//!   instruction, so a kernel writes `unsafe impl Hardware for MyKernel {}`. A host does not have
//!   these instructions, so a test implements the barriers by a model.
//! * [`TableFrames`]: memory for tables.
//! * [`Context`]: which task runs, and whether the caller is in interrupt context.
//!
//! A type that implements all three is a [`Kernel`]. [`OneTask`](crate::OneTask) is a ready one for
//! code that runs as one task without interrupts.
//!
//! The methods of [`Hardware`] are named after instructions on purpose: the trait is a list of
//! effects, not an abstraction of memory management. The comment at each call says why it is needed
//! and which test notices its absence.
//!
//! # Why the traits are unsafe
//!
//! Safe code can map a frame, unmap it and reuse it, because this library keeps the order of store,
//! barrier and invalidation. That order holds only if the kernel does what these traits say. With a
//! `load` that returns another value than memory holds, the library follows an arbitrary pointer.
//! With a `dsb_ish` that does nothing, a frame is reused while a TLB still translates to it. With a
//! [`Context::lazy`] that returns another task's state, what waits in a batch is never drained. An
//! implementation of one of these traits promises to do what the trait documents.

#![expect(clippy::disallowed_methods, reason = "it defines what stores")]

#[cfg(all(target_arch = "aarch64", not(any(unix, windows))))]
use crate::aarch64::{self, barrier};
use crate::addr::Frame;
use crate::batch::{Batch, Call};
use crate::counters::Counters;
use crate::desc::Desc;
use crate::error::LazyMmuError;
use crate::table::{Pte, Table};
use crate::task::LazyMmuState;
use crate::tlbi::TlbiOp;
use core::ptr::NonNull;

/// Chooses between code for bare AArch64, where the crate has its instructions, and portable code
/// for all other targets. AArch64 with a hosted operating system takes the portable code: its
/// programs run at EL0, and its tests record each store.
macro_rules! by_instruction {
    ({ $($instruction:tt)* } else { $($portable:tt)* }) => {
        #[cfg(all(target_arch = "aarch64", not(any(unix, windows))))]
        {
            $($instruction)*
        }
        #[cfg(not(all(target_arch = "aarch64", not(any(unix, windows)))))]
        {
            $($portable)*
        }
    };
}

/// Methods that execute one instruction on bare AArch64, and must be implemented on other targets.
macro_rules! instructions {
    ($($(#[$doc:meta])* fn $name:ident(&self $(, $argument:ident: $type:ty)*) => $instruction:path;)+) => {
        $(
            $(#[$doc])*
            #[cfg(all(target_arch = "aarch64", not(any(unix, windows))))]
            #[inline(always)]
            fn $name(&self $(, $argument: $type)*) {
                $instruction($($argument),*);
            }

            $(#[$doc])*
            #[cfg(not(all(target_arch = "aarch64", not(any(unix, windows)))))]
            fn $name(&self $(, $argument: $type)*);
        )+
    };
}

/// Effects on the machine.
///
/// The accesses to entries have default bodies with relaxed atomics. A test overrides them to
/// record each access. On a host the four methods for runs call [`Hardware::load`] and
/// [`Hardware::store`]. On bare AArch64 they write pairs of entries by instructions of their own,
/// so an implementation that overrides `store` there must override all of them.
///
/// # Safety
/// Each method has the effect that it documents, on the CPU that executes it, and no other effect
/// on memory. It does not call this library. Each barrier and invalidation is a compiler barrier as
/// well: an implementation by `asm!` must not have the option `nomem`.
pub unsafe trait Hardware {
    /// Reads one entry.
    #[inline(always)]
    fn load(&self, pte: &Pte) -> Desc {
        pte.load()
    }

    /// Writes one entry, single-copy atomically.
    #[inline(always)]
    fn store(&self, pte: &Pte, desc: Desc) {
        pte.store(desc);
    }

    /// Writes one entry and returns its old value, in one atomic step, so that access and dirty
    /// bits set by hardware are not lost.
    #[inline(always)]
    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        pte.swap(desc)
    }

    /// Writes `new` to an entry if it holds `old`, in one atomic step.
    ///
    /// # Errors
    /// The value of the entry if it is not `old`. Nothing is written.
    #[inline(always)]
    fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
        pte.compare_exchange(old, new)
    }

    /// Writes `first`, `first + step`, `first + 2 * step`, ... to the entries of
    /// `run`, in any order, each single-copy atomically. `run` lies in one table.
    #[inline(always)]
    fn store_linear(&self, run: &[Pte], first: Desc, step: u64) {
        by_instruction!({
            aarch64::store_linear(run, first, step);
        } else {
            for (i, pte) in run.iter().enumerate() {
                let raw = first.as_u64().wrapping_add(step.wrapping_mul(i as u64));
                self.store(pte, Desc::from_u64(raw));
            }
        });
    }

    /// Writes `frames[i] | template` to `run[i]`. Both slices have the same length; `run` lies in
    /// one table.
    #[inline(always)]
    fn store_frames(&self, run: &[Pte], frames: &[Frame], template: Desc) {
        by_instruction!({
            aarch64::store_frames(run, frames, template);
        } else {
            for (pte, frame) in run.iter().zip(frames) {
                self.store(pte, Desc::from_u64(frame.as_u64() | template.as_u64()));
            }
        });
    }

    /// Replaces each entry `e` of `run`, which lies in one table, by `e & keep | set`. The default
    /// body loads and stores, which is right while hardware does not write entries itself
    /// (TCR_EL1.HA and HD are 0, as the library requires).
    #[inline(always)]
    fn update_run(&self, run: &[Pte], keep: u64, set: u64) {
        by_instruction!({
            aarch64::update_run(run, keep, set);
        } else {
            for pte in run {
                let old = self.load(pte).as_u64();
                self.store(pte, Desc::from_u64(old & keep | set));
            }
        });
    }

    /// Empties the entries of `run`, which lies in one table.
    #[inline(always)]
    fn store_zero(&self, run: &[Pte]) {
        by_instruction!({
            aarch64::store_zero(run);
        } else {
            for pte in run {
                self.store(pte, Desc::INVALID);
            }
        });
    }

    instructions! {
        /// `DMB ISHST`: orders entry writes before later entry writes, as a walker sees them.
        fn dmb_ishst(&self) => barrier::dmb_ishst;

        /// `DSB ISHST`: completes earlier entry writes.
        fn dsb_ishst(&self) => barrier::dsb_ishst;

        /// `DSB ISH`: completes earlier TLB maintenance and earlier accesses of any kind.
        fn dsb_ish(&self) => barrier::dsb_ish;

        /// `ISB`: later instructions are fetched and translated again.
        fn isb(&self) => barrier::isb;

        /// Issues one TLB maintenance instruction. `operand` is the value of its register, as
        /// [`crate::tlbi`] computes it; the forms without an operand ignore it.
        fn tlbi(&self, op: TlbiOp, operand: u64) => aarch64::tlbi::issue;
    }
}

/// Memory for translation tables.
///
/// # Safety
/// An implementation promises that a frame returned by `alloc_table` is 4 KiB of
/// zeroed RAM that no other code uses until it is freed, and that `table_ptr` of such
/// a frame points to its memory, mapped Normal write-back, for as long.
pub unsafe trait TableFrames {
    /// A zeroed frame for a table, or `None` when memory is exhausted.
    fn alloc_table(&self) -> Option<Frame>;

    /// Frees the frame of a table.
    ///
    /// # Safety
    /// The frame came from `alloc_table`. No descriptor points to it any more, and no TLB or walker
    /// can hold a descriptor that does (R32).
    unsafe fn free_table(&self, frame: Frame);

    /// The virtual address at which software accesses the table in `frame`.
    fn table_ptr(&self, frame: Frame) -> NonNull<Table>;
}

/// Which task is running, and whether an interrupt handler is running instead.
///
/// The state and the counters of a task may be freed with the task. A reference to them must
/// therefore not outlive the call for which it was obtained, and the methods that return one are
/// `unsafe`. Safe code calls [`Lazy::state`](crate::Lazy::state) and
/// [`Mmu::counts`](crate::Mmu::counts), which return values.
///
/// # Safety
/// Each method answers for the CPU and the task that call it:
///
/// * [`Context::lazy`] returns the same value during the whole life of a task, and a different one
///   for each task.
/// * [`Context::batch`] returns the same value at each call on one CPU, and a different one on each
///   CPU.
/// * [`Context::in_interrupt`] does not change during a call of the library.
/// * No method calls this library, except that [`Context::preemption_point`] may switch tasks.
pub unsafe trait Context {
    /// The lazy MMU state of the task that runs on this CPU, or that was interrupted on it. An
    /// interrupt handler may read the state and does not change it (R3).
    ///
    /// # Safety
    /// The caller passes the reference to no other task, and uses it only while the task that runs
    /// on this CPU, or was interrupted on it, cannot end: in an implementation of these traits, or
    /// during one call of this library.
    unsafe fn lazy(&self) -> &LazyMmuState;

    /// Whether the caller is in interrupt context, as Linux's `in_interrupt()`: in a hard or soft
    /// interrupt, in an NMI, or with bottom halves disabled. The result does not change during a
    /// call of the library, nor during its callbacks. If a task disables bottom halves in a
    /// section, a call first drains what the task has let wait for the entries of that call.
    fn in_interrupt(&self) -> bool;

    /// The counters to which the caller's events are added. One instance has one writer at a time:
    /// a task, or the interrupt handlers of one CPU.
    ///
    /// # Safety
    /// As for [`Context::lazy`].
    unsafe fn counters(&self) -> &Counters;

    /// [`Context::counters`] if the caller is the task, and `None` in interrupt context. The
    /// shortest paths of the library need both facts, and an implementation may get them with one
    /// load.
    ///
    /// # Safety
    /// As for [`Context::lazy`].
    #[inline(always)]
    unsafe fn task_counters(&self) -> Option<&Counters> {
        // SAFETY: this function has the contract of `counters`.
        (!self.in_interrupt()).then(|| unsafe { self.counters() })
    }

    /// Room for what this CPU defers. If it is `None`, [`crate::Mmu::set_backend`] refuses each
    /// [`crate::Backend`] that defers more than barriers.
    fn batch(&self) -> Option<&Batch> {
        None
    }

    /// The hypervisor that executes the calls of [`crate::Backend::Multicall`]. Without one the
    /// library executes them.
    fn hypervisor(&self) -> Option<&dyn Hypervisor> {
        None
    }

    /// The library calls this as the task, when a [`Lazy::switch_out`](crate::Lazy::switch_out)
    /// that may have been refused before would succeed now. A kernel that has put off a preemption
    /// does it here, unless interrupts are masked. The default does nothing; the kernel then tries
    /// again at the next interrupt. Linux: the check in `preempt_enable()`.
    #[inline(always)]
    fn preemption_point(&self) {}

    /// Logs an error that occurred in a `drop` and so cannot be returned: for example, a guard was
    /// dropped in a context in which its section cannot be closed (R8, R39).
    fn report(&self, error: LazyMmuError);
}

/// Executes the calls of [`crate::Backend::Multicall`].
///
/// # Safety
/// When [`Hypervisor::multicall`] returns, the calls have the effects that it documents.
pub unsafe trait Hypervisor {
    /// Executes `calls` in order. When it returns, the walkers of every CPU see the stores, each
    /// invalidation is complete, and this CPU's context is synchronized. (The return from a
    /// hypercall is an exception return, so it synchronizes.)
    fn multicall(&self, calls: &[Call]);
}

/// Everything that a kernel supplies.
pub trait Kernel: Hardware + TableFrames + Context {}

impl<T: Hardware + TableFrames + Context> Kernel for T {}

/// Safe access to the state and the counters of the calling task, during one call of this library.
///
/// The library keeps none of these references in a value that it returns, except for guards. These
/// are not `Send`, so only the task that made them uses them.
pub(crate) trait CurrentTask: Context {
    /// [`Context::lazy`].
    #[inline(always)]
    fn current_lazy(&self) -> &LazyMmuState {
        // SAFETY: the task is in a call of this library, so it does not end.
        unsafe { self.lazy() }
    }

    /// [`Context::counters`].
    #[inline(always)]
    fn current_counters(&self) -> &Counters {
        // SAFETY: as above.
        unsafe { self.counters() }
    }

    /// [`Context::task_counters`].
    #[inline(always)]
    fn current_task_counters(&self) -> Option<&Counters> {
        // SAFETY: as above.
        unsafe { self.task_counters() }
    }
}

impl<T: Context + ?Sized> CurrentTask for T {}
