// SPDX-License-Identifier: MIT OR Apache-2.0
//! The leak check: it finds what a test leaves behind, and restores it where that is possible. Its
//! own suite leaves things behind on purpose.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use aarch64_cpu::registers::DAIF;
use lazymmu::{Backend, Backing, BarrierPolicy, Owed, Prot};
use tock_registers::interfaces::Readable;

use super::fixture::{self, Pages, counts, patience};
use crate::arch::relax::cpu_relax;
use crate::arch::{interrupts, timer};
use crate::mm::vmap::{self, Area};
use crate::mm::{MMU, frames, heap, kernel_space};
use crate::sched;
use crate::selftest::prelude::*;
use crate::selftest::runner::LeakCheck;
use crate::text::Text;

suite! {
    name: "leaks",
    order: 2,
    tests: [
        case!(QemuVisible, frames_are_counted),
        case!(QemuVisible, areas_are_counted_and_the_room_in_their_list_is_not),
        cases!(QemuVisible, found_and_put_back, {
            sections: open_sections,
            a_pause: pause_in_a_section,
            debts: owe,
            backend: change_backend,
            policy: change_policy,
            budget: limit_frames,
            interrupt_mask: mask_interrupts,
        }),
    ],
}

/// The leak check compares frames, heap, lazy state, terms and the interrupt mask before and after
/// a test.
#[derive(Debug)]
pub struct KernelState {
    /// The number of tasks while no test runs.
    tasks: usize,
}

impl KernelState {
    /// Creates the check. It makes and drops an area and a task first: what the first area and task
    /// allocate once and keep is then not counted as a leak of the first test.
    pub fn after_warm_up() -> Self {
        drop(Area::reserve(1));
        if let Ok(task) = sched::spawn("warm-up", || ()) {
            task.join();
        }
        let mut state = Self::new();
        state.settle();
        state.tasks = sched::alive();
        state
    }

    /// Creates the check without that.
    fn new() -> Self {
        Self {
            tasks: sched::alive(),
        }
    }

    /// Waits, but not longer than [`patience`], until tasks that have ended are freed. On other
    /// CPUs that takes a moment.
    fn settle(&self) {
        let until = patience();
        while (sched::alive() > self.tasks || !sched::is_quiet()) && timer::ticks() < until {
            match sched::may_sleep() {
                Ok(()) => sched::sleep(Duration::from_micros(50)),
                Err(_) => cpu_relax(),
            }
        }
    }
}

/// DAIF: IRQs are masked.
const IRQS: u64 = 1 << 7;

/// The state that a test could change for later tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    tasks: usize,
    /// The frames in use, without those of the heap.
    frames: usize,
    /// The bytes in use on the heap, without the lists of areas. These keep the capacity that the
    /// largest number of areas so far needed.
    heap: usize,
    /// Areas in use.
    areas: usize,
    /// The task's `(enable_count, pause_count)`.
    sections: (u8, u8),
    owed: Owed,
    backend: Backend,
    policy: BarrierPolicy,
    /// How many more frames the allocator hands out, if that is limited.
    budget: Option<usize>,
    /// PSTATE.DAIF, as DAIF shows it.
    daif: u64,
    /// The number of calls of the enter hook minus those of the leave hook.
    unbalanced: u64,
}

/// Writes the name of a value that differs, and both values.
fn differs<T: fmt::Debug + PartialEq>(
    report: &mut dyn fmt::Write,
    name: &str,
    before: &T,
    after: &T,
) -> fmt::Result {
    if before == after {
        return Ok(());
    }
    line(report, name, before, after)
}

fn line(
    report: &mut dyn fmt::Write,
    name: &str,
    before: &dyn fmt::Debug,
    after: &dyn fmt::Debug,
) -> fmt::Result {
    writeln!(report, "{name}: {before:?} before, {after:?} after")
}

impl LeakCheck for KernelState {
    type Snapshot = Snapshot;

    fn snapshot(&mut self) -> Snapshot {
        self.settle();
        let lazy = sched::current().lazy().read();
        let counts = counts();
        let vmap = vmap::usage();
        Snapshot {
            tasks: sched::alive(),
            frames: frames::usage().used - heap::frames_held(),
            heap: heap::bytes_used() - vmap.list_bytes,
            areas: vmap.areas,
            sections: (lazy.enable_count(), lazy.pause_count()),
            owed: lazy.owed(),
            backend: MMU.backend(),
            policy: MMU.policy(),
            budget: frames::budget(),
            daif: DAIF.get(),
            unbalanced: counts.enter.wrapping_sub(counts.leave),
        }
    }

    fn difference(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        report: &mut dyn fmt::Write,
    ) -> fmt::Result {
        differs(report, "tasks", &before.tasks, &after.tasks)?;
        differs(report, "frames in use", &before.frames, &after.frames)?;
        differs(report, "bytes of heap in use", &before.heap, &after.heap)?;
        differs(report, "areas in use", &before.areas, &after.areas)?;
        differs(
            report,
            "(enable, pause) of the task",
            &before.sections,
            &after.sections,
        )?;
        differs(report, "owed by the task", &before.owed, &after.owed)?;
        differs(report, "backend", &before.backend, &after.backend)?;
        differs(report, "barrier policy", &before.policy, &after.policy)?;
        differs(report, "frame budget", &before.budget, &after.budget)?;
        differs(report, "DAIF", &before.daif, &after.daif)?;
        differs(
            report,
            "calls of the enter hook less those of leave",
            &before.unbalanced,
            &after.unbalanced,
        )
    }

    /// Frames and heap stay lost, because their users are unknown. Everything else is restored, in
    /// this order: `disable` is ignored during a pause, and the backend cannot change during a
    /// section.
    fn restore(&mut self, before: &Snapshot, report: &mut dyn fmt::Write) -> fmt::Result {
        let now = self.snapshot();
        if now.daif != before.daif {
            // Kernel code masks and unmasks only IRQs.
            match before.daif & IRQS {
                0 => interrupts::unmask_irq(),
                _ => interrupts::mask_irq(),
            }
            writeln!(report, "interrupts are masked as before")?;
        }
        if now.sections != before.sections || now.owed != before.owed {
            let lazy = MMU.lazy();
            for _ in 0..now.sections.1 {
                let _ = lazy.resume();
            }
            for _ in 0..now.sections.0 {
                let _ = lazy.disable();
            }
            lazy.flush();
            writeln!(
                report,
                "all sections and pauses are closed, and what they owed is paid"
            )?;
        }
        if now.backend != before.backend || now.policy != before.policy {
            // SAFETY: the tasks of the test have ended, or are reported as left over.
            let backend = unsafe { MMU.set_backend(before.backend) }.is_ok();
            let policy = MMU.set_policy(before.policy).is_ok();
            if backend && policy {
                writeln!(report, "backend and policy are those from before")?;
            }
        }
        if now.budget != before.budget {
            frames::set_budget(before.budget);
            writeln!(report, "the frame budget is the one from before")?;
        }
        Ok(())
    }
}

/// What a case leaves behind on purpose. It returns the text that the check must report.
type Mess = fn(&Pages) -> Result<&'static str, Outcome>;

/// Leaves something behind, and tests whether the check finds it and restores the state.
fn found_and_put_back(make: Mess) -> TestResult {
    let _terms = expect_ok!(fixture::with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::mapped(2));
    expect_ok!(kernel_space::lock().unmap(expect_ok!(pages.area.part(1, 1))));
    let mut check = KernelState::new();
    let before = check.snapshot();
    let mess = make(&pages)?;
    let after = check.snapshot();
    let (mut found, mut restored) = (Text::<512>::new(), Text::<512>::new());
    let written = check
        .difference(&before, &after, &mut found)
        .and_then(|()| check.restore(&before, &mut restored));
    expect_ok!(written);
    expect!(found.as_str().contains(mess), "only found: {found}");
    expect!(!restored.as_str().is_empty());
    // The test itself undoes the mapping that `owe` makes; it took no table.
    expect_eq!(check.snapshot(), before);
    Ok(())
}

fn open_sections(_: &Pages) -> Result<&'static str, Outcome> {
    expect_ok!(MMU.lazy().enable());
    expect_ok!(MMU.lazy().enable());
    Ok("(enable, pause) of the task: (0, 0) before, (2, 0) after")
}

fn pause_in_a_section(_: &Pages) -> Result<&'static str, Outcome> {
    expect_ok!(MMU.lazy().enable());
    expect_ok!(MMU.lazy().pause());
    Ok("(0, 0) before, (1, 1) after")
}

fn owe(pages: &Pages) -> Result<&'static str, Outcome> {
    expect_ok!(MMU.lazy().enable());
    let second = expect_ok!(pages.area.part(1, 1));
    let backing = Backing::Contiguous(pages.frames()[1]);
    expect_ok!(kernel_space::lock().map(second, backing, Prot::KERNEL));
    Ok("owed by the task")
}

fn change_backend(_: &Pages) -> Result<&'static str, Outcome> {
    // SAFETY: the tasks of earlier tests have ended.
    expect_ok!(unsafe { MMU.set_backend(Backend::Eager) });
    Ok("backend: DeferBarriers before, Eager after")
}

fn change_policy(_: &Pages) -> Result<&'static str, Outcome> {
    if MMU.set_policy(BarrierPolicy::Ets2).is_err() {
        skip!("this CPU has no FEAT_ETS2: run with --cpu max");
    }
    Ok("barrier policy: Classic before, Ets2 after")
}

fn limit_frames(_: &Pages) -> Result<&'static str, Outcome> {
    frames::set_budget(Some(5));
    Ok("frame budget: None before, Some(5) after")
}

fn mask_interrupts(_: &Pages) -> Result<&'static str, Outcome> {
    interrupts::mask_irq();
    Ok("DAIF")
}

fn frames_are_counted() -> TestResult {
    let mut check = KernelState::new();
    let before = check.snapshot();
    let frame = expect_ok!(frames::alloc());
    let after = check.snapshot();
    // SAFETY: the frame was taken above and has no other user.
    unsafe { frames::free(frame) };
    expect_eq!(after.frames, before.frames + 1);
    let mut found = Text::<512>::new();
    expect_ok!(check.difference(&before, &after, &mut found));
    expect!(
        found.as_str().starts_with("frames in use"),
        "only found: {found}"
    );
    expect_eq!(check.snapshot(), before);
    Ok(())
}

/// A list of areas that has grown keeps its size, which is not a leak. An area that stays is one.
fn areas_are_counted_and_the_room_in_their_list_is_not() -> TestResult {
    let mut check = KernelState::new();
    let before = check.snapshot();
    let had = vmap::usage().list_bytes;
    let mut areas = Vec::new();
    while vmap::usage().list_bytes == had {
        areas.push(expect_ok!(Area::reserve(1)));
    }
    let one = expect_ok!(areas.pop().ok_or("no area was asked for"));
    drop(areas);
    expect!(vmap::usage().list_bytes > had);
    let after = check.snapshot();
    expect_eq!(after.areas, before.areas + 1);
    let mut found = Text::<512>::new();
    expect_ok!(check.difference(&before, &after, &mut found));
    expect!(
        found.as_str().starts_with("areas in use"),
        "only found: {found}"
    );
    drop(one);
    expect_eq!(check.snapshot(), before);
    Ok(())
}
