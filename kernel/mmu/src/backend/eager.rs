// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state before lazy MMU mode: Linux up to 6.15 followed each valid kernel
//! entry with its own `DSB ISHST; ISB`, in a loop as well as alone.

use super::{Fill, Strategy};
use crate::hardware::Kernel;
use crate::mmu::Mmu;
use crate::policy::Owed;
use crate::table::Pte;

#[derive(Debug)]
pub(super) struct Eager;

impl Strategy for Eager {
    #[inline]
    fn write_run<K: Kernel>(mmu: &Mmu<K>, run: &[Pte], fill: Fill<'_>, owed: Owed) {
        for i in 0..run.len() {
            fill.nth(i).store(mmu.kernel(), &run[i..=i]);
            mmu.pay(owed);
        }
    }

    #[inline]
    fn complete<K: Kernel>(mmu: &Mmu<K>, owed: Owed) {
        mmu.pay(owed);
    }
}
