// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a CPU of the modeled machine does: `sched/run.rs`, with a task's steps for its code.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kernel::sched::CpuMask;
use kernel::sched::cpus::{Decision, Left};
use kernel::sched::entity::Entity;

use super::machine::{Machine, Rest, Thing, race};
use super::task::{Step, Task};

/// Ticks after which a preemption that was not possible is tried again.
const RETRY: u64 = 2;

/// A CPU.
#[derive(Debug)]
pub struct Cpu<'a> {
    machine: &'a Machine,
    index: usize,
    /// Who has its registers; `None`: the idle task.
    running: Option<Arc<Task>>,
    /// The idle task's.
    resched: bool,
}

impl<'a> Cpu<'a> {
    /// CPU number `index`, which idles.
    pub fn new(machine: &'a Machine, index: usize) -> Self {
        Self {
            machine,
            index,
            running: None,
            resched: false,
        }
    }

    /// Runs until the machine is at its end.
    pub fn run(mut self) {
        while !self.machine.is_over() {
            self.interrupts();
            match self.running.clone() {
                Some(task) => {
                    self.step(&task);
                    // As where a `Masked` is dropped.
                    self.preempt_if_due();
                }
                None => self.idle(),
            }
        }
    }

    fn needs_resched(&self) -> bool {
        match &self.running {
            Some(task) => task.resched.load(Ordering::Relaxed),
            None => self.resched,
        }
    }

    fn set_resched(&mut self, due: bool) {
        match &self.running {
            Some(task) => task.resched.store(due, Ordering::Relaxed),
            None => self.resched = due,
        }
    }

    fn is_preemptible(&self) -> bool {
        let count = |task: &Arc<Task>| task.preempt_count.load(Ordering::Relaxed);
        self.running.as_ref().is_none_or(|task| count(task) == 0)
    }

    /// Interrupts are unmasked: those that are pending come.
    fn interrupts(&mut self) {
        race();
        let (machine, index) = (self.machine, self.index);
        if machine.take_kick(index) {
            let tick = machine.cpus.tick(index, machine.now());
            if tick.preempt {
                self.set_resched(true);
            }
            machine.arm_before(index, tick.next);
            self.preempt_if_due();
        }
        if machine.is_timer_due(index) {
            let tick = machine.cpus.tick(index, machine.now());
            if tick.preempt {
                self.set_resched(true);
            }
            let next = if !self.needs_resched() {
                tick.next
            } else if self.is_preemptible() {
                u64::MAX
            } else {
                machine.now() + RETRY
            };
            machine.arm(index, next);
            self.preempt_if_due();
        }
    }

    fn preempt_if_due(&mut self) {
        if self.needs_resched() && self.is_preemptible() {
            self.schedule();
        }
    }

    fn schedule(&mut self) {
        let (machine, index) = (self.machine, self.index);
        self.set_resched(false);
        let leave = || match &self.running {
            Some(task) if task.keeps.load(Ordering::Relaxed) => false,
            Some(task) => {
                race();
                task.complete_stores();
                true
            }
            None => true,
        };
        let decision = match machine.cpus.schedule(index, machine.now(), leave) {
            Decision::Switch(decision) => decision,
            Decision::Stay => return machine.arm_before(index, machine.cpus.next_tick(index)),
            Decision::Refused => {
                machine.arm_before(index, machine.now() + RETRY);
                return self.set_resched(true);
            }
        };
        machine.arm_before(index, decision.next_tick());
        let next = decision.next().cloned();
        decision.hold();
        race();
        if let Some(task) = self.running.take() {
            task.save(index);
        }
        race();
        if let Some(task) = &next {
            task.restore(index);
        }
        self.running = next;
        race();
        // SAFETY: decided, held, and switched on this CPU.
        let left = unsafe { machine.cpus.finish(index) };
        if let Left::Dead(task) = left {
            task.bury();
        }
    }

    fn idle(&mut self) {
        let (cpus, cpu) = (&self.machine.cpus, self.index);
        let found = cpus.has_ready(cpu) || cpus.steal(cpu) || cpus.begin_idle(cpu);
        if !found {
            self.machine.rest(cpu, Rest::Idle);
        }
        if self.machine.is_over() {
            return;
        }
        cpus.end_idle(cpu);
        if found {
            self.schedule();
        }
    }

    fn step(&mut self, task: &Arc<Task>) {
        let (machine, index) = (self.machine, self.index);
        let Some(step) = task.step() else {
            task.entry().die();
            return self.schedule();
        };
        match step {
            Step::Wait(thing) => {
                let thing = &machine.things[thing];
                return self.wait_until(task, thing, || thing.take_token());
            }
            Step::Pass(thing) => {
                let thing = &machine.things[thing];
                return self.wait_until(task, thing, || thing.open.load(Ordering::Acquire));
            }
            Step::Lock(thing) => {
                let thing = &machine.things[thing];
                if !thing.take(task) {
                    return self.wait_until(task, thing, || thing.take(task));
                }
            }
            Step::Poke(other) => {
                let other = &machine.tasks[other];
                machine.cpus.wake(other);
                if !other.is_done() {
                    shuttle::thread::yield_now();
                    return self.yield_now();
                }
            }
            Step::Migrate(cpu) => {
                let only = CpuMask::only(cpu);
                if task.entry().allowed() != only {
                    assert!(machine.cpus.set_allowed(task, only).is_ok());
                }
                if cpu != index {
                    // Again; what it waits for may be another thread's to do.
                    shuttle::thread::yield_now();
                    return self.yield_now();
                }
            }
            _ => {}
        }
        task.advance();
        match step {
            Step::Yield => self.yield_now(),
            Step::Spin => machine.rest(index, Rest::Spins),
            Step::Sleep(ticks) => {
                task.entry().sleep_until(machine.now() + ticks);
                self.schedule();
            }
            Step::Signal(thing) => {
                let thing = &machine.things[thing];
                thing.tokens.fetch_add(1, Ordering::AcqRel);
                self.wake_one(thing);
            }
            Step::Open(thing) => {
                let thing = &machine.things[thing];
                thing.open.store(true, Ordering::Release);
                self.wake_all(thing);
            }
            Step::Unlock(thing) => {
                let thing = &machine.things[thing];
                let holder = thing.holder.swap(0, Ordering::Release);
                assert_eq!(holder, task.name + 1, "two have had a mutex");
                self.wake_one(thing);
            }
            Step::Allow(other, allowed) => {
                let other = &machine.tasks[other];
                assert!(machine.cpus.set_allowed(other, allowed).is_ok());
            }
            Step::Start(other) => machine.cpus.start(Arc::clone(&machine.tasks[other])),
            Step::PreemptOff => {
                task.preempt_count.fetch_add(1, Ordering::Relaxed);
            }
            Step::PreemptOn => {
                task.preempt_count.fetch_sub(1, Ordering::Relaxed);
                self.preempt_if_due();
            }
            Step::Keep => task.keeps.store(true, Ordering::Relaxed),
            Step::LetGo => task.keeps.store(false, Ordering::Relaxed),
            Step::Park => {
                task.entry().block();
                race();
                self.schedule();
            }
            Step::Wait(_) | Step::Pass(_) | Step::Lock(_) | Step::Migrate(_) | Step::Poke(_) => {}
        }
    }

    fn yield_now(&mut self) {
        if self.machine.cpus.has_ready(self.index) {
            self.schedule();
        }
    }

    /// One round of `WaitQueue::wait_until`: the step is done, or the task blocks and does it again.
    fn wait_until(&mut self, task: &Arc<Task>, thing: &Thing, condition: impl Fn() -> bool) {
        let mut waiting = thing.lock();
        race();
        if condition() {
            return task.advance();
        }
        task.entry().block();
        race();
        // SAFETY: a task that runs is on no list.
        unsafe { waiting.push(Arc::clone(task)) };
        drop(waiting);
        race();
        self.schedule();
    }

    fn wake_one(&self, thing: &Thing) {
        let task = thing.lock().pop();
        race();
        if let Some(task) = task {
            let woken = self.machine.cpus.wake(&task);
            assert!(woken, "task {} was woken by somebody else", task.name);
        }
    }

    fn wake_all(&self, thing: &Thing) {
        let mut woken = core::mem::take(&mut *thing.lock());
        race();
        while let Some(task) = woken.pop() {
            let woken = self.machine.cpus.wake(&task);
            assert!(woken, "task {} was woken by somebody else", task.name);
        }
    }
}
