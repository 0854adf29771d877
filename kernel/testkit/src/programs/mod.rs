// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs of the library's public calls, in and out of sections.
//!
//! A [`Program`] is a list of [`Step`]s, each of one CPU and of the task that runs there. It is
//! made of bytes ([`Step::decode`]), and any bytes make one. What it can name is its [`Universe`].
//! Its `Debug` form is one line per step.
//!
//! Programs run in two worlds.
//!
//! * [`run()`] executes one on the machine model, with several CPUs and tasks, interrupts and
//!   preemption. The contract says what each CPU may rely on after each step, and nothing else may
//!   be possible; `predict` says how many barriers the step must execute.
//! * [`oracle::run`] executes one on the fake machine, on one CPU. A map from page to entry says
//!   what each page holds after each step, and what each call must return; the fake judges every
//!   store on the way.

mod calls;
mod check;
mod contract;
mod decode;
mod frames;
pub mod oracle;
pub mod predict;
mod preempt;
mod run;
mod universe;

pub use decode::Mix;
pub use run::{Failure, run};
pub use universe::{At, Length, Universe, Window, prot};

use std::fmt;

/// Spaces of the model: 0 is the kernel's, the others are of ASID 1 and 2.
const SPACES: usize = Universe::MODEL.spaces.len();
/// Tasks; those that run nowhere wait for a [`Op::Switch`].
const TASKS: usize = 5;
/// Pages of all windows of the model.
const PAGES: usize = Universe::MODEL.pages();

/// The number in the environment variable `name`, or `default` without one.
///
/// # Panics
/// If it is no number.
pub fn variable(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// Some pages of one window.
#[derive(Clone, Copy)]
pub struct Range {
    window: u8,
    first: u16,
    pages: u16,
}

impl Range {
    /// The `pages` pages of window number `window` from page `first` of the window on, all of which exist in the universe of
    /// the program.
    pub const fn new(window: u8, first: u16, pages: u16) -> Self {
        Self {
            window,
            first,
            pages,
        }
    }

    /// Its pages, each as a range of its own.
    fn by_page(self) -> impl Iterator<Item = Self> + Clone {
        (self.first..self.first + self.pages).map(move |first| Self {
            first,
            pages: 1,
            ..self
        })
    }

    /// The first half, and the second where there are two pages or more.
    const fn halves(self) -> (Self, Option<Self>) {
        let pages = self.pages / 2;
        if pages == 0 {
            return (self, None);
        }
        let second = Self {
            first: self.first + pages,
            pages: self.pages - pages,
            ..self
        };
        (Self { pages, ..self }, Some(second))
    }
}

/// Which frames a mapping gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frames {
    /// Consecutive, and aligned like the addresses to 64 KiB.
    Aligned,
    /// Consecutive.
    Consecutive,
    /// No two neighbors are neighbors in memory.
    Scattered,
    /// Consecutive, aligned like the addresses, and from those of the mapping before: a page may get the frame that it had, or
    /// that another page has. On the machine model, where a frame says which mapping was used, they are new.
    Again,
}

/// What happens to the entries of a range one by one: two bits each.
#[derive(Clone, Copy)]
pub struct Each(pub u32);

/// What is done with one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Nothing.
    Look,
    /// Set, which is refused if it is in use.
    Set,
    /// Emptied.
    Clear,
    /// Cleared, and set to another frame right away.
    Replace,
}

impl Each {
    /// What is done with entry `i`.
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
#[derive(Clone, Copy, Debug)]
pub struct Fast {
    bulk: Bulk,
    /// So many entries at the front are not part of it,
    skip: u8,
    /// and so many at the back.
    cut: u8,
}

impl Fast {
    /// The entries that `bulk` is about, of `n`. It is at least one.
    const fn part(self, n: usize) -> std::ops::Range<usize> {
        let first = self.skip as usize % n;
        let cut = self.cut as usize % (n - first);
        first..n - cut
    }
}

/// What happens to the entries of a [`Op::Fast`] at once, before they are changed one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bulk {
    /// Nothing.
    None,
    /// They are set by `set_run`.
    Run,
    /// They are set by `set_each`.
    Each,
    /// They are set by `set_frames`.
    Frames,
    /// They are emptied by `clear_run`.
    Clear,
    /// A section is entered, and left after the range.
    Crossed,
}

/// Where a token of an invalidation is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the space whose entries were emptied.
    Here,
    /// The same, with bottom halves off. On the machine model as [`Place::Here`].
    BottomHalvesOff,
    /// In another space. On the machine model as [`Place::Here`].
    OtherSpace,
}

/// What happens while a task that was preempted waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meanwhile {
    /// Nothing.
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
    /// The number of the moment, from 1.
    pub at: u8,
    /// What happens until the task goes on.
    pub meanwhile: Meanwhile,
}

/// Where a call is made, as far as the caller decides it. The oracle's; on the machine model all are [`Scene::Plain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scene {
    /// Where the program has come to.
    Plain,
    /// With bottom halves off, or in an interrupt that finds what the task has left waiting.
    BottomHalvesOff,
    /// Paused for the time of the call.
    Paused,
    /// In a section of its own.
    Section,
    /// In two.
    Nested,
}

/// What the callback of a call (of entries, for frames or with frames) does when it is called for the last time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It panics, and the caller catches that.
    Panics,
    /// It returns an error, if it can.
    Fails,
}

/// Which pages a [`Op::GatherEach`] takes: every `stride`-th one, in ascending order or in none.
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    stride: u8,
    is_ascending: bool,
}

impl Pieces {
    /// The order in which `n` pieces come.
    fn order(self, n: usize) -> impl Iterator<Item = usize> {
        // The prime is no divisor of a number of pieces, so each has its turn.
        (0..n).map(move |i| if self.is_ascending { i } else { i * 521 % n })
    }
}

/// A call. The first number is a space's, of the universe; a last one is that of a protection
/// ([`prot`]).
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// [`lazymmu::AddressSpace::map`].
    Map(u8, Range, u8, Frames),
    /// The same, each page by a call of its own.
    MapEach(u8, Range, u8, Frames),
    /// [`lazymmu::AddressSpace::unmap`].
    Unmap(u8, Range),
    /// [`lazymmu::AddressSpace::unmap_existing`].
    UnmapExisting(u8, Range),
    /// [`lazymmu::AddressSpace::unmap_frames`].
    UnmapFrames(u8, Range),
    /// Without its flush, which is a [`Op::FlushPending`].
    UnmapNoFlush(u8, Range),
    /// The same in two halves, whose flushes are merged.
    UnmapMerged(u8, Range),
    /// The task's oldest pending flush, given to this place.
    FlushPending(Place),
    /// A range that this space and the next one have mapped is unmapped in both without a flush, the next one is given the
    /// token of this one, and maps the range again. Its own token is a [`Op::FlushPending`].
    CrossTokens(u8, Range),
    /// [`lazymmu::AddressSpace::invalidate_range`].
    FlushRange(u8, Range),
    /// [`lazymmu::AddressSpace::protect`].
    Protect(u8, Range, u8),
    /// [`lazymmu::AddressSpace::remap`].
    Remap(u8, Range, u8),
    /// [`lazymmu::AddressSpace::apply_to_page_range`].
    Apply(u8, Range, Each),
    /// [`lazymmu::AddressSpace::apply_to_existing_page_range`].
    ApplyExisting(u8, Range, Each),
    /// [`lazymmu::AddressSpace::fast_pte_range`].
    Fast(u8, Range, Each, Fast),
    /// [`lazymmu::AddressSpace::fold_contiguous`].
    Fold(u8, Range),
    /// [`lazymmu::AddressSpace::free_empty_tables`].
    FreeEmptyTables(u8, Range),
    /// Both ranges in one gather.
    Gather(u8, Range, Range),
    /// What is mapped in both ranges in one gather.
    GatherExisting(u8, Range, Range),
    /// Both ranges in one gather, and the tables that it leaves empty are freed.
    GatherTables(u8, Range, Range),
    /// Some pages of a range, each by a call of its own, in one gather that is finished in this place. They are mapped before,
    /// and the pages in between unmapped. If the last one says so, tables that become empty are freed.
    GatherEach(u8, Range, Pieces, Place, bool),
    /// [`lazymmu::AddressSpace::share_tables`] with the next space. If both are kernels', all tables of the universe are built
    /// and shared; otherwise it is refused.
    Share(u8, Range),
    /// [`lazymmu::Lazy::enable`].
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
    /// [`lazymmu::Lazy::disable`].
    Disable,
    /// [`lazymmu::Lazy::pause`].
    Pause,
    /// [`lazymmu::Lazy::resume`].
    Resume,
    /// [`lazymmu::Lazy::flush`].
    Flush,
    /// An interrupt that maps kernel pages.
    InterruptMap(Range),
    /// An interrupt that maps kernel pages and unmaps them again.
    InterruptBoth(Range),
    /// The next call finds memory for so many tables.
    NoMemory(u8),
    /// Another task runs, voluntarily: no context synchronization, unless it comes from another
    /// CPU.
    Switch(u8),
    /// Another task runs, by preemption, which ends in an exception return.
    Preempt(u8),
    /// To another CPU, which synchronizes.
    Tell(u8),
    /// To another CPU, which merely acquires.
    Publish(u8),
}

/// One call of a program.
#[derive(Clone, Copy)]
pub struct Step {
    /// Where.
    pub cpu: u8,
    /// Which.
    pub op: Op,
    /// Whether its task loses the CPU in the middle.
    pub preempted: Option<Preemption>,
    /// What is around the call.
    pub scene: Scene,
    /// What its callback does, in its call of this number, from 0.
    pub fault: Option<(Fault, u8)>,
}

impl Step {
    /// The call on CPU `cpu`, and nothing unusual.
    pub const fn plain(cpu: u8, op: Op) -> Self {
        Self {
            cpu,
            op,
            preempted: None,
            scene: Scene::Plain,
            fault: None,
        }
    }
}

/// The steps of a program, in their order.
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

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}: {:?}", self.cpu, self.op)?;
        if let Some(Preemption { at, meanwhile }) = self.preempted {
            write!(f, ", preempted at {at}: {meanwhile:?}")?;
        }
        if self.scene != Scene::Plain {
            write!(f, ", {:?}", self.scene)?;
        }
        match self.fault {
            Some((fault, at)) => write!(f, ", call {at} of its callback {fault:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = self.0.iter().enumerate();
        steps.try_for_each(|(i, step)| write!(f, "\n  {i:2}: {step:?}"))
    }
}
