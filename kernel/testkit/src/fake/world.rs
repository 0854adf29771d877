// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests build from a [`Fake`]: spaces, ranges, and the checks that most of them end with.

use super::order::{Role, SHIFT};
use super::{Effect, Fake, Watched};
use lazymmu::{
    AddressSpace, Asid, Backend, Backing, Features, Frame, Kernel, LazyMmuError, Mmu, PAGE_SIZE,
    PageRange, Prot, SpaceError, SpaceKind, TableFrames, TlbFeatures, VirtAddr, bits,
};

/// The address space of most tests.
pub const USER: SpaceKind = SpaceKind::User(Asid(0x2b));
/// Kernel and user half.
#[cfg(not(miri))]
pub const KINDS: [SpaceKind; 2] = [SpaceKind::Kernel, USER];
/// Under Miri, where a test takes seconds for each, the user's, which has contiguous groups. What the
/// kernel's alone has is in tests that name it.
#[cfg(miri)]
pub const KINDS: [SpaceKind; 1] = [USER];
/// A 512 GiB boundary of the upper half, hence one of every level.
pub const BASE: u64 = 0xffff_8000_0000_0000;

/// The library on a new fake.
pub fn new_mmu() -> Mmu<Fake> {
    Mmu::new(Fake::default())
}

/// [`Mmu::set_backend`] and [`Mmu::set_features`] for tests.
///
/// The memory of a fake machine is not the test's own, so a wrong choice is found by the checkers and harms nothing.
pub trait Choose {
    /// [`Mmu::set_backend`].
    ///
    /// # Errors
    /// Its.
    fn choose_backend(&self, backend: Backend) -> Result<(), LazyMmuError>;

    /// [`Mmu::set_features`].
    fn choose_features(&self, features: Features);
}

impl<K: Kernel> Choose for Mmu<K> {
    fn choose_backend(&self, backend: Backend) -> Result<(), LazyMmuError> {
        // SAFETY: see the trait.
        unsafe { self.set_backend(backend) }
    }

    fn choose_features(&self, features: Features) {
        // SAFETY: see the trait.
        unsafe { self.set_features(features) };
    }
}

/// The same with a strategy.
pub fn new_mmu_with(backend: Backend) -> Mmu<Fake> {
    let mmu = new_mmu();
    mmu.choose_backend(backend)
        .expect("a fake has a batch and no section");
    mmu
}

/// What a CPU offers, by number: a bit each for TTL, range operations, the repetition and FEAT_ETS2.
pub const fn features(number: u8) -> Features {
    Features {
        tlb: TlbFeatures {
            ttl: number & 1 != 0,
            range: number & 2 != 0,
            repeat: number & 4 != 0,
        },
        ets2: number & 8 != 0,
    }
}

/// Features with nothing but `ets2`.
pub fn with_ets2() -> Features {
    Features {
        ets2: true,
        ..Features::default()
    }
}

/// The ASID of a space, `None` for the kernel's.
pub const fn asid_of(kind: SpaceKind) -> Option<u16> {
    match kind {
        SpaceKind::Kernel => None,
        SpaceKind::User(asid) => Some(asid.0),
    }
}

/// An empty space whose root the checker knows.
pub fn new_space<F: TableFrames>(
    mmu: &Mmu<Watched<F>>,
    kind: SpaceKind,
) -> AddressSpace<'_, Watched<F>> {
    let space = AddressSpace::new(mmu, kind).expect("the budget allows a root");
    mmu.kernel().order.borrow_mut().add_root(
        space.root().as_u64(),
        kind.half().start(),
        asid_of(kind),
    );
    space
}

/// The same for a space whose root nobody has asked for, so that it is freed when it is dropped.
pub fn new_private_space<F: TableFrames>(
    mmu: &Mmu<Watched<F>>,
    kind: SpaceKind,
) -> AddressSpace<'_, Watched<F>> {
    let kernel = mmu.kernel();
    let before: Vec<u64> = kernel.tables.borrow().keys().copied().collect();
    let space = AddressSpace::new(mmu, kind).expect("the budget allows a root");
    let after: Vec<u64> = kernel.tables.borrow().keys().copied().collect();
    let root = after.into_iter().find(|frame| !before.contains(frame));
    let root = root.expect("a space has a root");
    let (base, asid) = (kind.half().start(), asid_of(kind));
    kernel.order.borrow_mut().add_root(root, base, asid);
    space
}

/// Makes a tree known to the checker that other code has built, by stores that were not watched.
pub fn know_tree<F: TableFrames>(kernel: &Watched<F>, root: u64, kind: SpaceKind) {
    know_table(kernel, root, (0, kind.half().start()), asid_of(kind));
}

fn know_table<F: TableFrames>(
    kernel: &Watched<F>,
    frame: u64,
    (level, base): (u8, u64),
    asid: Option<u16>,
) {
    kernel
        .order
        .borrow_mut()
        .add_table(frame, level, base, asid);
    for (i, entry) in kernel.raw(frame).into_iter().enumerate() {
        if level < 3 && entry & 0b11 == 0b11 {
            let base = base + ((i as u64) << SHIFT[level as usize]);
            know_table(kernel, entry & bits::ADDRESS, (level + 1, base), asid);
        }
    }
}

/// A space of `lazymmu` in which the tables for `range` exist and nothing is mapped.
pub fn new_space_with_tables<F: TableFrames>(
    mmu: &Mmu<Watched<F>>,
    kind: SpaceKind,
    range: PageRange,
) -> AddressSpace<'_, Watched<F>> {
    let mut space = new_space(mmu, kind);
    space
        .apply_to_page_range(range, |_| Ok::<(), SpaceError>(()))
        .expect("the budget allows tables");
    mmu.kernel().take_effects();
    space
}

/// `n` pages from page `first` behind [`BASE`] on.
pub fn part(first: u64, n: u64) -> PageRange {
    pages(BASE + first * PAGE_SIZE, n)
}

/// A kernel space in which the table of the 512 pages from [`BASE`] on exists and nothing is mapped.
pub fn new_kernel_space(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    new_space_with_tables(mmu, SpaceKind::Kernel, part(0, 512))
}

/// Maps page `page` behind [`BASE`] of a kernel space to the frame of that number.
#[track_caller]
pub fn map_page(space: &mut AddressSpace<'_, Fake>, page: u64) {
    space
        .map(part(page, 1), contiguous(page), Prot::KERNEL)
        .expect("the page is not mapped, and its table exists");
}

/// Leaves all pauses and sections of the current task.
pub fn close<F: TableFrames>(mmu: &Mmu<Watched<F>>) {
    while mmu.lazy().resume().is_ok() {}
    while mmu.lazy().disable().is_ok() {}
}

/// The table of the pages of `range`, which exists.
pub fn table_of<F: TableFrames>(space: &AddressSpace<'_, Watched<F>>, range: PageRange) -> Frame {
    space
        .last_level_table(range.start())
        .expect("the test has built the table")
}

/// Enters a section that announces `range`. No test frees the table meanwhile.
pub fn enable_fast<F: TableFrames>(space: &AddressSpace<'_, Watched<F>>, range: PageRange) {
    let (lazy, table) = (space.mmu().lazy(), table_of(space, range));
    // SAFETY: the tests that free tables do so outside of sections.
    unsafe { lazy.enable_fast_pte_range(space, range.start(), range.end(), table) }
        .expect("the range is one of the table's");
}

/// Number of TLBI instructions in `effects`.
pub fn tlbis(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|e| matches!(e, Effect::Tlbi(..)))
        .count()
}

/// Number of stores to leaves in `effects`.
pub fn leaves(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| is_leaf(e)).count()
}

/// Gives the whole tree back, checks that nothing of it stays, and returns the effects.
pub fn destroy<F: TableFrames>(space: AddressSpace<'_, Watched<F>>) -> Vec<Effect> {
    let kernel = space.mmu().kernel();
    let before = kernel.live_tables();
    let own = tables_below(kernel, space.root().as_u64(), 0);
    kernel.take_effects();
    kernel.teardown.set(true);
    // SAFETY: no CPU walks a table of the fake, and the tests that share tables
    // do not come here.
    unsafe { space.destroy() };
    kernel.teardown.set(false);
    assert_eq!(kernel.live_tables(), before - own);
    let effects = kernel.take_effects();
    let first_free = effects.iter().position(|e| matches!(e, Effect::Free(_)));
    let done = effects.iter().rposition(|e| *e == Effect::DsbIsh);
    assert!(
        done < first_free,
        "R25: frees before the invalidation is complete"
    );
    effects
}

/// Counts the tables of a tree, and checks each population on the way.
pub fn tables_below<F: TableFrames>(kernel: &Watched<F>, frame: u64, level: u8) -> usize {
    let mut tables = 1;
    for entry in kernel.raw(frame) {
        if level < 3 && entry & 0b11 == 0b11 {
            let child = entry & bits::ADDRESS;
            let used = kernel.raw(child).iter().filter(|e| **e != 0).count() as u64;
            let population = (entry & bits::TABLE_POPULATION) >> 2;
            assert_eq!(
                population, used,
                "population of the level {level} entry for {child:#x}"
            );
            tables += tables_below(kernel, child, level + 1);
        }
    }
    tables
}

/// Repetitions of a random test: `n`, or under Miri, which is some hundred times slower and
/// looks for what one repetition shows as well as a thousand, a two-hundredth.
pub const fn reduced(n: usize) -> usize {
    if cfg!(miri) { n.div_ceil(200) } else { n }
}

/// The distance of the moments at which a test interrupts: 1, or under Miri `miri`.
pub const fn stride(miri: usize) -> usize {
    if cfg!(miri) { miri } else { 1 }
}

/// The strategies that a test runs with: all, or under Miri, which looks for what pointers do and not for
/// results, the two with the most of it.
pub fn backends() -> impl Iterator<Item = Backend> {
    let all = Backend::ALL.into_iter();
    all.filter(|backend| {
        !cfg!(miri) || matches!(backend, Backend::DeferStores | Backend::Multicall)
    })
}

/// `pages` pages from `start` on.
pub fn pages(start: u64, pages: u64) -> PageRange {
    PageRange::new(start, pages).expect("the test names a good range")
}

/// A virtual address.
pub fn va(raw: u64) -> VirtAddr {
    VirtAddr::new(raw).expect("the test names a canonical address")
}

/// The frame of this number.
pub fn frame(n: u64) -> Frame {
    Frame::from_u64(n * PAGE_SIZE).expect("the test names a small frame")
}

/// The frames from this number on.
pub fn contiguous(n: u64) -> Backing<'static> {
    Backing::Contiguous(frame(n))
}

/// What `prot_of(kind)` maps in tests that do not care.
pub const fn data(kind: SpaceKind) -> Prot {
    match kind {
        SpaceKind::Kernel => Prot::KERNEL,
        SpaceKind::User(_) => Prot::USER,
    }
}

/// The effects without those that no walker sees.
pub fn visible(effects: Vec<Effect>) -> Vec<Effect> {
    effects
        .into_iter()
        .filter(|e| {
            !matches!(
                e,
                Effect::Store {
                    role: Role::Scratch | Role::Population,
                    ..
                } | Effect::Alloc(_)
            )
        })
        .collect()
}

/// Number of `effect` in `effects`.
pub fn count(effects: &[Effect], effect: Effect) -> usize {
    effects.iter().filter(|e| **e == effect).count()
}

/// Whether the effect is the store of a leaf.
pub fn is_leaf(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Store {
            role: Role::Leaf,
            ..
        }
    )
}

/// Whether the effect is a barrier or TLBI.
pub fn is_maintenance(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::DmbIshst | Effect::DsbIshst | Effect::DsbIsh | Effect::Isb | Effect::Tlbi(..)
    )
}

/// Runs `request`, which must be refused, and checks that nothing came of it: tables
/// byte by byte, memory, lazy state, barriers, TLBI.
#[track_caller]
pub fn refused<F: TableFrames, T: std::fmt::Debug>(
    mmu: &Mmu<Watched<F>>,
    request: impl FnOnce() -> Result<T, SpaceError>,
) -> SpaceError {
    let kernel = mmu.kernel();
    kernel.take_effects();
    let state = || (mmu.lazy().state(), kernel.image());
    let before = state();
    let error = request().expect_err("the request must be refused");
    assert_eq!(state(), before, "{error}: something changed");
    let effects = kernel.take_effects();
    assert!(!effects.iter().any(is_maintenance), "{error}: {effects:?}");
    assert!(!error.to_string().is_empty());
    error
}
