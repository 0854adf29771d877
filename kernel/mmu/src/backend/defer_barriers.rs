// SPDX-License-Identifier: MIT OR Apache-2.0
//! arm64's lazy MMU mode: entries are stored at once (R13), and barriers are executed later (R15,
//! R16).
//!
//! In a section, a write that owes barriers notes the debt in the task's state. The end of the
//! section, the end of a nested one, a pause and a flush execute one pair for all debts. Outside of
//! a section, in an interrupt and while paused, one pair follows the run.
//!
//! The debts belong to the task, not to the CPU. If the task moves to another CPU, the `DSB ISH` of
//! the context switch completes its stores on the old CPU (R17). No barrier executed later on the
//! new CPU could do that (R_SPVBD: the DSB must be executed by the PE that stored).

use super::run::{Duty, Fill, Run};
use super::store::store_run;
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::policy::Owed;

#[inline(always)]
pub(super) fn write_run<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>, fill: Fill<'_>, owed: Owed) -> Duty {
    store_run(mmu.kernel(), run.ptes, fill);
    mmu.owe_or_pay(owed);
    Duty::Caller
}
