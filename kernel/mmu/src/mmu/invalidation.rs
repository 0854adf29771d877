// SPDX-License-Identifier: MIT OR Apache-2.0
//! Invalidations: TLB maintenance with the barriers before and after it.
//!
//! Every TLBI of this crate is issued here. These functions do not drain; see `backend/drain.rs`,
//! where `Mmu::invalidate_range` and `invalidate_all` are.

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
    /// In order: `DSB ISHST` completes the entry writes before (R27, row U2), then come the TLBIs,
    /// `DSB ISH` completes them (R_YNJCP; `DSB ISHST` would not, row U4), and for kernel
    /// mappings `ISB` (row U5). With the repeat erratum a second TLBI and DSB follow
    /// (R34). These barriers also complete what the current task owes, so none of that is left for
    /// the section's end. All ranges share one set of barriers. If the total exceeds Linux's limits
    /// (`tlbi::is_everything`), all of `scope` is invalidated instead.
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

    /// An invalidation of `ranges`, or of everything if there are none.
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

    /// The second half of an invalidation: completion.
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
        // R12: in an interrupt the debts are the interrupted task's; they stay.
        if !kernel.in_interrupt() {
            kernel.current_lazy().forgive(paid);
        }
    }
}
