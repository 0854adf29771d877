// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of operations on an address space, in and out of lazy sections, against a naive
//! oracle: a map from page to entry.
//!
//! After each operation every page is queried, and each verdict is compared with the
//! oracle's. The fake machine of the tests judges every store, barrier and TLBI on the way
//! (R18, R27, R29, R32) and recounts the counters at the end.

#![no_main]

#[path = "../../tests/fake/mod.rs"]
mod fake;

use arbitrary::Arbitrary;
use fake::{Fake, KINDS, frame, new_mmu, new_space, pages};
use libfuzzer_sys::fuzz_target;
use lazymmu::{
    AddressSpace, Backend, Backing, Context, Desc, Features, Half, LazyMmuError, Level, Mmu,
    PAGE_SIZE, PageRange, PendingInvalidation, Prot, SpaceError, SpaceKind, TlbFeatures, bits,
};
use std::collections::BTreeMap;

#[derive(Arbitrary, Debug)]
struct Input {
    upper: bool,
    backend: u8,
    ttl: bool,
    range: bool,
    repeat: bool,
    operations: Vec<Operation>,
}

/// Operations beyond this many find nothing that fewer do not.
const MOST: usize = 48;

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Place {
    window: u8,
    skipped: u16,
    pages: u16,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Operation {
    Map(Place, u16, Scatter, u8),
    Unmap(Place),
    /// Flushed with the next `Flush`, or at the end.
    UnmapLater(Place),
    UnmapFrames(Place),
    Protect(Place, u8),
    Remap(Place, u8),
    /// For each page two bits: nothing, set, clear, clear and set.
    Apply(Place, u32, u8),
    Fast(Place, u32, u8, Bulk),
    FreeEmpty(Place),
    /// In two halves, whose flushes are merged.
    UnmapMerged(Place),
    /// Two ranges in one gather, after which empty tables are freed.
    Gather(Place, Place),
    Enable,
    Disable,
    Pause,
    Resume,
    Flush,
    /// A section that announces a range, where there is a table.
    EnableFast(Place),
    Drain,
    /// Every level left and entered again.
    Suspend,
}

/// How a range is set, before its entries are changed one by one.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Bulk {
    None,
    /// Frames aligned as the addresses are.
    Run,
    Each,
    Frames,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Scatter {
    Contiguous,
    Backward,
}

/// Stretches where a table of some level ends, and the ends of the half.
fn windows(half: Half) -> [PageRange; 5] {
    let start = half.start();
    [
        pages(start + (5 << 39) - 4 * PAGE_SIZE, 8),
        pages(start + (5 << 39) + (3 << 30) - 4 * PAGE_SIZE, 8),
        pages(start + (5 << 39) + (7 << 21) - 20 * PAGE_SIZE, 40),
        pages(start, 4),
        pages(half.end() - 4 * PAGE_SIZE, 4),
    ]
}

/// Unmaps `range` in two halves, if all of it is mapped, with one flush for both.
fn unmap_merged<'m>(
    space: &mut AddressSpace<'m, Fake>,
    range: PageRange,
) -> Result<PendingInvalidation<'m, Fake>, SpaceError> {
    let unmapped = addresses(range).find(|va| space.query(fake::va(*va)).is_none());
    if let Some(va) = unmapped {
        return Err(SpaceError::NotMapped { va: fake::va(va) });
    }
    let half = range.pages() / 2;
    if half == 0 {
        return space.unmap_no_invalidate(range);
    }
    let start = range.start().as_u64();
    let mut first = space.unmap_no_invalidate(pages(start, half))?;
    let mut second = space.unmap_no_invalidate(pages(start + half * PAGE_SIZE, range.pages() - half))?;
    // Only in the order of their addresses.
    first = second.merge(first).expect_err("the first comes before");
    first.merge(second).expect("the second follows");
    Ok(first)
}

struct Run<'m> {
    mmu: &'m Mmu<Fake>,
    space: AddressSpace<'m, Fake>,
    oracle: BTreeMap<u64, Desc>,
    /// Sections and pauses, as the contract counts them.
    depth: (u8, u8),
    /// Depths of the sections that announce a range.
    announced: Vec<u8>,
    /// Flushes that are still to come.
    pending: Vec<PendingInvalidation<'m, Fake>>,
}

/// The entry without the hint that it belongs to a contiguous group, which comes and goes.
fn alone(entry: Desc) -> Desc {
    Desc::from_u64(entry.as_u64() & !bits::CONT)
}

fn addresses(range: PageRange) -> impl Iterator<Item = u64> {
    (0..range.pages()).map(move |i| range.start().as_u64() + i * PAGE_SIZE)
}

impl Run<'_> {
    fn range(&self, place: Place) -> PageRange {
        let windows = windows(self.space.kind().half());
        let window = windows[usize::from(place.window) % windows.len()];
        let skipped = u64::from(place.skipped) % window.pages();
        let length = 1 + u64::from(place.pages) % (window.pages() - skipped);
        pages(window.start().as_u64() + skipped * PAGE_SIZE, length)
    }

    fn prot(&self, choice: u8) -> Prot {
        let list = match self.space.kind() {
            SpaceKind::Kernel => [
                Prot::KERNEL,
                Prot::KERNEL_RO,
                Prot::KERNEL_ROX,
                Prot::DEVICE,
            ],
            SpaceKind::User(_) => [Prot::USER, Prot::USER_RO, Prot::USER_ROX, Prot::USER_RO],
        };
        list[usize::from(choice) % list.len()]
    }

    fn entry(&self, va: u64) -> Desc {
        self.oracle.get(&va).copied().unwrap_or(Desc::INVALID)
    }

    /// What an operation on pages that must be mapped has to say.
    fn all_mapped(&self, range: PageRange) -> Result<(), SpaceError> {
        match addresses(range).find(|va| !self.oracle.contains_key(va)) {
            Some(va) => Err(SpaceError::NotMapped { va: fake::va(va) }),
            None => Ok(()),
        }
    }

    fn forget(&mut self, range: PageRange) {
        self.oracle.retain(|&va, _| !range.contains(fake::va(va)));
    }

    fn recolor(&mut self, range: PageRange, prot: Prot) {
        for va in addresses(range) {
            let new = Desc::page(self.entry(va).frame(), prot);
            self.oracle.insert(va, new);
        }
    }

    fn map(&mut self, range: PageRange, first: u16, scatter: Scatter, prot: Prot) {
        let last = range.pages() - 1;
        let frames: Vec<_> = (0..=last)
            .map(|i| match scatter {
                Scatter::Contiguous => frame(u64::from(first) + i),
                Scatter::Backward => frame(u64::from(first) + last - i),
            })
            .collect();
        let backing = match scatter {
            Scatter::Contiguous => Backing::Contiguous(frames[0]),
            Scatter::Backward => Backing::Scattered(&frames),
        };
        let used = addresses(range).find(|va| self.oracle.contains_key(va));
        let expected = match used {
            Some(va) => Err(SpaceError::AlreadyMapped {
                va: fake::va(va),
                entry: self.entry(va),
                level: Level::L3,
            }),
            None => Ok(()),
        };
        assert_eq!(self.space.map(range, backing, prot), expected);
        if expected.is_ok() {
            let entries = frames.iter().map(|&frame| Desc::page(frame, prot));
            self.oracle.extend(addresses(range).zip(entries));
        }
    }

    fn unmap(&mut self, operation: Operation, range: PageRange) {
        let expected = self.all_mapped(range);
        let done = match operation {
            Operation::UnmapLater(_) => match self.space.unmap_no_invalidate(range) {
                Ok(pending) => {
                    self.pending.push(pending);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Operation::UnmapMerged(_) => match unmap_merged(&mut self.space, range) {
                Ok(pending) => {
                    self.pending.push(pending);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Operation::UnmapFrames(_) => {
                let mut given = Vec::new();
                let give_back = |va: lazymmu::VirtAddr, frame| given.push((va.as_u64(), frame));
                let done = self.space.unmap_frames(range, give_back);
                if done.is_ok() {
                    let all = addresses(range).map(|va| (va, self.entry(va).frame()));
                    assert!(given.into_iter().eq(all));
                }
                done
            }
            _ => self.space.unmap(range),
        };
        assert_eq!(done, expected);
        if done.is_ok() {
            self.forget(range);
        }
    }

    fn protect(&mut self, range: PageRange, prot: Prot) {
        let memory_type = |desc: u64| desc & bits::ATTR_INDX;
        let other = |va: &u64| memory_type(self.entry(*va).as_u64()) != memory_type(prot.as_u64());
        let expected = (self.all_mapped(range), addresses(range).find(other));
        let done = self.space.protect(range, prot);
        match expected {
            (Err(error), _) => assert_eq!(done, Err(error)),
            (Ok(()), Some(first)) => assert!(
                matches!(done, Err(SpaceError::BreakBeforeMake { va, .. }) if va.as_u64() == first)
            ),
            (Ok(()), None) => {
                assert_eq!(done, Ok(()));
                self.recolor(range, prot);
            }
        }
    }

    fn remap(&mut self, range: PageRange, prot: Prot) {
        let expected = self.all_mapped(range);
        assert_eq!(self.space.remap(range, prot), expected);
        if expected.is_ok() {
            self.recolor(range, prot);
        }
    }

    fn apply(&mut self, range: PageRange, mut choices: u32, prot: Prot) {
        let Self { space, oracle, .. } = self;
        let mut seen = 0;
        let done = space.apply_to_page_range(range, |entry| {
            seen += 1;
            let va = entry.va().as_u64();
            let old = oracle.get(&va).copied().unwrap_or(Desc::INVALID);
            assert_eq!(alone(entry.get()), old);
            let choice = choices & 3;
            choices = choices.rotate_right(2);
            if choice & 2 != 0 {
                assert_eq!(alone(entry.get_and_clear()), old);
                oracle.remove(&va);
            }
            if choice & 1 != 0 && !oracle.contains_key(&va) {
                let new = frame(u64::from(choices) % 4096);
                entry.set(new, prot)?;
                oracle.insert(va, Desc::page(new, prot));
            }
            Ok::<(), SpaceError>(())
        });
        assert_eq!((done, seen), (Ok(()), range.pages()));
        self.space.invalidate_range(range).expect("of this half");
    }

    fn fast(&mut self, range: PageRange, mut choices: u32, prot: Prot, bulk: Bulk) {
        let Self { space, oracle, .. } = self;
        let used = addresses(range).any(|va| oracle.contains_key(&va));
        let mut fast = match space.fast_pte_range(range) {
            Ok(fast) => fast,
            Err(error) => {
                assert!(matches!(error, SpaceError::Range(_)), "{error}");
                assert!(!range.is_in_one_table(Level::L3));
                return;
            }
        };
        let n = range.pages() as usize;
        // Aligned as the addresses are, so that contiguous groups are folded.
        let first = 0x1000 + range.start().as_u64() / PAGE_SIZE % 16;
        let frames: Vec<_> = (0..range.pages()).map(|i| frame(first + i)).collect();
        let set = match bulk {
            Bulk::None => None,
            Bulk::Run => Some(fast.set_run(0, n, frames[0], prot)),
            Bulk::Each => Some(fast.set_each(0, n, prot, |i| frames[i])),
            Bulk::Frames => Some(fast.set_frames(0, &frames, prot)),
        };
        match set {
            None => {}
            Some(Err(error)) => {
                assert!(used, "{error}");
                assert!(matches!(error, SpaceError::AlreadyMapped { .. }), "{error}");
            }
            Some(Ok(())) => {
                assert!(!used, "granted over what is in use");
                let entries = frames.iter().map(|frame| Desc::page(*frame, prot));
                oracle.extend(addresses(range).zip(entries));
            }
        }
        for step in 0..n {
            // In no order: a prime number of pages further each time.
            let i = step * 37 % n;
            let va = range.start().as_u64() + i as u64 * PAGE_SIZE;
            let choice = choices & 3;
            choices = choices.rotate_right(2);
            if choice & 2 != 0 {
                let old = oracle.remove(&va).unwrap_or(Desc::INVALID);
                assert_eq!(alone(fast.get_and_clear(i)), old);
            }
            if choice & 1 != 0 && !oracle.contains_key(&va) {
                let new = frame(u64::from(choices) % 4096);
                fast.set(i, new, prot).expect("the entry is empty");
                oracle.insert(va, Desc::page(new, prot));
            }
            let now = oracle.get(&va).copied().unwrap_or(Desc::INVALID);
            assert_eq!(alone(fast.get(i)), now);
        }
        drop(fast);
        self.space.invalidate_range(range).expect("of this half");
    }

    fn gather(&mut self, ranges: [PageRange; 2]) {
        let mut given = Vec::new();
        let mut expected = Vec::new();
        let mut gather = self
            .space
            .gather(|va: lazymmu::VirtAddr, frame| given.push((va.as_u64(), frame)));
        for range in ranges {
            let all = addresses(range).all(|va| self.oracle.contains_key(&va));
            assert_eq!(gather.unmap(range).is_ok(), all);
            if all {
                for va in addresses(range) {
                    let gone = self.oracle.remove(&va);
                    expected.extend(gone.map(|entry| (va, entry.frame())));
                }
            }
        }
        if self.announced.is_empty() {
            gather.finish_and_free_tables();
        } else {
            gather.finish();
        }
        // Neighbors are one range, whatever their order.
        given.sort_by_key(|(va, _)| *va);
        expected.sort_by_key(|(va, _)| *va);
        assert_eq!(given, expected);
    }

    /// Enters a section that announces `range`, if it lies in one table that exists.
    fn enable_fast(&mut self, range: PageRange) {
        let table = self.space.last_level_table(range.start());
        let Some(table) = table.filter(|_| range.is_in_one_table(Level::L3)) else {
            return;
        };
        let lazy = self.mmu.lazy();
        // SAFETY: no table is freed while a range is announced (see `FreeEmpty` and `gather`).
        let done =
            unsafe { lazy.enable_fast_pte_range(&self.space, range.start(), range.end(), table) };
        assert_eq!(done, Ok(()));
        if self.depth.1 == 0 {
            self.depth.0 += 1;
            self.announced.push(self.depth.0);
        }
    }

    fn suspend(&mut self) {
        let lazy = self.mmu.lazy();
        let suspended = lazy.suspend_all();
        let state = lazy.state();
        assert_eq!((state.enable_count(), state.pause_count()), (0, 0), "S12");
        assert!(state.owed().is_empty(), "S12");
        assert!(self.mmu.kernel().is_batch_empty(), "S12");
        assert_eq!(lazy.might_sleep(), Ok(()), "S12");
        drop(suspended);
    }

    /// The contract of lazy MMU mode, in two numbers.
    fn lazy(&mut self, operation: Operation) {
        let lazy = self.mmu.lazy();
        let (enabled, paused) = &mut self.depth;
        let counted = match operation {
            // R6: while paused, these two do nothing.
            Operation::Enable if *paused > 0 => lazy.enable(),
            Operation::Disable if *paused > 0 => lazy.disable(),
            Operation::Enable => {
                *enabled += 1;
                lazy.enable()
            }
            Operation::Disable => match enabled.checked_sub(1) {
                Some(fewer) => {
                    *enabled = fewer;
                    self.announced.retain(|depth| *depth <= fewer);
                    lazy.disable()
                }
                None => {
                    assert_eq!(lazy.disable(), Err(LazyMmuError::EnableUnderflow));
                    Ok(())
                }
            },
            Operation::Pause => {
                *paused += 1;
                lazy.pause()
            }
            Operation::Resume => match paused.checked_sub(1) {
                Some(fewer) => {
                    *paused = fewer;
                    lazy.resume()
                }
                None => {
                    assert_eq!(lazy.resume(), Err(LazyMmuError::PauseUnderflow));
                    Ok(())
                }
            },
            _ => {
                self.pending.clear();
                lazy.flush();
                Ok(())
            }
        };
        assert_eq!(counted, Ok(()));
        // R5: nothing is owed behind these, whatever the depth.
        if matches!(
            operation,
            Operation::Disable | Operation::Pause | Operation::Flush
        ) {
            assert!(lazy.state().owed().is_empty() || *paused > 0);
        }
    }

    fn step(&mut self, operation: Operation) {
        match operation {
            Operation::Map(place, first, scatter, prot) => {
                self.map(self.range(place), first, scatter, self.prot(prot));
            }
            Operation::Unmap(place)
            | Operation::UnmapLater(place)
            | Operation::UnmapMerged(place)
            | Operation::UnmapFrames(place) => self.unmap(operation, self.range(place)),
            Operation::Protect(place, prot) => self.protect(self.range(place), self.prot(prot)),
            Operation::Remap(place, prot) => self.remap(self.range(place), self.prot(prot)),
            Operation::Apply(place, choices, prot) => {
                self.apply(self.range(place), choices, self.prot(prot));
            }
            Operation::Fast(place, choices, prot, bulk) => {
                self.fast(self.range(place), choices, self.prot(prot), bulk);
            }
            Operation::Gather(first, second) => {
                self.gather([self.range(first), self.range(second)]);
            }
            // The tables above an announced range stay.
            Operation::FreeEmpty(_) if !self.announced.is_empty() => {}
            Operation::FreeEmpty(place) => {
                let before = self.mmu.kernel().live_tables();
                let freed = self.space.free_empty_tables(self.range(place));
                let after = self.mmu.kernel().live_tables();
                assert_eq!(freed, Ok(before - after));
            }
            Operation::EnableFast(place) => self.enable_fast(self.range(place)),
            Operation::Drain => self.mmu.lazy().drain(),
            Operation::Suspend => self.suspend(),
            _ => self.lazy(operation),
        }
    }

    fn check(&self) {
        let state = self.mmu.kernel().lazy();
        assert_eq!((state.enable_count(), state.pause_count()), self.depth);
        if !self.mmu.lazy().is_lazy_mmu_mode_active() {
            assert!(
                state.owed().is_empty(),
                "something is owed and nobody will pay"
            );
            assert!(self.mmu.kernel().is_batch_empty(), "R23");
        }
        for window in windows(self.space.kind().half()) {
            for va in addresses(window) {
                let found = self
                    .space
                    .query(fake::va(va))
                    .map(|found| alone(found.entry));
                assert_eq!(found, self.oracle.get(&va).copied(), "{va:#x}");
            }
        }
        self.mmu.kernel().take_effects();
    }

    fn end(mut self) {
        while self.depth.1 > 0 {
            self.lazy(Operation::Resume);
        }
        while self.depth.0 > 0 {
            self.lazy(Operation::Disable);
        }
        self.check();
        self.pending.clear();
        assert!(
            self.mmu.kernel().all_invalidated(),
            "an invalidation is missing"
        );
        fake::destroy(self.space);
        assert_eq!(self.mmu.kernel().live_tables(), 0);
    }
}

fuzz_target!(|input: Input| {
    let mmu = new_mmu();
    mmu.set_features(Features {
        tlb: TlbFeatures {
            ttl: input.ttl,
            range: input.range,
            repeat: input.repeat,
        },
        ets2: false,
    });
    let backend = Backend::ALL[usize::from(input.backend) % Backend::ALL.len()];
    mmu.set_backend(backend).expect("outside any section");
    let mut run = Run {
        mmu: &mmu,
        space: new_space(&mmu, KINDS[usize::from(!input.upper)]),
        oracle: BTreeMap::new(),
        depth: (0, 0),
        announced: Vec::new(),
        pending: Vec::new(),
    };
    for &operation in input.operations.iter().take(MOST) {
        run.step(operation);
        run.check();
    }
    run.end();
});
