// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translation tables in memory: for each entry, every value it ever held.
//!
//! A location is a list of [`Version`]s in coherence order, newest first. A version knows its
//! store's stamp and the view that the store published, so that whoever reads a table link also
//! knows which contents of the table it must find there (R18, rows T1 and T2).
//!
//! Values that hardware cannot tell apart are one version: links that differ in the ignored
//! population bits, and invalid entries whatever else they hold. The older stamp stays, which
//! is right for both: the value has been there ever since.
//!
//! A frame that becomes a table again is a new [`Table`]. What was in the memory before its
//! zeroes is unknown, and a walker that gets there early reads *garbage*.

use super::view::{Stamp, View};
use lazymmu::bits;

/// Level shifts of a walk, in bits.
pub const SHIFT: [u32; 4] = [39, 30, 21, 12];

const ENTRIES: usize = lazymmu::ENTRIES;

/// Index of a version. Two values are no index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionId(u32);

impl VersionId {
    /// The zeroes that the table began with, and garbage before them.
    pub const ZEROES: Self = Self(u32::MAX);
    /// Nothing older can be read by anybody.
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
    /// Index of the view that the store published.
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

/// Where a table hangs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Index of the root among the machine's roots.
    pub root: u16,
    /// Level of the table, 0 for a root.
    pub level: u8,
    /// First page it translates, in units of 4 KiB, as a canonical address shifted right.
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
    /// Number of the frame in the pool.
    pub frame: usize,
    pub zeroed: Stamp,
    newest: Box<[VersionId; ENTRIES]>,
    /// Whether any entry differs from zero.
    touched: bool,
    pub place: Option<Place>,
    /// Every version that ever linked it.
    pub links: Vec<Link>,
    pub freed: bool,
    /// It was freed while some walker could reach it. Otherwise whoever still gets there got
    /// there before (row U7), and found what it held then.
    pub freed_early: bool,
    /// Whether any entry was ever part of a contiguous group.
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

/// Whether hardware can tell two values of an entry apart.
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

    /// A frame becomes a table; its zeroes are the store `zeroed`.
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

    /// The versions of an entry, newest first, without the zeroes at the bottom.
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

    /// Whether the zeroes that a table begins with are still in the entry's history.
    pub fn reaches_zeroes(&self, at: Location) -> bool {
        match self.versions(at).last() {
            Some((_, oldest)) => oldest.older == VersionId::ZEROES,
            None => self.newest(at) == VersionId::ZEROES,
        }
    }

    /// Keeps a view for the versions that are stored under it.
    pub fn add_view(&mut self, view: View) -> u32 {
        self.views.push(view);
        self.views.len() as u32 - 1
    }

    /// A store. `child` finds the table in a frame given by physical address.
    pub fn store(
        &mut self,
        at: Location,
        raw: u64,
        stamp: Stamp,
        view: u32,
        child: impl Fn(u64) -> Option<usize>,
    ) {
        let place = self.table(at.table).place;
        // A table that hangs nowhere yet may be of any level.
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

    /// Hangs a table below a link. Written tables that come with tables of their own are
    /// linked from the top by the library, so nothing below needs a place.
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

    /// Forgets everything but the newest value of each entry.
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
