// SPDX-License-Identifier: MIT OR Apache-2.0
//! Barriers: debts are noted and paid, and each barrier is counted.
//!
//! A write that R14 lists owes barriers. If its writer is in an active section, the debt is noted
//! in the task's state; otherwise it is paid at once. `lazy` decides when noted debts are paid.
//! This crate executes a barrier here or as a part of an [invalidation](super::invalidation), and
//! nowhere else.

use super::config::Mmu;
use crate::counters::Counters;
use crate::hardware::{CurrentTask, Kernel};
use crate::policy::Owed;

impl<K: Kernel> Mmu<K> {
    /// R2: whether what the caller writes now is deferred. Linux: `is_lazy_mmu_mode_active()`.
    #[inline(always)]
    pub(crate) fn is_active(&self) -> bool {
        !self.kernel().in_interrupt() && self.kernel().current_lazy().is_active()
    }

    /// R17: completes the current task's stores on the CPU that it is about to leave, and TLB
    /// maintenance that it has begun.
    #[inline(always)]
    pub(crate) fn complete_stores(&self) {
        self.kernel().current_counters().dsb_ish(1);
        self.kernel().dsb_ish();
    }

    /// Records the debt of a store in an active section; otherwise pays it.
    #[inline(always)]
    pub(crate) fn owe_or_pay(&self, owed: Owed) {
        if owed.is_empty() {
            return;
        }
        match self.kernel().current_task_counters() {
            Some(_) if self.kernel().current_lazy().is_active() => {
                self.kernel().current_lazy().owe(owed)
            }
            Some(counters) => self.pay(owed, counters),
            None => self.pay(owed, self.kernel().current_counters()),
        }
    }

    /// R16: pays what the current task owes, exactly once.
    #[inline]
    pub(crate) fn pay_all(&self, counters: &Counters) {
        let state = self.kernel().current_lazy();
        let owed = state.owed();
        if !owed.is_empty() {
            state.forgive(owed);
            self.pay(owed, counters);
        }
    }

    /// Executes the barriers for requests, and counts them as paid.
    ///
    /// `DSB ISHST; ISB`, in this order: herd7 row M5 (`I2V-W-DSB.ST-ISB-R`: the access
    /// cannot fault), while either alone allows the fault (M3, M7). Witnesses of a loss:
    /// the count tests `r15_*` and `r16_*` on the host, the lazy suite in the kernel.
    #[inline(always)]
    pub(crate) fn pay(&self, owed: Owed, counters: &Counters) {
        if owed.contains(Owed::STORES) {
            counters.dsb_paid(1);
            counters.dsb_ishst(1);
            self.kernel().dsb_ishst();
        }
        if owed.contains(Owed::CONTEXT) {
            counters.isb_paid(1);
            counters.isb(1);
            self.kernel().isb();
        }
    }

    /// R18: what was stored to a new table is ordered before the store that makes
    /// the table reachable. Never deferred: the pair at the section's end completes both
    /// stores but does not order them for a walker (`ROT.inv+po` is allowed,
    /// `ROT.inv+dmbst` forbidden).
    #[inline]
    pub(crate) fn order_before_link(&self) {
        self.kernel().current_counters().dmb_ishst(1);
        self.kernel().dmb_ishst();
    }
}
