// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the suites share: pages to map, counts to compare, and the terms on which the
//! figures that they state are true.

use core::sync::atomic::{AtomicUsize, Ordering};

use log::debug;

use lazymmu::{Backend, BarrierPolicy, Counts, PageRange, PteRef, SpaceError};

use crate::arch::Arm64;
use crate::arch::probe::{self, Fault};
use crate::arch::relax::cpu_relax;
use crate::arch::timer;
use crate::arch::window::{self, WindowId};
use crate::mm::MMU;
use crate::mm::kernel_space::Space;
use crate::mm::terms::{Terms, TermsError};
use crate::sched::{self, JoinHandle};

pub(super) use crate::mm::pages::Pages;

/// Seconds that a test waits for what must happen: between two instructions a busy host may let
/// some pass.
const PATIENCE: u64 = 10;

/// The time, in ticks of the timer, up to which to wait for what must happen.
pub(crate) fn patience() -> u64 {
    timer::ticks() + PATIENCE * timer::frequency()
}

/// Spins until `condition` holds; `false` if it does not within [`PATIENCE`].
pub(crate) fn spin_until(mut condition: impl FnMut() -> bool) -> bool {
    let until = patience();
    while !condition() {
        if timer::ticks() > until {
            return false;
        }
        cpu_relax();
    }
    true
}

/// Spins for so many ticks of the timer.
pub(crate) fn spin_for(ticks: u64) {
    let until = timer::ticks() + ticks;
    while timer::ticks() < until {
        cpu_relax();
    }
}

/// Writes to `virt`, which is the test's own memory or must fault.
pub(super) fn store(virt: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: the suites call this with addresses of frames they own, of pages that
    // nothing maps, and of pages that may not be written, where nothing is changed.
    unsafe { probe::try_write_u64(virt, value) }
}

/// [`AddressSpace::apply_to_page_range`](lazymmu::AddressSpace::apply_to_page_range), compiled
/// once.
pub(super) fn apply(
    space: &mut Space,
    range: PageRange,
    each: &mut dyn FnMut(&mut PteRef<'_, Arm64>) -> Result<(), SpaceError>,
) -> Result<(), SpaceError> {
    space.apply_to_page_range(range, each)
}

/// The current task's counts.
pub(super) fn counts() -> Counts {
    MMU.counts()
}

/// What `action` executed.
pub(super) fn counted<R>(action: impl FnOnce() -> R) -> (R, Counts) {
    let window = Counting::begin();
    let result = action();
    (result, window.end())
}

/// What `action` executed for the current task, which makes room for `other` meanwhile and for
/// nobody else.
///
/// The window has more: what `other` executed, and the scheduler.
pub(super) fn counted_beside<T, R>(
    other: &JoinHandle<T>,
    action: impl FnOnce() -> R,
) -> (R, Counts) {
    let others = || Beside::read(other.task().counts(), other.is_finished());
    let before = others();
    let window = Counting::begin();
    let result = action();
    let spent = window.end_beside(&before, &others());
    (result, spent)
}

/// What the CPU of two tasks has executed that is not the current one's.
#[derive(Default)]
struct Beside {
    /// The other task's, and the scheduler's `ISB` for each task that comes from elsewhere or for
    /// the first time.
    counts: Counts,
    /// The scheduler's `DMB ISH` behind each switch from a task that is still ready, before it
    /// looks for a CPU that idles.
    dmb_ish: u64,
}

impl Beside {
    fn read(mut counts: Counts, is_gone: bool) -> Self {
        let stats = sched::stats(sched::current().cpu());
        counts.isb += stats.arrivals;
        // The last switch from a task that ends is from one that is not ready.
        let dmb_ish = stats.switches - u64::from(is_gone);
        Self { counts, dmb_ish }
    }
}

/// Number of the windows in which self-tests count.
const OP: u8 = 200;

/// What is executed from now on is counted, here and by whoever looks on from outside: with
/// `log=debug` a line says what the kernel has counted,
///
/// ```text
/// debug: counted op=200 pages=7 dsb=1 isb=1 tlbi=0 ish=0 dmb=0 dmb_ish=0
/// ```
///
/// and `pages` is the how many-th time it is.
pub(super) struct Counting {
    number: usize,
    before: Counts,
}

impl Counting {
    pub(super) fn begin() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let before = counts();
        window::begin(WindowId::new(OP, number));
        Self { number, before }
    }

    pub(super) fn end(self) -> Counts {
        let nobody = Beside::default();
        self.end_beside(&nobody, &nobody)
    }

    /// The same where others had executed `before` when it began, and `after` by now.
    fn end_beside(self, before: &Beside, after: &Beside) -> Counts {
        let number = self.number;
        window::end(WindowId::new(OP, number));
        let spent = counts() - self.before;
        let others = after.counts - before.counts;
        let dmb_ish = after.dmb_ish - before.dmb_ish;
        debug!(
            "counted op={OP} pages={number} dsb={} isb={} tlbi={} ish={} dmb={} dmb_ish={dmb_ish}",
            spent.dsb() + others.dsb(),
            spent.isb + others.isb,
            spent.tlbi + others.tlbi,
            spent.dsb_ish + others.dsb_ish,
            spent.dmb_ishst + others.dmb_ishst + dmb_ish
        );
        spent
    }
}

/// `DSB ISH` that one invalidation takes to complete: one, and another one behind a second
/// TLBI where the CPU repeats them (R34).
pub(super) fn dsb_ish_of_a_flush() -> u64 {
    1 + u64::from(MMU.features().tlb.repeat)
}

/// Runs with `backend` and the classic policy, whose figures the suites state, until
/// dropped.
pub(super) fn with(backend: Backend) -> Result<Terms, TermsError> {
    terms(backend, BarrierPolicy::Classic)
}

/// Runs with `backend` and `policy`, until dropped.
pub(super) fn terms(backend: Backend, policy: BarrierPolicy) -> Result<Terms, TermsError> {
    // SAFETY: tests run one after the other, and each takes its terms before it starts tasks of its
    // own and joins these before it drops them.
    unsafe { Terms::take(backend, policy) }
}
