// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs of the library's public calls, for several CPUs and tasks.
//!
//! A [`Program`] is a list of [`Step`]s, each of one CPU and of whatever task runs there. Numbers
//! are taken modulo what exists, so every list is a program, and a shrunk one stays readable:
//! its `Debug` form is one line per step.
//!
//! * this file: what a program is, and how one is made up;
//! * [`contract`]: what the contract promises about each page to each CPU;
//! * [`calls`]: the library's calls, and what the contract says about each;
//! * [`predict`]: how many barriers each step must execute;
//! * [`run`]: execution on the machine model;
//! * [`preempt`]: who loses the CPU in the middle of a step;
//! * [`check`]: the demands after every step.

pub mod calls;
pub mod check;
pub mod contract;
pub mod predict;
pub mod preempt;
pub mod run;

use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt;

/// Spaces: 0 is the kernel's, the others are of ASID 1 and 2.
pub const SPACES: usize = 3;
/// Tasks; those that run nowhere wait for a [`Op::Switch`].
pub const TASKS: usize = 5;

/// Stretches of each space: the end of a last-level table in the middle, the end of a level-2
/// table in the middle, and one contiguous group with its alignment. Offset in the half in
/// bytes, length in pages.
pub const WINDOWS: [(u64, u64); 3] = [
    ((4 << 21) - 6 * lazymmu::PAGE_SIZE, 12),
    ((1 << 30) - 2 * lazymmu::PAGE_SIZE, 4),
    ((1 << 30) + (6 << 21) + (3 << 16), 16),
];

/// Pages of all windows.
pub const PAGES: usize = 32;

/// Some pages of one window.
#[derive(Clone, Copy)]
pub struct Range {
    pub window: u8,
    pub first: u8,
    pub pages: u8,
}

/// Which frames a mapping gets. All are new.
#[derive(Clone, Copy, Debug)]
pub enum Frames {
    /// Consecutive, and aligned like the addresses to 64 KiB.
    Aligned,
    /// Consecutive.
    Consecutive,
    Scattered,
}

/// What happens to the entries of a range one by one: two bits each.
#[derive(Clone, Copy)]
pub struct Each(pub u32);

/// What is done with one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Look,
    Set,
    Clear,
    /// Cleared, and set to another frame right away.
    Replace,
}

impl Each {
    pub const fn act(self, i: usize) -> Act {
        match self.0 >> (2 * (i % 16)) & 3 {
            0 => Act::Look,
            1 => Act::Set,
            2 => Act::Clear,
            _ => Act::Replace,
        }
    }
}

/// How a [`Op::Fast`] begins and ends. What happens to its entries one by one comes in between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fast {
    Plain,
    /// All of it is set first, by `set_run`, `set_each` or `set_frames`.
    Run,
    Each,
    Frames,
    /// A section is entered inside, and left after the range.
    Crossed,
}

/// What happens while a task that was preempted waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meanwhile {
    Nothing,
    /// Another task changes pages of its own, in a section of its own.
    Section,
    /// Which it leaves open if it can, until it runs again.
    OpenSection,
    /// The task goes on at this CPU, and the one from there here.
    Elsewhere(u8),
}

/// An interrupt at a moment of a step, by number, that preempts its task.
#[derive(Clone, Copy, Debug)]
pub struct Preemption {
    pub at: u8,
    pub meanwhile: Meanwhile,
}

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Map(u8, Range, u8, Frames),
    Unmap(u8, Range),
    UnmapFrames(u8, Range),
    /// Without its flush, which is a [`Op::FlushPending`].
    UnmapNoFlush(u8, Range),
    /// The same in two halves, whose flushes are merged.
    UnmapMerged(u8, Range),
    /// The task's oldest pending flush.
    FlushPending,
    FlushRange(u8, Range),
    Protect(u8, Range, u8),
    Remap(u8, Range, u8),
    Apply(u8, Range, Each),
    Fast(u8, Range, Each, Fast),
    FreeEmptyTables(u8, Range),
    /// Both ranges in one gather.
    Gather(u8, Range, Range),
    /// The same, and the tables that it leaves empty are freed.
    GatherTables(u8, Range, Range),
    Enable,
    /// A section that announces a range.
    EnableFast(u8, Range),
    /// What waits is executed, barriers stay owed.
    Drain,
    /// Every level left and entered again.
    Suspend,
    /// Every level left, until the same number of [`Op::SuspendEnd`].
    SuspendBegin,
    /// The levels of the last suspension come back, once those of the meantime are left.
    SuspendEnd,
    Disable,
    Pause,
    Resume,
    Flush,
    /// An interrupt that maps kernel pages and unmaps them again, or only the former.
    InterruptMap(Range),
    InterruptBoth(Range),
    /// The next call finds memory for so many tables.
    NoMemory(u8),
    /// Another task runs, voluntarily: no context synchronization, unless it comes from another CPU.
    Switch(u8),
    /// Another task runs, by preemption, which ends in an exception return.
    Preempt(u8),
    /// To another CPU, which synchronizes.
    Tell(u8),
    /// To another CPU, which merely acquires.
    Publish(u8),
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub cpu: u8,
    pub op: Op,
    pub preempted: Option<Preemption>,
}

#[derive(Clone)]
pub struct Program(pub Vec<Step>);

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}[{}..+{}]", self.window, self.first, self.pages)
    }
}

impl fmt::Debug for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..16).try_for_each(|i| {
            f.write_str(match self.act(i) {
                Act::Look => ".",
                Act::Set => "s",
                Act::Clear => "c",
                Act::Replace => "r",
            })
        })
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            write!(f, "\n  {i:2}: CPU {}: {:?}", step.cpu, step.op)?;
            if let Some(Preemption { at, meanwhile }) = step.preempted {
                write!(f, ", preempted at {at}: {meanwhile:?}")?;
            }
        }
        Ok(())
    }
}

fn range() -> impl Strategy<Value = Range> {
    (0..WINDOWS.len() as u8)
        .prop_flat_map(|window| {
            let pages = WINDOWS[window as usize].1 as u8;
            (Just(window), 0..pages, prop_oneof![1..4_u8, Just(pages)])
        })
        .prop_map(|(window, first, pages)| {
            let room = WINDOWS[window as usize].1 as u8 - first;
            Range {
                window,
                first,
                pages: pages.min(room),
            }
        })
}

fn space() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0_u8), 2 => Just(1_u8), 1 => Just(2_u8)]
}

fn op() -> impl Strategy<Value = Op> {
    let each = || any::<u32>().prop_map(Each);
    let frames = prop_oneof![
        Just(Frames::Aligned),
        Just(Frames::Consecutive),
        Just(Frames::Scattered)
    ];
    let fast = prop_oneof![
        2 => Just(Fast::Plain),
        2 => Just(Fast::Run),
        1 => Just(Fast::Each),
        1 => Just(Fast::Frames),
        1 => Just(Fast::Crossed),
    ];
    prop_oneof![
        8 => (space(), range(), 0..4_u8, frames).prop_map(|(s, r, p, f)| Op::Map(s, r, p, f)),
        3 => (space(), range()).prop_map(|(s, r)| Op::Unmap(s, r)),
        2 => (space(), range()).prop_map(|(s, r)| Op::UnmapFrames(s, r)),
        3 => (space(), range()).prop_map(|(s, r)| Op::UnmapNoFlush(s, r)),
        1 => (space(), range()).prop_map(|(s, r)| Op::UnmapMerged(s, r)),
        2 => Just(Op::FlushPending),
        2 => (space(), range()).prop_map(|(s, r)| Op::FlushRange(s, r)),
        3 => (space(), range(), 0..4_u8).prop_map(|(s, r, p)| Op::Protect(s, r, p)),
        2 => (space(), range(), 0..4_u8).prop_map(|(s, r, p)| Op::Remap(s, r, p)),
        3 => (space(), range(), each()).prop_map(|(s, r, e)| Op::Apply(s, r, e)),
        4 => (space(), range(), each(), fast).prop_map(|(s, r, e, f)| Op::Fast(s, r, e, f)),
        2 => (space(), range()).prop_map(|(s, r)| Op::FreeEmptyTables(s, r)),
        1 => (space(), range(), range()).prop_map(|(s, r, q)| Op::Gather(s, r, q)),
        1 => (space(), range(), range()).prop_map(|(s, r, q)| Op::GatherTables(s, r, q)),
        4 => Just(Op::Enable),
        3 => (space(), range()).prop_map(|(s, r)| Op::EnableFast(s, r)),
        1 => Just(Op::Drain),
        1 => Just(Op::Suspend),
        1 => Just(Op::SuspendBegin),
        1 => Just(Op::SuspendEnd),
        3 => Just(Op::Disable),
        1 => Just(Op::Pause),
        1 => Just(Op::Resume),
        1 => Just(Op::Flush),
        1 => range().prop_map(Op::InterruptMap),
        1 => range().prop_map(Op::InterruptBoth),
        1 => (0..4_u8).prop_map(Op::NoMemory),
        2 => (0..TASKS as u8).prop_map(Op::Switch),
        2 => (0..TASKS as u8).prop_map(Op::Preempt),
        3 => (0..3_u8).prop_map(Op::Tell),
        1 => (0..3_u8).prop_map(Op::Publish),
    ]
}

/// Most calls ask their kernel a few dozen times.
fn preemption() -> impl Strategy<Value = Preemption> {
    let at = prop_oneof![3 => 1..32_u8, 1 => 1..=255_u8];
    let meanwhile = prop_oneof![
        1 => Just(Meanwhile::Nothing),
        2 => Just(Meanwhile::Section),
        1 => Just(Meanwhile::OpenSection),
        2 => (0..3_u8).prop_map(Meanwhile::Elsewhere),
    ];
    (at, meanwhile).prop_map(|(at, meanwhile)| Preemption { at, meanwhile })
}

/// Programs of up to `steps` steps. Most steps are CPU 0's: programs that jump about
/// too much rarely get anywhere.
pub fn program(steps: usize) -> impl Strategy<Value = Program> {
    let cpu = prop_oneof![4 => Just(0_u8), 2 => Just(1_u8), 1 => Just(2_u8)];
    let preempted = proptest::option::weighted(0.2, preemption());
    let step = (cpu, op(), preempted).prop_map(|(cpu, op, preempted)| Step { cpu, op, preempted });
    vec(step, 1..steps).prop_map(Program)
}
