// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk: from the root to the last-level tables of a range, one after the other.
//!
//! A [`Cursor`] goes through a range in ascending order and stops once per last-level
//! table, or once per hole, however large. It remembers the level-2 table it came
//! through, so the levels above are read again only every GiB.

use super::tables::Spare;
use super::{AddressSpace, SpaceError};
use crate::addr::{ENTRIES, Frame, Level, PageRange, VirtAddr};
use crate::backend::{self, Run};
use crate::desc::Desc;
use crate::hardware::Kernel;
use crate::lazy::Hint;
use crate::table::{Pte, Table};
use crate::tlbi::Scope;

/// A last-level table, and the part of a range that it translates.
#[derive(Clone, Copy)]
pub(super) struct LeafTable<'s> {
    /// The entry that links the table.
    pub(super) parent: &'s Pte,
    /// What that entry held when the cursor came by.
    pub(super) link: Desc,
    /// The part of the range.
    pub(super) piece: PageRange,
    table: &'s Table,
}

/// Where a walk ended early, and the part of a range that this concerns.
#[derive(Clone, Copy)]
pub(super) struct Hole {
    /// The level of the entry that leads nowhere.
    pub(super) level: Level,
    /// That entry: invalid, or a block.
    pub(super) entry: Desc,
    /// The part of the range.
    pub(super) piece: PageRange,
}

/// A stop of the cursor.
pub(super) enum Stop<'s> {
    Table(LeafTable<'s>),
    Hole(Hole),
}

/// See the module text.
pub(super) struct Cursor<'s, 'm, K: Kernel> {
    space: &'s AddressSpace<'m, K>,
    rest: Option<PageRange>,
    near: Option<Near<'s>>,
}

/// A level-2 table on the way.
#[derive(Clone, Copy)]
struct Near<'s> {
    frame: Frame,
    table: &'s Table,
    /// The entry that links it.
    parent: &'s Pte,
    /// An address that it translates.
    serves: VirtAddr,
}

impl<'s, 'm, K: Kernel> Cursor<'s, 'm, K> {
    pub(super) const fn new(space: &'s AddressSpace<'m, K>, range: PageRange) -> Self {
        Self {
            space,
            rest: Some(range),
            near: None,
        }
    }

    /// The next last-level table; tables that are missing are taken from `spare`.
    pub(super) fn next_or_build(&mut self, spare: &mut Spare<'_, K>) -> Option<LeafTable<'s>> {
        let piece = self.rest?.first_in(Level::L2);
        let va = piece.start();
        let near = match self.level_2(va) {
            Ok(near) => near,
            Err(_) => self.build_level_2(va, spare),
        };
        let parent = &near.table.entries()[Level::L2.index(va)];
        let link = self
            .space
            .link_or_build(Level::L2, parent, Some(near.parent), spare);
        Some(self.stop_at(parent, link, piece))
    }

    #[inline]
    fn stop_at(&mut self, parent: &'s Pte, link: Desc, piece: PageRange) -> LeafTable<'s> {
        self.pass(piece);
        LeafTable {
            parent,
            link,
            piece,
            table: self.space.table(link.frame()),
        }
    }

    /// Goes on behind `piece`, with which the rest begins.
    #[inline(always)]
    fn pass(&mut self, piece: PageRange) {
        self.rest = self.rest.and_then(|rest| rest.behind(piece));
    }

    /// Finds the level-2 table for `va`; `Err` with where the walk ended early.
    #[inline]
    fn level_2(&mut self, va: VirtAddr) -> Result<Near<'s>, (Level, Desc)> {
        if let Some(near) = self.near
            && near.serves.as_u64() >> Level::L1.shift() == va.as_u64() >> Level::L1.shift()
        {
            return Ok(near);
        }
        let space = self.space;
        space.mmu.kernel().counters().walks(1);
        let top = &space.table(space.root).entries()[Level::L0.index(va)];
        let link = space.load(top);
        if !link.is_table(Level::L0) {
            return Err((Level::L0, link));
        }
        let parent = &space.table(link.frame()).entries()[Level::L1.index(va)];
        let link = space.load(parent);
        if !link.is_table(Level::L1) {
            return Err((Level::L1, link));
        }
        Ok(self.remember(parent, link, va))
    }

    fn build_level_2(&mut self, va: VirtAddr, spare: &mut Spare<'_, K>) -> Near<'s> {
        let space = self.space;
        let top = &space.table(space.root).entries()[Level::L0.index(va)];
        let link = space.link_or_build(Level::L0, top, None, spare);
        let parent = &space.table(link.frame()).entries()[Level::L1.index(va)];
        let link = space.link_or_build(Level::L1, parent, Some(top), spare);
        self.remember(parent, link, va)
    }

    #[inline]
    fn remember(&mut self, parent: &'s Pte, link: Desc, serves: VirtAddr) -> Near<'s> {
        let near = Near {
            frame: link.frame(),
            table: self.space.table(link.frame()),
            parent,
            serves,
        };
        self.near = Some(near);
        near
    }
}

impl<'s, K: Kernel> Iterator for Cursor<'s, '_, K> {
    type Item = Stop<'s>;

    #[inline]
    fn next(&mut self) -> Option<Stop<'s>> {
        let rest = self.rest?;
        let found = self.level_2(rest.start()).and_then(|near| {
            let parent = &near.table.entries()[Level::L2.index(rest.start())];
            let link = self.space.load(parent);
            if link.is_table(Level::L2) {
                Ok((parent, link))
            } else {
                Err((Level::L2, link))
            }
        });
        Some(match found {
            Ok((parent, link)) => Stop::Table(self.stop_at(parent, link, rest.first_in(Level::L2))),
            Err((level, entry)) => {
                let piece = rest.first_in(level);
                self.pass(piece);
                Stop::Hole(Hole {
                    level,
                    entry,
                    piece,
                })
            }
        })
    }
}

impl<'s> LeafTable<'s> {
    /// The entries of the piece.
    #[inline]
    pub(super) fn ptes(&self) -> &'s [Pte] {
        let first = Level::L3.index(self.piece.start());
        &self.table.entries()[first..][..self.piece.pages() as usize]
    }

    /// The same table, and entry `i` of the piece alone.
    #[inline(always)]
    pub(super) fn nth(&self, i: usize) -> LeafTable<'s> {
        self.part(i, 1)
    }

    /// The same table, and the `pages` entries from `first` on alone.
    #[inline(always)]
    pub(super) fn part(&self, first: usize, pages: usize) -> LeafTable<'s> {
        LeafTable {
            piece: self.piece.part(first, pages),
            ..*self
        }
    }

    /// The same table, whose link holds `link` now.
    pub(super) const fn with_link(self, link: Desc) -> Self {
        Self { link, ..self }
    }

    /// The piece as what is written to.
    #[inline(always)]
    pub(super) fn run(&self, scope: Scope) -> Run<'s> {
        Run {
            ptes: self.ptes(),
            table: self.link.frame(),
            pages: self.piece,
            scope,
        }
    }

    /// Whether no entry of the whole table is in use.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.link.population() == Some(0)
    }

    /// Whether every entry of the whole table is in use.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.link.population() == Some(ENTRIES)
    }
}

impl<'m, K: Kernel> AddressSpace<'m, K> {
    /// The last-level table of `range`, which does not cross a table's end, if there is
    /// one: what the cursor would find, for the most common request.
    #[inline]
    pub(super) fn leaf_table(&self, range: PageRange) -> Option<LeafTable<'_>> {
        let va = range.start();
        if let Some(found) = self.announced_table(range) {
            return Some(found);
        }
        self.mmu.kernel().counters().walks(1);
        let mut parent = &self.table(self.root).entries()[Level::L0.index(va)];
        let mut link = self.load(parent);
        for (level, next) in [(Level::L0, Level::L1), (Level::L1, Level::L2)] {
            if !link.is_table(level) {
                return None;
            }
            parent = &self.table(link.frame()).entries()[next.index(va)];
            link = self.load(parent);
        }
        link.is_table(Level::L2).then(|| LeafTable {
            parent,
            link,
            piece: range,
            table: self.table(link.frame()),
        })
    }

    /// The table of a range that was announced: no walk.
    #[inline]
    fn announced_table(&self, range: PageRange) -> Option<LeafTable<'_>> {
        let kernel = self.mmu.kernel();
        // The hints are the task's; an interrupt has none.
        let upper = kernel.lazy().hints().upper_table(self.root, range)?;
        if kernel.in_interrupt() {
            return None;
        }
        let parent = &self.table(upper).entries()[Level::L2.index(range.start())];
        let link = self.load(parent);
        link.is_table(Level::L2).then(|| LeafTable {
            parent,
            link,
            piece: range,
            table: self.table(link.frame()),
        })
    }

    /// What [`crate::Lazy::enable_fast_pte_range`] keeps of a range of this space in `table`.
    pub(crate) fn hint(&self, pages: PageRange, table: Frame) -> Result<Hint, SpaceError> {
        self.check_half(pages)?;
        self.check_one_table(pages)?;
        let va = pages.start();
        let near = self.cursor(pages).level_2(va).ok();
        let upper = near.map(|near| (near.frame, &near.table.entries()[Level::L2.index(va)]));
        match upper.map(|(upper, parent)| (upper, self.load(parent))) {
            Some((upper, link)) if link.is_table(Level::L2) && link.frame() == table => Ok(Hint {
                root: self.root,
                upper,
                table,
                pages,
                scope: self.kind.scope(),
                depth: 0,
            }),
            _ => Err(SpaceError::WrongTable { va, table }),
        }
    }

    /// Walks `range`.
    #[inline]
    pub(super) const fn cursor(&self, range: PageRange) -> Cursor<'_, 'm, K> {
        Cursor::new(self, range)
    }

    /// The last-level tables of `range` that exist.
    #[inline]
    pub(super) fn leaf_tables(&self, range: PageRange) -> impl Iterator<Item = LeafTable<'_>> {
        self.cursor(range).filter_map(|stop| match stop {
            Stop::Table(found) => Some(found),
            Stop::Hole(_) => None,
        })
    }

    /// The first entry of the piece whose value is as asked.
    #[inline]
    pub(super) fn position(
        &self,
        found: &LeafTable<'_>,
        is_it: impl Fn(Desc) -> bool,
    ) -> Option<usize> {
        if backend::is_memory_current(self.mmu) {
            found.ptes().iter().position(|pte| is_it(self.load(pte)))
        } else {
            (0..found.ptes().len()).find(|i| is_it(self.read(found, *i)))
        }
    }

    /// The value of entry `i` of the piece, wherever it is (R13, R20).
    #[inline(always)]
    pub(super) fn read(&self, found: &LeafTable<'_>, i: usize) -> Desc {
        let index = Level::L3.index(found.piece.start()) + i;
        let pte = &found.table.entries()[index];
        backend::read(self.mmu, found.link.frame(), index, pte)
    }

    /// Checks that every page of `range` is mapped by a page of its own.
    pub(super) fn check_mapped(&self, range: PageRange) -> Result<(), SpaceError> {
        for stop in self.cursor(range) {
            let found = match stop {
                Stop::Table(found) => found,
                Stop::Hole(hole) => {
                    let (va, level) = (hole.piece.start(), hole.level);
                    return Err(if hole.entry.is_leaf(level) {
                        SpaceError::Block { va, level }
                    } else {
                        SpaceError::NotMapped { va }
                    });
                }
            };
            // What is counted is valid, but for a moment inside `remap`.
            if found.is_full() {
                continue;
            }
            if let Some(i) = self.position(&found, |entry| !entry.is_valid()) {
                return Err(SpaceError::NotMapped {
                    va: found.piece.page(i),
                });
            }
        }
        Ok(())
    }
}
