// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translation tables in memory: for each entry, every value that it has held.
//!
//! An entry is a list of [`Version`]s in coherence order, newest first. A version holds the stamp
//! of its store and the view that the store published. So a walk that reads a link also knows which
//! contents of the table it must find there (R18, rows T1 and T2).
//!
//! Values that hardware cannot distinguish are one version: links that differ only in the ignored
//! population bits, and all invalid entries. The older stamp stays, because the value that hardware
//! sees has not changed since then.
//!
//! A frame that becomes a table again is a new [`Table`]. What its memory held before the zeroes is
//! unknown, and a walker that reads it before the zeroes are visible reads *garbage*.

use super::view::{Stamp, View};
use lazymmu::bits;

/// For each level, log2 of the number of bytes that an entry spans.
pub const SHIFT: [u32; 4] = [39, 30, 21, 12];

const ENTRIES: usize = lazymmu::ENTRIES;

/// The index of a version. Two values are not indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionId(u32);

impl VersionId {
    /// The zeroes with which the table began, and the garbage before them.
    pub const ZEROES: Self = Self(u32::MAX);
    /// The end of a list whose older versions no CPU can read.
    const NOTHING: Self = Self(u32::MAX - 1);
}

/// Index of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableId(u32);

/// One value of one entry.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    pub raw: u64,
    pub stamp: Stamp,
    /// The index of the view that the store published.
    view: u32,
    /// The table that the value links, if it is a link.
    pub child: Option<TableId>,
    older: VersionId,
}

/// An entry: its table and its index there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The table.
    pub table: TableId,
    /// The index of the entry in it.
    pub index: u16,
}

/// The place of a table in a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The index of the root among the machine's roots.
    pub root: u16,
    /// The level of the table, 0 for a root.
    pub level: u8,
    /// The number of the first page that it translates: a canonical address shifted right by 12.
    pub page: u64,
}

/// A version that links a table.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub at: Location,
    pub version: VersionId,
}

#[derive(Debug)]
pub struct Table {
    /// The number of the frame in the pool.
    pub frame: usize,
    pub zeroed: Stamp,
    newest: Box<[VersionId; ENTRIES]>,
    /// Whether any entry differs from zero.
    touched: bool,
    pub place: Option<Place>,
    /// Every version that has linked it at some time.
    pub links: Vec<Link>,
    pub freed: bool,
    /// Whether it was freed while a walker could still reach it. If not, all walks to it were made
    /// before (row U7), and read what it held then.
    pub freed_early: bool,
    /// Whether an entry was part of a contiguous group at some time.
    pub contiguous: bool,
}

#[derive(Debug, Default)]
pub struct Memory {
    tables: Vec<Table>,
    versions: Vec<Version>,
    views: Vec<View>,
    /// The table that lives in a frame of the pool.
    lives: Vec<Option<TableId>>,
}

pub const fn is_link(level: u8, raw: u64) -> bool {
    level < 3 && raw & 0b11 == 0b11
}

/// Whether a TLB may hold the value: a link, or a leaf with the access flag. (A fault is
/// never cached, Arm ARM R_RYMDT and its neighbors; R31.)
pub const fn is_cacheable(level: u8, raw: u64) -> bool {
    is_link(level, raw) || raw & (bits::VALID | bits::AF) == bits::VALID | bits::AF
}

/// Whether hardware can distinguish two values of an entry.
const fn differ(level: u8, old: u64, new: u64) -> bool {
    if (old | new) & bits::VALID == 0 {
        return false;
    }
    let ignored = if is_link(level, old) && is_link(level, new) {
        bits::TABLE_SOFTWARE
    } else {
        bits::SOFTWARE
    };
    (old ^ new) & !ignored != 0
}

impl Memory {
    pub fn new(frames: usize) -> Self {
        Self {
            lives: vec![None; frames],
            ..Self::default()
        }
    }

    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[id.0 as usize]
    }

    pub fn table_mut(&mut self, id: TableId) -> &mut Table {
        &mut self.tables[id.0 as usize]
    }

    pub fn version(&self, id: VersionId) -> &Version {
        &self.versions[id.0 as usize]
    }

    pub fn view_of(&self, version: &Version) -> &View {
        &self.views[version.view as usize]
    }

    /// The table that lives in frame `frame` of the pool.
    pub fn living(&self, frame: usize) -> Option<TableId> {
        self.lives.get(frame).copied().flatten()
    }

    /// Makes a frame a table. `zeroed` is the store of its zeroes.
    pub fn alloc(&mut self, frame: usize, zeroed: Stamp) -> TableId {
        let id = TableId(self.tables.len() as u32);
        self.tables.push(Table {
            frame,
            zeroed,
            newest: Box::new([VersionId::ZEROES; ENTRIES]),
            touched: false,
            place: None,
            links: Vec::new(),
            freed: false,
            freed_early: false,
            contiguous: false,
        });
        self.lives[frame] = Some(id);
        id
    }

    pub fn free(&mut self, id: TableId, early: bool) {
        let table = self.table_mut(id);
        table.freed = true;
        table.freed_early = early;
        let frame = table.frame;
        self.lives[frame] = None;
    }

    pub fn newest(&self, at: Location) -> VersionId {
        self.table(at.table).newest[at.index as usize]
    }

    /// The versions of an entry, newest first, without the zeroes at the end.
    pub fn versions(&self, at: Location) -> impl Iterator<Item = (VersionId, &Version)> {
        let mut next = self.newest(at);
        core::iter::from_fn(move || {
            if next == VersionId::ZEROES || next == VersionId::NOTHING {
                return None;
            }
            let id = next;
            let version = self.version(id);
            next = version.older;
            Some((id, version))
        })
    }

    /// Whether the zeroes with which the table began are still in the entry's history.
    pub fn reaches_zeroes(&self, at: Location) -> bool {
        match self.versions(at).last() {
            Some((_, oldest)) => oldest.older == VersionId::ZEROES,
            None => self.newest(at) == VersionId::ZEROES,
        }
    }

    /// Adds a view for the versions of later stores, and returns its index.
    pub fn add_view(&mut self, view: View) -> u32 {
        self.views.push(view);
        self.views.len() as u32 - 1
    }

    /// Stores `raw` to an entry. `child` converts the physical address of a table to the number of
    /// its frame in the pool.
    pub fn store(
        &mut self,
        at: Location,
        raw: u64,
        stamp: Stamp,
        view: u32,
        child: impl Fn(u64) -> Option<usize>,
    ) {
        let place = self.table(at.table).place;
        // A table that is not linked yet may be of any level.
        let level = place.map_or(0, |place| place.level);
        let older = self.newest(at);
        let old = match older {
            VersionId::ZEROES => 0,
            id => self.version(id).raw,
        };
        if !differ(level, old, raw) {
            return;
        }
        let links = is_link(level, raw) && place.is_some();
        let child = links
            .then(|| child(raw & bits::ADDRESS).and_then(|frame| self.living(frame)))
            .flatten();
        let id = VersionId(self.versions.len() as u32);
        self.versions.push(Version {
            raw,
            stamp,
            view,
            child,
            older,
        });
        let table = self.table_mut(at.table);
        table.newest[at.index as usize] = id;
        table.touched = true;
        table.contiguous |= raw & (bits::CONT | bits::VALID) == bits::CONT | bits::VALID;
        if let (Some(child), Some(place)) = (child, place) {
            let shift = SHIFT[place.level as usize] - SHIFT[3];
            let below = Place {
                level: place.level + 1,
                page: place.page + (u64::from(at.index) << shift),
                ..place
            };
            self.link(child, Link { at, version: id }, below);
        }
    }

    /// Gives a table its place below a link. The library links tables from the top down, so no
    /// table below `child` needs a place then.
    fn link(&mut self, child: TableId, link: Link, place: Place) {
        let table = self.table_mut(child);
        assert!(
            table.place.is_some() || !table.touched || place.level == 3,
            "a table of level {} is filled before it is linked, which this model does not follow",
            place.level
        );
        table.place.get_or_insert(place);
        table.links.push(link);
    }

    /// Removes all versions except the newest one of each entry.
    pub fn settle(&mut self) {
        for table in &mut self.tables {
            table.zeroed = Stamp::GENESIS;
            let newest = &table.newest;
            table
                .links
                .retain(|link| !table.freed && link.version != VersionId::ZEROES);
            for id in newest.iter().filter(|id| **id != VersionId::ZEROES) {
                let version = &mut self.versions[id.0 as usize];
                version.older = VersionId::NOTHING;
                version.stamp = Stamp::GENESIS;
            }
        }
        for i in 0..self.tables.len() {
            let links = std::mem::take(&mut self.tables[i].links);
            let live = |link: &Link| self.newest(link.at) == link.version;
            let links = links.into_iter().filter(live).collect();
            self.tables[i].links = links;
        }
    }
}
