// SPDX-License-Identifier: MIT OR Apache-2.0

//! The run queues under a checker of interleavings: tasks are never run twice, too early or where they must not,
//! and never lost; no CPU idles while another has two tasks.
//!
//! The queues are the kernel's own (`sched::cpus`, `sched::entity`); what is around them is
//! modeled (`scheduler/`). A thread can be interrupted by another one where the queues call
//! [`Port::race`](kernel::sched::cpus::Port::race) and between the model's steps; orders of memory weaker than
//! sequential consistency are not explored.

mod scheduler;

use kernel::sched::CpuMask;
use shuttle::rand::{Rng, thread_rng};

use scheduler::explore;
use scheduler::machine::Machine;
use scheduler::task::{Step, Step::*, Task};

/// Tasks that may run anywhere, started one after the other.
fn run(cpus: usize, tasks: &[&[Step]]) {
    run_on(
        cpus,
        &tasks
            .iter()
            .map(|steps| (CpuMask::ALL, *steps))
            .collect::<Vec<_>>(),
    );
}

fn run_on(cpus: usize, tasks: &[(CpuMask, &[Step])]) {
    let made = tasks.iter().enumerate();
    let made: Vec<_> = made
        .map(|(name, (allowed, steps))| Task::new(name, *allowed, steps))
        .collect();
    let count = made.len();
    Machine::run(cpus, made, count);
}

const ON_0: CpuMask = CpuMask::only(0);
const ON_1: CpuMask = CpuMask::only(1);
const ON_2: CpuMask = CpuMask::only(2);

#[test]
fn tasks_that_yield_and_sleep_all_end() {
    explore(1500, || {
        let steps: &[Step] = &[Yield, Sleep(3), Spin, Yield, Sleep(1), Yield];
        run(2, &[steps, &steps[1..], &steps[2..], &[]]);
    });
}

#[test]
fn who_waits_is_woken_whenever_the_wake_up_comes() {
    explore(2500, || {
        run(
            2,
            &[
                &[Wait(0), Signal(1), Wait(0)],
                &[Signal(0), Wait(1), Signal(0)],
            ],
        );
    });
}

#[test]
fn a_wake_up_finds_a_task_that_moves() {
    explore(2500, || {
        run(
            3,
            &[
                &[Wait(0), Wait(0), Wait(0)],
                &[Signal(0), Yield, Signal(0), Signal(0)],
                &[Allow(0, ON_1), Allow(0, ON_2), Allow(0, ON_0)],
            ],
        );
    });
}

#[test]
fn everybody_passes_when_the_gate_opens() {
    explore(1500, || {
        let passer: &[Step] = &[Pass(0), Signal(1), Pass(0)];
        run(
            3,
            &[
                passer,
                passer,
                passer,
                &[Yield, Open(0), Wait(1), Wait(1), Wait(1)],
            ],
        );
    });
}

#[test]
fn a_mutex_has_one_holder_and_is_had_by_all() {
    explore(1500, || {
        let steps: &[Step] = &[Lock(0), Yield, Unlock(0), Lock(0), Sleep(1), Unlock(0)];
        run(2, &[steps, steps, steps]);
    });
}

#[test]
fn tasks_run_where_they_may_while_that_changes() {
    explore(2500, || {
        run_on(
            3,
            &[
                (ON_0, &[Yield, Spin, Yield, Sleep(1), Yield]),
                (CpuMask::ALL, &[Spin, Yield, Yield]),
                (
                    CpuMask::ALL,
                    &[
                        Allow(0, ON_1),
                        Allow(1, ON_0),
                        Allow(0, ON_2),
                        Allow(1, ON_2),
                    ],
                ),
                (
                    ON_2,
                    &[Allow(0, ON_2), Yield, Allow(0, ON_0), Allow(1, ON_1)],
                ),
            ],
        );
    });
}

#[test]
fn a_wake_up_in_vain_does_no_harm() {
    explore(2500, || {
        let parked: &[Step] = &[Park, Yield, Park, Migrate(1), Park, Yield, Migrate(0), Park];
        run(3, &[parked, &[Poke(0)], &[Yield, Poke(0)]]);
    });
}

#[test]
fn a_task_that_is_stolen_is_told_where_it_may_run() {
    explore(2500, || {
        let both = CpuMask(0b011);
        run_on(
            3,
            &[
                (ON_0, &[Yield, Yield, Yield, Yield, Spin]),
                (both, &[Yield, Yield, Yield, Yield, Yield]),
                (both, &[Yield, Yield, Yield]),
                (
                    ON_2,
                    &[
                        Allow(1, ON_0),
                        Allow(1, both),
                        Allow(2, ON_2),
                        Allow(1, ON_2),
                    ],
                ),
            ],
        );
    });
}

#[test]
fn a_task_that_asks_to_move_has_moved() {
    explore(1500, || {
        let mover: &[Step] = &[Migrate(1), Migrate(0), Migrate(1)];
        run(2, &[mover, mover, &[Spin, Yield, Spin]]);
    });
}

#[test]
fn no_cpu_idles_while_tasks_are_ready() {
    explore(2500, || {
        run(3, &[&[Yield, Spin], &[Yield, Spin], &[Spin, Spin]])
    });
}

#[test]
fn idle_cpus_may_look_at_each_other_s_tasks_at_once() {
    explore(1500, || {
        // Each idle CPU is given a task while it looks for one elsewhere, so both need both queues.
        let given: [&[Step]; 2] = [
            &[Wait(0), Wait(0), Wait(0), Wait(0)],
            &[Wait(1), Wait(1), Wait(1), Wait(1)],
        ];
        let giver: &[Step] = &[
            Signal(0),
            Signal(1),
            Signal(0),
            Signal(1),
            Signal(0),
            Signal(1),
            Signal(0),
            Signal(1),
        ];
        run_on(3, &[(ON_0, given[0]), (ON_1, given[1]), (ON_2, giver)]);
    });
}

#[test]
fn no_cpu_idles_when_a_task_may_run_on_more() {
    explore(2500, || {
        let tasks: [(CpuMask, &[Step]); 4] = [
            (ON_0, &[Spin]),
            (ON_0, &[Spin]),
            (ON_0, &[Spin]),
            (
                ON_1,
                &[
                    Allow(0, CpuMask::ALL),
                    Allow(1, CpuMask::ALL),
                    Allow(2, CpuMask::ALL),
                    Spin,
                ],
            ),
        ];
        run_on(3, &tasks);
    });
}

#[test]
fn no_cpu_idles_that_begins_to_while_another_wakes() {
    explore(5000, || {
        // Two are woken: one may run anywhere, and the other one leaves its CPU idle again soon.
        let free: &[Step] = &[
            Migrate(0),
            Allow(0, CpuMask::ALL),
            Wait(0),
            Spin,
            Wait(0),
            Spin,
        ];
        let waker: &[Step] = &[Signal(1), Signal(0), Spin, Signal(1), Signal(0), Spin];
        run_on(
            3,
            &[
                (CpuMask::ALL, free),
                (ON_0, &[Spin, Spin]),
                (ON_1, waker),
                (ON_2, &[Wait(1), Wait(1)]),
            ],
        );
    });
}

#[test]
fn no_cpu_idles_when_many_are_woken_at_once() {
    explore(2500, || {
        run_on(
            3,
            &[
                (CpuMask(0b011), &[Pass(0), Spin]),
                (CpuMask(0b101), &[Pass(0), Spin]),
                (CpuMask::ALL, &[Pass(0), Spin]),
                (ON_0, &[Yield, Open(0), Spin]),
            ],
        );
    });
}

#[test]
fn no_cpu_idles_when_sleepers_wake_at_once() {
    explore(2500, || {
        run_on(
            3,
            &[
                (
                    CpuMask(0b011),
                    &[Migrate(0), Allow(0, CpuMask(0b011)), Sleep(2), Spin],
                ),
                (
                    CpuMask(0b101),
                    &[Migrate(0), Allow(1, CpuMask(0b101)), Sleep(2), Spin],
                ),
                (ON_0, &[Sleep(2), Spin, Spin]),
            ],
        );
    });
}

#[test]
fn sleepers_wake_behind_preemptions_that_were_refused() {
    explore(2500, || {
        run(
            2,
            &[
                &[Keep, Spin, Spin, LetGo, Yield, Spin, Spin, Spin],
                &[Sleep(7), PreemptOff, Spin, PreemptOn],
                &[PreemptOff, Spin, Spin, PreemptOn, Sleep(3), Spin],
                &[Sleep(1), Spin, Sleep(30)],
            ],
        );
    });
}

#[test]
fn tasks_that_start_tasks() {
    explore(1500, || {
        let tasks: [&[Step]; 4] = [
            &[Start(1), Start(2), Wait(0)],
            &[Start(3), Signal(0)],
            &[Spin],
            &[],
        ];
        let tasks = tasks.iter().enumerate();
        let tasks = tasks.map(|(name, steps)| Task::new(name, CpuMask::ALL, steps));
        Machine::run(3, tasks.collect(), 1);
    });
}

/// A task of random steps; those that wait have their counterparts in it, or in all others.
fn random_steps(tasks: usize, cpus: usize) -> Vec<Step> {
    let mut random = thread_rng();
    let mut steps = vec![Signal(0)];
    for _ in 0..random.gen_range(0..6) {
        let mask = CpuMask(random.gen_range(1..1 << cpus));
        match random.gen_range(0..9) {
            0 => steps.push(Spin),
            1 => steps.push(Sleep(random.gen_range(0..6))),
            2 => steps.extend([Lock(1), Yield, Unlock(1)]),
            3 | 4 => steps.push(Allow(random.gen_range(0..tasks), mask)),
            5 => steps.push(Migrate(random.gen_range(0..cpus))),
            6 => steps.extend([PreemptOff, Spin, PreemptOn]),
            7 => steps.extend([Keep, Spin, LetGo]),
            _ => steps.push(Yield),
        }
    }
    steps.push(Wait(0));
    steps
}

#[test]
fn random_tasks_all_end() {
    explore(4000, || {
        let (cpus, count) = (thread_rng().gen_range(2..5), thread_rng().gen_range(1..7));
        let tasks =
            (0..count).map(|name| Task::new(name, CpuMask::ALL, &random_steps(count, cpus)));
        Machine::run(cpus, tasks.collect(), count);
    });
}
