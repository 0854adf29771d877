// SPDX-License-Identifier: MIT OR Apache-2.0
//! Helpers for tests on a [`Fake`]: spaces, ranges, and the checks with which most tests end.

use super::order::{Role, SHIFT};
use super::{Effect, Fake, Watched};
use lazymmu::{
    AddressSpace, Asid, Backend, Backing, Features, Frame, Kernel, LazyMmuError, Mmu, PAGE_SIZE,
    PageRange, Prot, SpaceError, SpaceKind, TableFrames, TlbFeatures, VirtAddr, bits,
};

/// The address space of most tests.
pub const USER: SpaceKind = SpaceKind::User(Asid(0x2b));
/// The kinds of space with which most tests run: the kernel half and the user half.
#[cfg(not(miri))]
pub const KINDS: [SpaceKind; 2] = [SpaceKind::Kernel, USER];
/// The kinds of space with which most tests run under Miri, where a test takes seconds for each:
/// only the user half, which has contiguous groups. Tests of kernel mappings name that kind
/// themselves.
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
/// They are safe here: no CPU walks the tables of a simulated machine, so the checkers find a wrong
/// choice, and it does no harm.
pub trait Choose {
    /// [`Mmu::set_backend`].
    ///
    /// # Errors
    /// The errors of [`Mmu::set_backend`].
    fn choose_backend(&self, backend: Backend) -> Result<(), LazyMmuError>;

    /// [`Mmu::set_features`].
    fn choose_features(&self, features: Features);
}

impl<K: Kernel> Choose for Mmu<K> {
    fn choose_backend(&self, backend: Backend) -> Result<(), LazyMmuError> {
        // SAFETY: no CPU walks the tables (see the trait).
        unsafe { self.set_backend(backend) }
    }

    fn choose_features(&self, features: Features) {
        // SAFETY: no CPU walks the tables (see the trait).
        unsafe { self.set_features(features) };
    }
}

/// The library on a new fake, with this strategy.
pub fn new_mmu_with(backend: Backend) -> Mmu<Fake> {
    let mmu = new_mmu();
    mmu.choose_backend(backend)
        .expect("a fake has a batch and no section");
    mmu
}

/// CPU features by number, 0..16: one bit each for TTL, range operations, the repetition and
/// FEAT_ETS2.
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

/// Features of which only `ets2` is set.
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

/// An empty space, whose root is made known to the order checker.
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

/// [`new_space`] without a call of [`AddressSpace::root`], so that dropping the space frees its
/// tables.
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

/// Makes a tree known to the order checker that other code has built by stores that were not
/// recorded.
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

/// A space in which the tables for `range` exist and nothing is mapped.
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

/// `n` pages from page `first` after [`BASE`] on.
pub fn part(first: u64, n: u64) -> PageRange {
    pages(BASE + first * PAGE_SIZE, n)
}

/// A kernel space in which the table of the 512 pages from [`BASE`] on exists and nothing is
/// mapped.
pub fn new_kernel_space(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    new_space_with_tables(mmu, SpaceKind::Kernel, part(0, 512))
}

/// Maps page `page` after [`BASE`] of a kernel space to the frame of that number.
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

/// The last-level table of `range`, which the test has built.
pub fn table_of<F: TableFrames>(space: &AddressSpace<'_, Watched<F>>, range: PageRange) -> Frame {
    space
        .last_level_table(range.start())
        .expect("the test has built the table")
}

/// Enters a section that announces `range`. No test frees the table in this section.
pub fn enable_fast<F: TableFrames>(space: &AddressSpace<'_, Watched<F>>, range: PageRange) {
    let (lazy, table) = (space.mmu().lazy(), table_of(space, range));
    // SAFETY: the tests that free tables do so outside of sections.
    unsafe { lazy.enable_fast_pte_range(space, range.start(), range.end(), table) }
        .expect("the range is one of the table's");
}

/// The number of TLBI instructions in `effects`.
pub fn tlbis(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|e| matches!(e, Effect::Tlbi(..)))
        .count()
}

/// The number of stores to leaves in `effects`.
pub fn leaves(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| is_leaf(e)).count()
}

/// Destroys the space, checks that all of its tables are freed after the invalidation, and returns
/// the effects.
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

/// Counts the tables of a tree, and checks the population in each link.
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

/// The number of repetitions of a random test: `n`, or a two-hundredth of it under Miri, which is
/// some hundred times slower, and finds in one repetition what it finds in a thousand.
pub const fn reduced(n: usize) -> usize {
    if cfg!(miri) { n.div_ceil(200) } else { n }
}

/// The distance between the moments at which a test interrupts: 1, or `miri` under Miri.
pub const fn stride(miri: usize) -> usize {
    if cfg!(miri) { miri } else { 1 }
}

/// The strategies with which a test runs: all, or under Miri, which checks the use of pointers and
/// not results, the two that use most of them.
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

/// The attributes of data, for tests in which the attributes do not matter.
pub const fn data(kind: SpaceKind) -> Prot {
    match kind {
        SpaceKind::Kernel => Prot::KERNEL,
        SpaceKind::User(_) => Prot::USER,
    }
}

/// The effects without those that no walker sees: stores to unlinked tables, changes of
/// populations, and allocations.
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

/// The number of effects in `effects` that equal `effect`.
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

/// Runs `request`, which must be refused, and checks that it changed nothing: the tables byte by
/// byte, the allocated tables, the lazy state; and that it executed no barrier and no TLBI. Returns
/// the error.
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
