// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state before lazy MMU mode: up to version 6.15, Linux executed a `DSB ISHST; ISB` after each
//! store of a valid kernel entry, also in loops.

use super::run::{Duty, Fill, Run};
use super::store::{store_nth, store_run};
use crate::hardware::{CurrentTask, Kernel};
use crate::mmu::Mmu;
use crate::policy::Owed;

#[inline]
pub(super) fn write_run<K: Kernel>(mmu: &Mmu<K>, run: Run<'_>, fill: Fill<'_>, owed: Owed) -> Duty {
    if owed.is_empty() {
        store_run(mmu.kernel(), run.ptes, fill);
        return Duty::Caller;
    }
    let counters = mmu.kernel().current_counters();
    for i in 0..run.ptes.len() {
        store_nth(mmu.kernel(), run.ptes, fill, i);
        mmu.pay(owed, counters);
    }
    Duty::Caller
}
