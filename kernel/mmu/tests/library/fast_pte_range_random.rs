// SPDX-License-Identifier: MIT OR Apache-2.0
//! R22: a hint changes where a store waits, and nothing that a caller could rely on.
//!
//! The same seeded random requests run twice, with and without announced ranges, on each backend. What each
//! request answers is the same, and so are the tables after the last section, but for the contiguous
//! hint. In between, memory is compared after each flush at any depth (R23).

use lazymmu::{
    AddressSpace, Backend, Desc, Mmu, PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind, bits,
};
use lazymmu_testkit::fake::{
    self, Fake, KINDS, contiguous, data, enable_fast, frame, new_mmu_with, new_space_with_tables,
    pages, reduced,
};
use lazymmu_testkit::rng::Rng;

/// Pages in use: 48 in each of three tables.
const EACH: u64 = 48;

struct Run<'m> {
    mmu: &'m Mmu<Fake>,
    space: AddressSpace<'m, Fake>,
    hinted: bool,
    /// Every answer, and every look at memory.
    log: Vec<String>,
}

impl<'m> Run<'m> {
    fn new(mmu: &'m Mmu<Fake>, kind: SpaceKind, hinted: bool) -> Self {
        let all = pages(kind.half().start() + (3 << 39), 3 * 512);
        Self {
            mmu,
            space: new_space_with_tables(mmu, kind, all),
            hinted,
            log: Vec::new(),
        }
    }

    fn part(&self, table: u64, first: u64, n: u64) -> PageRange {
        let start = self.space.kind().half().start() + (3 << 39) + (table << 21);
        pages(start + first * PAGE_SIZE, n)
    }

    fn range(&self, rng: &mut Rng) -> PageRange {
        let first = rng.below(EACH);
        let n = match rng.below(4) {
            0 => EACH - first,
            1 => 16.min(EACH - first),
            _ => 1 + rng.below(3.min(EACH - first)),
        };
        self.part(rng.below(3), first, n)
    }

    fn prot(&self, rng: &mut Rng) -> Prot {
        let read_only = match self.space.kind() {
            SpaceKind::Kernel => Prot::KERNEL_RO,
            SpaceKind::User(_) => Prot::USER_RO,
        };
        [data(self.space.kind()), read_only][rng.below(2) as usize]
    }

    /// A leaf as memory has it, or as a reader sees it.
    fn plain(entry: Desc) -> u64 {
        entry.as_u64() & !bits::CONT
    }

    /// The leaves, as readers see them.
    fn leaves(&self) -> Vec<(u64, Desc)> {
        let page = |i: u64| self.part(i / EACH, i % EACH, 1).start();
        (0..3 * EACH)
            .filter_map(|i| Some((i, self.space.query(page(i))?.entry)))
            .collect()
    }

    fn look(&mut self) {
        let seen = self.leaves().into_iter();
        let seen: Vec<_> = seen.map(|(i, entry)| (i, Self::plain(entry))).collect();
        self.log.push(format!("{seen:x?}"));
    }

    /// Memory, and whether it is what readers see.
    fn look_at_memory(&mut self) {
        let seen = self.leaves();
        for &(i, entry) in &seen {
            let table = fake::table_of(&self.space, self.part(i / EACH, 0, 1));
            let memory = self.mmu.kernel().memory(table, (i % EACH) as usize);
            assert_eq!(memory, entry.as_u64(), "R23: page {i}");
        }
        self.log.push(format!("{} in memory", seen.len()));
        self.look();
    }

    fn step(&mut self, rng: &mut Rng) {
        let lazy = self.mmu.lazy();
        let depth = lazy.state().enable_count();
        let what = rng.below(16);
        let range = self.range(rng);
        let prot = self.prot(rng);
        let number = rng.below(1 << 16);
        let answer = match what {
            0 | 1 if depth < 6 => {
                let whole = self.part(number % 3, 0, EACH);
                if self.hinted {
                    enable_fast(&self.space, whole);
                } else {
                    lazy.enable().unwrap();
                }
                "enable".into()
            }
            2 if depth > 0 => {
                lazy.disable().unwrap();
                self.look_at_memory();
                "disable".into()
            }
            3 => {
                lazy.flush();
                self.look_at_memory();
                "flush".into()
            }
            4 if depth > 0 => {
                lazy.pause().unwrap();
                self.look_at_memory();
                let result = self.space.map(range, contiguous(16 * number), prot);
                lazy.resume().unwrap();
                format!("{result:?}")
            }
            5..=8 => {
                // Frames that make groups, and frames that do not.
                let at = range.start().as_u64() / PAGE_SIZE % 512;
                let first = 16 * number + if number.is_multiple_of(4) { 1 } else { at % 16 };
                format!("{:?}", self.space.map(range, contiguous(first), prot))
            }
            9 => format!("{:?}", self.space.protect(range, prot)),
            10 => format!("{:?}", self.space.unmap(range)),
            11 => format!("{:?}", self.space.remap(range, prot)),
            12 => {
                let mut given = Vec::new();
                let result = self
                    .space
                    .unmap_frames(range, |va, frame| given.push((va, frame)));
                format!("{result:?} {given:?}")
            }
            _ => {
                let mut seen = Vec::new();
                let result = self.space.apply_to_page_range(range, |entry| {
                    seen.push(Self::plain(entry.get()));
                    match rng.below(3) {
                        0 => seen.push(Self::plain(entry.get_and_clear())),
                        1 => {
                            let number = rng.below(1 << 20);
                            let old = entry.get();
                            let same = old.is_valid();
                            let frame = if same { old.frame() } else { frame(number) };
                            entry.set(frame, prot)?;
                        }
                        _ => {}
                    }
                    Ok::<(), SpaceError>(())
                });
                // R30: permissions that `set` changed are the caller's to invalidate.
                self.space.invalidate_range(range).unwrap();
                format!("{result:?} {seen:x?}")
            }
        };
        self.log.push(format!("{what}: {}", strip(&answer)));
        self.look();
    }
}

/// Without the contiguous hint of an entry that an error shows.
fn strip(answer: &str) -> String {
    match answer.find("entry: ") {
        Some(at) => answer[..at].into(),
        None => answer.into(),
    }
}

fn run(backend: Backend, kind: SpaceKind, seed: u64, hinted: bool) -> Vec<String> {
    let mmu = new_mmu_with(backend);
    let mut run = Run::new(&mmu, kind, hinted);
    let mut rng = Rng(seed);
    // A quarter of the steps under Miri, where each looks at every page.
    for _ in 0..if cfg!(miri) { 10 } else { 40 } {
        run.step(&mut rng);
    }
    while mmu.lazy().disable().is_ok() {}
    mmu.kernel().check_groups();
    run.look_at_memory();
    let log = std::mem::take(&mut run.log);
    fake::destroy(run.space);
    log
}

#[test]
fn r22_with_and_without_hints_a_caller_sees_the_same() {
    for kind in KINDS {
        for seed in 1..=reduced(40) as u64 {
            let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let expected = run(Backend::DeferBarriers, kind, seed, false);
            for backend in fake::backends() {
                for hinted in [false, true] {
                    let log = run(backend, kind, seed, hinted);
                    for (n, (seen, expected)) in log.iter().zip(&expected).enumerate() {
                        assert_eq!(
                            seen, expected,
                            "{backend}, {kind:?}, seed {seed:#x}, hinted: {hinted}, line {n}"
                        );
                    }
                    assert_eq!(log.len(), expected.len());
                }
            }
        }
    }
}
