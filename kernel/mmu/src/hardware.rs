// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library asks of the kernel that uses it.
//!
//! [`Hardware`] is the only way to the machine: accesses to entries, barriers, TLB invalidations.
//! On bare AArch64 each method has a body that executes the instruction, so a kernel writes
//! `unsafe impl Hardware for MyKernel {}`. On a host there is no such instruction, and a test
//! implements the barriers by a model. [`TableFrames`] gives memory for tables. [`Context`] says
//! which task runs, and whether an interrupt handler is running instead. [`Kernel`] is the three
//! together. [`OneTask`](crate::OneTask) is a ready kernel for code that runs as one task without
//! interrupts.
//!
//! The methods of [`Hardware`] are named after instructions on purpose: the trait is a list of
//! effects, not an abstraction of memory management. Why each is called, and which test would
//! notice its absence, is written where it is called.
//!
//! # Why the traits are unsafe
//!
//! Safe code can map a frame, unmap it and pass it on, because this library
//! keeps the order of store, barrier and invalidation. It can do so only if the kernel below does
//! what these traits say. A `load` that returns another value than memory holds makes the library
//! follow a pointer to nowhere; a `dsb_ish` that does nothing lets a frame be reused while a TLB
//! still translates to it; a [`Context::lazy`] that returns another task's state loses what waits
//! in a batch. Implementing one of these traits is the promise to do what it documents.

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

/// Two ways to do something: where this crate's instructions exist, and elsewhere. An AArch64
/// system with a hosted operating system is elsewhere: its programs run at EL0, and its tests watch
/// each store.
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

/// A method that is one instruction where this crate's instructions exist, and must be implemented
/// elsewhere.
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
/// The accesses to entries have bodies that do what they say with relaxed atomics. A test overrides them to record each
/// access. On a host the four methods for runs call [`Hardware::load`] and [`Hardware::store`]; on bare AArch64 they write
/// pairs of entries by instructions of their own, so an implementation that overrides `store` there overrides all of
/// them.
///
/// # Safety
/// Each method has the effect that it documents, on the CPU that executes it, and no other effect
/// on memory. It does not call this library. A compiler barrier is part of each barrier and
/// invalidation: an implementation by `asm!` must not say `nomem`.
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

    /// Writes one entry and returns what it held, in one atomic step, so that access and dirty bits
    /// set by hardware are not lost.
    #[inline(always)]
    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        pte.swap(desc)
    }

    /// Writes `new` to an entry if it holds `old`, in one atomic step.
    ///
    /// # Errors
    /// What the entry holds instead; nothing is written.
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

        /// `DSB ISH`: completes earlier TLB maintenance, and everything else.
        fn dsb_ish(&self) => barrier::dsb_ish;

        /// `ISB`: later instructions are fetched and translated anew.
        fn isb(&self) => barrier::isb;

        /// Issues one TLB maintenance instruction. `operand` is the value of its register, made by
        /// [`crate::tlbi`]; the forms without an operand ignore it.
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

    /// Takes a table's frame back.
    ///
    /// # Safety
    /// The frame came from `alloc_table`; no descriptor points to it any more
    /// and no TLB or walker can hold one that does (R32).
    unsafe fn free_table(&self, frame: Frame);

    /// Where software finds the table in `frame`.
    fn table_ptr(&self, frame: Frame) -> NonNull<Table>;
}

/// Which task is running, and whether an interrupt handler is running instead.
///
/// What belongs to a task, its state and its counters, may be freed with it. A reference to it
/// must therefore not outlive the call for which it was asked, and the methods that return one are
/// `unsafe`. Safe code asks [`Lazy::state`](crate::Lazy::state) and [`Mmu::counts`](crate::Mmu::counts),
/// which return values.
///
/// # Safety
/// The answers are those of the CPU and task that call. [`Context::lazy`] is the same value for as
/// long as the task lives, and no other task's. What [`Context::batch`] returns is one CPU's, and
/// the same at each call on that CPU; [`Context::in_interrupt`] does not change during a call of
/// the library. None of the methods calls this library, except that [`Context::preemption_point`]
/// may switch tasks.
pub unsafe trait Context {
    /// Lazy MMU state of the task that runs on this CPU, or that was interrupted on it: an
    /// interrupt may look, and leaves the state alone (R3).
    ///
    /// # Safety
    /// The caller uses the reference only while the task that runs or was interrupted here cannot
    /// end, and passes it to no other task: in an implementation of these traits, or in one call of
    /// this library.
    unsafe fn lazy(&self) -> &LazyMmuState;

    /// Whether the caller runs in an interrupt, or in a section that counts as
    /// one (Linux's `in_interrupt()`: hard or soft interrupt, NMI, or bottom
    /// halves disabled). The answer does not change during a call of the library, nor
    /// during its callbacks. Where bottom halves are off in a section, what the task has let wait for
    /// the very entries of a call is drained first.
    fn in_interrupt(&self) -> bool;

    /// Where the caller's events are counted. One instance has one writer at a time: a task, or the
    /// interrupts of one CPU.
    ///
    /// # Safety
    /// As for [`Context::lazy`].
    unsafe fn counters(&self) -> &Counters;

    /// [`Context::counters`] if the caller is the task, and `None` in an interrupt. The shortest
    /// paths ask both questions at once.
    ///
    /// # Safety
    /// As for [`Context::lazy`].
    #[inline(always)]
    unsafe fn task_counters(&self) -> Option<&Counters> {
        // SAFETY: the caller's promise is the one that is asked for here.
        (!self.in_interrupt()).then(|| unsafe { self.counters() })
    }

    /// Room for what this CPU defers. Without it a [`crate::Backend`] that defers more than
    /// barriers cannot be chosen ([`crate::Mmu::set_backend`]).
    fn batch(&self) -> Option<&Batch> {
        None
    }

    /// The hypervisor that executes the calls of [`crate::Backend::Multicall`]. Without one the
    /// library executes them.
    fn hypervisor(&self) -> Option<&dyn Hypervisor> {
        None
    }

    /// Called by the task when a [`Lazy::switch_out`](crate::Lazy::switch_out) that was refused
    /// before would succeed now. A kernel that put off a preemption does it here. If interrupts are
    /// masked, it does nothing. The default does nothing: the kernel then tries again at the next
    /// interrupt. Linux: the check in `preempt_enable()`.
    #[inline(always)]
    fn preemption_point(&self) {}

    /// Logs an error that cannot be returned, because it occurred in a `drop`: a guard was dropped
    /// where its section cannot be closed (R8, R39).
    fn report(&self, error: LazyMmuError);
}

/// Executes the calls of [`crate::Backend::Multicall`].
///
/// # Safety
/// When [`Hypervisor::multicall`] returns, its calls have been executed as it says.
pub unsafe trait Hypervisor {
    /// Executes `calls` in order. When it returns, the walkers of every CPU see the stores, each
    /// invalidation is complete, and this CPU's context is synchronized. (The return from a
    /// hypercall is an exception return, so it synchronizes.)
    fn multicall(&self, calls: &[Call]);
}

/// Everything a kernel supplies.
pub trait Kernel: Hardware + TableFrames + Context {}

impl<T: Hardware + TableFrames + Context> Kernel for T {}

/// What belongs to the task that calls this library, for one call of it.
///
/// The library keeps none of these references in a value that it returns, but for guards, which are
/// not `Send`: they are used by the task that made them.
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
