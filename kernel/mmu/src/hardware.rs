// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library needs of the world around it.
//!
//! [`Hardware`] is the only way to the machine: entry accesses, barriers,
//! TLBI. A kernel implements it with one instruction each; tests implement it
//! with a model. [`TableFrames`] gives memory for tables, [`Context`] says who
//! is running. [`Kernel`] is the three together.
//!
//! The methods of [`Hardware`] are named after instructions on purpose: this
//! trait is not an abstraction of memory management but a list of effects, and
//! a reader who knows the Arm ARM needs no further explanation. Why each is
//! called, and who would notice its absence, stands at the call.

use crate::addr::Frame;
use crate::backend::{Batch, Hypervisor};
use crate::counters::Counters;
use crate::desc::Desc;
use crate::lazy::{LazyMmuError, LazyMmuState};
use crate::table::{Pte, Table};
use core::ptr::NonNull;

/// A TLB maintenance instruction of the EL1&0 regime, stage 1.
///
/// All are broadcast to the Inner Shareable domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TlbiOp {
    /// `TLBI VMALLE1IS`: every entry of every ASID. No operand.
    Vmalle1is,
    /// `TLBI ASIDE1IS`: every non-global entry of one ASID.
    Aside1is,
    /// `TLBI VAE1IS`: one page, one ASID, all levels of the walk.
    Vae1is,
    /// `TLBI VALE1IS`: one page, one ASID, the last level only.
    Vale1is,
    /// `TLBI VAAE1IS`: one page, all ASIDs, all levels of the walk.
    Vaae1is,
    /// `TLBI VAALE1IS`: one page, all ASIDs, the last level only.
    Vaale1is,
    /// `TLBI RVAE1IS` (FEAT_TLBIRANGE): a range, one ASID, all levels.
    Rvae1is,
    /// `TLBI RVALE1IS` (FEAT_TLBIRANGE): a range, one ASID, last level.
    Rvale1is,
    /// `TLBI RVAAE1IS` (FEAT_TLBIRANGE): a range, all ASIDs, all levels.
    Rvaae1is,
    /// `TLBI RVAALE1IS` (FEAT_TLBIRANGE): a range, all ASIDs, last level.
    Rvaale1is,
}

/// Effects on the machine. See the module text.
///
/// The entry accesses have default bodies that do what they say with relaxed
/// atomics; an implementation overrides them to go faster (a pair per `STP`) or
/// to watch (a model).
pub trait Hardware {
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

    /// Writes one entry and returns what it held, in one atomic step, so that
    /// access and dirty bits set by hardware are not lost.
    #[inline(always)]
    fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
        pte.swap(desc)
    }

    /// Writes `new` to an entry if it holds `old`, in one atomic step.
    ///
    /// # Errors
    /// What it holds instead; nothing is written.
    #[inline(always)]
    fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
        pte.compare_exchange(old, new)
    }

    /// Writes `first`, `first + step`, `first + 2 * step`, ... to the entries of
    /// `run`, in any order, each single-copy atomically. `run` lies in one table.
    #[inline]
    fn store_linear(&self, run: &[Pte], first: Desc, step: u64) {
        let mut raw = first.as_u64();
        for pte in run {
            self.store(pte, Desc::from_u64(raw));
            raw = raw.wrapping_add(step);
        }
    }

    /// Writes `frames[i] | template` to `run[i]`. Both slices have the same
    /// length; `run` lies in one table.
    #[inline]
    fn store_frames(&self, run: &[Pte], frames: &[Frame], template: Desc) {
        for (pte, frame) in run.iter().zip(frames) {
            self.store(pte, Desc::from_u64(frame.as_u64() | template.as_u64()));
        }
    }

    /// Replaces each entry `e` of `run` by `e & keep | set`. The default body loads and
    /// stores, which is right while hardware does not write entries itself
    /// (TCR_EL1.HA and HD are 0, as the library requires).
    #[inline]
    fn update_run(&self, run: &[Pte], keep: u64, set: u64) {
        for pte in run {
            let old = self.load(pte).as_u64();
            self.store(pte, Desc::from_u64(old & keep | set));
        }
    }

    /// Empties the entries of `run`, which lies in one table.
    #[inline]
    fn store_zero(&self, run: &[Pte]) {
        for pte in run {
            self.store(pte, Desc::INVALID);
        }
    }

    /// `DMB ISHST`: orders entry writes before later entry writes, as a walker
    /// sees them.
    fn dmb_ishst(&self);

    /// `DSB ISHST`: completes earlier entry writes.
    fn dsb_ishst(&self);

    /// `DSB ISH`: completes earlier TLB maintenance (and everything else).
    fn dsb_ish(&self);

    /// `ISB`: later instructions are fetched and translated anew.
    fn isb(&self);

    /// Issues one TLB maintenance instruction. `operand` is the value of its
    /// register, made by [`crate::tlbi`]; ignored by the forms without one.
    fn tlbi(&self, op: TlbiOp, operand: u64);
}

/// Memory for translation tables.
///
/// # Safety
/// An implementation promises that a frame returned by `alloc_table` is 4 KiB of
/// zeroed RAM that nobody else uses until it is freed, and that `table_ptr` of such
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

/// Who is running: the current task's lazy state, and whether an interrupt
/// has borrowed the CPU from it.
pub trait Context {
    /// Lazy MMU state of the task that runs on this CPU, or that was interrupted on it: an
    /// interrupt may look, and leaves the state alone (R3).
    fn lazy(&self) -> &LazyMmuState;

    /// Whether the caller runs in an interrupt, or in a section that counts as
    /// one (Linux's `in_interrupt()`: hard or soft interrupt, NMI, or bottom
    /// halves disabled). The answer does not change during a call of the library, nor
    /// during the callbacks of one.
    fn in_interrupt(&self) -> bool;

    /// Where the caller's events are counted. One instance is written by one
    /// party at a time: a task, or the interrupts of one CPU.
    fn counters(&self) -> &Counters;

    /// [`Context::counters`] if the caller is the task, and `None` in an interrupt: two questions in one,
    /// for the shortest paths.
    #[inline(always)]
    fn task_counters(&self) -> Option<&Counters> {
        (!self.in_interrupt()).then(|| self.counters())
    }

    /// Room for what this CPU defers, for [`crate::Backend`]s that defer more than barriers; without
    /// one they cannot be chosen ([`crate::Mmu::set_backend`]).
    fn batch(&self) -> Option<&Batch> {
        None
    }

    /// Who executes the calls of [`crate::Backend::Multicall`]; without one the library does.
    fn hypervisor(&self) -> Option<&dyn Hypervisor> {
        None
    }

    /// The task may be preempted again after a time in which [`Lazy::switch_out`](crate::Lazy::switch_out) refused:
    /// a kernel that has had to put off a preemption does it now. Linux: the check in
    /// `preempt_enable()`. Called by the task, outside of interrupts; interrupts may be masked, and then there is
    /// nothing to do. A kernel that only looks at the end of interrupts need not answer.
    #[inline(always)]
    fn preemption_point(&self) {}

    /// Takes note of a broken rule that has no caller to return it to: a guard
    /// was dropped where its section cannot be closed (R8, R39).
    fn report(&self, error: LazyMmuError);
}

/// Everything a kernel supplies.
pub trait Kernel: Hardware + TableFrames + Context {}

impl<T: Hardware + TableFrames + Context> Kernel for T {}
