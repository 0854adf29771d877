// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of the barriers and TLBIs that were executed, requested and saved.
//!
//! QEMU executes a barrier as cheaply as a NOP, so the effect of lazy MMU mode is measured in
//! counts. There are three kinds:
//!
//! * *executed*: instructions that were executed ([`Counts::dsb_ishst`], [`Counts::isb`], ...);
//! * *requested*: what the same writes would have executed before lazy mode: one DSB and one ISB
//!   per entry that R14 lists ([`Counts::requested`]), and one TLBI per page
//!   ([`Counts::tlbi_requested`]);
//! * *saved*: the difference ([`Counts::dsb_saved`], [`Counts::tlbi_saved`]).
//!
//! A [`Counters`] has one writer at a time (a task, or the interrupt handlers of one CPU), so an
//! increment is a load and a store. An atomic read-modify-write would cost more than what it
//! counts. Any CPU may read.

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
            /// Leaf entries that [`Counters::read`] adds both to `ptes` and to `requested`, so that
            /// a write takes one addition.
            listed: AtomicU64,
        }

        impl Counters {
            /// Counters that are all zero.
            pub const fn new() -> Self {
                Self {
                    $($name: AtomicU64::new(0),)+
                    listed: AtomicU64::new(0),
                }
            }

            /// The totals at this moment.
            pub fn read(&self) -> Counts {
                let mut counts = Counts { $($name: self.$name.load(Ordering::Relaxed),)+ };
                let listed = self.listed.load(Ordering::Relaxed);
                counts.ptes = counts.ptes.wrapping_add(listed);
                counts.requested = counts.requested.wrapping_add(listed);
                counts
            }

            /// Counts `n` leaf entries that were written and that R14 lists.
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
    /// Leaf entries that operations have set, changed or emptied, at once or later.
    ptes,
    /// Leaf entries among them whose store waited.
    deferred,
    /// Stores to leaf entries that were executed later or in addition: those that waited and were
    /// not overtaken, the breaks before them, the folding and unfolding of contiguous groups, and
    /// the emptying of gathered entries.
    late_stores,
    /// Drains of a queue in which something waited.
    drains,
    /// Links written: tables linked or unlinked.
    links,
    /// Walks from the root.
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
    /// Writes that R14 lists: without deferring, each is followed by `DSB ISHST; ISB`.
    requested,
    /// Executed `DSB ISHST` that paid for such writes.
    dsb_paid,
    /// Executed `ISB` that paid for such writes.
    isb_paid,
    /// Pages whose invalidation was requested.
    tlbi_requested,
    /// Calls of the enter hook.
    enter,
    /// Calls of the flush hook.
    flush,
    /// Calls of the leave hook.
    leave,
}

/// Adds the counts of several tasks and CPUs up.
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

    /// DSB that were not executed, compared with one per write that R14 lists.
    pub const fn dsb_saved(&self) -> u64 {
        self.requested.saturating_sub(self.dsb_paid)
    }

    /// ISB that were not executed, compared with one per write that R14 lists.
    pub const fn isb_saved(&self) -> u64 {
        self.requested.saturating_sub(self.isb_paid)
    }

    /// TLBI that were not executed, compared with one per page.
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
