// SPDX-License-Identifier: MIT OR Apache-2.0
//! The measured windows (`src/bench/windows.rs`, which is generic over the kernel) on the machine model: how many barriers and TLB
//! invalidations each executes.
//!
//! Each is held against the contract: what its writes ask for, and not one barrier more
//! (`testkit/src/programs/predict.rs`). What is left is a prediction for the kernel: with `LAZYMMU_PREDICTION=FILE`
//! it is written there, a line for each window,
//!
//! ```text
//! predicted backend=multicall policy=classic tlb=ttl,range op=8 pages=512 dsb=1 isb=1 tlbi=0 ish=0
//! predicted backend=multicall policy=classic tlb=ttl,range op=131 dsb=1 isb=0 tlbi=0 ish=1
//! ```
//!
//! (of up to `LAZYMMU_PAGES` pages, if that is set; those without pages are the scheduler's), and `cargo xtask test`
//! compares it with what the kernel has counted and with what a QEMU plugin has.

use kernel::bench::windows::{self, Step};
use lazymmu::{AddressSpace, Backend, BarrierPolicy, Features, Mmu, SpaceKind, TlbFeatures};
use lazymmu_testkit::fake::Choose;
use lazymmu_testkit::model::trace::{Effect, Event};
use lazymmu_testkit::model::{CPUS, Model, Modelled, Plan, Saboteur, Sim, Switch, world};
use lazymmu_testkit::programs::predict::{Debt, Pays, Terms, replay};
use std::fmt::Write as _;

/// Pages of a window.
const SIZES: [usize; 5] = [1, 16, 512, 4096, 65_536];
/// Frames for tables: those of the largest window, and some.
const TABLES: usize = 136;

/// The ground on the machine model; the kernel's is in `src/bench/ground.rs`.
type Ground = windows::Ground<Box<AddressSpace<'static, Saboteur>>, Saboteur>;
type Body = windows::Body<Box<AddressSpace<'static, Saboteur>>, Saboteur>;

/// The first `pages` pages of the kernel's half.
fn ground(mmu: &'static Mmu<Saboteur>, pages: usize) -> Ground {
    let space = AddressSpace::new_kernel(mmu).expect("the pool is full");
    mmu.kernel().sim().add_root(space.root(), SpaceKind::Kernel);
    // No two neighbors are neighbors in memory; a slot loop takes a whole table of them.
    let frames = pages.next_multiple_of(lazymmu::ENTRIES) as u64;
    Ground {
        mmu,
        owed: None,
        space: Box::new(space),
        range: world::pages(world::KERNEL, pages as u64),
        pages,
        scattered: (0..frames).map(|i| world::frame(0x1000 + 2 * i)).collect(),
        first: world::frame(0x1000),
    }
}

/// A CPU's features, as far as they change what is executed.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    /// As in a line.
    name: &'static str,
    tlb: TlbFeatures,
    ets2: bool,
}

const CPUS_KNOWN: [Cpu; 2] = [
    Cpu {
        name: "none",
        tlb: TlbFeatures {
            ttl: false,
            range: false,
            repeat: false,
        },
        ets2: false,
    },
    Cpu {
        name: "ttl,range",
        tlb: TlbFeatures {
            ttl: true,
            range: true,
            repeat: false,
        },
        ets2: true,
    },
];

/// The library on a machine of its own, for the rest of the test.
fn machine(cpu: Cpu, backend: Backend, policy: BarrierPolicy) -> &'static Mmu<Saboteur> {
    let model = Model {
        ets2: cpu.ets2,
        repeat_tlbi: cpu.tlb.repeat,
    };
    let sim = Sim::new(model, TABLES, CPUS + 2);
    let mmu = Mmu::new(Saboteur::new(sim, Plan::Nothing));
    mmu.choose_features(Features {
        tlb: cpu.tlb,
        ets2: cpu.ets2,
    });
    mmu.set_policy(policy)
        .expect("the features allow the policy");
    mmu.choose_backend(backend).expect("no section is open");
    Box::leak(Box::new(mmu))
}

/// Executes a window and returns its DSB, ISB, TLBI, and the `DSB ISH` among the DSB, which are what the contract asks for.
fn measure(ground: &mut Ground, terms: Terms, body: Body) -> Result<[usize; 4], String> {
    let sim = ground.mmu.kernel().sim();
    sim.take_trace();
    body(ground).map_err(|error| error.to_string())?;
    let events = sim.take_trace();
    replay(terms, &events, Debt::default(), Pays::All)?;
    Ok(barriers(&events))
}

/// Pages of the largest window that is asked for.
fn most() -> usize {
    match std::env::var("LAZYMMU_PAGES") {
        Ok(pages) => pages.parse().expect("LAZYMMU_PAGES is a number"),
        Err(_) => usize::MAX,
    }
}

/// A task that waits on CPU 0 for its turn, and the one that CPU 1 idles in.
const OTHER: usize = CPUS;
const IDLE: usize = CPUS + 1;

/// A way of the scheduler that is measured (`src/bench/scheduler.rs`).
struct Way {
    /// The number of its windows.
    op: u8,
    /// As it goes once, and what it ends with is what it began with. Returns the kernel's own ISB.
    body: fn(&Mmu<Saboteur>) -> usize,
    /// How many tasks leave their CPU, or could: a `DSB ISH` for each (R17), and nothing else, because none owes anything
    /// and none comes from another CPU.
    leave: usize,
}

/// Where nothing of the library is called the prediction is stated, not executed: that the kernel does nothing else there is
/// for the plugin to find.
const WAYS: [Way; 7] = [
    // Registers only: neither context is a task.
    Way {
        op: 130,
        body: |_| 0,
        leave: 0,
    },
    Way {
        op: 131,
        body: |mmu| switch(mmu, 0, OTHER),
        leave: 1,
    },
    Way {
        op: 132,
        body: |mmu| switch(mmu, 0, OTHER),
        leave: 1,
    },
    // A tick that nobody has to leave for.
    Way {
        op: 133,
        body: |mmu| {
            mmu.kernel().sim.enter_interrupt();
            mmu.kernel().sim.leave_interrupt();
            0
        },
        leave: 0,
    },
    Way {
        op: 134,
        body: |mmu| {
            mmu.lazy().switch_out().expect("no section is open");
            0
        },
        leave: 1,
    },
    // To wake somebody is to write to a queue.
    Way {
        op: 135,
        body: |_| 0,
        leave: 0,
    },
    // The sleeper leaves, and later the idle task.
    Way {
        op: 136,
        body: |mmu| switch(mmu, 1, IDLE) + switch(mmu, 1, 1),
        leave: 2,
    },
];

/// `cpu` goes over to `next`, in the order of `src/sched/run.rs`; returns the ISB for one that comes from another CPU.
fn switch(mmu: &Mmu<Saboteur>, cpu: usize, next: usize) -> usize {
    let sim = &mmu.kernel().sim;
    sim.on(cpu);
    sim.pick(cpu, next);
    mmu.lazy().switch_out().expect("no section is open");
    let moved = sim.has_moved(next, cpu);
    if moved {
        sim.synchronize(cpu);
    }
    sim.switch(cpu, next, Switch::Bare);
    usize::from(moved)
}

/// DSB, ISB, TLBI, and the `DSB ISH` among the DSB.
fn barriers(events: &[Event]) -> [usize; 4] {
    let count = |is: fn(Effect) -> bool| events.iter().filter(|event| is(event.what)).count();
    [
        count(|what| matches!(what, Effect::DsbIshst | Effect::DsbIsh)),
        count(|what| what == Effect::Isb),
        count(|what| matches!(what, Effect::Tlbi { .. })),
        count(|what| what == Effect::DsbIsh),
    ]
}

/// The scheduler's windows of one configuration, as lines.
fn predict_ways(cpu: Cpu, backend: Backend, policy: BarrierPolicy) -> String {
    let mut lines = String::new();
    for way in &WAYS {
        let mmu = machine(cpu, backend, policy);
        let sim = &mmu.kernel().sim;
        let tlb = cpu.name;
        sim.take_trace();
        let synchronized = (way.body)(mmu);
        let [dsb, mut isb, tlbi, ish] = barriers(&sim.take_trace());
        isb += synchronized;
        let at = format!("{backend}, {policy}, {tlb}: op {}", way.op);
        assert_eq!(
            [dsb, isb, tlbi, ish],
            [way.leave, 0, 0, way.leave],
            "{at}: R17"
        );
        writeln!(
            lines,
            "predicted backend={backend} policy={policy} tlb={tlb} op={} \
             dsb={dsb} isb={isb} tlbi={tlbi} ish={ish}",
            way.op
        )
        .expect("a string takes everything");
    }
    lines
}

/// All windows of one configuration, as lines.
fn predict(cpu: Cpu, backend: Backend, policy: BarrierPolicy) -> String {
    let terms = Terms {
        eager: backend == Backend::Eager,
        ets2: policy == BarrierPolicy::Ets2,
        repeat: cpu.tlb.repeat,
    };
    let mut lines = String::new();
    for pages in SIZES.into_iter().filter(|pages| *pages <= most()) {
        let mmu = machine(cpu, backend, policy);
        let mut ground = ground(mmu, pages);
        for step in &windows::steps() {
            let (op, body) = match *step {
                Step::Prepare(body) | Step::Undo(body) => {
                    body(&mut ground).expect("the window before has left what it needs");
                    continue;
                }
                Step::Window(op, body) | Step::Calls(op, body) => (op, body),
            };
            let at = || format!("{backend}, {policy}, {}: op {op}, {pages} pages", cpu.name);
            let [dsb, isb, tlbi, ish] =
                measure(&mut ground, terms, body).unwrap_or_else(|what| panic!("{}: {what}", at()));
            let tlb = cpu.name;
            writeln!(
                lines,
                "predicted backend={backend} policy={policy} tlb={tlb} op={op} pages={pages} \
                 dsb={dsb} isb={isb} tlbi={tlbi} ish={ish}"
            )
            .expect("a string takes everything");
        }
        let hazards = mmu.kernel().sim.take_hazards();
        assert!(hazards.is_empty(), "{backend}: {hazards:?}");
    }
    lines
}

/// What is asked of the library, in every combination that there is.
fn configurations() -> impl Iterator<Item = (Cpu, Backend, BarrierPolicy)> {
    CPUS_KNOWN.into_iter().flat_map(|cpu| {
        let policies = [BarrierPolicy::Classic, BarrierPolicy::Ets2];
        let policies = policies
            .into_iter()
            .filter(move |policy| cpu.ets2 || *policy == BarrierPolicy::Classic);
        policies.flat_map(move |policy| Backend::ALL.map(|backend| (cpu, backend, policy)))
    })
}

#[test]
fn r17_a_way_of_the_scheduler_executes_a_barrier_for_each_task_that_leaves() {
    for (cpu, backend, policy) in configurations() {
        predict_ways(cpu, backend, policy);
    }
}

#[test]
fn r15_r16_r27_a_measured_window_executes_what_the_contract_asks_for() {
    let mut prediction = String::new();
    for (cpu, backend, policy) in configurations() {
        prediction += &predict(cpu, backend, policy);
        prediction += &predict_ways(cpu, backend, policy);
    }
    if let Some(path) = std::env::var_os("LAZYMMU_PREDICTION") {
        std::fs::write(&path, prediction).expect("LAZYMMU_PREDICTION can be written");
    }
}
