// SPDX-License-Identifier: MIT OR Apache-2.0
//! arm64's lazy MMU mode: stores at once (R13), barriers later (R15, R16).
//!
//! In a section, a write that owes barriers leaves a mark in the task's state, and
//! the section's end, a nested end, a pause or a flush pays one pair for all of
//! them. Outside, in an interrupt or while paused, one pair follows the run.
//!
//! The mark is the task's, not the CPU's: if the task moves, the `DSB ISH` of the context
//! switch completes its stores on the old CPU (R17), which no barrier executed
//! later on the new one could do (R_SPVBD: the DSB must be executed by the PE
//! that wrote).

use super::{Duty, Fill, Run, Strategy, Was};
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::policy::Owed;

#[derive(Debug)]
pub(super) struct DeferBarriers;

impl Strategy for DeferBarriers {
    #[inline(always)]
    fn write_run<K: Kernel>(
        mmu: &Mmu<K>,
        run: Run<'_>,
        fill: Fill<'_>,
        _: Was,
        owed: Owed,
    ) -> Duty {
        fill.store(mmu.kernel(), run.ptes);
        mmu.owe_or_pay(owed);
        Duty::Caller
    }
}
