// SPDX-License-Identifier: MIT OR Apache-2.0
//! The barriers that entry writes owe: noting them, executing them, and counting each one.
//!
//! A write that R14 lists owes barriers. If its writer is in an active section, the debt is noted
//! in the task's state; otherwise the barriers are executed at once, which *pays* the debt. The
//! module `lazy` decides when noted debts are paid. This crate executes every barrier either here
//! or as a part of an [invalidation](super::invalidation).

use super::config::Mmu;
use crate::counters::Counters;
use crate::hardware::{CurrentTask, Kernel};
use crate::policy::Owed;

impl<K: Kernel> Mmu<K> {
    /// Whether the mode is active for the caller: the current task is in a section that is not
    /// paused, and the caller is not in interrupt context (R2). Linux:
    /// `is_lazy_mmu_mode_active()`.
    #[inline(always)]
    pub(crate) fn is_active(&self) -> bool {
        !self.kernel().in_interrupt() && self.kernel().current_lazy().is_active()
    }

    /// Completes the stores of the current task on the CPU that it is about to leave, and the TLB
    /// maintenance that it has begun, with `DSB ISH` (R17).
    #[inline(always)]
    pub(crate) fn complete_stores(&self) {
        self.kernel().current_counters().dsb_ish(1);
        self.kernel().dsb_ish();
    }

    /// Notes that a store owes `owed` if the mode is active, and pays at once otherwise.
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

    /// Pays what the current task owes, exactly once (R16).
    #[inline]
    pub(crate) fn pay_all(&self, counters: &Counters) {
        let state = self.kernel().current_lazy();
        let owed = state.owed();
        if !owed.is_empty() {
            state.forgive(owed);
            self.pay(owed, counters);
        }
    }

    /// Executes the barriers in `owed`, and counts them as paid.
    ///
    /// The order is `DSB ISHST; ISB`: after both, an access through the new entry cannot fault
    /// (herd7 row M5, `I2V-W-DSB.ST-ISB-R`); after either one alone it may (M3, M7). Tests that
    /// notice a missing barrier: the count tests `r15_*` and `r16_*` on the host, the lazy suite in
    /// the kernel.
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

    /// Orders the stores to a new table before the store that links the table (R18). This barrier
    /// is never deferred: the pair at the section's end completes both stores but does not order
    /// them for a walker (herd7 allows `ROT.inv+po` and forbids `ROT.inv+dmbst`).
    #[inline]
    pub(crate) fn order_before_link(&self) {
        self.kernel().current_counters().dmb_ishst(1);
        self.kernel().dmb_ishst();
    }
}
