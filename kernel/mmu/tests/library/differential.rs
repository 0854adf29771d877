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
//! Requests come in a section, with bottom halves off, and both, and callbacks panic or fail. A gather takes more separate pages than any list holds, and
//! a user space gets tokens of another one, whose tables it may not share. The tree must then be what theirs is after the
//! same changes without any of that.
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
    AddressSpace, Asid, Backend, Backing, Context, ENTRIES, Frame, Half, Level, MemoryType, Mmu,
    PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind, TableFrames, bits,
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
    /// Each page of its own.
    UnmapFrames(PageRange, Ends),
    /// Entry by entry: what is mapped goes, and what is not is mapped, from frame `first` on.
    Toggle {
        range: PageRange,
        first: u64,
        prot: Prot,
        ends: Ends,
    },
    /// As `Map`, by a source of frames that is asked for each page of the first table.
    MapFrom {
        range: PageRange,
        first: u64,
        prot: Prot,
        ends: Ends,
    },
    /// Every second page of the range, one by one, and the tables that become empty. Before, those that are not mapped are, from
    /// frame `first` on, and the others are unmapped.
    Gather {
        range: PageRange,
        first: u64,
        prot: Prot,
        ends: Ends,
    },
    /// Unmapped without an invalidation and mapped again from frame `first` on, in this order and page by page: the
    /// token comes from a space with the same pages, if it is another space's.
    Token {
        range: PageRange,
        first: u64,
        prot: Prot,
        is_foreign: bool,
    },
    /// Another space asks for the tables.
    Share(PageRange),
    Protect(PageRange, Prot),
    Remap(PageRange, Prot),
    FreeEmptyTables,
}

/// What is around a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    Nothing,
    Section,
    BottomHalvesOff,
    /// A section, in which bottom halves go off before a token is used or a gather is finished.
    SectionAndBottomHalvesOff,
}

/// How a request ends that calls back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// When everything is done.
    Well,
    /// By a panic in the call of this number, from 0, which is caught.
    ByPanic(u64),
    /// By an error of that call, if it can return one.
    ByError(u64),
}

/// What a callback throws or returns.
#[derive(Debug)]
struct Stopped;

impl From<SpaceError> for Stopped {
    fn from(error: SpaceError) -> Self {
        panic!("{error}")
    }
}

impl Ends {
    /// The callback is called for the time of this number.
    fn call(self, number: u64) -> Result<(), Stopped> {
        match self {
            // Not by `panic!`, which would tell the world.
            Self::ByPanic(at) if at == number => std::panic::resume_unwind(Box::new(Stopped)),
            Self::ByError(at) if at == number => Err(Stopped),
            _ => Ok(()),
        }
    }

    /// Runs `work`, in which callbacks may panic or fail. What they did before is done.
    fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(result) => Some(result),
            Err(thrown) if thrown.is::<Stopped>() => None,
            Err(thrown) => std::panic::resume_unwind(thrown),
        }
    }
}

/// Stretches where a table of some level ends, the ends of the half, one whole table, and room for more separate pages than
/// any list holds.
fn windows(half: Half) -> [PageRange; 7] {
    let start = half.start();
    [
        pages(start + (5 << 39) - 6 * PAGE_SIZE, 12),
        pages(start + (5 << 39) + (3 << 30) - 6 * PAGE_SIZE, 12),
        pages(start + (5 << 39) + (7 << 21) - 6 * PAGE_SIZE, 12),
        pages(start, 6),
        pages(half.end() - 6 * PAGE_SIZE, 6),
        pages(start + (9 << 39) - 4 * PAGE_SIZE, 520),
        pages(start + (6 << 39) + (7 << 21) - 40 * PAGE_SIZE, 80),
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
        let windows = windows(self.kind.half());
        // The ends of the half more often than the rest.
        let ends = [windows[3], windows[4]];
        let window = match self.rng.below(4) {
            0 => self.rng.pick(&ends),
            _ => self.rng.pick(&windows),
        };
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

    /// One of those in which something can go wrong.
    fn corner(&mut self) -> Request {
        let prot = self.rng.pick(prots(self.kind));
        let first = self.rng.below(1_000_003);
        let call = self.rng.below(5);
        let ends = self
            .rng
            .pick(&[Ends::Well, Ends::ByPanic(call), Ends::ByError(call)]);
        match self.rng.below(8) {
            0 => Request::UnmapFrames(self.where_something_is(), ends),
            1 => {
                let range = self.anywhere();
                self.mapped.push(range);
                Request::Toggle {
                    range,
                    first,
                    prot,
                    ends,
                }
            }
            2 => {
                let range = self.anywhere();
                self.mapped.push(range);
                Request::MapFrom {
                    range,
                    first,
                    prot,
                    ends,
                }
            }
            3 | 4 => Request::Gather {
                range: match self.rng.below(2) {
                    0 => self.where_something_is(),
                    _ => windows(self.kind.half())[6],
                },
                first,
                prot,
                ends,
            },
            5 => Request::Share(self.where_something_is()),
            _ => Request::Token {
                range: self.where_something_is(),
                first,
                prot,
                is_foreign: self.rng.below(2) == 0,
            },
        }
    }

    /// Requests, and what is around them.
    fn list(&mut self, requests: usize) -> Vec<(Request, Around)> {
        let mut request = |_| {
            let request = if self.rng.below(3) == 0 {
                self.corner()
            } else {
                self.request()
            };
            use Around::{BottomHalvesOff, Nothing, Section, SectionAndBottomHalvesOff};
            let scenes = [
                Nothing,
                Nothing,
                Nothing,
                Section,
                BottomHalvesOff,
                SectionAndBottomHalvesOff,
            ];
            (request, self.rng.pick(&scenes))
        };
        (0..requests).map(&mut request).collect()
    }
}

fn frames(range: PageRange, first: u64, scatter: u64) -> Vec<Frame> {
    // A prime number of frames, far from the end of physical memory.
    (0..range.pages())
        .map(|i| frame((first + i * scatter) % 1_000_003))
        .collect()
}

/// Page `i` of a range.
fn nth(range: PageRange, i: u64) -> PageRange {
    pages(range.start().as_u64() + i * PAGE_SIZE, 1)
}

/// The pages of `range` in the table of its first one.
fn first_table_of(range: PageRange) -> PageRange {
    let start = range.start();
    let rest = (ENTRIES - Level::L3.index(start)) as u64;
    pages(start.as_u64(), range.pages().min(rest))
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
    /// Whether bottom halves go off before a token is used.
    goes_off: bool,
    /// A user space beside a user's.
    other: Option<AddressSpace<'m, Fake>>,
}

/// The ASID of the other space.
const OTHER: SpaceKind = SpaceKind::User(Asid(0x77));

impl<'m> Pair<'m> {
    fn new(mmu: &'m Mmu<Fake>, kind: SpaceKind) -> Self {
        Self {
            space: new_space(mmu, kind),
            peer: Peer::new(kind),
            goes_off: false,
            other: (kind != SpaceKind::Kernel).then(|| new_space(mmu, OTHER)),
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
            Request::UnmapFrames(range, ends) => {
                let mut given = Vec::new();
                let kernel = self.space.mmu().kernel();
                let space = &mut self.space;
                let asid = asid_of(space.kind());
                let result = Ends::caught(|| {
                    space.unmap_frames(range, |va, frame| {
                        kernel.give_back(asid, va.as_u64(), frame);
                        given.push(va);
                        let _ = ends.call(given.len() as u64 - 1);
                    })
                });
                let done = result.is_none_or(|result| result.is_ok());
                if done {
                    self.peer.unmap(range);
                }
                done
            }
            Request::Toggle {
                range,
                first,
                prot,
                ends,
            } => {
                let (flags, space) = (self.flags(prot), &mut self.space);
                let mut changed = Vec::new();
                let _ = Ends::caught(|| {
                    space.apply_to_page_range(range, |entry| {
                        let number = changed.len() as u64;
                        let is_used = entry.get().is_in_use();
                        if is_used {
                            entry.get_and_clear();
                        } else {
                            entry.set(frame(first + number), prot)?;
                        }
                        changed.push((entry.va().as_u64(), is_used));
                        ends.call(number)
                    })
                });
                self.space.invalidate_range(range).unwrap();
                for (number, (va, was_used)) in changed.into_iter().enumerate() {
                    if was_used {
                        self.peer.unmap(pages(va, 1));
                    } else {
                        self.peer
                            .map(pages(va, 1), &[frame(first + number as u64)], flags);
                    }
                }
                // The table is there in any case, and theirs perhaps not.
                self.free_empty_tables();
                true
            }
            Request::MapFrom {
                range,
                first,
                prot,
                ends,
            } => {
                let flags = self.flags(prot);
                let range = first_table_of(range);
                let mut asked = 0;
                let result = Ends::caught(|| {
                    let mut fast = self.space.fast_pte_range(range).unwrap();
                    fast.set_each(0, range.pages() as usize, prot, |i| {
                        let _ = ends.call(asked);
                        asked += 1;
                        frame(first + i as u64)
                    })
                });
                let set = match result {
                    Some(Err(_)) => 0,
                    Some(Ok(())) | None => asked,
                };
                for number in 0..set {
                    self.peer
                        .map(nth(range, number), &[frame(first + number)], flags);
                }
                self.free_empty_tables();
                set > 0
            }
            Request::Gather {
                range,
                first,
                prot,
                ends,
            } => {
                let flags = self.flags(prot);
                let mut gathered = Vec::new();
                for i in 0..range.pages() {
                    let (page, at) = (nth(range, i), frame(first + i));
                    let is_mapped = self.space.query(page.start()).is_some();
                    if i % 2 == 1 && is_mapped {
                        self.space.unmap(page).unwrap();
                        self.peer.unmap(page);
                    }
                    if i % 2 == 0 && !is_mapped {
                        self.space.map(page, at, prot).unwrap();
                        self.peer.map(page, &[at], flags);
                    }
                    gathered.extend((i % 2 == 0).then_some(page));
                }
                // From here on, the tables that are empty are the gather's.
                self.free_empty_tables();
                let kernel = self.space.mmu().kernel();
                let space = &mut self.space;
                let asid = asid_of(space.kind());
                let (mut calls, mut emptied) = (0, 0);
                let goes_off = self.goes_off;
                let finished = Ends::caught(|| {
                    let mut gather = space.gather(|va, frame| {
                        kernel.give_back(asid, va.as_u64(), frame);
                        calls += 1;
                        let _ = ends.call(calls - 1);
                    });
                    for page in &gathered {
                        gather.unmap(*page).unwrap();
                        emptied += 1;
                    }
                    kernel.set_interrupt(goes_off || kernel.in_interrupt());
                    gather.finish_and_free_tables();
                });
                for page in &gathered[..emptied] {
                    self.peer.unmap(*page);
                }
                if finished.is_some() {
                    self.peer.0.compact_subtables();
                } else {
                    self.free_empty_tables();
                }
                true
            }
            Request::Token {
                range,
                first,
                prot,
                is_foreign,
            } => {
                let flags = self.flags(prot);
                let list: Vec<_> = (0..range.pages()).map(|i| frame(first + i)).collect();
                let Ok(token) = self.space.unmap_no_invalidate(range) else {
                    return false;
                };
                match &mut self.other {
                    Some(other) if is_foreign => {
                        let backing = Backing::Scattered(&list);
                        other.map(range, backing, Prot::USER).unwrap();
                        let theirs = other.unmap_no_invalidate(range).unwrap();
                        self.space.invalidate(theirs);
                        // Ours is left for later.
                        other.free_empty_tables(range).unwrap();
                    }
                    _ => {}
                }
                self.peer.unmap(range);
                // A neighbor first, which the library takes for the beginning of a loop.
                let before = range.start().as_u64().checked_sub(PAGE_SIZE);
                let neighbor = before.and_then(|start| PageRange::new(start, 1).ok());
                if let Some(neighbor) = neighbor
                    && self.space.map(neighbor, frame(first), prot).is_ok()
                {
                    self.peer.map(neighbor, &[frame(first)], flags);
                }
                for (i, at) in list.iter().enumerate() {
                    let page = nth(range, i as u64);
                    self.space.map(page, *at, prot).unwrap();
                    self.peer.map(page, &[*at], flags);
                }
                let kernel = self.space.mmu().kernel();
                let was_off = kernel.in_interrupt();
                kernel.set_interrupt(self.goes_off || was_off);
                self.space.invalidate(token);
                kernel.set_interrupt(was_off);
                true
            }
            Request::Share(range) => {
                let Some(other) = &mut self.other else {
                    return false;
                };
                // SAFETY: it is refused; otherwise the test fails before anything is walked.
                let shared = unsafe { other.share_tables(&self.space, range) };
                assert_eq!(shared, Err(SpaceError::SharedByUsers));
                true
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
            Request::FreeEmptyTables => self.free_empty_tables() > 0,
        }
    }

    /// Of both sides. Returns how many of ours there were.
    fn free_empty_tables(&mut self) -> usize {
        let half = self.space.kind().half();
        let all = PageRange::from_bounds(half.start(), half.end());
        self.peer.0.compact_subtables();
        self.space.free_empty_tables(all.unwrap()).unwrap()
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
        self.other.map(fake::destroy);
    }
}

/// Serves `list` on a new pair, comparing after each request. Returns how many requests
/// were accepted, and the largest number of tables.
fn run(
    kind: SpaceKind,
    backend: Backend,
    spoiled: El1Attributes,
    list: &[(Request, Around)],
) -> Result<(usize, usize), Difference> {
    let mmu = new_mmu();
    mmu.choose_backend(backend).expect("outside any section");
    let mut pair = Pair::new(&mmu, kind);
    pair.spoiled = spoiled;
    let (mut accepted, mut most) = (0, 0);
    for &(request, around) in list {
        pair.goes_off = around == Around::SectionAndBottomHalvesOff;
        let section = (pair.goes_off || around == Around::Section).then(|| mmu.lazy().section());
        mmu.kernel()
            .set_interrupt(around == Around::BottomHalvesOff);
        accepted += usize::from(pair.serve(request));
        mmu.kernel().set_interrupt(false);
        drop(section);
        most = most.max(pair.compare()?);
        mmu.kernel().take_effects();
    }
    assert_eq!(mmu.lazy().state().enable_count(), 0);
    pair.end();
    Ok((accepted, most))
}

/// Leaves out requests for as long as what is left fails.
fn shrink(
    fails: impl Fn(&[(Request, Around)]) -> bool,
    list: &[(Request, Around)],
) -> Vec<(Request, Around)> {
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
    for seed in 1..=reduced(50) as u64 {
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
                        let fails =
                            |list: &[(Request, Around)]| run(kind, backend, sound, list).is_err();
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
                let found = run(
                    kind,
                    Backend::DeferBarriers,
                    spoiled,
                    &[(map, Around::Nothing)],
                )
                .unwrap_err();
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
    let makes = |request| {
        matches!(
            request,
            Request::Map { .. } | Request::MapFrom { .. } | Request::Toggle { .. }
        )
    };
    list.retain(|(request, _)| !makes(*request));
    let range = windows(Half::Upper)[5];
    let map = Request::Map {
        range,
        first: 1,
        scatter: 3,
        prot: Prot::DEVICE,
    };
    let map = (map, Around::Nothing);
    list.insert(list.len() / 2, map);
    let fails = |list: &[(Request, Around)]| {
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
