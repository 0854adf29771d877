// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program is about: which spaces and which stretches of addresses exist, and how often what
//! happens.

use super::Range;
use super::decode::Mix;
use lazymmu::{MemoryType, PAGE_SIZE, PageRange, Prot, SpaceKind};

/// A stretch of addresses, the same in each space.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Where it begins.
    pub at: At,
    /// How long it is.
    pub pages: u16,
}

/// A place in a half.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// So many bytes from its start on.
    Start(u64),
    /// So many bytes before its end.
    End(u64),
}

/// `pages` pages from `offset` on.
const fn from_start(offset: u64, pages: u16) -> Window {
    let at = At::Start(offset);
    Window { at, pages }
}

/// The last `pages` pages.
const fn before_end(pages: u16) -> Window {
    let at = At::End(pages as u64 * PAGE_SIZE);
    Window { at, pages }
}

/// How long a range is. None is longer than the rest of its window.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// So many pages at most. Short ranges collide often.
    UpTo(u16),
    /// The rest of the window.
    Rest,
    /// All of the window, from its first page on.
    Whole,
    /// All pages of the window in the last-level table of the first one: in a long window all 512.
    Table,
    /// Anything.
    Any,
}

/// All that a program can name. Weights say how often; what comes first in a list is the simplest,
/// to which a program that fails is shrunk.
#[derive(Clone, Copy, Debug)]
pub struct Universe {
    /// Spaces, each with its weight.
    pub spaces: &'static [(u8, SpaceKind)],
    /// Where their pages are.
    pub windows: &'static [Window],
    /// How long ranges are, with weights.
    pub lengths: &'static [(u8, Length)],
    /// The weight of each CPU.
    pub cpus: &'static [u8],
    /// Tasks that a CPU can switch to.
    pub tasks: u8,
    /// Which calls there are.
    pub mix: Mix,
    /// Of 256 steps, how many are preempted in the middle.
    pub preempted: u8,
}

/// One contiguous group, with its alignment.
const GROUP: Window = from_start((1 << 30) + (6 << 21) + (3 << 16), 16);

/// Both ends of a half.
const ENDS: [Window; 2] = [before_end(6), from_start(0, 6)];

/// Where tables end, at each level, in the middle; both ends of the half; and a group.
const EDGES: [Window; 6] = [
    from_start((5 << 39) + (7 << 21) - 20 * PAGE_SIZE, 40),
    from_start((5 << 39) + (3 << 30) - 6 * PAGE_SIZE, 12),
    from_start((5 << 39) - 6 * PAGE_SIZE, 12),
    from_start(0, 6),
    before_end(6),
    GROUP,
];

/// The same, and one whole last-level table with some of its neighbors.
const EDGES_AND_TABLE: [Window; 7] = {
    let [a, b, c, d, e, f] = EDGES;
    let table = from_start((9 << 39) - 4 * PAGE_SIZE, 520);
    [a, b, c, d, e, f, table]
};

/// The last table of a half and the first one, each with some pages of its neighbor.
const LAST_AND_FIRST_TABLE: [Window; 2] = [before_end(514), from_start(0, 514)];

/// Both ends of a half, and a stretch on both sides of a table's end with room for more separate pages than any list holds.
const CORNERS: [Window; 3] = [
    ENDS[0],
    ENDS[1],
    from_start((5 << 39) + (7 << 21) - 40 * PAGE_SIZE, 80),
];

impl Universe {
    /// Of the machine model ([`super::run()`]): three spaces, and few pages, so that CPUs and tasks
    /// meet. The windows are the end of a last-level table, the end of a level-2 table, and one
    /// contiguous group with its alignment.
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
        // Programs that jump about too much rarely get anywhere.
        cpus: &[4, 2, 1],
        tasks: super::TASKS as u8,
        mix: Mix::Machine,
        preempted: 51,
    };

    /// Of the oracle ([`super::oracle`]), for programs without sections: one space, all of whose
    /// windows are looked at after each step, and among them a whole table.
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

    /// Of the oracle, for programs with sections.
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

    /// The same with two windows only, the first and the last pages of the half, so that calls meet there often.
    pub const fn ends(spaces: &'static [(u8, SpaceKind)]) -> Self {
        Self {
            windows: &ENDS,
            lengths: &[(1, Length::UpTo(2)), (1, Length::Whole)],
            ..Self::sections(spaces)
        }
    }

    /// As [`Universe::requests`], in the last and the first table of a half.
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

    /// Few pages and one long window, and mostly calls with tokens, gathers, callbacks and shared tables.
    pub const fn corners(spaces: &'static [(u8, SpaceKind)]) -> Self {
        Self {
            windows: &CORNERS,
            lengths: &[(1, Length::UpTo(2)), (1, Length::Whole)],
            mix: Mix::Corners,
            ..Self::sections(spaces)
        }
    }

    /// Pages of all windows.
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

/// The attributes that a program means by a number: each kind of space has four.
pub const fn prot(kind: SpaceKind, index: u8) -> Prot {
    let prots = match kind {
        SpaceKind::Kernel => KERNEL_PROTS,
        SpaceKind::User(_) => USER_PROTS,
    };
    prots[index as usize % prots.len()]
}
