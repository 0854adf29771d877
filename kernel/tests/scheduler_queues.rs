// SPDX-License-Identifier: MIT OR Apache-2.0

//! The lists and the run queues, one step after the other: what each call does when nobody else does anything.

use std::sync::Arc;
use std::sync::Mutex;

use kernel::sched::CpuMask;
use kernel::sched::cpus::{Cpus, Decision, Left, Port};
use kernel::sched::entity::{Entity, Entry, List, State};

/// A task without anything to do.
struct Task {
    entry: Entry<Self>,
    name: u32,
}

impl Entity for Task {
    fn entry(&self) -> &Entry<Self> {
        &self.entry
    }
}

fn task_on(name: u32, allowed: CpuMask) -> Arc<Task> {
    let entry = Entry::new(allowed);
    Arc::new(Task { entry, name })
}

fn task(name: u32) -> Arc<Task> {
    task_on(name, CpuMask::ALL)
}

/// Whose interrupts were sent.
#[derive(Default)]
struct Kicked(Arc<Mutex<Vec<usize>>>);

impl Port for Kicked {
    fn kick(&self, cpu: usize) {
        self.0.lock().unwrap().push(cpu);
    }

    fn wait(&self) {
        panic!("a lock is held, or a task is on its way, and nobody else is there");
    }
}

/// Two CPUs, time slices of 10 ticks.
struct Machine {
    cpus: Cpus<Task, Kicked>,
    kicked: Arc<Mutex<Vec<usize>>>,
}

impl Machine {
    fn new() -> Self {
        let kicked = Kicked::default();
        let machine = Self {
            kicked: Arc::clone(&kicked.0),
            cpus: Cpus::new(kicked),
        };
        machine.cpus.set_slice(10);
        machine.cpus.add_cpu(0, None);
        machine.cpus.add_cpu(1, None);
        machine
    }

    /// The interrupts sent since the last call.
    fn kicks(&self) -> Vec<usize> {
        std::mem::take(&mut *self.kicked.lock().unwrap())
    }

    /// Puts a new task on the list of `cpu`.
    fn start_on(&self, cpu: usize, name: u32) -> Arc<Task> {
        let task = task_on(name, CpuMask::only(cpu));
        self.cpus.start(Arc::clone(&task));
        task
    }

    /// A switch of `cpu` from begin to end: who comes, and who is reported. `None`: no switch.
    fn switch(&self, cpu: usize, now: u64) -> Option<(Option<u32>, Option<u32>)> {
        let Decision::Switch(decision) = self.cpus.schedule(cpu, now, || true) else {
            return None;
        };
        let next = decision.next().map(|task| task.name);
        decision.hold();
        // SAFETY: held, and there are no registers.
        let left = match unsafe { self.cpus.finish(cpu) } {
            Left::Nothing => None,
            Left::Dead(task) => Some(task.name),
        };
        Some((next, left))
    }

    /// Who comes; there is a switch, and nobody has died.
    fn next(&self, cpu: usize, now: u64) -> Option<u32> {
        let (next, left) = self.switch(cpu, now).expect("no switch");
        assert_eq!(left, None);
        next
    }
}

fn push(list: &mut List<Task>, task: Arc<Task>) {
    // SAFETY: the tests put a task on one list.
    unsafe { list.push(task) };
}

fn names(list: &mut List<Task>) -> Vec<u32> {
    std::iter::from_fn(|| list.pop().map(|task| task.name)).collect()
}

#[test]
fn a_list_is_first_in_first_out() {
    let mut list = List::new();
    assert!(list.pop().is_none() && list.first().is_none());
    for round in 0..3 {
        for name in 0..4 {
            push(&mut list, task(name));
        }
        assert_eq!((list.len(), list.is_empty()), (4, false));
        assert_eq!(list.first().map(|task| task.name), Some(0));
        assert_eq!(names(&mut list), [0, 1, 2, 3], "round {round}");
        assert_eq!((list.len(), list.is_empty()), (0, true));
    }
}

#[test]
fn a_list_by_deadline_keeps_the_order_of_equals() {
    let mut list = List::new();
    for (name, deadline) in [
        (0, 5),
        (1, 3),
        (2, 9),
        (3, 5),
        (4, 3),
        (5, 1),
        (6, 9),
        (7, 6),
    ] {
        let task = task(name);
        task.entry.sleep_until(deadline);
        // SAFETY: on this list only.
        unsafe { list.insert_by_deadline(task) };
    }
    assert_eq!(list.len(), 8);
    // Its end is known, too: the next one goes behind it.
    push(&mut list, task(8));
    assert_eq!(names(&mut list), [5, 1, 4, 0, 3, 7, 2, 6, 8]);
}

#[test]
fn the_first_the_middle_and_the_last_can_be_taken() {
    for taken in 0..3 {
        let mut list = List::new();
        for name in 0..3 {
            push(&mut list, task(name));
        }
        assert!(list.take(|_| false).is_none());
        assert_eq!(
            list.take(|task| task.name == taken).map(|task| task.name),
            Some(taken)
        );
        assert_eq!(list.len(), 2);
        push(&mut list, task(3));
        let rest: Vec<_> = (0..4).filter(|name| *name != taken).collect();
        assert_eq!(names(&mut list), rest);
    }
    let mut list = List::new();
    push(&mut list, task(0));
    assert!(list.take(|_| true).is_some());
    push(&mut list, task(1));
    assert_eq!(names(&mut list), [1]);
}

#[test]
fn a_long_list_is_dropped_without_a_deep_stack() {
    let last = task(0);
    let mut list = List::new();
    for name in 0..100_000 {
        push(&mut list, task(name));
    }
    push(&mut list, Arc::clone(&last));
    std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(|| drop(list))
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(Arc::strong_count(&last), 1);
}

#[test]
fn tasks_take_turns() {
    let machine = Machine::new();
    let tasks = [1, 2, 3].map(|name| machine.start_on(0, name));
    let order: Vec<_> = (0..7).map(|now| machine.next(0, now)).collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3, 1].map(Some));
    assert_eq!(tasks[0].entry.state(), State::Running);
    assert_eq!(tasks[1].entry.state(), State::Ready);
    assert_eq!(machine.cpus.stats(0).switches, 7);
}

#[test]
fn a_task_alone_keeps_its_cpu_and_needs_no_ticks() {
    let machine = Machine::new();
    let _task = machine.start_on(0, 1);
    assert_eq!(machine.next(0, 0), Some(1));
    assert_eq!(machine.switch(0, 50), None);
    let tick = machine.cpus.tick(0, 50);
    assert_eq!((tick.preempt, tick.next), (false, u64::MAX));
}

#[test]
fn a_slice_ends_when_somebody_waits() {
    let machine = Machine::new();
    let _tasks = [1, 2].map(|name| machine.start_on(0, name));
    assert_eq!(machine.next(0, 100), Some(1));
    let tick = machine.cpus.tick(0, 109);
    assert_eq!((tick.preempt, tick.next), (false, 110));
    assert!(machine.cpus.tick(0, 110).preempt);
    assert_eq!(machine.cpus.next_tick(0), 110);
    assert_eq!(machine.next(0, 110), Some(2));
    assert_eq!(machine.cpus.next_tick(0), 120);
}

#[test]
fn who_must_not_leave_keeps_its_cpu_and_nothing_changes() {
    let machine = Machine::new();
    let tasks = [1, 2].map(|name| machine.start_on(0, name));
    assert_eq!(machine.next(0, 100), Some(1));
    let before = machine.cpus.stats(0);
    machine.kicks();
    let refused = machine.cpus.schedule(0, 150, || false);
    assert!(matches!(refused, Decision::Refused), "{refused:?}");
    let states = tasks.each_ref().map(|task| task.entry.state());
    assert_eq!(states, [State::Running, State::Ready]);
    // Its time is over as before, and it is tried again.
    assert_eq!(machine.cpus.next_tick(0), 110);
    let stats = machine.cpus.stats(0);
    assert_eq!(stats.refused - before.refused, 1);
    assert_eq!(stats.switches, before.switches);
    assert_eq!(machine.kicks(), []);
    assert_eq!(machine.next(0, 160), Some(2));
    // Who has no reason to leave is not asked.
    let stays = machine.cpus.schedule(1, 0, || panic!("asked to leave"));
    assert!(matches!(stays, Decision::Stay), "{stays:?}");
}

#[test]
fn sleepers_wake_at_their_time() {
    let machine = Machine::new();
    let tasks = [1, 2].map(|name| machine.start_on(0, name));
    for (task, deadline) in tasks.iter().zip([30, 20]) {
        machine.next(0, 0);
        task.entry.sleep_until(deadline);
    }
    assert_eq!(machine.next(0, 0), None);
    assert_eq!(machine.cpus.next_tick(0), 20);
    assert!(!machine.cpus.tick(0, 19).preempt);
    let tick = machine.cpus.tick(0, 20);
    // The idle task makes room; the slice is counted from the switch on.
    assert!(tick.preempt && machine.cpus.has_ready(0));
    assert_eq!(machine.next(0, 20), Some(2));
    // A sleeper is nobody's to wake.
    assert!(!machine.cpus.wake(&tasks[0]));
    assert_eq!(machine.cpus.next_tick(0), 30);
    machine.cpus.tick(0, 31);
    assert_eq!(machine.next(0, 31), Some(1));
}

#[test]
fn a_sleeper_that_may_not_stay_wakes_elsewhere() {
    let machine = Machine::new();
    let task = machine.start_on(0, 1);
    machine.next(0, 0);
    task.entry.sleep_until(5);
    machine.next(0, 0);
    machine.cpus.set_allowed(&task, CpuMask::only(1)).unwrap();
    assert!(!machine.cpus.tick(0, 5).preempt);
    assert_eq!((task.entry.cpu(), task.entry.state()), (1, State::Ready));
    assert_eq!(machine.next(1, 5), Some(1));
}

#[test]
fn a_blocked_task_is_woken_once() {
    let machine = Machine::new();
    let task = machine.start_on(0, 1);
    machine.next(0, 0);
    assert!(!machine.cpus.wake(&task), "it runs");
    task.entry.block();
    assert_eq!(machine.next(0, 0), None);
    assert_eq!(machine.switch(0, 0), None);
    assert!(machine.cpus.wake(&task));
    assert!(!machine.cpus.wake(&task), "it is ready");
    assert_eq!(machine.next(0, 0), Some(1));
    assert_eq!(machine.switch(0, 0), None);
}

#[test]
fn a_task_that_is_woken_before_it_has_left_stays() {
    let machine = Machine::new();
    let task = machine.start_on(0, 1);
    machine.next(0, 0);
    task.entry.block();
    assert!(machine.cpus.wake(&task));
    assert_eq!(task.entry.state(), State::Running);
    assert_eq!(machine.switch(0, 0), None);
}

#[test]
fn a_dead_task_is_reported_by_the_next_one() {
    let machine = Machine::new();
    let tasks = [1, 2].map(|name| machine.start_on(0, name));
    machine.next(0, 0);
    tasks[0].entry.die();
    assert_eq!(machine.switch(0, 0), Some((Some(2), Some(1))));
    tasks[1].entry.die();
    assert_eq!(machine.switch(0, 0), Some((None, Some(2))));
    assert!(!machine.cpus.wake(&tasks[0]));
    // Nobody keeps them.
    assert_eq!(tasks.map(|task| Arc::strong_count(&task)), [1, 1]);
}

#[test]
fn an_idle_cpu_steals_what_may_run_on_it() {
    let machine = Machine::new();
    let free = task(2);
    let _pinned = machine.start_on(0, 1);
    machine.cpus.start(Arc::clone(&free));
    // Not the home, where one waits already.
    assert_eq!(free.entry.cpu(), 1);
    assert!(machine.cpus.steal(0));
    assert_eq!(free.entry.cpu(), 0);
    assert!(!machine.cpus.has_ready(1));
    assert!(machine.cpus.steal(1));
    assert!(!machine.cpus.steal(1), "the other one is pinned");
    assert_eq!(machine.cpus.stats(1).stolen, 1);
    assert_eq!((machine.next(0, 0), machine.next(1, 0)), (Some(1), Some(2)));
}

#[test]
fn who_becomes_ready_goes_to_an_idle_cpu() {
    let machine = Machine::new();
    let _busy = machine.start_on(0, 1);
    machine.next(0, 0);
    assert!(!machine.cpus.begin_idle(1));
    assert_eq!(machine.cpus.idle(), CpuMask::only(1));
    machine.kicks();
    let new = task(2);
    machine.cpus.start(Arc::clone(&new));
    assert_eq!((new.entry.cpu(), machine.kicks()), (1, vec![1]));
    machine.cpus.end_idle(1);
    assert_eq!(machine.cpus.idle(), CpuMask(0));
    assert_eq!(machine.next(1, 0), Some(2));
    // Home first, if both idle.
    new.entry.block();
    assert_eq!(machine.next(1, 0), None);
    assert!(!machine.cpus.begin_idle(1));
    machine.cpus.wake(&new);
    assert_eq!(new.entry.cpu(), 1);
}

#[test]
fn begin_idle_finds_what_came_in_between() {
    let machine = Machine::new();
    let _task = machine.start_on(0, 1);
    assert!(machine.cpus.begin_idle(0));
}

#[test]
fn who_loses_its_cpu_is_offered_to_an_idle_one() {
    let machine = Machine::new();
    let [first, second] = [1, 2].map(|name| machine.start_on(0, name));
    machine.next(0, 0);
    assert!(!machine.cpus.begin_idle(1));
    machine.kicks();
    machine.cpus.set_allowed(&second, CpuMask::ALL).unwrap();
    assert_eq!(machine.kicks(), [1], "a ready task may run there now");
    machine.cpus.set_allowed(&first, CpuMask::ALL).unwrap();
    assert_eq!(machine.kicks(), [], "it runs");
    assert_eq!(machine.next(0, 0), Some(2));
    assert_eq!(machine.kicks(), [1]);
}

#[test]
fn set_allowed_moves_who_is_ready_blocked_or_running() {
    let machine = Machine::new();
    let [running, ready] = [1, 2].map(|name| machine.start_on(0, name));
    machine.next(0, 0);
    machine.kicks();
    machine.cpus.set_allowed(&ready, CpuMask::only(1)).unwrap();
    assert_eq!((ready.entry.cpu(), machine.kicks()), (1, vec![1]));
    machine
        .cpus
        .set_allowed(&running, CpuMask::only(1))
        .unwrap();
    assert_eq!((running.entry.cpu(), machine.kicks()), (0, vec![0]));
    assert!(machine.cpus.tick(0, 1).preempt);
    assert_eq!(machine.next(0, 1), None);
    assert_eq!(
        (running.entry.cpu(), running.entry.state()),
        (1, State::Ready)
    );
    assert_eq!(machine.next(1, 1), Some(2));
    ready.entry.block();
    assert_eq!(machine.next(1, 1), Some(1));
    machine.cpus.set_allowed(&ready, CpuMask::only(0)).unwrap();
    machine.cpus.wake(&ready);
    assert_eq!(machine.next(0, 1), Some(2));
    let nowhere = CpuMask::only(5);
    assert!(machine.cpus.set_allowed(&ready, nowhere).is_err());
    assert_eq!(ready.entry.allowed(), CpuMask::only(0));
}
