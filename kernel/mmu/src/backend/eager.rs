// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state before lazy MMU mode: Linux up to 6.15 followed each valid kernel
//! entry with its own `DSB ISHST; ISB`, in a loop as well as alone.

use super::{Duty, Fill, Run, Strategy, Was};
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::policy::Owed;

#[derive(Debug)]
pub(super) struct Eager;

impl Strategy for Eager {
    #[inline]
    fn write_run<K: Kernel>(
        mmu: &Mmu<K>,
        run: Run<'_>,
        fill: Fill<'_>,
        _: Was,
        owed: Owed,
    ) -> Duty {
        if owed.is_empty() {
            fill.store(mmu.kernel(), run.ptes);
            return Duty::Caller;
        }
        for i in 0..run.ptes.len() {
            fill.nth(i).store(mmu.kernel(), &run.ptes[i..=i]);
            mmu.pay(owed);
        }
        Duty::Caller
    }
}
