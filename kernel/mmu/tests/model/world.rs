// SPDX-License-Identifier: MIT OR Apache-2.0
//! What deterministic tests build from a [`Saboteur`]: the library on the machine, spaces whose
//! tables are old, and checks that say what else could happen.

use super::{CPUS, Kind, Model, Outcome, Outcomes, Plan, RootId, Saboteur, Sim, Switch};
use lazymmu::{
    AddressSpace, Asid, Backend, Backing, BarrierPolicy, Features, Frame, Mmu, PAGE_SIZE,
    PageRange, Prot, SpaceKind, TlbFeatures,
};

/// In the kernel's half.
pub const KERNEL: u64 = 0xffff_8000_0000_0000;
/// In the user half.
pub const USER: u64 = 0x40_0000;
/// The space of [`user_space`].
pub const ASID: Asid = Asid(0x2b);
/// Frames for tables.
const FRAMES: usize = 32;

/// What a test runs on.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub backend: Backend,
    pub policy: BarrierPolicy,
    pub model: Model,
    pub tlb: TlbFeatures,
    /// What the context switch executes.
    pub switch: Switch,
}

impl Setup {
    pub const fn classic(backend: Backend) -> Self {
        Self {
            backend,
            policy: BarrierPolicy::Classic,
            model: Model {
                ets2: false,
                repeat_tlbi: false,
            },
            tlb: TlbFeatures {
                ttl: false,
                range: false,
                repeat: false,
            },
            switch: Switch::DsbIsh,
        }
    }

    /// All CPUs have FEAT_ETS2, and the library knows.
    pub const fn ets2(backend: Backend) -> Self {
        let mut setup = Self::classic(backend);
        setup.policy = BarrierPolicy::Ets2;
        setup.model.ets2 = true;
        setup
    }

    /// The library on this machine, sabotaged perhaps.
    pub fn build(self, plan: Plan) -> Mmu<Saboteur> {
        self.build_for(CPUS + 2, plan)
    }

    /// The same with so many tasks.
    pub fn build_for(self, tasks: usize, plan: Plan) -> Mmu<Saboteur> {
        let sim = Sim::new(self.model, FRAMES, tasks);
        let mmu = Mmu::new(Saboteur::new(sim, plan));
        mmu.set_features(Features {
            tlb: self.tlb,
            ets2: self.model.ets2,
        });
        mmu.set_policy(self.policy)
            .expect("the features allow the policy");
        mmu.set_backend(self.backend).expect("no section is open");
        mmu
    }
}

pub fn pages(start: u64, pages: u64) -> PageRange {
    PageRange::new(start, pages).expect("the test names a good range")
}

pub fn frame(n: u64) -> Frame {
    Frame::from_u64(n * PAGE_SIZE).expect("the test names a small frame")
}

pub fn backing(n: u64) -> Backing<'static> {
    Backing::Contiguous(frame(n))
}

/// What an access to page `n`, mapped with `prot`, gives.
pub fn page(n: u64, prot: Prot) -> Outcome {
    let user = prot.is_user();
    Outcome::of_page((n * PAGE_SIZE) | prot.as_u64(), Kind::Read, user)
}

fn warm<'m>(
    mmu: &'m Mmu<Saboteur>,
    kind: SpaceKind,
    range: PageRange,
    prot: Prot,
) -> (AddressSpace<'m, Saboteur>, RootId) {
    let sim = &mmu.kernel().sim;
    let mut space = AddressSpace::new(mmu, kind).expect("the pool has a frame");
    let root = sim.add_root(space.root(), kind);
    space
        .map(range, backing(900), prot)
        .expect("nothing is mapped");
    space.unmap(range).expect("it was mapped");
    sim.settle();
    (space, root)
}

/// The kernel's space, with an old and empty last-level table at [`KERNEL`].
pub fn kernel_space(mmu: &Mmu<Saboteur>) -> (AddressSpace<'_, Saboteur>, RootId) {
    warm(mmu, SpaceKind::Kernel, pages(KERNEL, 1), Prot::KERNEL)
}

/// A space of ASID [`ASID`] for every task, with an old and empty last-level table at [`USER`].
pub fn user_space(mmu: &Mmu<Saboteur>) -> (AddressSpace<'_, Saboteur>, RootId) {
    let (space, root) = warm(mmu, SpaceKind::User(ASID), pages(USER, 1), Prot::USER);
    for task in 0..CPUS + 2 {
        mmu.kernel().sim.set_root(task, root);
    }
    (space, root)
}

/// An access by the task that runs on `cpu`.
pub fn access(mmu: &Mmu<Saboteur>, cpu: usize, va: u64, kind: Kind) -> Outcomes {
    let sim = &mmu.kernel().sim;
    sim.access(cpu, sim.running(cpu), va, kind)
}

/// Demands that nothing but `expected` can happen.
pub fn only(
    mmu: &Mmu<Saboteur>,
    cpu: usize,
    va: u64,
    kind: Kind,
    expected: Outcome,
) -> Result<(), String> {
    let out = access(mmu, cpu, va, kind);
    if out.is_only(expected) {
        return Ok(());
    }
    Err(format!(
        "CPU {cpu}, {kind:?} of {va:#x}: {out:?} instead of {expected:?}"
    ))
}

/// Demands a translation fault, whatever its level.
pub fn faults(mmu: &Mmu<Saboteur>, cpu: usize, va: u64, kind: Kind) -> Result<(), String> {
    let out = access(mmu, cpu, va, kind);
    if out.only_faults() {
        return Ok(());
    }
    Err(format!(
        "CPU {cpu}, {kind:?} of {va:#x}: {out:?} instead of a translation fault"
    ))
}

/// CPU 0 tells CPU 1, which synchronizes (row X3).
pub fn tell(mmu: &Mmu<Saboteur>) {
    mmu.kernel().sim.synchronize_with(0, 1);
}

/// Demands that no memory was given back early.
pub fn no_hazards(mmu: &Mmu<Saboteur>) -> Result<(), String> {
    match mmu.kernel().sim.take_hazards().first() {
        None => Ok(()),
        Some(hazard) => Err(hazard.to_string()),
    }
}
