// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which CPU a task goes to, so that no CPU idles while another has two tasks.
//!
//! Whoever makes a task ready, or lets a ready one run on more CPUs, looks for an idle CPU *behind* putting it on a
//! list; a CPU that is about to idle says so *before* it looks at all lists for the last time. Both are
//! sequentially consistent, so one of the two sees the other.
//!
//! Several may call the same idle CPU, each for another task, and it takes one of them. So a CPU that has found
//! something and does not idle any more calls the others if there is more ([`Cpus::schedule`]).

use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use spin::mutex::SpinMutexGuard;

use super::queue::{Queue, bump};
use super::{Cpus, MAX_CPUS, Port};
use crate::arch::relax::CpuRelax;
use crate::sched::entity::{CpuMask, Entity};

impl<T: Entity, P: Port> Cpus<T, P> {
    /// A task that may run on `allowed` has become ready on `cpu`: if one of those CPUs is idle, it is to come
    /// and take it.
    #[inline(always)]
    pub(super) fn offer(&self, cpu: usize, allowed: CpuMask) {
        self.port.race();
        fence(Ordering::SeqCst);
        let idle = self.idle.load(Ordering::SeqCst) & allowed.0 & !(1 << cpu);
        if idle != 0 {
            self.port.kick(idle.trailing_zeros() as usize);
        }
    }

    /// `cpu` does not idle any more. What it leaves is for the other CPUs that do: it may have been called for more
    /// than one task, and for none that it has taken. Which of them may run what is left is theirs to find out, so
    /// all are called.
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

    /// Makes a task ready that is on no CPU and no list: `State::Moving`, or new.
    pub(super) fn place(&self, task: Arc<T>) {
        loop {
            let cpu = self.choose(&task);
            let mut queue = self.lock(cpu);
            // `choose` has looked without a lock.
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
            // It was chosen before the task was on its list: it may be busy by now, and another one idle.
            fence(Ordering::SeqCst);
            if self.idle.load(Ordering::SeqCst) >> cpu & 1 == 0 {
                self.offer(cpu, allowed);
            }
            return;
        }
    }

    /// The CPU for a task that becomes ready: its home if that is idle, any idle one else; if none is, its home,
    /// or the one with the fewest tasks if it may not stay.
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

    /// Takes a task from another CPU's ready list, for `cpu`, the caller's, which has none. Returns whether
    /// there was one.
    pub fn steal(&self, cpu: usize) -> bool {
        self.port.race();
        for victim in (cpu + 1..MAX_CPUS).chain(0..cpu) {
            if !self.has_ready(victim) {
                continue;
            }
            let (mut mine, mut theirs) = self.lock_both(cpu, victim);
            let found = theirs.ready.take(|task| task.entry().allowed().has(cpu));
            if let Some(task) = &found {
                // Under the lock of both homes: who looks for the task finds it on the list of one of them.
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

    /// `cpu`, the caller's, has nothing to do, and says so until [`Cpus::end_idle`]. Returns whether
    /// it has found something after all.
    pub fn begin_idle(&self, cpu: usize) -> bool {
        self.idle.fetch_or(1 << cpu, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.port.race();
        self.has_ready(cpu) || self.steal(cpu)
    }

    /// `cpu` looks at its queue again.
    pub fn end_idle(&self, cpu: usize) {
        self.idle.fetch_and(!(1 << cpu), Ordering::SeqCst);
    }

    /// Locks two queues, in the order of their numbers; returns them as asked for.
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
