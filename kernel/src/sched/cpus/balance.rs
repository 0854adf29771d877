// SPDX-License-Identifier: MIT OR Apache-2.0

//! Load balancing: the choice of a CPU for a task, so that no CPU idles while another one has two
//! tasks.
//!
//! # How a ready task and an idle CPU find each other
//!
//! A CPU that makes a task ready, or that lets a ready task run on more CPUs, first puts the task
//! on a list and then looks for an idle CPU. A CPU that is about to idle first sets its bit in
//! `idle` and then looks at all lists for the last time. Both sequences contain a sequentially
//! consistent fence, so at least one of the two CPUs sees the other:
//!
//! ```text
//! CPU 0: put the task on a list;  fence;  read `idle`        (sees bit 1: it kicks CPU 1)
//! CPU 1: set bit 1 of `idle`;     fence;  read all lists     (sees the task: it steals it)
//! ```
//!
//! Several CPUs may kick the same idle CPU, each for another task, and it takes one of them. A CPU
//! that has found a task and does not idle any more therefore kicks the other idle CPUs if more
//! tasks are ready ([`Cpus::schedule`]).

use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use spin::mutex::SpinMutexGuard;

use super::queue::{Queue, bump};
use super::{Cpus, MAX_CPUS, Port};
use crate::arch::relax::CpuRelax;
use crate::sched::entity::{CpuMask, Entity};

impl<T: Entity, P: Port> Cpus<T, P> {
    /// A task that may run on `allowed` has become ready on `cpu`. Kicks one of the allowed CPUs if
    /// one is idle, so that it takes the task.
    #[inline(always)]
    pub(super) fn offer(&self, cpu: usize, allowed: CpuMask) {
        self.port.race();
        fence(Ordering::SeqCst);
        let idle = self.idle.load(Ordering::SeqCst) & allowed.0 & !(1 << cpu);
        if idle != 0 {
            self.port.kick(idle.trailing_zeros() as usize);
        }
    }

    /// Kicks all idle CPUs if a task is ready: `cpu` does not idle any more, and it may have been
    /// kicked for more tasks than the one that it has taken. Each kicked CPU finds out itself which
    /// tasks it may run.
    pub(super) fn pass_on(&self, cpu: usize) {
        self.port.race();
        fence(Ordering::SeqCst);
        let mut idle = self.idle.load(Ordering::SeqCst) & !(1 << cpu);
        if idle == 0 || !(0..MAX_CPUS).any(|other| self.has_ready(other)) {
            return;
        }
        while idle != 0 {
            self.port.kick(idle.trailing_zeros() as usize);
            idle &= idle - 1;
        }
    }

    /// Makes a task ready that is on no CPU and on no list: it is new, or `State::Moving`.
    pub(super) fn place(&self, task: Arc<T>) {
        loop {
            let cpu = self.choose(&task);
            let mut queue = self.lock(cpu);
            // `choose` reads without a lock, so the mask may have changed.
            if !task.entry().allowed().has(cpu) {
                drop(queue);
                self.port.wait();
                continue;
            }
            self.port.race();
            let allowed = task.entry().allowed();
            task.entry().set_cpu(cpu);
            queue.make_ready(task);
            self.publish(cpu, &queue);
            drop(queue);
            self.port.kick(cpu);
            // `cpu` was chosen before the task was on its list. It may be busy by now, and another
            // CPU idle.
            fence(Ordering::SeqCst);
            if self.idle.load(Ordering::SeqCst) >> cpu & 1 == 0 {
                self.offer(cpu, allowed);
            }
            return;
        }
    }

    /// Chooses the CPU for a task that becomes ready: its home if that is idle, or else any idle
    /// CPU. If none is idle, it is the home if no other task is ready there, and otherwise the
    /// allowed CPU with the fewest ready tasks.
    fn choose(&self, task: &T) -> usize {
        let home = task.entry().cpu();
        let allowed = task.entry().allowed().0 & self.online.load(Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = self.idle.load(Ordering::SeqCst) & allowed;
        if idle >> home & 1 != 0 {
            home
        } else if idle != 0 {
            idle.trailing_zeros() as usize
        } else if allowed >> home & 1 != 0 && self.ready[home].load(Ordering::Relaxed) == 0 {
            home
        } else {
            let least = (0..MAX_CPUS)
                .filter(|cpu| allowed >> cpu & 1 != 0)
                .min_by_key(|cpu| self.ready[*cpu].load(Ordering::Relaxed));
            least.unwrap_or(home)
        }
    }

    /// Takes a task from another CPU's ready list for `cpu`, which is the caller's and has no ready
    /// task. Returns whether there was one.
    pub fn steal(&self, cpu: usize) -> bool {
        self.port.race();
        for victim in (cpu + 1..MAX_CPUS).chain(0..cpu) {
            if !self.has_ready(victim) {
                continue;
            }
            let (mut mine, mut theirs) = self.lock_both(cpu, victim);
            let found = theirs.ready.take(|task| task.entry().allowed().has(cpu));
            if let Some(task) = &found {
                // Both homes are locked here: a CPU that looks for the task finds it on the list of
                // one of them.
                task.entry().set_cpu(cpu);
            }
            self.publish(victim, &theirs);
            drop(theirs);
            self.port.race();
            if let Some(task) = found {
                mine.make_ready(task);
                bump(&mut mine.stats.stolen);
                self.publish(cpu, &mine);
                return true;
            }
        }
        false
    }

    /// Marks `cpu`, the caller's, as idle until [`Cpus::end_idle`]. Returns whether a task was
    /// found after all.
    pub fn begin_idle(&self, cpu: usize) -> bool {
        self.idle.fetch_or(1 << cpu, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.port.race();
        self.has_ready(cpu) || self.steal(cpu)
    }

    /// Ends what [`Cpus::begin_idle`] began: `cpu` looks at its queue again.
    pub fn end_idle(&self, cpu: usize) {
        self.idle.fetch_and(!(1 << cpu), Ordering::SeqCst);
    }

    /// Locks two queues in the order of their numbers, and returns them in the order of the
    /// arguments.
    fn lock_both(
        &self,
        one: usize,
        other: usize,
    ) -> (
        SpinMutexGuard<'_, Queue<T>, CpuRelax>,
        SpinMutexGuard<'_, Queue<T>, CpuRelax>,
    ) {
        if one < other {
            let first = self.lock(one);
            (first, self.lock(other))
        } else {
            let first = self.lock(other);
            (self.lock(one), first)
        }
    }
}
