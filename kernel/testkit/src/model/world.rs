// SPDX-License-Identifier: MIT OR Apache-2.0
//! Helpers for deterministic tests on a [`Modelled`] kernel: the library on the machine, spaces
//! whose tables are old, and checks that name the outcomes that are possible instead.

use super::{CPUS, Kind, Model, Modelled, Outcome, Outcomes, Plan, RootId, Saboteur, Sim, Switch};
use crate::fake::Choose;
use lazymmu::{
    AddressSpace, Asid, Backend, Backing, BarrierPolicy, Features, Frame, Mmu, PAGE_SIZE,
    PageRange, Prot, SpaceKind, TlbFeatures,
};

/// The address of the tests' first page in the kernel half.
pub const KERNEL: u64 = 0xffff_8000_0000_0000;
/// The address of the tests' first page in the user half.
pub const USER: u64 = 0x40_0000;
/// The ASID of [`user_space`].
pub const ASID: Asid = Asid(0x2b);
/// The number of frames for tables.
const FRAMES: usize = 32;

/// The configuration of the library and of the machine for a test.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The library's strategy.
    pub backend: Backend,
    /// The library's barrier policy.
    pub policy: BarrierPolicy,
    /// The properties of the CPUs.
    pub model: Model,
    /// The features for TLB maintenance that the library is given.
    pub tlb: TlbFeatures,
    /// What the context switch executes.
    pub switch: Switch,
}

impl Setup {
    /// CPUs without FEAT_ETS2 and without features for TLB maintenance.
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

    /// CPUs with FEAT_ETS2, and the library with the policy `ets2`.
    pub const fn ets2(backend: Backend) -> Self {
        let mut setup = Self::classic(backend);
        setup.policy = BarrierPolicy::Ets2;
        setup.model.ets2 = true;
        setup
    }

    /// A machine with this configuration and two more tasks than CPUs.
    pub fn sim(self) -> Sim {
        self.sim_for(CPUS + 2)
    }

    /// A machine with this configuration and `tasks` tasks.
    pub fn sim_for(self, tasks: usize) -> Sim {
        Sim::new(self.model, FRAMES, tasks)
    }

    /// The library with this configuration on `kernel`.
    pub fn mmu<K: Modelled>(self, kernel: K) -> Mmu<K> {
        let mmu = Mmu::new(kernel);
        mmu.choose_features(Features {
            tlb: self.tlb,
            ets2: self.model.ets2,
        });
        mmu.set_policy(self.policy)
            .expect("the features allow the policy");
        mmu.choose_backend(self.backend)
            .expect("no section is open");
        mmu
    }

    /// The library on a machine with this configuration, on which `plan` may leave instructions
    /// out.
    pub fn build(self, plan: Plan) -> Mmu<Saboteur> {
        self.mmu(Saboteur::new(self.sim(), plan))
    }
}

/// `pages` pages from `start` on.
pub fn pages(start: u64, pages: u64) -> PageRange {
    PageRange::new(start, pages).expect("the test names a good range")
}

/// The frame of this number.
pub fn frame(n: u64) -> Frame {
    Frame::from_u64(n * PAGE_SIZE).expect("the test names a small frame")
}

/// The frames from this number on.
pub fn backing(n: u64) -> Backing<'static> {
    Backing::Contiguous(frame(n))
}

/// The outcome of a read of frame number `n`, mapped with `prot`.
pub fn page(n: u64, prot: Prot) -> Outcome {
    let user = prot.is_user();
    Outcome::of_page((n * PAGE_SIZE) | prot.as_u64(), Kind::Read, user)
}

fn warm<'m, K: Modelled>(
    mmu: &'m Mmu<K>,
    kind: SpaceKind,
    range: PageRange,
    prot: Prot,
) -> (AddressSpace<'m, K>, RootId) {
    let sim = mmu.kernel().sim();
    let mut space = AddressSpace::new(mmu, kind).expect("the pool has a frame");
    let root = sim.add_root(space.root(), kind);
    space
        .map(range, backing(900), prot)
        .expect("nothing is mapped");
    space.unmap(range).expect("it was mapped");
    sim.settle();
    (space, root)
}

/// A kernel space with an old and empty last-level table at [`KERNEL`].
pub fn kernel_space<K: Modelled>(mmu: &Mmu<K>) -> (AddressSpace<'_, K>, RootId) {
    warm(mmu, SpaceKind::Kernel, pages(KERNEL, 1), Prot::KERNEL)
}

/// A space of ASID [`ASID`] for every task, with an old and empty last-level table at [`USER`].
pub fn user_space<K: Modelled>(mmu: &Mmu<K>) -> (AddressSpace<'_, K>, RootId) {
    let (space, root) = warm(mmu, SpaceKind::User(ASID), pages(USER, 1), Prot::USER);
    for task in 0..CPUS + 2 {
        mmu.kernel().sim().set_root(task, root);
    }
    (space, root)
}

/// The possible outcomes of an access by the task that runs on `cpu`.
pub fn access<K: Modelled>(mmu: &Mmu<K>, cpu: usize, va: u64, kind: Kind) -> Outcomes {
    let sim = mmu.kernel().sim();
    sim.access(cpu, sim.running(cpu), va, kind)
}

/// Requires that `expected` is the only possible outcome.
pub fn only<K: Modelled>(
    mmu: &Mmu<K>,
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

/// Requires that only translation faults, of any level, are possible.
pub fn faults<K: Modelled>(mmu: &Mmu<K>, cpu: usize, va: u64, kind: Kind) -> Result<(), String> {
    let out = access(mmu, cpu, va, kind);
    if out.only_faults() {
        return Ok(());
    }
    Err(format!(
        "CPU {cpu}, {kind:?} of {va:#x}: {out:?} instead of a translation fault"
    ))
}

/// CPU 0 publishes what it has done to CPU 1, which synchronizes (row X3).
pub fn tell<K: Modelled>(mmu: &Mmu<K>) {
    mmu.kernel().sim().synchronize_with(0, 1);
}

/// Requires that no memory was given back too early.
pub fn no_hazards<K: Modelled>(mmu: &Mmu<K>) -> Result<(), String> {
    match mmu.kernel().sim().take_hazards().first() {
        None => Ok(()),
        Some(hazard) => Err(hazard.to_string()),
    }
}
