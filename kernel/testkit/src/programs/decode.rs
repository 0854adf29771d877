// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoding programs from bytes.
//!
//! A step is [`Step::BYTES`] bytes. Each byte decides one thing: a choice from a list with weights,
//! or a number below a limit. So any bytes are a program, removing [`Step::BYTES`] bytes removes a
//! step, and a smaller byte is a simpler choice. A random program is decoded from random bytes.
//! They come from a seeded [`Rng`] ([`Program::random`]), from a fuzzer ([`Program::decode`]), or
//! from proptest, which also shrinks them:
//!
//! ```text
//! vec(any::<[u8; Step::BYTES]>(), 1..28).prop_map(|steps| Program::of(&Universe::MODEL, &steps))
//! ```

use super::universe::Length;
use super::{
    Bulk, Each, Fast, Fault, Frames, Meanwhile, Op, Pieces, Place, Preemption, Program, Range,
    Scene, Step, Universe,
};
use crate::rng::Rng;
use lazymmu::{ENTRIES, Level};

/// The calls of which a program consists, with their weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// All calls, for several CPUs and tasks.
    Machine,
    /// The calls of one task on one CPU, inside and outside of sections.
    Sections,
    /// Calls outside of sections: no section is open between two steps.
    Requests,
    /// [`Mix::Sections`] with larger weights for tokens, gathers, callbacks and shared tables.
    Corners,
}

/// A function that decodes an operation.
type Make = fn(Bytes<'_>) -> Op;

/// Every operation: its weights in [`Mix::Machine`], [`Mix::Sections`] and [`Mix::Requests`], and
/// the function that decodes it. The first ones are those without which others have nothing to
/// change.
const OPS: &[([u8; 3], Make)] = &[
    ([8, 8, 12], |b| {
        Op::Map(b.space(), b.range(), b.prot(), b.frames())
    }),
    ([2, 3, 2], |b| {
        Op::MapEach(b.space(), b.range(), b.prot(), b.frames())
    }),
    ([2, 2, 1], |b| Op::Unmap(b.space(), b.range())),
    ([1, 1, 1], |b| Op::UnmapExisting(b.space(), b.range())),
    ([2, 2, 2], |b| Op::UnmapFrames(b.space(), b.range())),
    ([3, 2, 1], |b| Op::UnmapNoFlush(b.space(), b.range())),
    ([1, 1, 1], |b| Op::UnmapMerged(b.space(), b.range())),
    ([2, 2, 3], |b| Op::FlushPending(b.place())),
    ([2, 1, 0], |b| Op::FlushRange(b.space(), b.range())),
    ([3, 3, 2], |b| Op::Protect(b.space(), b.range(), b.prot())),
    ([2, 2, 2], |b| Op::Remap(b.space(), b.range(), b.prot())),
    ([2, 2, 2], |b| Op::Apply(b.space(), b.range(), b.each())),
    ([1, 1, 1], |b| {
        Op::ApplyExisting(b.space(), b.range(), b.each())
    }),
    ([4, 4, 3], |b| {
        Op::Fast(b.space(), b.range(), b.each(), b.fast())
    }),
    ([1, 1, 1], |b| Op::Fold(b.space(), b.range())),
    ([2, 2, 5], |b| Op::FreeEmptyTables(b.space(), b.range())),
    ([1, 1, 1], |b| {
        let (space, first, second) = (b.space(), b.range(), b.second_range());
        match b.below(16, 2) {
            0 => Op::Gather(space, first, second),
            _ => Op::GatherExisting(space, first, second),
        }
    }),
    ([1, 1, 1], |b| {
        Op::GatherTables(b.space(), b.range(), b.second_range())
    }),
    ([0, 1, 1], |b| b.gather_each()),
    ([0, 1, 1], |b| Op::Share(b.space(), b.range())),
    ([4, 4, 0], |_| Op::Enable),
    ([3, 2, 0], |b| Op::EnableFast(b.space(), b.range())),
    ([1, 1, 0], |_| Op::Drain),
    ([1, 1, 1], |_| Op::Suspend),
    ([1, 1, 0], |_| Op::SuspendBegin),
    ([1, 1, 0], |_| Op::SuspendEnd),
    ([3, 4, 1], |_| Op::Disable),
    ([1, 1, 0], |_| Op::Pause),
    ([1, 1, 1], |_| Op::Resume),
    ([1, 1, 1], |_| Op::Flush),
    ([1, 1, 1], |b| Op::InterruptMap(b.range())),
    ([1, 1, 1], |b| Op::InterruptBoth(b.range())),
    ([1, 1, 1], |b| Op::NoMemory(b.below(7, 4))),
    ([2, 0, 0], |b| Op::Switch(b.below(7, b.universe.tasks))),
    ([2, 0, 0], |b| Op::Preempt(b.below(7, b.universe.tasks))),
    ([3, 0, 0], |b| Op::Tell(b.cpu(7))),
    ([1, 0, 0], |b| Op::Publish(b.cpu(7))),
];

/// The operations of [`Mix::Corners`], with their weights.
const CORNERS: &[(u8, Make)] = &[
    (6, |b| Op::Map(b.space(), b.range(), b.prot(), b.frames())),
    (2, |b| {
        Op::MapEach(b.space(), b.range(), b.prot(), b.frames())
    }),
    (1, |b| Op::Unmap(b.space(), b.range())),
    (2, |b| Op::UnmapFrames(b.space(), b.range())),
    (4, |b| Op::UnmapNoFlush(b.space(), b.range())),
    (1, |b| Op::UnmapMerged(b.space(), b.range())),
    (4, |b| Op::FlushPending(b.place())),
    (2, |b| Op::CrossTokens(b.space(), b.range())),
    (1, |b| Op::Protect(b.space(), b.range(), b.prot())),
    (3, |b| Op::Apply(b.space(), b.range(), b.each())),
    (3, |b| Op::Fast(b.space(), b.range(), b.each(), b.fast())),
    (2, |b| Op::FreeEmptyTables(b.space(), b.range())),
    (1, |b| Op::Gather(b.space(), b.range(), b.second_range())),
    (4, |b| b.gather_each()),
    (2, |b| Op::Share(b.space(), b.range())),
    (2, |_| Op::Enable),
    (1, |b| Op::EnableFast(b.space(), b.range())),
    (2, |_| Op::Disable),
];

/// Chooses an item by its weight: the one at the position of `byte` / 256 of the total weight. Also
/// returns the position within that item's weight, in 256 parts.
fn pick<T>(weights: impl Iterator<Item = (u8, T)> + Clone, byte: u8) -> (T, u8) {
    let total: u32 = weights.clone().map(|(weight, _)| u32::from(weight)).sum();
    let mut left = u32::from(byte) * total;
    for (weight, item) in weights {
        let turn = 256 * u32::from(weight);
        if left < turn {
            return (item, (left / u32::from(weight)) as u8);
        }
        left -= turn;
    }
    panic!("a table of weights is empty");
}

fn choice<T: Copy>(table: &[(u8, T)], byte: u8) -> (T, u8) {
    pick(table.iter().copied(), byte)
}

/// A number in `0..n`, in proportion to `byte` / 256.
fn share(byte: u8, n: u16) -> u8 {
    ((u16::from(byte) * n) >> 8) as u8
}

/// The bytes of a step. The methods of this type alone define which byte decides what. A byte that
/// an operation does not use has no meaning.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    universe: &'a Universe,
    raw: [u8; Step::BYTES],
}

impl Bytes<'_> {
    /// A number in `0..n`, decided by byte `i`.
    fn below(self, i: usize, n: u8) -> u8 {
        share(self.raw[i], n.into())
    }

    fn cpu(self, i: usize) -> u8 {
        self.below(i, self.universe.cpus.len() as u8)
    }

    fn op(self) -> Op {
        let column = match self.universe.mix {
            Mix::Machine => 0,
            Mix::Sections => 1,
            Mix::Requests => 2,
            Mix::Corners => return choice(CORNERS, self.raw[1]).0(self),
        };
        let (make, _) = pick(
            OPS.iter().map(|(weights, make)| (weights[column], make)),
            self.raw[1],
        );
        make(self)
    }

    fn space(self) -> u8 {
        let spaces = self.universe.spaces.iter().zip(0..);
        pick(spaces.map(|((weight, _), i)| (*weight, i)), self.raw[2]).0
    }

    fn range(self) -> Range {
        self.range_at(3)
    }

    fn second_range(self) -> Range {
        self.range_at(7)
    }

    /// A range, decided by four bytes from `i` on: window, first page (two bytes), length.
    fn range_at(self, i: usize) -> Range {
        let windows = self.universe.windows;
        let window = self.below(i, windows.len() as u8);
        let pages = windows[usize::from(window)].pages;
        let scaled = |byte: u16, n: u16, of: u32| (u32::from(byte) * u32::from(n) / of) as u16;
        let [low, high] = [self.raw[i + 1], self.raw[i + 2]];
        let first = scaled(u16::from_be_bytes([low, high]), pages, 1 << 16);
        let rest = pages - first;
        let (length, within) = choice(self.universe.lengths, self.raw[i + 3]);
        let most = match length {
            Length::UpTo(most) => most.min(rest),
            Length::Rest => {
                return Range {
                    window,
                    first,
                    pages: rest,
                };
            }
            Length::Table => {
                // The place in the table depends on the half, because the upper one ends one page
                // before the end of a table.
                let page = Range::new(window, first, 1);
                let within = Level::L3.index(self.universe.range_of(0, page).start()) as u16;
                let before = within.min(first);
                let after = (ENTRIES as u16 - within).min(rest);
                return Range {
                    window,
                    first: first - before,
                    pages: before + after,
                };
            }
            Length::Whole => {
                let first = 0;
                return Range {
                    window,
                    first,
                    pages,
                };
            }
            Length::Any => rest,
        };
        let pages = 1 + scaled(within.into(), most, 1 << 8);
        Range {
            window,
            first,
            pages,
        }
    }

    fn each(self) -> Each {
        let [_, _, _, _, _, _, _, a, b, c, d, ..] = self.raw;
        let none = 0;
        let one = u32::from(1 + self.below(7, 3)) << (2 * self.below(8, 16));
        let all = u32::from_le_bytes([a, b, c, d]);
        // A contiguous group stays one only if few of its entries are changed, so no change and one
        // change have weights of their own.
        Each(choice(&[(1, none), (1, one), (2, all)], self.raw[16]).0)
    }

    fn prot(self) -> u8 {
        self.below(11, 4)
    }

    fn frames(self) -> Frames {
        use Frames::{Again, Aligned, Consecutive, Scattered};
        let weights = [(2, Aligned), (2, Consecutive), (2, Scattered), (1, Again)];
        choice(&weights, self.raw[12]).0
    }

    fn place(self) -> Place {
        use Place::{BottomHalvesOff, Here, OtherSpace};
        choice(
            &[(2, Here), (1, BottomHalvesOff), (1, OtherSpace)],
            self.raw[7],
        )
        .0
    }

    fn gather_each(self) -> Op {
        let pieces = Pieces {
            stride: 3 - self.below(9, 3),
            is_ascending: self.below(10, 2) == 0,
        };
        let frees = self.below(8, 2) == 1;
        Op::GatherEach(self.space(), self.range(), pieces, self.place(), frees)
    }

    /// The context that is prepared for a call of the oracle. Its task is not preempted, so the
    /// bytes of a preemption are free.
    fn scene(self) -> Scene {
        use Scene::{BottomHalvesOff, Nested, Paused, Plain, Section};
        if self.universe.mix == Mix::Machine {
            return Plain;
        }
        // Bottom halves must be off often, so that some of these calls find something waiting.
        let off = if self.universe.mix == Mix::Corners {
            4
        } else {
            1
        };
        let weights = [
            (12, Plain),
            (1, Section),
            (1, Paused),
            (off, BottomHalvesOff),
            (1, Nested),
        ];
        choice(&weights, self.raw[13]).0
    }

    fn fault(self) -> Option<(Fault, u8)> {
        if self.universe.mix == Mix::Machine {
            return None;
        }
        let weights = [(6, None), (1, Some(Fault::Fails)), (1, Some(Fault::Panics))];
        let (fault, _) = choice(&weights, self.raw[14]);
        // Most ranges are short.
        let (most, within) = choice(&[(3, 4), (1, 40)], self.raw[15]);
        Some((fault?, share(within, most)))
    }

    fn fast(self) -> Fast {
        let bulks = [
            (2, Bulk::None),
            (2, Bulk::Run),
            (1, Bulk::Each),
            (1, Bulk::Frames),
            (1, Bulk::Clear),
            (1, Bulk::Crossed),
        ];
        // A fault needs a callback, which only `set_each` has.
        let bulk = match self.fault() {
            Some(_) => Bulk::Each,
            None => choice(&bulks, self.raw[11]).0,
        };
        // Most of these calls are for the whole range.
        let (skip, within) = choice(&[(3, false), (1, true)], self.raw[12]);
        let (skip, cut) = if skip {
            (within / 16, within % 16)
        } else {
            (0, 0)
        };
        Fast { bulk, skip, cut }
    }

    /// The preemption inside the call. Most calls have a few dozen moments.
    fn preempted(self) -> Option<Preemption> {
        if u16::from(self.raw[13]) < 256 - u16::from(self.universe.preempted) {
            return None;
        }
        let (most, within) = choice(&[(3, 31), (1, 255)], self.raw[14]);
        let at = 1 + share(within, most);
        let whats = [
            (1, Meanwhile::Nothing),
            (2, Meanwhile::Section),
            (1, Meanwhile::OpenSection),
            (2, Meanwhile::Elsewhere(0)),
        ];
        let meanwhile = match choice(&whats, self.raw[15]) {
            (Meanwhile::Elsewhere(_), within) => {
                let cpus = self.universe.cpus.len() as u16;
                Meanwhile::Elsewhere(share(within, cpus))
            }
            (meanwhile, _) => meanwhile,
        };
        Some(Preemption { at, meanwhile })
    }
}

impl Step {
    /// The number of bytes of a step.
    pub const BYTES: usize = 17;

    /// Decodes a step.
    pub fn decode(universe: &Universe, raw: [u8; Self::BYTES]) -> Self {
        let bytes = Bytes { universe, raw };
        let cpus = universe.cpus.iter().copied().zip(0..);
        Self {
            cpu: pick(cpus, raw[0]).0,
            op: bytes.op(),
            preempted: bytes.preempted(),
            scene: bytes.scene(),
            fault: bytes.fault(),
        }
    }
}

impl Program {
    /// Decodes the program of these steps.
    pub fn of(universe: &Universe, steps: &[[u8; Step::BYTES]]) -> Self {
        let steps = steps.iter();
        Self(steps.map(|raw| Step::decode(universe, *raw)).collect())
    }

    /// Decodes the program of a fuzzer's bytes. An incomplete step at the end is ignored.
    pub fn decode(universe: &Universe, bytes: &[u8]) -> Self {
        Self::of(universe, bytes.as_chunks().0)
    }

    /// A random program of `steps` steps.
    pub fn random(universe: &Universe, rng: &mut Rng, steps: usize) -> Self {
        let step = |_| Step::decode(universe, std::array::from_fn(|_| rng.below(256) as u8));
        Self((0..steps).map(step).collect())
    }
}
