// SPDX-License-Identifier: MIT OR Apache-2.0
//! The universe of a program: the spaces and windows that it can name, and the weights with which
//! calls, ranges and CPUs are chosen. A *window* is here a range of addresses in a half, known to
//! the program by its number.

use super::Range;
use super::decode::Mix;
use lazymmu::{MemoryType, PAGE_SIZE, PageRange, Prot, SpaceKind};

/// A range of addresses, at the same place in the half of each space.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The first byte address.
    pub at: At,
    /// The length in pages.
    pub pages: u16,
}

/// An address in a half.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// This number of bytes after the start of the half.
    Start(u64),
    /// This number of bytes before the end of the half.
    End(u64),
}

/// `pages` pages from `offset` bytes after the start of the half on.
const fn from_start(offset: u64, pages: u16) -> Window {
    let at = At::Start(offset);
    Window { at, pages }
}

/// The last `pages` pages of the half.
const fn before_end(pages: u16) -> Window {
    let at = At::End(pages as u64 * PAGE_SIZE);
    Window { at, pages }
}

/// The length of a range, which never leaves its window.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// At most this number of pages. Short ranges collide often.
    UpTo(u16),
    /// The rest of the window.
    Rest,
    /// All of the window, from its first page on.
    Whole,
    /// All pages of the window that are in the last-level table of the first page: all 512 in a
    /// long window.
    Table,
    /// Any length.
    Any,
}

/// Everything that a program can name, with weights. The first element of a list is the simplest
/// one, to which a failing program is shrunk.
#[derive(Clone, Copy, Debug)]
pub struct Universe {
    /// The spaces, each with its weight.
    pub spaces: &'static [(u8, SpaceKind)],
    /// The windows, which are in each space.
    pub windows: &'static [Window],
    /// The lengths of ranges, each with its weight.
    pub lengths: &'static [(u8, Length)],
    /// The weight of each CPU.
    pub cpus: &'static [u8],
    /// The number of tasks to which a CPU can switch.
    pub tasks: u8,
    /// The calls and their weights.
    pub mix: Mix,
    /// The number of steps among 256 that are preempted inside the call.
    pub preempted: u8,
}

/// One contiguous group, with its alignment.
const GROUP: Window = from_start((1 << 30) + (6 << 21) + (3 << 16), 16);

/// The first and the last pages of a half.
const ENDS: [Window; 2] = [before_end(6), from_start(0, 6)];

/// Pages around the end of a table of each level, the first and the last pages of the half, and a
/// group.
const EDGES: [Window; 6] = [
    from_start((5 << 39) + (7 << 21) - 20 * PAGE_SIZE, 40),
    from_start((5 << 39) + (3 << 30) - 6 * PAGE_SIZE, 12),
    from_start((5 << 39) - 6 * PAGE_SIZE, 12),
    from_start(0, 6),
    before_end(6),
    GROUP,
];

/// [`EDGES`], and one whole last-level table with some pages before and after it.
const EDGES_AND_TABLE: [Window; 7] = {
    let [a, b, c, d, e, f] = EDGES;
    let table = from_start((9 << 39) - 4 * PAGE_SIZE, 520);
    [a, b, c, d, e, f, table]
};

/// The last and the first table of a half, each with some pages of the neighboring table.
const LAST_AND_FIRST_TABLE: [Window; 2] = [before_end(514), from_start(0, 514)];

/// The first and the last pages of a half, and pages around a table's end. The latter have room for
/// more separate ranges than any list of the library holds.
const CORNERS: [Window; 3] = [
    ENDS[0],
    ENDS[1],
    from_start((5 << 39) + (7 << 21) - 40 * PAGE_SIZE, 80),
];

impl Universe {
    /// The universe of the machine model ([`super::run()`]): three spaces, and few pages, so that
    /// CPUs and tasks often use the same ones. The windows are pages around the end of a last-level
    /// table and of a level-2 table, and one aligned contiguous group.
    pub const MODEL: Self = Self {
        spaces: &[
            (3, SpaceKind::Kernel),
            (2, SpaceKind::User(lazymmu::Asid(1))),
            (1, SpaceKind::User(lazymmu::Asid(2))),
        ],
        windows: &[
            from_start((4 << 21) - 6 * PAGE_SIZE, 12),
            from_start((1 << 30) - 2 * PAGE_SIZE, 4),
            GROUP,
        ],
        lengths: &[(1, Length::UpTo(3)), (1, Length::Rest)],
        // A program with many steps of one CPU reaches more states.
        cpus: &[4, 2, 1],
        tasks: super::TASKS as u8,
        mix: Mix::Machine,
        preempted: 51,
    };

    /// A universe of the oracle ([`super::oracle`]) for programs without sections. The windows are
    /// checked after each step; one of them has a whole table.
    pub const fn requests(space: &'static [(u8, SpaceKind)]) -> Self {
        Self {
            spaces: space,
            windows: &EDGES_AND_TABLE,
            lengths: &[(3, Length::UpTo(5)), (1, Length::Rest), (1, Length::Whole)],
            cpus: &[1],
            tasks: 1,
            mix: Mix::Requests,
            preempted: 0,
        }
    }

    /// A universe of the oracle for programs with sections.
    pub const fn sections(spaces: &'static [(u8, SpaceKind)]) -> Self {
        Self {
            spaces,
            windows: &EDGES,
            lengths: &[
                (3, Length::UpTo(5)),
                (1, Length::Rest),
                (1, Length::Any),
                (1, Length::Whole),
            ],
            cpus: &[1],
            tasks: 1,
            mix: Mix::Sections,
            preempted: 0,
        }
    }

    /// [`Universe::sections`] with two windows, the first and the last pages of the half, so that
    /// calls often use the same pages.
    pub const fn ends(spaces: &'static [(u8, SpaceKind)]) -> Self {
        Self {
            windows: &ENDS,
            lengths: &[(1, Length::UpTo(2)), (1, Length::Whole)],
            ..Self::sections(spaces)
        }
    }

    /// [`Universe::requests`] with the last and the first table of a half as windows.
    pub const fn tables(spaces: &'static [(u8, SpaceKind)]) -> Self {
        Self {
            windows: &LAST_AND_FIRST_TABLE,
            lengths: &[
                (3, Length::UpTo(5)),
                (1, Length::Table),
                (1, Length::Rest),
                (1, Length::Whole),
            ],
            ..Self::requests(spaces)
        }
    }

    /// A universe of the oracle with few pages and one long window, and mostly calls with tokens,
    /// gathers, callbacks and shared tables.
    pub const fn corners(spaces: &'static [(u8, SpaceKind)]) -> Self {
        Self {
            windows: &CORNERS,
            lengths: &[(1, Length::UpTo(2)), (1, Length::Whole)],
            mix: Mix::Corners,
            ..Self::sections(spaces)
        }
    }

    /// The number of pages of all windows.
    pub const fn pages(&self) -> usize {
        self.first_page(self.windows.len())
    }

    /// The number of the first page of a window.
    const fn first_page(&self, window: usize) -> usize {
        let mut first = 0;
        let mut i = 0;
        while i < window {
            first += self.windows[i].pages as usize;
            i += 1;
        }
        first
    }

    /// The address of a page, by number.
    pub fn va(&self, space: usize, page: usize) -> u64 {
        let mut within = page;
        for window in self.windows {
            let pages = usize::from(window.pages);
            if within < pages {
                let half = self.spaces[space].1.half();
                let start = match window.at {
                    At::Start(offset) => half.start() + offset,
                    At::End(offset) => half.end() - offset,
                };
                return start + within as u64 * PAGE_SIZE;
            }
            within -= pages;
        }
        panic!("there is no page {page} in {self:?}");
    }

    /// The pages of a range, by number.
    pub const fn pages_of(&self, range: Range) -> std::ops::Range<usize> {
        let first = self.first_page(range.window as usize) + range.first as usize;
        first..first + range.pages as usize
    }

    /// The addresses of a range.
    pub fn range_of(&self, space: usize, range: Range) -> PageRange {
        let first = self.va(space, self.pages_of(range).start);
        PageRange::new(first, u64::from(range.pages)).expect("inside a window")
    }
}

const KERNEL_PROTS: [Prot; 4] = [
    Prot::KERNEL,
    Prot::KERNEL_RO,
    Prot::KERNEL_ROX,
    Prot::DEVICE,
];
const USER_PROTS: [Prot; 4] = [
    Prot::USER,
    Prot::USER_RO,
    Prot::USER_ROX,
    Prot::USER.with_memory_type(MemoryType::NormalNonCacheable),
];

/// The attributes that a program names by a number. Each kind of space has four.
pub const fn prot(kind: SpaceKind, index: u8) -> Prot {
    let prots = match kind {
        SpaceKind::Kernel => KERNEL_PROTS,
        SpaceKind::User(_) => USER_PROTS,
    };
    prots[index as usize % prots.len()]
}
