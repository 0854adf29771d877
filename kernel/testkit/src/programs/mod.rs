// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs of the library's public calls, inside and outside of sections.
//!
//! A [`Program`] is a list of [`Step`]s. Each step is a call of one CPU, by the task that runs
//! there. It is decoded from bytes ([`Step::decode`]), and any bytes are a valid step. The spaces
//! and addresses that a program can name are its [`Universe`]. Its `Debug` form is one line per
//! step.
//!
//! Programs run on two machines:
//!
//! * [`run()`] executes a program on the machine model, with several CPUs and tasks, interrupts and
//!   preemption. After each step, `contract` says what each CPU may rely on, and no other outcome
//!   may be possible; `predict` says which barriers the step must execute.
//! * [`oracle::run`] executes a program on the fake machine, on one CPU. A map from page to entry
//!   says what each page must hold after each step, and what each call must return. The fake
//!   machine checks every store.

mod calls;
mod check;
mod contract;
mod decode;
mod entries;
mod frames;
pub mod oracle;
pub mod predict;
mod preempt;
mod run;
mod tasks;
mod universe;

pub use decode::Mix;
pub use run::{Failure, run};
pub use universe::{At, Length, Universe, Window, prot};

use std::fmt;

/// The number of spaces on the model: 0 is a kernel space, the others have ASID 1 and 2.
const SPACES: usize = Universe::MODEL.spaces.len();
/// The number of tasks. Those that do not run wait for a [`Op::Switch`].
const TASKS: usize = 5;
/// The number of pages of all windows on the model.
const PAGES: usize = Universe::MODEL.pages();

/// The number in the environment variable `name`, or `default` if it is not set.
///
/// # Panics
/// If its value is not a number.
pub fn variable(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// Consecutive pages of one window.
#[derive(Clone, Copy)]
pub struct Range {
    window: u8,
    first: u16,
    pages: u16,
}

impl Range {
    /// The `pages` pages of window number `window` from page `first` of the window on. They must
    /// exist in the universe of the program.
    pub const fn new(window: u8, first: u16, pages: u16) -> Self {
        Self {
            window,
            first,
            pages,
        }
    }

    /// The pages of the range, each as a range of its own.
    fn by_page(self) -> impl Iterator<Item = Self> + Clone {
        (self.first..self.first + self.pages).map(move |first| Self {
            first,
            pages: 1,
            ..self
        })
    }

    /// The first half, and the second half if there are two pages or more.
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

/// The frames to which a range is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frames {
    /// Consecutive, and aligned to 64 KiB like the addresses.
    Aligned,
    /// Consecutive, and aligned differently from the addresses.
    Consecutive,
    /// Neighboring pages do not get neighboring frames.
    Scattered,
    /// Consecutive, aligned like the addresses, and taken from those of the mapping before: a page
    /// may get the frame that it had before, or that another page has. On the machine model they
    /// are new frames, because there the frame tells which mapping was used.
    Again,
}

/// The changes of the single entries of a range: two bits for each of 16 entries, repeated.
#[derive(Clone, Copy)]
pub struct Each(pub u32);

/// The change of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// None: the entry is only read.
    Look,
    /// It is set, which is refused if it is in use.
    Set,
    /// It is emptied.
    Clear,
    /// It is emptied, and set to another frame right after that.
    Replace,
}

impl Each {
    /// The change of entry `i`.
    pub const fn act(self, i: usize) -> Act {
        match self.0 >> (2 * (i % 16)) & 3 {
            0 => Act::Look,
            1 => Act::Set,
            2 => Act::Clear,
            _ => Act::Replace,
        }
    }
}

/// The call of a [`Op::Fast`] for several entries at once, which comes before the changes of single
/// entries.
#[derive(Clone, Copy, Debug)]
pub struct Fast {
    bulk: Bulk,
    /// The number of entries at the start of the range that `bulk` leaves out.
    skip: u8,
    /// The number of entries at the end of the range that `bulk` leaves out.
    cut: u8,
}

impl Fast {
    /// The entries that `bulk` changes in a range of `n`: at least one.
    const fn part(self, n: usize) -> std::ops::Range<usize> {
        let first = self.skip as usize % n;
        let cut = self.cut as usize % (n - first);
        first..n - cut
    }
}

/// The call of a [`Op::Fast`] for several entries at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bulk {
    /// No such call.
    None,
    /// They are set by `set_run`.
    Run,
    /// They are set by `set_each`.
    Each,
    /// They are set by `set_frames`.
    Frames,
    /// They are emptied by `clear_run`.
    Clear,
    /// None, but a section is entered after the range was opened, and left after it was closed.
    Crossed,
}

/// The place where the token of an invalidation is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The space whose entries were emptied.
    Here,
    /// The same space, with bottom halves off. On the machine model the same as [`Place::Here`].
    BottomHalvesOff,
    /// Another space. On the machine model the same as [`Place::Here`].
    OtherSpace,
}

/// What happens while a task is preempted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meanwhile {
    /// Nothing.
    Nothing,
    /// Another task changes pages of its own, in a section of its own.
    Section,
    /// The same, but it leaves the section open until it runs again, if the strategy allows that.
    OpenSection,
    /// The task moves to this CPU, and the task that runs there moves to the CPU of the first one.
    Elsewhere(u8),
}

/// An interrupt inside a step that preempts its task.
#[derive(Clone, Copy, Debug)]
pub struct Preemption {
    /// The number of the moment in the step, from 1.
    pub at: u8,
    /// What happens until the task continues.
    pub meanwhile: Meanwhile,
}

/// The context that the caller prepares for a call. Only the oracle uses it; on the machine model
/// every call is [`Scene::Plain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scene {
    /// The context that the program has reached.
    Plain,
    /// With bottom halves off. Stores and invalidations of the task may wait.
    BottomHalvesOff,
    /// In a pause around the call.
    Paused,
    /// In a section around the call.
    Section,
    /// In two nested sections around the call.
    Nested,
}

/// How the callback of a call ends when it goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It panics, and the caller catches the panic.
    Panics,
    /// It returns an error, if its type allows that.
    Fails,
}

/// The pages that a [`Op::GatherEach`] takes: every `stride`-th one, in ascending or in mixed
/// order.
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    stride: u8,
    is_ascending: bool,
}

impl Pieces {
    /// The order in which `n` pieces are taken.
    fn order(self, n: usize) -> impl Iterator<Item = usize> {
        // 521 is a prime and larger than any number of pieces, so each piece is taken once.
        (0..n).map(move |i| if self.is_ascending { i } else { i * 521 % n })
    }
}

/// A call. The first number is that of a space in the universe; a number after the range is that of
/// a protection ([`prot`]).
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// [`lazymmu::AddressSpace::map`].
    Map(u8, Range, u8, Frames),
    /// [`lazymmu::AddressSpace::map`], one call for each page.
    MapEach(u8, Range, u8, Frames),
    /// [`lazymmu::AddressSpace::unmap`].
    Unmap(u8, Range),
    /// [`lazymmu::AddressSpace::unmap_existing`].
    UnmapExisting(u8, Range),
    /// [`lazymmu::AddressSpace::unmap_frames`].
    UnmapFrames(u8, Range),
    /// [`lazymmu::AddressSpace::unmap_no_invalidate`]. A later [`Op::FlushPending`] uses the token.
    UnmapNoFlush(u8, Range),
    /// The same in two halves, whose tokens are merged.
    UnmapMerged(u8, Range),
    /// Uses the oldest token of the task.
    FlushPending(Place),
    /// Unmaps a range without an invalidation in this space and in the next one, which have both
    /// mapped it; uses the token of this space in the next one; and maps the range there again. A
    /// later [`Op::FlushPending`] uses the token of the next space.
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
    /// Unmaps both ranges in one gather.
    Gather(u8, Range, Range),
    /// Unmaps what is mapped in both ranges, in one gather.
    GatherExisting(u8, Range, Range),
    /// Unmaps both ranges in one gather, and frees the tables that become empty.
    GatherTables(u8, Range, Range),
    /// Unmaps some pages of a range in one gather, one call for each, and finishes the gather in
    /// this place. Before that, these pages are mapped and the pages in between are unmapped. If
    /// the last field is true, tables that become empty are freed.
    GatherEach(u8, Range, Pieces, Place, bool),
    /// [`lazymmu::AddressSpace::share_tables`] with the next space. If both are kernel spaces, all
    /// tables of the universe are built and shared; otherwise the call is refused.
    Share(u8, Range),
    /// [`lazymmu::Lazy::enable`].
    Enable,
    /// [`lazymmu::Lazy::enable_fast_pte_range`].
    EnableFast(u8, Range),
    /// [`lazymmu::Lazy::drain`].
    Drain,
    /// [`lazymmu::Lazy::suspend_all`], which is ended at once.
    Suspend,
    /// [`lazymmu::Lazy::suspend_all`], which lasts until a later [`Op::SuspendEnd`].
    SuspendBegin,
    /// Ends the last suspension, if the levels that were entered in it are left.
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
    /// Limits the memory for tables during the next call to this number of tables.
    NoMemory(u8),
    /// A voluntary switch to this task: no context synchronization, unless the task comes from
    /// another CPU.
    Switch(u8),
    /// A preemption in favor of this task, which ends in an exception return.
    Preempt(u8),
    /// Publication to this CPU, which synchronizes.
    Tell(u8),
    /// Publication to this CPU, which only acquires.
    Publish(u8),
}

/// One call of a program.
#[derive(Clone, Copy)]
pub struct Step {
    /// The CPU.
    pub cpu: u8,
    /// The call.
    pub op: Op,
    /// The preemption inside the call, if there is one.
    pub preempted: Option<Preemption>,
    /// The context that is prepared for the call.
    pub scene: Scene,
    /// The fault of its callback, and the number of the call of the callback, from 0.
    pub fault: Option<(Fault, u8)>,
}

impl Step {
    /// The call on CPU `cpu`, without preemption, context and fault.
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

/// The steps of a program in their order.
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
