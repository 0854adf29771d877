// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many tasks on several CPUs, switched at random (R1, R2, R11, R16, R17): each always finds its own
//! state, nobody pays another's debt, and no CPU hands a batch on.
//!
//! After every step the state of *every* task is compared with what the steps so far say of it: of the one
//! that took the step what the contract says, of all others what it was before. What the step executed is
//! compared with what its task owed, and only its task. Tasks end wherever they are and others begin in
//! their place, whatever the state of the task that creates them.

use lazymmu::{AddressSpace, Backend, Mmu, Owed, PAGE_SIZE, Prot, SpaceKind};
use lazymmu_testkit::model::world::{KERNEL, Setup, backing, pages};
use lazymmu_testkit::model::{CPUS, Executed, Plan, Saboteur, Switch};
use lazymmu_testkit::rng::Rng;

/// More than CPUs, so that most wait.
const TASKS: usize = 7;
/// Pages of a task.
const PAGES: u64 = 16;
const STEPS: usize = if cfg!(miri) { 60 } else { 20_000 };

/// What the contract says of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    enabled: u8,
    paused: u8,
    owed: Owed,
}

const NEW: Known = Known {
    enabled: 0,
    paused: 0,
    owed: Owed::empty(),
};

impl Known {
    const fn is_active(self) -> bool {
        self.enabled > 0 && self.paused == 0
    }

    /// Pays everything, and says what that executes.
    fn pay(&mut self) -> Owed {
        std::mem::replace(&mut self.owed, Owed::empty())
    }
}

/// What a task looks like from outside.
fn seen(mmu: &Mmu<Saboteur>, task: usize) -> Known {
    let state = mmu.kernel().sim.lazy_of(task).read();
    Known {
        enabled: state.enable_count(),
        paused: state.pause_count(),
        owed: state.owed(),
    }
}

struct Run<'m> {
    mmu: &'m Mmu<Saboteur>,
    /// One per task, so that no page is anybody else's.
    spaces: Vec<AddressSpace<'m, Saboteur>>,
    /// Which of the task's pages are mapped.
    mapped: Vec<u64>,
    known: [Known; TASKS],
    switches: usize,
    refused: usize,
}

impl<'m> Run<'m> {
    fn new(mmu: &'m Mmu<Saboteur>) -> Self {
        let space = |_| AddressSpace::new(mmu, SpaceKind::Kernel).expect("the pool has a root");
        Self {
            mmu,
            spaces: (0..TASKS).map(space).collect(),
            mapped: vec![0; TASKS],
            known: [NEW; TASKS],
            switches: 0,
            refused: 0,
        }
    }

    /// The barriers of a pair that a step of `task` must execute.
    fn step(&mut self, cpu: usize, task: usize, rng: &mut Rng) -> Option<Owed> {
        let lazy = self.mmu.lazy();
        let known = &mut self.known[task];
        match rng.below(16) {
            0..3 => {
                lazy.enable().ok();
                if known.paused == 0 {
                    known.enabled += 1;
                }
                Some(Owed::empty())
            }
            3..6 => {
                let result = lazy.disable();
                if known.paused > 0 {
                    return Some(Owed::empty());
                }
                assert_eq!(result.is_ok(), known.enabled > 0, "R8");
                known.enabled = known.enabled.saturating_sub(1);
                let pays = result.is_ok();
                Some(if pays { known.pay() } else { Owed::empty() })
            }
            6 => {
                lazy.pause().unwrap();
                known.paused += 1;
                Some(known.pay())
            }
            7 => {
                assert_eq!(lazy.resume().is_ok(), known.paused > 0, "R8");
                known.paused = known.paused.saturating_sub(1);
                Some(Owed::empty())
            }
            8 => {
                lazy.flush();
                Some(known.pay())
            }
            9 => {
                let clean = *known == NEW;
                let ended = lazy.exit();
                assert_eq!(ended.is_ok(), clean, "R39");
                let owed = known.pay();
                *known = NEW;
                Some(owed)
            }
            10..14 => {
                self.write(task, rng);
                None
            }
            _ => {
                self.switch(cpu, task, rng);
                None
            }
        }
    }

    /// Maps or unmaps one of the task's pages. Which barriers that takes is the strategy's matter.
    fn write(&mut self, task: usize, rng: &mut Rng) {
        let n = rng.below(PAGES);
        let page = pages(KERNEL + n * PAGE_SIZE, 1);
        let space = &mut self.spaces[task];
        if self.mapped[task] >> n & 1 == 0 {
            space.map(page, backing(100 + n), Prot::KERNEL).unwrap();
        } else {
            space.unmap(page).unwrap();
        }
        self.mapped[task] ^= 1 << n;
        let (is_active, now) = (self.known[task].is_active(), seen(self.mmu, task));
        // R15: outside nothing is owed. Inside, whatever the strategy says, from now on.
        assert!(is_active || now.owed.is_empty());
        self.known[task].owed = now.owed;
    }

    /// Another task comes, if this one may leave and that one waits.
    fn switch(&mut self, cpu: usize, task: usize, rng: &mut Rng) {
        let (mmu, sim) = (self.mmu, &self.mmu.kernel().sim);
        let next = rng.below(TASKS as u64) as usize;
        if sim.cpu_of(next).is_some() {
            return;
        }
        let known = &mut self.known[task];
        let stays = known.is_active() && !mmu.backend().is_preemptible();
        let before = sim.executed();
        let in_interrupt = rng.below(2) == 0;
        if in_interrupt {
            sim.enter_interrupt();
        }
        sim.pick(cpu, next);
        let left = mmu.lazy().switch_out();
        if in_interrupt {
            sim.leave_interrupt();
        }
        assert_eq!(left.is_err(), stays, "R38");
        let executed = sim.executed() - before;
        if left.is_err() {
            self.refused += 1;
            assert_eq!(executed, Executed::default(), "nothing is done");
            return;
        }
        self.switches += 1;
        assert!(executed.dsb_ish >= 1, "R17: {executed:?}");
        // Of what is owed, the stores are complete. What a drain did may owe an ISB.
        let owed = seen(mmu, task).owed;
        assert!(!owed.contains(Owed::STORES), "R17");
        assert!(owed.contains(known.owed - Owed::STORES), "R17");
        assert!(known.is_active() || owed.is_empty());
        known.owed = owed;
        sim.switch(cpu, next, Switch::Bare);
        sim.synchronize(cpu);
        assert!(sim.is_batch_empty(cpu), "R11: whose is it?");
    }

    fn go(&mut self, rng: &mut Rng) {
        let (mmu, sim) = (self.mmu, &self.mmu.kernel().sim);
        for step in 0..STEPS {
            let cpu = rng.below(CPUS as u64) as usize;
            sim.on(cpu);
            let task = sim.running(cpu);
            let batches: [bool; CPUS] = std::array::from_fn(|cpu| sim.is_batch_empty(cpu));
            let before = sim.executed();
            let pays = self.step(cpu, task, rng);
            let executed = sim.executed() - before;
            // What waits has barriers of its own.
            if let Some(owed) = pays.filter(|_| !mmu.backend().invalidates()) {
                let pair = Executed {
                    dsb_ishst: owed.contains(Owed::STORES).into(),
                    isb: owed.contains(Owed::CONTEXT).into(),
                    ..Executed::default()
                };
                assert_eq!(executed, pair, "step {step}, R16: {owed:?}");
            }
            for of in 0..TASKS {
                assert_eq!(seen(mmu, of), self.known[of], "step {step}, task {of}");
            }
            for (of, was_empty) in batches.into_iter().enumerate() {
                let same = of == cpu || sim.is_batch_empty(of) == was_empty;
                assert!(same, "step {step}: the batch of CPU {of}");
            }
            if step % 64 == 0 {
                sim.settle();
            }
        }
    }
}

#[test]
fn r1_r11_r16_each_of_many_tasks_keeps_its_own_state_through_thousands_of_switches() {
    for setup in [Setup::classic, Setup::ets2] {
        for backend in Backend::ALL {
            let setup = setup(backend);
            let mmu = setup.mmu(Saboteur::new(setup.sim_for(TASKS), Plan::Nothing));
            let mut run = Run::new(&mmu);
            let mut rng = Rng(0x5eed + backend as u64);
            run.go(&mut rng);
            println!(
                "{backend}: {} switches, {} refused",
                run.switches, run.refused
            );
            if !cfg!(miri) {
                assert!(run.switches > 500, "{backend}");
                assert_eq!(run.refused > 0, !backend.is_preemptible(), "{backend}");
            }
        }
    }
}
