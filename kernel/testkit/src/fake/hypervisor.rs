// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hypervisor that executes what [`lazymmu::Backend::Multicall`] asks for, and remembers it.
//!
//! Its barriers are its own: the library neither executes nor counts them. Order is checked all the same.

use super::Watched;
use lazymmu::tlbi::{self, Reach};
use lazymmu::{Call, Desc, Frame, Hardware, Hypervisor, PAGE_SIZE, TableFrames, TlbFeatures, bits};

impl<F: TableFrames> Watched<F> {
    /// From now on calls are the hypervisor's, not the library's.
    pub fn start_hypervisor(&self) {
        self.has_hypervisor.set(true);
    }

    /// What the hypervisor was asked for since the last call, one list per transition.
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
                    // MMU_PT_UPDATE_PRESERVE_AD, as far as this fake's tests need it.
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
