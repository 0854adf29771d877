// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces against a naive oracle: a map from address to frame and attributes.
//!
//! Seeded random requests, most of them sensible and many not, on a universe small enough
//! that they collide. After each, the whole universe is queried, every population is
//! recounted from raw tables, and no table may be lost. What the fake checks on every store
//! (R18, R27, R29, R32) is checked here as well, thousands of times.

mod fake;

use fake::rng::Rng;
use fake::{Fake, KINDS, USER, asid_of, frame, new_mmu, new_space, pages, tables_below};
use lazymmu::bbm::Violation;
use lazymmu::{
    AddressSpace, Backend, Backing, Context, Desc, Half, Level, Mapping, Mmu, PAGE_SIZE, PageRange,
    Prot, SpaceError, SpaceKind,
};
use std::collections::BTreeMap;

/// Stretches of address space where something ends, and their lengths in pages.
fn windows(half: Half) -> Vec<PageRange> {
    let start = half.start();
    [
        // 512 GiB, 1 GiB and 2 MiB boundaries in the middle.
        (start + (5 << 39) - 6 * PAGE_SIZE, 12),
        (start + (5 << 39) + (3 << 30) - 6 * PAGE_SIZE, 12),
        (start + (5 << 39) + (7 << 21) - 6 * PAGE_SIZE, 12),
        // Both ends of the half.
        (start, 6),
        (half.end() - 6 * PAGE_SIZE, 6),
        // One whole table, and some of its neighbors.
        (start + (9 << 39) - 4 * PAGE_SIZE, 520),
    ]
    .map(|(at, n)| pages(at, n))
    .to_vec()
}

type Entry = (u64, Prot);

struct Run<'m> {
    mmu: &'m Mmu<Fake>,
    space: AddressSpace<'m, Fake>,
    oracle: BTreeMap<u64, Entry>,
    rng: Rng,
    prots: [Prot; 4],
}

fn addresses(range: PageRange) -> impl DoubleEndedIterator<Item = u64> {
    let start = range.start().as_u64();
    (0..range.pages()).map(move |i| start + i * PAGE_SIZE)
}

impl<'m> Run<'m> {
    fn new(mmu: &'m Mmu<Fake>, kind: SpaceKind, seed: u64) -> Self {
        let prots = match kind {
            SpaceKind::Kernel => [
                Prot::KERNEL,
                Prot::KERNEL_RO,
                Prot::KERNEL_ROX,
                Prot::DEVICE,
            ],
            SpaceKind::User(_) => [
                Prot::USER,
                Prot::USER_RO,
                Prot::USER_ROX,
                Prot::USER.with_memory_type(lazymmu::MemoryType::NormalNonCacheable),
            ],
        };
        Self {
            mmu,
            space: new_space(mmu, kind),
            oracle: BTreeMap::new(),
            rng: Rng(seed),
            prots,
        }
    }

    fn range(&mut self) -> PageRange {
        let window = self.rng.pick(&windows(self.space.kind().half()));
        let n = window.pages();
        let first = self.rng.below(n);
        let most = n - first;
        // Short ranges collide better; long ones meet the whole table.
        let length = match self.rng.below(4) {
            0 => most,
            _ => 1 + self.rng.below(most.min(5)),
        };
        pages(window.start().as_u64() + first * PAGE_SIZE, length)
    }

    fn first_unmapped(&self, range: PageRange) -> Option<SpaceError> {
        let va = addresses(range).find(|va| !self.oracle.contains_key(va))?;
        Some(SpaceError::NotMapped { va: fake::va(va) })
    }

    /// The first page whose memory type is not `prot`'s.
    fn first_other_type(&self, range: PageRange, prot: Prot) -> Option<SpaceError> {
        let kind = |p: Prot| p.as_u64() & lazymmu::bits::ATTR_INDX;
        let va = addresses(range).find(|va| kind(self.oracle[va].1) != kind(prot))?;
        Some(SpaceError::BreakBeforeMake {
            va: fake::va(va),
            violation: Violation::MemoryType,
        })
    }

    fn verdict(expected: Option<SpaceError>) -> Result<(), SpaceError> {
        expected.map_or(Ok(()), Err)
    }

    fn map(&mut self, range: PageRange) {
        let prot = self.rng.pick(&self.prots);
        let base = self.rng.below(1 << 20);
        let scattered = self.rng.below(2) == 0;
        let frames: Vec<_> = (0..range.pages())
            .map(|i| match scattered {
                true => frame(self.rng.below(1 << 30)),
                false => frame(base + i),
            })
            .collect();
        let backing = match scattered {
            true => Backing::Scattered(&frames),
            false => Backing::Contiguous(frame(base)),
        };
        let result = self.space.map(range, backing, prot);
        match addresses(range).find(|va| self.oracle.contains_key(va)) {
            Some(va) => {
                let (old, old_prot) = self.oracle[&va];
                let entry = Desc::page(frame(old), old_prot);
                let (va, level) = (fake::va(va), Level::L3);
                assert_eq!(result, Err(SpaceError::AlreadyMapped { va, entry, level }));
            }
            None => {
                assert_eq!(result, Ok(()));
                let new = frames.iter().map(|f| (f.as_u64() / PAGE_SIZE, prot));
                self.oracle.extend(addresses(range).zip(new));
            }
        }
    }

    fn unmap(&mut self, range: PageRange) {
        let expected = Self::verdict(self.first_unmapped(range));
        let cached = |run: &Self, va| {
            let asid = asid_of(run.space.kind());
            run.mmu.kernel().may_be_cached(asid, va)
        };
        match self.rng.below(3) {
            0 => assert_eq!(self.space.unmap(range), expected),
            1 => match self.space.unmap_no_invalidate(range) {
                Ok(pending) => {
                    assert_eq!(expected, Ok(()));
                    assert!(addresses(range).all(|va| cached(self, va)));
                    self.space.invalidate(pending);
                }
                Err(error) => assert_eq!(expected, Err(error)),
            },
            _ => {
                let mut given = Vec::new();
                let (kernel, asid) = (self.mmu.kernel(), asid_of(self.space.kind()));
                let result = self.space.unmap_frames(range, |va, frame| {
                    let page = va.as_u64();
                    assert!(!kernel.may_be_cached(asid, page), "R25: {va} is given back");
                    given.push((page, frame.as_u64() / PAGE_SIZE));
                });
                assert_eq!(result, expected);
                if result.is_ok() {
                    let all: Vec<_> = addresses(range)
                        .map(|va| (va, self.oracle[&va].0))
                        .collect();
                    assert_eq!(given, all);
                }
            }
        }
        if expected.is_ok() {
            assert!(addresses(range).all(|va| !cached(self, va)), "R27");
            self.oracle.retain(|va, _| !range.contains(fake::va(*va)));
        }
    }

    fn protect_or_remap(&mut self, range: PageRange) {
        let prot = self.rng.pick(&self.prots);
        let unmapped = self.first_unmapped(range);
        let result = match self.rng.below(2) {
            0 => {
                let expected = unmapped.or_else(|| self.first_other_type(range, prot));
                let result = self.space.protect(range, prot);
                assert_eq!(result, Self::verdict(expected));
                result
            }
            _ => {
                let result = self.space.remap(range, prot);
                assert_eq!(result, Self::verdict(unmapped));
                result
            }
        };
        if result.is_ok() {
            for va in addresses(range) {
                self.oracle.get_mut(&va).unwrap().1 = prot;
            }
        }
    }

    /// A callback that sets some entries, clears some and reads all.
    fn apply(&mut self, range: PageRange) {
        let Self {
            space,
            oracle,
            rng,
            prots,
            ..
        } = self;
        let mut seen = Vec::new();
        let result = space.apply_to_page_range(range, |entry| {
            let va = entry.va().as_u64();
            seen.push(va);
            let old = oracle.get(&va).copied();
            let expected = old.map_or(Desc::INVALID, |(n, prot)| Desc::page(frame(n), prot));
            assert_eq!(entry.get(), expected);
            match (rng.below(4), old) {
                (0, _) => {
                    assert_eq!(entry.get_and_clear(), expected);
                    oracle.remove(&va);
                }
                (1, None) => {
                    let new = (rng.below(1 << 20), rng.pick(prots));
                    entry.set(frame(new.0), new.1)?;
                    oracle.insert(va, new);
                }
                (3, None) => {
                    // One callback, one entry, several writes.
                    let (n, prot) = (rng.below(1 << 20), rng.pick(prots));
                    entry.set(frame(n), prot)?;
                    let again = entry.set(frame(n + 1), rng.pick(prots));
                    assert!(
                        matches!(again, Err(SpaceError::BreakBeforeMake { .. })),
                        "{again:?}"
                    );
                    assert_eq!(entry.get_and_clear(), Desc::page(frame(n), prot));
                    let prot = rng.pick(prots);
                    entry.set(frame(n + 1), prot)?;
                    assert_eq!(entry.get_and_clear(), Desc::page(frame(n + 1), prot));
                }
                (2, Some((n, prot))) => {
                    let error = entry.set(frame(n + 1), prot).unwrap_err();
                    let violation = Violation::OutputAddress;
                    let va = entry.va();
                    assert_eq!(error, SpaceError::BreakBeforeMake { va, violation });
                }
                _ => {}
            }
            Ok::<(), SpaceError>(())
        });
        assert_eq!(result, Ok(()));
        assert!(
            seen.into_iter().eq(addresses(range)),
            "each page once, ascending"
        );
        self.space.invalidate_range(range).unwrap();
    }

    fn fast_range(&mut self, range: PageRange) {
        let Self {
            space,
            oracle,
            rng,
            prots,
            ..
        } = self;
        let mut fast = match space.fast_pte_range(range) {
            Ok(fast) => fast,
            Err(error) => {
                assert!(matches!(error, SpaceError::Range(_)), "{error}");
                assert!(!range.is_in_one_table(Level::L3));
                return;
            }
        };
        assert_eq!(fast.range(), range);
        let n = range.pages() as usize;
        let at = |i: usize| range.start().as_u64() + i as u64 * PAGE_SIZE;
        // A page that was cleared may be cached until the flush: it stays empty.
        let mut cleared = Vec::new();
        for _ in 0..4 {
            let i = rng.below(n as u64) as usize;
            match (rng.below(3), oracle.get(&at(i)).copied()) {
                (0, old) => {
                    let expected = old.map_or(Desc::INVALID, |(n, p)| Desc::page(frame(n), p));
                    assert_eq!(fast.get_and_clear(i), expected);
                    oracle.remove(&at(i));
                    cleared.push(i);
                }
                (1, None) if !cleared.contains(&i) => {
                    let new = (rng.below(1 << 20), rng.pick(prots));
                    fast.set(i, frame(new.0), new.1).unwrap();
                    oracle.insert(at(i), new);
                }
                (2, _) => {
                    let length = 1 + rng.below((n - i) as u64) as usize;
                    let run = i..i + length;
                    if cleared.iter().any(|c| run.contains(c)) {
                        continue;
                    }
                    let new = (rng.below(1 << 20), rng.pick(prots));
                    let result = fast.set_run(i, length, frame(new.0), new.1);
                    if let Some(used) = run.clone().find(|i| oracle.contains_key(&at(*i))) {
                        let used = fake::va(at(used));
                        assert!(
                            matches!(result, Err(SpaceError::AlreadyMapped { va, .. }) if va == used)
                        );
                        continue;
                    }
                    assert_eq!(result, Ok(()));
                    for (k, i) in run.enumerate() {
                        oracle.insert(at(i), (new.0 + k as u64, new.1));
                    }
                }
                _ => {}
            }
        }
        drop(fast);
        self.space.invalidate_range(range).unwrap();
    }

    fn free_empty(&mut self, range: PageRange) {
        let before = self.mmu.kernel().live_tables();
        let freed = self.space.free_empty_tables(range).unwrap();
        assert_eq!(self.mmu.kernel().live_tables(), before - freed);
        // A table that translates a page of the range has been kept for a reason.
        for va in addresses(range) {
            let mut kept = Vec::new();
            self.space
                .walk(fake::va(va), |level, entry| kept.push((level, entry)));
            let last = kept.last().unwrap();
            assert!(
                last.0 == Level::L0
                    || last.0 == Level::L3
                    || last.1.is_in_use()
                    || self.has_other(va, last.0),
                "an empty table is left at {va:#x}: {kept:?}"
            );
        }
    }

    /// Whether the table that holds the entry of `level` for `va` translates something.
    fn has_other(&self, va: u64, level: Level) -> bool {
        let start = va & !(level.table_span() - 1);
        let mut tables = 0;
        for window in windows(self.space.kind().half()) {
            for page in addresses(window).filter(|p| *p & !(level.table_span() - 1) == start) {
                self.space.walk(fake::va(page), |at, entry| {
                    tables += u32::from(at == level && entry.is_in_use());
                });
            }
        }
        tables > 0
    }

    fn check(&self, step: usize) {
        let kernel = self.mmu.kernel();
        for window in windows(self.space.kind().half()) {
            for va in addresses(window) {
                let expected = self.oracle.get(&va).map(|&(n, prot)| Mapping {
                    entry: Desc::page(frame(n), prot),
                    level: Level::L3,
                });
                assert_eq!(
                    self.space.query(fake::va(va)),
                    expected,
                    "{va:#x}, step {step}"
                );
            }
        }
        let own = tables_below(kernel, self.space.root().as_u64(), 0);
        assert_eq!(kernel.live_tables(), own, "a table is lost at step {step}");
        assert!(
            kernel.all_invalidated(),
            "an invalidation is missing at step {step}"
        );
        let state = kernel.lazy();
        assert_eq!((state.enable_count(), state.pause_count()), (0, 0));
        assert!(state.owed().is_empty());
        kernel.check_counters();
        kernel.take_effects();
    }

    fn steps(mut self, steps: usize) {
        for step in 0..steps {
            let range = self.range();
            match self.rng.below(10) {
                0..=2 => self.map(range),
                3 | 4 => self.unmap(range),
                5 => self.protect_or_remap(range),
                6 => self.apply(range),
                7 => self.fast_range(range),
                _ => self.free_empty(range),
            }
            self.check(step);
        }
        fake::destroy(self.space);
        assert_eq!(self.mmu.kernel().live_tables(), 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "queries every page after each request, for minutes")]
fn random_requests_agree_with_the_oracle() {
    for (seed, kind, backend) in [
        (
            0x9e37_79b9_7f4a_7c15,
            SpaceKind::Kernel,
            Backend::DeferBarriers,
        ),
        (0xd1b5_4a32_d192_ed03, SpaceKind::Kernel, Backend::Eager),
        (0x94d0_49bb_1331_11eb, USER, Backend::DeferBarriers),
        (0xbf58_476d_1ce4_e5b9, USER, Backend::Eager),
    ] {
        let mmu = new_mmu();
        mmu.set_backend(backend).unwrap();
        Run::new(&mmu, kind, seed).steps(6000);
    }
}

#[test]
#[cfg_attr(miri, ignore = "queries every page after each request, for minutes")]
fn random_requests_agree_with_the_oracle_whatever_the_cpu_offers() {
    for bits in 0..8 {
        let mmu = new_mmu();
        let flag = |bit| bits & bit != 0;
        mmu.set_features(lazymmu::Features {
            tlb: lazymmu::TlbFeatures {
                ttl: flag(1),
                range: flag(2),
                repeat: flag(4),
            },
            ets2: false,
        });
        let kind = KINDS[bits as usize % KINDS.len()];
        Run::new(&mmu, kind, 0x1234_5678_9abc_def1 + bits).steps(300);
    }
}
