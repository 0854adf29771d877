// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was executed, what was asked for, what was saved.
//!
//! QEMU executes a barrier as cheaply as a NOP, so the effect of lazy MMU mode
//! is measured in counts. Three kinds are kept apart:
//!
//! * *executed*: instructions that ran ([`Counts::dsb_ishst`], [`Counts::isb`], ...);
//! * *requested*: what the same writes would have cost before lazy mode, one DSB
//!   and one ISB per entry that R14 lists ([`Counts::requested`]), and one TLBI per page;
//! * *saved*: the difference ([`Counts::dsb_saved`], [`Counts::tlbi_saved`]).
//!
//! A [`Counters`] has one writer at a time (a task, or the interrupts of one CPU),
//! so an increment is a load and a store, not a read-modify-write that would
//! cost more than what it counts. Any CPU may read.

use core::fmt;
use core::iter::Sum;
use core::ops::{Add, Sub};
use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Running totals. One instance has one writer at a time: a task, or the interrupts of one
        /// CPU. Any CPU may read it.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($name: AtomicU64,)+
            /// Leaf entries that are in `ptes` and in `requested`: one addition for both.
            listed: AtomicU64,
        }

        impl Counters {
            /// All zero.
            pub const fn new() -> Self {
                Self {
                    $($name: AtomicU64::new(0),)+
                    listed: AtomicU64::new(0),
                }
            }

            /// The totals now.
            pub fn read(&self) -> Counts {
                let mut counts = Counts { $($name: self.$name.load(Ordering::Relaxed),)+ };
                let listed = self.listed.load(Ordering::Relaxed);
                counts.ptes = counts.ptes.wrapping_add(listed);
                counts.requested = counts.requested.wrapping_add(listed);
                counts
            }

            /// Leaf entries asked to be written, with barriers by R14.
            #[inline(always)]
            pub(crate) fn listed(&self, n: usize) {
                let now = self.listed.load(Ordering::Relaxed);
                self.listed.store(now.wrapping_add(n as u64), Ordering::Relaxed);
            }

            $(
                #[inline(always)]
                pub(crate) fn $name(&self, n: usize) {
                    let now = self.$name.load(Ordering::Relaxed);
                    self.$name.store(now.wrapping_add(n as u64), Ordering::Relaxed);
                }
            )+
        }

        /// Totals, or a difference of two totals. Unit: events.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Add for Counts {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name.wrapping_add(other.$name),)+ }
            }
        }

        impl Sub for Counts {
            type Output = Self;

            fn sub(self, before: Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(before.$name),)+ }
            }
        }
    };
}

counters! {
    /// Leaf entries that were asked to be set, changed or emptied.
    ptes,
    /// Those of them whose store did not happen at once.
    deferred,
    /// Stores to leaf entries that happened later: those that were deferred and not overtaken, the
    /// breaks before them, and the folding and dropping of contiguous groups.
    late_stores,
    /// Times that waiting stores, calls or invalidations were executed.
    drains,
    /// Table entries written: a table linked or unlinked.
    links,
    /// Descents from the root.
    walks,
    /// Executed `DMB ISHST`.
    dmb_ishst,
    /// Executed `DSB ISHST`.
    dsb_ishst,
    /// Executed `DSB ISH`.
    dsb_ish,
    /// Executed `ISB`.
    isb,
    /// Executed TLBI instructions of any form.
    tlbi,
    /// Writes that R14 follows with `DSB ISHST; ISB` when nothing is deferred.
    requested,
    /// Executed `DSB ISHST` that paid such requests.
    dsb_paid,
    /// Executed `ISB` that paid such requests.
    isb_paid,
    /// Pages whose invalidation was asked for.
    tlbi_requested,
    /// Calls of the enter hook.
    enter,
    /// Calls of the flush hook.
    flush,
    /// Calls of the leave hook.
    leave,
}

/// The counts of several tasks and CPUs as one.
impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Self::add)
    }
}

impl Counts {
    /// Executed DSB of either type.
    pub const fn dsb(&self) -> u64 {
        self.dsb_ishst + self.dsb_ish
    }

    /// DSB that the requests would have cost and did not.
    pub const fn dsb_saved(&self) -> u64 {
        self.requested.saturating_sub(self.dsb_paid)
    }

    /// ISB that the requests would have cost and did not.
    pub const fn isb_saved(&self) -> u64 {
        self.requested.saturating_sub(self.isb_paid)
    }

    /// TLBI that one operation per page would have cost and that were not
    /// executed.
    pub const fn tlbi_saved(&self) -> u64 {
        self.tlbi_requested.saturating_sub(self.tlbi)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ptes, {} dsb, {} isb, {} tlbi ({} dsb, {} isb saved)",
            self.ptes,
            self.dsb(),
            self.isb,
            self.tlbi,
            self.dsb_saved(),
            self.isb_saved()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let counters = [Counters::new(), Counters::new()];
        counters[0].isb(2);
        counters[1].isb(3);
        counters[1].listed(4);
        let all: Counts = counters.iter().map(Counters::read).sum();
        assert_eq!((all.isb, all.ptes, all.requested), (5, 4, 4));
        assert_eq!(all - counters[1].read(), counters[0].read());
    }
}
