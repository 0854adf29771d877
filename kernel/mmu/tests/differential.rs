// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same requests into `lazymmu` and into Google's `aarch64-paging`, an independent
//! implementation; after each request both trees are compared entry by entry.
//!
//! Both walk from their roots at the same time. What is compared, and what is not:
//!
//! | entry | compared | not compared, and why |
//! |---|---|---|
//! | leaf (level 3) | all 64 bits | nothing |
//! | empty, any level | all 64 bits (zero) | nothing |
//! | table (levels 0-2) | all bits but [`FREE_IN_TABLES`] | `[47:12]`: each side allocates its own tables, and the walk follows both addresses; `[11:2]`: ignored by hardware (D8.3.1.1), the population is kept there, `aarch64-paging` leaves them 0 |
//!
//! Attributes are translated by name ([`theirs`]), never by their numbers, so that a bit
//! in the wrong place on either side shows. Theirs maps pages only: with its
//! constraints, neither blocks nor contiguous hints appear. Its tree is marked active, so
//! that it judges break-before-make as for live tables, and its verdict on
//! `protect` is compared as well.

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, Translation, VaRange};
use aarch64_paging::target::TargetAllocator;
use lazymmu::{
    AddressSpace, Backend, Backing, ENTRIES, Frame, Half, Level, MemoryType, Mmu, PAGE_SIZE,
    PageRange, Prot, SpaceError, SpaceKind, TableFrames, bits,
};
use lazymmu_testkit::fake::{
    self, Choose, Fake, KINDS, asid_of, frame, new_mmu, new_space, pages, reduced,
};
use lazymmu_testkit::rng::Rng;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a table descriptor that the two sides need not agree on; see the head.
const FREE_IN_TABLES: u64 = bits::ADDRESS | bits::TABLE_SOFTWARE;

/// Pages only, as `lazymmu` maps.
const PAGES_ONLY: Constraints = Constraints::all();

/// What `lazymmu` calls an attribute, and what `aarch64-paging` calls it.
fn theirs(prot: Prot) -> El1Attributes {
    use El1Attributes as A;
    let leaf = A::VALID | A::ACCESSED | A::INNER_SHAREABLE;
    let never = A::PXN | A::UXN;
    let user = leaf | A::USER | A::NON_GLOBAL;
    // MAIR_EL1: 0 = Normal write-back, 1 = Device-nGnRE, 2 = Normal non-cacheable,
    // 3 = Device-nGnRnE.
    let normal = A::ATTRIBUTE_INDEX_0;
    match prot {
        Prot::KERNEL => leaf | normal | never,
        Prot::KERNEL_RO => leaf | normal | never | A::READ_ONLY,
        Prot::KERNEL_ROX => leaf | normal | A::UXN | A::READ_ONLY,
        Prot::DEVICE => leaf | A::ATTRIBUTE_INDEX_1 | never,
        Prot::USER => user | normal | never,
        Prot::USER_RO => user | normal | never | A::READ_ONLY,
        Prot::USER_ROX => user | normal | A::PXN | A::READ_ONLY,
        KERNEL_NC => leaf | A::ATTRIBUTE_INDEX_2 | never,
        KERNEL_STRICT_DEVICE => leaf | A::ATTRIBUTE_INDEX_3 | never | A::READ_ONLY,
        USER_NC => user | A::ATTRIBUTE_INDEX_2 | A::PXN | A::READ_ONLY,
        other => panic!("{other:?} has no name in aarch64-paging"),
    }
}

const KERNEL_NC: Prot = Prot::KERNEL.with_memory_type(MemoryType::NormalNonCacheable);
const KERNEL_STRICT_DEVICE: Prot = Prot::KERNEL_ROX.with_memory_type(MemoryType::DeviceNGnRnE);
const USER_NC: Prot = Prot::USER_ROX.with_memory_type(MemoryType::NormalNonCacheable);

/// The attributes of a half, all of which are used.
fn prots(kind: SpaceKind) -> &'static [Prot] {
    match kind {
        SpaceKind::Kernel => &[
            Prot::KERNEL,
            Prot::KERNEL_RO,
            Prot::KERNEL_ROX,
            Prot::DEVICE,
            KERNEL_NC,
            KERNEL_STRICT_DEVICE,
        ],
        SpaceKind::User(_) => &[Prot::USER, Prot::USER_RO, Prot::USER_ROX, USER_NC],
    }
}

/// A request in the words of neither side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// `scatter` = 0: consecutive frames; else every page's frame is that many further.
    Map {
        range: PageRange,
        first: u64,
        scatter: u64,
        prot: Prot,
    },
    Unmap(PageRange),
    UnmapExisting(PageRange),
    Protect(PageRange, Prot),
    Remap(PageRange, Prot),
    FreeEmptyTables,
}

/// Stretches where a table of some level ends, the ends of the half, one whole table.
fn windows(half: Half) -> [PageRange; 6] {
    let start = half.start();
    [
        pages(start + (5 << 39) - 6 * PAGE_SIZE, 12),
        pages(start + (5 << 39) + (3 << 30) - 6 * PAGE_SIZE, 12),
        pages(start + (5 << 39) + (7 << 21) - 6 * PAGE_SIZE, 12),
        pages(start, 6),
        pages(half.end() - 6 * PAGE_SIZE, 6),
        pages(start + (9 << 39) - 4 * PAGE_SIZE, 520),
    ]
}

/// Makes up requests, of which those that need a mapping mostly find one.
struct Generator {
    rng: Rng,
    kind: SpaceKind,
    /// Ranges that were to be mapped.
    mapped: Vec<PageRange>,
}

impl Generator {
    fn new(seed: u64, kind: SpaceKind) -> Self {
        Self {
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            kind,
            mapped: Vec::new(),
        }
    }

    /// A part of `whole`: mostly a few pages, and now and then all the rest.
    fn part(&mut self, whole: PageRange) -> PageRange {
        let skipped = self.rng.below(whole.pages());
        let most = whole.pages() - skipped;
        let length = match self.rng.below(4) {
            0 => most,
            _ => 1 + self.rng.below(most.min(5)),
        };
        pages(whole.start().as_u64() + skipped * PAGE_SIZE, length)
    }

    fn anywhere(&mut self) -> PageRange {
        let window = self.rng.pick(&windows(self.kind.half()));
        self.part(window)
    }

    fn where_something_is(&mut self) -> PageRange {
        match self.mapped.is_empty() || self.rng.below(8) == 0 {
            true => self.anywhere(),
            false => {
                let at = self.rng.below(self.mapped.len() as u64) as usize;
                let whole = self.mapped.swap_remove(at);
                let part = self.part(whole);
                self.mapped.push(part);
                part
            }
        }
    }

    fn request(&mut self) -> Request {
        let prot = self.rng.pick(prots(self.kind));
        match self.rng.below(11) {
            0..=3 => {
                let range = self.anywhere();
                self.mapped.push(range);
                // Somewhere, and at the very end of physical memory.
                let somewhere = self.rng.below(1_000_003);
                Request::Map {
                    range,
                    first: self.rng.pick(&[somewhere, (1 << 36) - 520]),
                    scatter: self.rng.pick(&[0, 0, 3, 17]),
                    prot,
                }
            }
            4 => Request::Unmap(self.where_something_is()),
            5..=7 => Request::Protect(self.where_something_is(), prot),
            8 => Request::Remap(self.where_something_is(), prot),
            9 => Request::UnmapExisting(self.anywhere()),
            _ => Request::FreeEmptyTables,
        }
    }

    fn list(&mut self, requests: usize) -> Vec<Request> {
        (0..requests).map(|_| self.request()).collect()
    }
}

fn frames(range: PageRange, first: u64, scatter: u64) -> Vec<Frame> {
    // A prime number of frames, far from the end of physical memory.
    (0..range.pages())
        .map(|i| frame((first + i * scatter) % 1_000_003))
        .collect()
}

type Their = Mapping<TargetAllocator<El1Attributes>, El1And0>;

/// Their side, active from the beginning to the end.
struct Peer(Their);

impl Peer {
    fn new(kind: SpaceKind) -> Self {
        let va_range = match kind.half() {
            Half::Lower => VaRange::Lower,
            Half::Upper => VaRange::Upper,
        };
        let asid = usize::from(asid_of(kind).unwrap_or(0));
        // Table frames above everything that is mapped.
        let tables = TargetAllocator::new(0x7f00_0000_0000);
        let peer = Mapping::with_asid_and_va_range(tables, asid, 0, El1And0, va_range);
        peer.mark_active();
        Self(peer)
    }

    fn region(range: PageRange) -> MemoryRegion {
        MemoryRegion::new(range.start().as_u64() as usize, range.end() as usize)
    }

    fn map(&mut self, range: PageRange, frames: &[Frame], flags: El1Attributes) {
        let contiguous = frames
            .windows(2)
            .all(|two| two[0].as_u64() + PAGE_SIZE == two[1].as_u64());
        let mut map = |range, first: Frame| {
            let pa = PhysicalAddress(first.as_u64() as usize);
            let mapped = self
                .0
                .map_range(&Self::region(range), pa, flags, PAGES_ONLY);
            assert_eq!(mapped, Ok(()));
        };
        if contiguous {
            return map(range, frames[0]);
        }
        for (i, &frame) in frames.iter().enumerate() {
            map(
                pages(range.start().as_u64() + i as u64 * PAGE_SIZE, 1),
                frame,
            );
        }
    }

    fn unmap(&mut self, range: PageRange) {
        // Not `map_range` without VALID: that frees tables on the way, `lazymmu` when asked to.
        let empty = El1Attributes::empty();
        let unmapped = self.0.modify_range(&Self::region(range), &|_, entry| {
            entry.set(PhysicalAddress(0), empty)
        });
        assert_eq!(unmapped, Ok(()));
    }

    /// Whether break-before-make allowed it.
    fn protect(&mut self, range: PageRange, flags: El1Attributes) -> bool {
        let flags = flags | El1Attributes::TABLE_OR_PAGE;
        self.0
            .modify_range(&Self::region(range), &|_, entry| {
                entry.set(entry.output_address(), flags)
            })
            .is_ok()
    }

    fn remap(&mut self, range: PageRange, flags: El1Attributes) {
        let valid = El1Attributes::VALID;
        let broken = self.0.modify_range(&Self::region(range), &|_, entry| {
            entry.modify_flags(El1Attributes::empty(), valid)
        });
        assert_eq!(broken, Ok(()));
        assert!(self.protect(range, flags), "what is broken can be made");
    }

    /// The entries of the table at `pa`.
    fn raw(&self, pa: u64) -> Vec<u64> {
        let pa = PhysicalAddress(pa as usize);
        let table = self.0.translation().physical_to_virtual(pa);
        // SAFETY: the allocator found a live table, 512 entries of 64 bits as hardware reads
        // them, and nothing writes it while `self` is borrowed.
        unsafe { table.cast::<[u64; ENTRIES]>().read() }.to_vec()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.mark_inactive();
    }
}

/// Where the trees differ first.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Difference {
    level: u8,
    va: u64,
    ours: u64,
    theirs: u64,
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            level,
            va,
            ours,
            theirs,
        } = self;
        write!(
            f,
            "level {level}, {va:#018x}: mmu {ours:#018x}, aarch64-paging {theirs:#018x}, differing in {:#x}",
            ours ^ theirs
        )
    }
}

/// The same requests to both.
struct Pair<'m> {
    space: AddressSpace<'m, Fake>,
    peer: Peer,
    /// Flipped in every attribute that `aarch64-paging` gets: how the tests show that
    /// they can fail.
    spoiled: El1Attributes,
}

impl<'m> Pair<'m> {
    fn new(mmu: &'m Mmu<Fake>, kind: SpaceKind) -> Self {
        Self {
            space: new_space(mmu, kind),
            peer: Peer::new(kind),
            spoiled: El1Attributes::empty(),
        }
    }

    fn flags(&self, prot: Prot) -> El1Attributes {
        theirs(prot) ^ self.spoiled
    }

    /// Serves `request` on both sides, on theirs only if ours accepts it. Returns whether it
    /// did.
    fn serve(&mut self, request: Request) -> bool {
        match request {
            Request::Map {
                range,
                first,
                scatter,
                prot,
            } => {
                let list;
                let (backing, flags) = (
                    if scatter == 0 {
                        list = (0..range.pages()).map(|i| frame(first + i)).collect();
                        Backing::Contiguous(frame(first))
                    } else {
                        list = frames(range, first, scatter);
                        Backing::Scattered(&list)
                    },
                    self.flags(prot),
                );
                let done = self.space.map(range, backing, prot).is_ok();
                if done {
                    self.peer.map(range, &list, flags);
                }
                done
            }
            Request::Unmap(range) => {
                let done = self.space.unmap(range).is_ok();
                if done {
                    self.peer.unmap(range);
                }
                done
            }
            Request::UnmapExisting(range) => {
                let mapped = |page: &PageRange| self.space.query(page.start()).is_some();
                let pages: Vec<PageRange> = range.by_page().filter(mapped).collect();
                pages.iter().for_each(|page| self.peer.unmap(*page));
                assert_eq!(self.space.unmap_existing(range), Ok(pages.len() as u64));
                !pages.is_empty()
            }
            Request::Protect(range, prot) => {
                let verdict = self.space.protect(range, prot);
                if matches!(verdict, Err(SpaceError::NotMapped { .. })) {
                    return false;
                }
                let theirs = self.peer.protect(range, self.flags(prot));
                assert_eq!(
                    verdict.is_ok(),
                    theirs,
                    "break-before-make: mmu says {verdict:?}, aarch64-paging the opposite"
                );
                theirs
            }
            Request::Remap(range, prot) => {
                let done = self.space.remap(range, prot).is_ok();
                if done {
                    self.peer.remap(range, self.flags(prot));
                }
                done
            }
            Request::FreeEmptyTables => {
                let half = self.space.kind().half();
                let all = PageRange::from_bounds(half.start(), half.end());
                self.peer.0.compact_subtables();
                self.space.free_empty_tables(all.unwrap()).unwrap() > 0
            }
        }
    }

    /// Compares the trees and counts their tables.
    fn compare(&self) -> Result<usize, Difference> {
        let ours = self.space.root().as_u64();
        let theirs = self.peer.0.root_address().0 as u64;
        self.compare_below(Level::L0, self.space.kind().half().start(), ours, theirs)
    }

    fn compare_below(
        &self,
        level: Level,
        base: u64,
        ours: u64,
        theirs: u64,
    ) -> Result<usize, Difference> {
        let mut tables = 1;
        let entries = self.space.mmu().kernel().raw(ours);
        for (i, (&ours, theirs)) in entries.iter().zip(self.peer.raw(theirs)).enumerate() {
            if (ours, theirs) == (0, 0) {
                continue;
            }
            let va = base + i as u64 * level.entry_span();
            let is_table = |e| lazymmu::Desc::from_u64(e).is_table(level);
            let both_tables = is_table(ours) && is_table(theirs);
            let free = if both_tables { FREE_IN_TABLES } else { 0 };
            if (ours ^ theirs) & !free != 0 {
                let level = level as u8;
                return Err(Difference {
                    level,
                    va,
                    ours,
                    theirs,
                });
            }
            if let (true, Some(next)) = (both_tables, level.next()) {
                let (ours, theirs) = (ours & bits::ADDRESS, theirs & bits::ADDRESS);
                tables += self.compare_below(next, va, ours, theirs)?;
            }
        }
        Ok(tables)
    }

    fn end(self) {
        fake::destroy(self.space);
    }
}

/// Serves `list` on a new pair, comparing after each request. Returns how many requests
/// were accepted, and the largest number of tables.
fn run(
    kind: SpaceKind,
    backend: Backend,
    spoiled: El1Attributes,
    list: &[Request],
) -> Result<(usize, usize), Difference> {
    let mmu = new_mmu();
    mmu.choose_backend(backend).expect("outside any section");
    let mut pair = Pair::new(&mmu, kind);
    pair.spoiled = spoiled;
    let (mut accepted, mut most) = (0, 0);
    for &request in list {
        accepted += usize::from(pair.serve(request));
        most = most.max(pair.compare()?);
        mmu.kernel().take_effects();
    }
    assert_eq!(mmu.lazy().state().enable_count(), 0);
    pair.end();
    Ok((accepted, most))
}

/// Leaves out requests for as long as what is left fails.
fn shrink(fails: impl Fn(&[Request]) -> bool, list: &[Request]) -> Vec<Request> {
    let mut list = list.to_vec();
    let mut at = list.len();
    while at > 0 {
        at -= 1;
        let left_out = list.remove(at);
        if !fails(&list) {
            list.insert(at, left_out);
        }
    }
    list
}

#[test]
fn the_same_requests_make_the_same_descriptors() {
    const REQUESTS: usize = if cfg!(miri) { 3 } else { 40 };
    let sound = El1Attributes::empty();
    let (mut lists, mut accepted, mut most) = (0, 0, 0);
    for seed in 1..=reduced(60) as u64 {
        for kind in KINDS {
            for backend in fake::backends() {
                let list = Generator::new(seed, kind).list(REQUESTS);
                match run(kind, backend, sound, &list) {
                    Ok((n, tables)) => {
                        lists += 1;
                        accepted += n;
                        most = most.max(tables);
                    }
                    Err(first) => {
                        let fails = |list: &[Request]| run(kind, backend, sound, list).is_err();
                        let few = shrink(fails, &list);
                        panic!("seed {seed}, {kind:?}, {backend}: {first:?}; enough is {few:#x?}");
                    }
                }
            }
        }
    }
    println!("{lists} lists, {accepted} requests accepted, at most {most} tables");
    // A run in which nearly everything is refused compares little.
    assert!(cfg!(miri) || accepted > lists * REQUESTS / 3);
    assert!(cfg!(miri) || most > 12);
}

/// The oracle can fail: with any bit of the attributes wrong on one side it does.
#[test]
#[cfg_attr(miri, ignore = "tests the comparison, not the library")]
fn a_wrong_attribute_bit_is_found() {
    let known = El1Attributes::all().bits() & !El1Attributes::TABLE_OR_PAGE.bits();
    for kind in KINDS {
        for &prot in prots(kind) {
            let range = windows(kind.half())[0];
            let map = Request::Map {
                range,
                first: 0x8_0000,
                scatter: 0,
                prot,
            };
            for bit in (0..64).filter(|bit| known >> bit & 1 != 0) {
                let spoiled = El1Attributes::from_bits_retain(1 << bit);
                let found = run(kind, Backend::DeferBarriers, spoiled, &[map]).unwrap_err();
                assert_eq!((found.level, found.va), (3, range.start().as_u64()));
                let differing = found.ours ^ found.theirs;
                // Without VALID, theirs stores no address and no page bit either.
                assert!(
                    differing == 1 << bit || spoiled == El1Attributes::VALID,
                    "{found:?}"
                );
            }
        }
    }
}

/// And what it finds in a long list is shown by a short one.
#[test]
#[cfg_attr(miri, ignore = "tests the comparison, not the library")]
fn a_difference_shrinks_to_the_requests_that_make_it() {
    let mut list = Generator::new(7, SpaceKind::Kernel).list(20);
    list.retain(|request| !matches!(request, Request::Map { .. }));
    let range = windows(Half::Upper)[5];
    let map = Request::Map {
        range,
        first: 1,
        scatter: 3,
        prot: Prot::DEVICE,
    };
    list.insert(list.len() / 2, map);
    let fails = |list: &[Request]| {
        run(SpaceKind::Kernel, Backend::Eager, El1Attributes::UXN, list).is_err()
    };
    assert_eq!(shrink(fails, &list), [map]);
}

/// In table descriptors, nothing is excused but the address and the population.
#[test]
#[cfg_attr(miri, ignore = "tests the comparison, not the library")]
fn a_wrong_bit_in_a_table_descriptor_is_found() {
    let mmu = new_mmu();
    let mut pair = Pair::new(&mmu, SpaceKind::Kernel);
    let range = windows(Half::Upper)[1];
    let map = Request::Map {
        range,
        first: 9,
        scatter: 0,
        prot: Prot::KERNEL,
    };
    assert!(pair.serve(map));
    assert_eq!(pair.compare(), Ok(6));
    let root = mmu.kernel().table_ptr(pair.space.root());
    // SAFETY: the root lives as long as the space does, and is only read and
    // atomically written.
    let entry = &unsafe { root.as_ref() }.entries()[Level::L0.index(range.start())];
    // SAFETY: a `Pte` is a live, aligned, atomically accessed 64-bit cell.
    let cell = unsafe { AtomicU64::from_ptr(entry.as_ptr()) };
    let before = cell.load(Ordering::Relaxed);
    for bit in (0..64).filter(|bit| bits::ADDRESS >> bit & 1 == 0) {
        cell.store(before ^ 1 << bit, Ordering::Relaxed);
        let excused = bits::TABLE_SOFTWARE >> bit & 1 != 0;
        assert_eq!(pair.compare().is_ok(), excused, "bit {bit}");
    }
    cell.store(before, Ordering::Relaxed);
    pair.end();
}
