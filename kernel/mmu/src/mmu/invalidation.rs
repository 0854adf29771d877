// SPDX-License-Identifier: MIT OR Apache-2.0
//! Invalidations: TLB maintenance with the barriers before and after it.
//!
//! This crate issues every TLBI here. These functions do not drain what waits in a batch.
//! `Mmu::invalidate_range` and `Mmu::invalidate_all` in `backend/drain.rs` drain first and then
//! call them.

use super::config::Mmu;
use crate::addr::PageRange;
use crate::counters::Counters;
use crate::hardware::{CurrentTask, Kernel};
use crate::policy::Owed;
use crate::tlbi::{self, Reach, Scope, TlbFeatures};

impl<K: Kernel> Mmu<K> {
    /// Invalidates the last-level TLB entries of `ranges`, or for [`Reach::Walk`] those of all
    /// levels, and waits until that is complete on every CPU. What waits in a batch stays there.
    ///
    /// In order:
    ///
    /// 1. `DSB ISHST` completes the entry writes before it (R27, row U2).
    /// 2. The TLBIs are issued. If the ranges together exceed Linux's limits
    ///    (`tlbi::is_everything`), one TLBI invalidates all of `scope` instead.
    /// 3. `DSB ISH` completes them (R_YNJCP; `DSB ISHST` would not, row U4). With the repeat
    ///    erratum a second TLBI and `DSB ISH` follow (R34).
    /// 4. For kernel mappings, `ISB` (row U5).
    ///
    /// All ranges share these barriers. Those of them that the current task owes are then paid, so
    /// the section's end does not repeat them.
    pub(crate) fn invalidate(
        &self,
        ranges: impl Iterator<Item = PageRange> + Clone,
        scope: Scope,
        reach: Reach,
    ) {
        let counters = self.kernel().current_counters();
        let features = self.tlb_features();
        let pages: u64 = ranges.clone().map(PageRange::pages).sum();
        let is_everything = tlbi::is_everything(pages, features);
        counters.tlbi_requested(pages as usize);
        let ranges = (!is_everything).then_some(ranges);
        self.issue(ranges, scope, reach, (features, counters));
    }

    /// Invalidates every TLB entry of `scope`, those of tables included, and waits, as
    /// [`Mmu::invalidate`] does. No page is counted as requested.
    pub(crate) fn invalidate_everything(&self, scope: Scope) {
        let terms = (self.tlb_features(), self.kernel().current_counters());
        self.issue(
            None::<core::iter::Empty<PageRange>>,
            scope,
            Reach::Walk,
            terms,
        );
    }

    /// Invalidates `ranges`, or all of `scope` if `ranges` is `None`.
    #[inline]
    fn issue(
        &self,
        ranges: Option<impl Iterator<Item = PageRange>>,
        scope: Scope,
        reach: Reach,
        (features, counters): (TlbFeatures, &Counters),
    ) {
        let kernel = self.kernel();
        counters.dsb_ishst(1);
        kernel.dsb_ishst();
        let mut operations = 0;
        let mut issue = |(op, operand)| {
            kernel.tlbi(op, operand);
            operations += 1;
        };
        match ranges {
            None => issue(tlbi::everything(scope)),
            Some(ranges) => {
                for range in ranges {
                    tlbi::plan(range, scope, reach, features).for_each(&mut issue);
                }
            }
        }
        counters.tlbi(operations);
        self.finish_tlbi(scope, features, counters);
    }

    /// Completes the TLBIs that `issue` has issued, and forgives the debt that the barriers pay.
    fn finish_tlbi(&self, scope: Scope, features: TlbFeatures, counters: &Counters) {
        let kernel = self.kernel();
        counters.dsb_ish(1);
        kernel.dsb_ish();
        if features.repeat {
            counters.tlbi(1);
            kernel.tlbi(tlbi::TlbiOp::Vale1is, 0);
            counters.dsb_ish(1);
            kernel.dsb_ish();
        }
        let mut paid = Owed::STORES;
        if scope == Scope::AllAsids {
            counters.isb(1);
            kernel.isb();
            paid |= Owed::CONTEXT;
        }
        // R12: in an interrupt the debts belong to the interrupted task, and stay as they are.
        if !kernel.in_interrupt() {
            kernel.current_lazy().forgive(paid);
        }
    }
}
