// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps that are not requests to a space: levels of lazy MMU mode, task switches, and publication
//! to another CPU.

use super::calls::Caller;
use super::run::Run;
use super::{Op, Range, TASKS};
use crate::model::{Modelled, Switch};
use lazymmu::{LazyMmuState, LazySuspended};

/// A suspension of a task.
pub(super) struct Suspended<'m, K: Modelled> {
    pub(super) task: usize,
    /// The number of announced ranges that the end of the suspension brings back. Their tables must
    /// stay.
    ranges: usize,
    #[expect(dead_code, reason = "it is there to be dropped")]
    levels: LazySuspended<'m, K>,
}

/// The two counters in the `Debug` form of a state, without the debts.
fn counts_of(state: &str) -> Option<&str> {
    state.split(", owed").next()
}

impl<'m, K: Modelled> Run<'m, K> {
    pub(super) fn move_lazy(&mut self, op: Op, by: Caller) {
        let spaces = self.contract.spaces_of(by.task);
        for space in spaces.clone() {
            self.lock(space, by.cpu);
        }
        let lazy = self.mmu.lazy();
        let isb = self.sim().executed().isb;
        let paused = lazy.state().pause_count() > 0;
        // A call that is not balanced is refused (R8), and changes nothing.
        let paid = match op {
            Op::Enable => {
                lazy.enable().ok();
                false
            }
            Op::Resume => {
                lazy.resume().ok();
                false
            }
            Op::Disable => lazy.disable().is_ok() && !paused,
            Op::Pause => lazy.pause().is_ok(),
            Op::Drain => {
                lazy.drain();
                false
            }
            Op::Suspend => {
                let before = format!("{:?}", lazy.state());
                drop(self.suspend());
                let after = format!("{:?}", lazy.state());
                assert_eq!(
                    counts_of(&before),
                    counts_of(&after),
                    "R38: the same levels again"
                );
                true
            }
            Op::SuspendBegin => {
                let ranges = lazy.state().fast_pte_ranges();
                let levels = self.suspend();
                self.suspended.push(Suspended {
                    task: by.task,
                    ranges,
                    levels,
                });
                true
            }
            Op::SuspendEnd => self.resume_levels(by.task),
            _ => {
                lazy.flush();
                true
            }
        };
        let by = self.returned(by);
        if paid {
            self.contract.section_paid(by.task, by.cpu);
        }
        if self.sim().executed().isb != isb {
            self.contract.synchronized(by.cpu);
        }
        for space in spaces {
            self.unlock(space, by.cpu);
        }
    }

    /// Leaves every level, and checks that the state is that of a new task.
    fn suspend(&self) -> LazySuspended<'m, K> {
        let lazy = self.mmu.lazy();
        let suspended = lazy.suspend_all();
        assert_eq!(
            format!("{:?}", lazy.state()),
            format!("{:?}", LazyMmuState::new()),
            "R38: the task may sleep"
        );
        suspended
    }

    /// Ends the last suspension of the task, unless the task is in a level of its own. Returns
    /// `false`, because nothing is paid.
    fn resume_levels(&mut self, task: usize) -> bool {
        let state = self.mmu.lazy().state();
        let inside = state.enable_count() > 0 || state.pause_count() > 0;
        let last = self.suspended.iter().rposition(|s| s.task == task);
        if let Some(last) = last.filter(|_| !inside) {
            drop(self.suspended.remove(last));
        }
        false
    }

    /// Enters a section that announces a range, if the range lies in one table that exists.
    pub(super) fn enable_fast(&mut self, space: usize, range: Range) {
        let pages = range.of(space);
        let mm = &self.spaces[space];
        let table = mm.last_level_table(pages.start());
        let Some(table) = table.filter(|_| pages.is_in_one_table(lazymmu::Level::L3)) else {
            return;
        };
        // SAFETY: no table is freed while a range is in force (see `FreeEmptyTables`).
        let result = unsafe {
            let lazy = self.mmu.lazy();
            lazy.enable_fast_pte_range(mm, pages.start(), pages.end(), table)
        };
        result.expect("the range is in the table");
    }

    /// Whether a task has announced a range whose table must stay, also if it is suspended.
    pub(super) fn is_announced(&self) -> bool {
        if self.suspended.iter().any(|s| s.ranges > 0) {
            return true;
        }
        (0..TASKS).any(|task| self.mmu.kernel().lazy_of(task).read().fast_pte_ranges() > 0)
    }

    fn synchronize(&mut self, cpu: usize) {
        self.sim().synchronize(cpu);
        self.contract.synchronized(cpu);
    }

    /// Switches `cpu` to task `next`, unless that one runs already or the current one may not leave
    /// (R38).
    pub(super) fn switch(&mut self, cpu: usize, next: usize) {
        let sim = self.sim();
        let prev = sim.running(cpu);
        let next = next % TASKS;
        if sim.cpu_of(next).is_some() {
            return;
        }
        let lazy = self.mmu.lazy();
        let left = match self.switch {
            Switch::DsbIsh => lazy.switch_out(),
            Switch::Bare => lazy.might_sleep(),
        };
        let stays = lazy.state().is_active() && !self.mmu.backend().is_preemptible();
        assert_eq!(left.is_err(), stays, "R38");
        if left.is_ok() {
            let has_moved = sim.has_moved(next, cpu);
            sim.switch(cpu, next, self.switch);
            self.contract.switched(cpu, prev, next);
            if has_moved {
                self.synchronize(cpu);
            }
        }
    }

    /// A preemption: an interrupt, a switch, and the exception return in the other task.
    pub(super) fn preempt(&mut self, cpu: usize, next: usize) {
        self.synchronize(cpu);
        self.switch(cpu, next);
        self.synchronize(cpu);
    }

    pub(super) fn tell(&mut self, from: usize, to: usize) {
        self.sim().synchronize_with(from, to);
        self.contract.acquired(from, to);
        self.contract.completed(to);
        self.contract.synchronized(to);
    }
}
