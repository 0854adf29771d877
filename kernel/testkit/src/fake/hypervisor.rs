// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hypervisor that executes the calls of [`lazymmu::Backend::Multicall`] and records them.
//!
//! The library neither executes nor counts the hypervisor's barriers. The order of its stores and
//! invalidations is checked like that of the library's.

use super::Watched;
use lazymmu::tlbi::{self, Reach};
use lazymmu::{Call, Desc, Frame, Hardware, Hypervisor, PAGE_SIZE, TableFrames, TlbFeatures, bits};

impl<F: TableFrames> Watched<F> {
    /// From now on the hypervisor executes the calls, and the library does not.
    pub fn start_hypervisor(&self) {
        self.has_hypervisor.set(true);
    }

    /// The calls that the hypervisor has executed since the last call of this function, one list
    /// per transition.
    pub fn take_multicalls(&self) -> Vec<Vec<Call>> {
        self.multicalls.take()
    }
}

// SAFETY: every call is executed, in its order.
unsafe impl<F: TableFrames> Hypervisor for Watched<F> {
    fn multicall(&self, calls: &[Call]) {
        self.multicalls.borrow_mut().push(calls.to_vec());
        for call in calls {
            match *call {
                Call::Store { entry, seen, new } => {
                    let at = entry.as_u64();
                    let frame = Frame::from_u64(at & !(PAGE_SIZE - 1)).expect("an entry's table");
                    // SAFETY: the fake panics if no table lives in the frame.
                    let table = unsafe { self.table_ptr(frame).as_ref() };
                    let pte = &table.entries()[(at % PAGE_SIZE / 8) as usize];
                    // The part of MMU_PT_UPDATE_PRESERVE_AD that the tests need: the access flag.
                    let young = self.load(pte).as_u64() & !seen.as_u64() & bits::AF;
                    self.store(pte, Desc::from_u64(new.as_u64() | young));
                }
                Call::Invalidate { range, scope } => {
                    self.order.borrow_mut().dsb_ishst();
                    let plain = TlbFeatures::default();
                    for (op, operand) in tlbi::plan(range, scope, Reach::Leaf, plain) {
                        self.order.borrow_mut().tlbi(op, operand);
                    }
                    self.complete();
                }
            }
        }
        self.complete();
    }
}
