// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the suites share: pages to map, counts to compare, and the strategy and policy for which
//! their figures hold.

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

/// How long a test waits for an event, in seconds. On a busy host much time may pass between two
/// instructions.
const PATIENCE: u64 = 10;

/// The time until which a test waits for an event, in ticks of the timer.
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

/// Spins for `ticks` ticks of the timer.
pub(crate) fn spin_for(ticks: u64) {
    let until = timer::ticks() + ticks;
    while timer::ticks() < until {
        cpu_relax();
    }
}

/// Writes to `virt`, which is the test's own memory or must fault.
pub(super) fn store(virt: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: the suites call this with addresses of frames that they own, of pages that are not
    // mapped, and of pages that are not writable, where nothing is changed.
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

/// Executes `action`, and returns what it executed for the current task. Meanwhile the task yields
/// to `other` and to no other task.
///
/// The window contains more than that: what `other` and the scheduler executed.
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

/// What the CPU of two tasks has executed on behalf of others than the current task.
#[derive(Default)]
struct Beside {
    /// The counts of the other task, and the scheduler's `ISB` for each task that arrives from
    /// another CPU or for the first time.
    counts: Counts,
    /// The scheduler's `DMB ISH` after each switch from a task that is still ready, before it looks
    /// for an idle CPU.
    dmb_ish: u64,
}

impl Beside {
    fn read(mut counts: Counts, is_gone: bool) -> Self {
        let stats = sched::stats(sched::current().cpu());
        counts.isb += stats.arrivals;
        // A task that ends is not ready at its last switch, so that switch has no such barrier.
        let dmb_ish = stats.switches - u64::from(is_gone);
        Self { counts, dmb_ish }
    }
}

/// The number of the windows in which self-tests count.
const OP: u8 = 200;

/// A window in which everything that is executed is counted, by the kernel and by an observer
/// outside of the machine. With `log=debug` a line says what the kernel has counted:
///
/// ```text
/// debug: counted op=200 pages=7 dsb=1 isb=1 tlbi=0 ish=0 dmb=0 dmb_ish=0
/// ```
///
/// In that line, `pages` is the number of the window.
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

    /// The same, with what others had executed at the start (`before`) and have executed now
    /// (`after`).
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

/// The number of `DSB ISH` that complete one invalidation: one, and another one after a second TLBI
/// if the CPU repeats TLBI (R34).
pub(super) fn dsb_ish_of_a_flush() -> u64 {
    1 + u64::from(MMU.features().tlb.repeat)
}

/// Puts `backend` and the classic policy in force until the result is dropped. The suites state the
/// figures of that policy.
pub(super) fn with(backend: Backend) -> Result<Terms, TermsError> {
    terms(backend, BarrierPolicy::Classic)
}

/// Puts `backend` and `policy` in force until the result is dropped.
pub(super) fn terms(backend: Backend, policy: BarrierPolicy) -> Result<Terms, TermsError> {
    // SAFETY: tests run one after the other, and each takes its terms before it starts tasks of its
    // own and joins these before it drops them.
    unsafe { Terms::take(backend, policy) }
}
