// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chapter 5: sections across context switches.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use lazymmu::{Backend, Backing, BarrierPolicy, Counts, LazyMmuError, Owed, Prot, SpaceError};

use super::workload::Workload;
use super::{DemoError, terms, title};
use crate::mm::vmap::{self, Area};
use crate::mm::{MMU, kernel_space};
use crate::sched::{self, Builder, Slices};
use crate::sync::IrqLock;

/// The number of pages of the chapter, one for each map.
const PAGES: usize = 5;

/// The page that is mapped only if there is a second CPU to move to.
const MOVED: usize = PAGES - 1;

/// One line of the timeline.
struct Event {
    cpu: usize,
    task: &'static str,
    step: &'static str,
    sections: (u8, u8),
    owed: Owed,
    counts: Counts,
}

/// The data that the tasks of the chapter share.
struct Stage {
    area: Area<Workload>,
    events: IrqLock<Vec<Event>>,
}

impl Stage {
    /// Begins a task's part, which is recorded step by step.
    fn enter(&self) -> Actor<'_> {
        Actor {
            stage: self,
            before: sched::current().counts(),
        }
    }

    fn map(&self, i: usize) -> Result<(), SpaceError> {
        let page = self.area.part(i as u64, 1)?;
        let backing = Backing::Contiguous(self.area.frames().frames()[i]);
        kernel_space::lock().map(page, backing, Prot::KERNEL)
    }
}

struct Actor<'a> {
    stage: &'a Stage,
    before: Counts,
}

impl Actor<'_> {
    /// Does `action`, and records it together with what the task has executed since the step
    /// before.
    fn step<E: Into<DemoError>>(
        &mut self,
        step: &'static str,
        action: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), DemoError> {
        action().map_err(Into::into)?;
        let task = sched::current();
        let now = task.counts();
        let state = task.lazy().read();
        self.stage.events.lock().push(Event {
            cpu: sched::cpu(),
            task: task.name(),
            step,
            sections: (state.enable_count(), state.pause_count()),
            owed: state.owed(),
            counts: now - self.before,
        });
        self.before = task.counts();
        Ok(())
    }

    /// Lets the other task run.
    fn give_way(&mut self, step: &'static str) -> Result<(), DemoError> {
        self.step(step, || -> Result<(), LazyMmuError> {
            sched::yield_now();
            Ok(())
        })
    }
}

pub(super) fn tell(out: &mut dyn fmt::Write) -> Result<(), DemoError> {
    title(out, 5, "Sections across context switches")?;
    writeln!(
        out,
        "Sections belong to the task. A switch completes the stores of the task that leaves (one DSB) and\n\
         touches nothing else; of the pair that is owed, the ISB is left, and whoever ends the section\n\
         executes it, on whatever CPU that is.\n"
    )?;
    let stage = Arc::new(Stage {
        area: Area::for_frames(&vmap::GENERAL, Workload::new(PAGES)?)?,
        events: IrqLock::new(Vec::with_capacity(32)),
    });
    let terms = terms(Backend::DeferBarriers, BarrierPolicy::Classic)?;
    // Tasks switch only where they yield. On a busy host a time slice may end between any two
    // steps, and then the timeline would show a switch there.
    let unhurried = Slices::longest();
    writeln!(out, "Two tasks on one CPU:\n")?;
    let tasks = [
        start("shallow", &stage, shallow)?,
        start("deep", &stage, deep)?,
    ];
    for task in tasks {
        task.join()?;
    }
    timeline(out, &stage)?;
    match (0..sched::MAX_CPUS).rfind(|cpu| sched::online().has(*cpu)) {
        Some(last) if last > 0 => {
            writeln!(out, "\nOne task that moves to CPU {last} and back:\n")?;
            start("mover", &stage, move |stage| mover(stage, last))?.join()?;
            timeline(out, &stage)?;
        }
        _ => writeln!(
            out,
            "\nThere is one CPU: with --smp 2 a task moves to another one here."
        )?,
    }
    drop(unhurried);
    drop(terms);
    (0..MOVED).try_for_each(|i| stage.area.frames().read_one(&stage.area, i))
}

/// Starts `part` on CPU 0.
fn start(
    name: &'static str,
    stage: &Arc<Stage>,
    part: impl FnOnce(&Stage) -> Result<(), DemoError> + Send + 'static,
) -> Result<sched::JoinHandle<Result<(), DemoError>>, DemoError> {
    let stage = Arc::clone(stage);
    Ok(Builder::new(name).pinned(0).spawn(move || part(&stage))?)
}

fn shallow(stage: &Stage) -> Result<(), DemoError> {
    let lazy = MMU.lazy();
    let mut actor = stage.enter();
    actor.step("enters a section", || lazy.enable())?;
    actor.step("maps a page", || stage.map(0))?;
    actor.give_way("gives way, and is back")?;
    actor.step("maps a page", || stage.map(1))?;
    actor.give_way("gives way, and is back")?;
    actor.step("leaves the section", || lazy.disable())
}

fn deep(stage: &Stage) -> Result<(), DemoError> {
    let lazy = MMU.lazy();
    let mut actor = stage.enter();
    actor.step("enters two sections", || {
        lazy.enable().and_then(|()| lazy.enable())
    })?;
    actor.step("maps a page", || stage.map(2))?;
    actor.give_way("gives way, and is back")?;
    actor.step("pauses", || lazy.pause())?;
    actor.step("maps a page while paused", || stage.map(3))?;
    actor.give_way("gives way, and is back")?;
    actor.step("resumes, leaves both sections", || {
        lazy.resume()?;
        lazy.disable().and_then(|()| lazy.disable())
    })
}

fn mover(stage: &Stage, other: usize) -> Result<(), DemoError> {
    let lazy = MMU.lazy();
    let mut actor = stage.enter();
    actor.step("enters a section", || lazy.enable())?;
    actor.step("maps a page", || stage.map(MOVED))?;
    actor.step("moves", || sched::migrate(other))?;
    actor.step("leaves the section", || lazy.disable())?;
    actor.step("uses the page", || {
        stage.area.frames().read_one(&stage.area, MOVED)
    })?;
    actor.step("moves back", || sched::migrate(0))?;
    actor.step("uses the page", || {
        stage.area.frames().read_one(&stage.area, MOVED)
    })
}

/// Writes the recorded events, and clears them.
fn timeline(out: &mut dyn fmt::Write, stage: &Stage) -> fmt::Result {
    writeln!(
        out,
        "  CPU  task     step                           (enable, pause)  owed        DSB  ISB"
    )?;
    let events = core::mem::take(&mut *stage.events.lock());
    for event in &events {
        let (enable, pause) = event.sections;
        writeln!(
            out,
            "  {:>3}  {:<8} {:<30} ({enable}, {pause})           {:<9}{:>6}{:>5}",
            event.cpu,
            event.task,
            event.step,
            super::owed_text(event.owed),
            event.counts.dsb(),
            event.counts.isb
        )?;
    }
    Ok(())
}
