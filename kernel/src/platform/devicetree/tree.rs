// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree itself: header checks, walking, finding nodes.
//!
//! `dtoolkit` checks the structure and strings blocks once, in full, and then
//! reads without copying. Around it stand four things it leaves to its caller,
//! each because a blob from outside could otherwise stop the kernel:
//!
//! * the header is checked here first, because its errors do not carry the
//!   value;
//! * nesting is limited ([`MAX_DEPTH`]): its walk over children rescans a
//!   subtree per level, which a chain of 100 000 nodes would make quadratic;
//! * its iterators panic when they are asked again after their `None`: [`Walk`]
//!   drops them then, [`Place::children`] fuses them;
//! * missing or wrong `#address-cells` read as their defaults there, and `ok`
//!   is no `status` there: [`Place`] reads both itself.

use arrayvec::ArrayVec;
use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};

use super::error::DeviceTreeError;
use super::place::Place;

/// Levels of nodes, the root included. Linux refuses beyond 64; trees of real
/// boards have up to 8.
pub const MAX_DEPTH: usize = 16;

const MAGIC: u32 = 0xd00d_feed;
const HEADER_SIZE: usize = 40;
/// Bytes of a cell.
pub const CELL: usize = 4;

/// A checked device tree blob.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    fdt: Fdt<'a>,
}

impl<'a> Tree<'a> {
    /// Checks `blob`, which may be longer than the tree in it.
    ///
    /// # Errors
    /// Says what is wrong with the header, the blocks, or the nesting.
    pub fn new(blob: &'a [u8]) -> Result<Self, DeviceTreeError> {
        let blob = check_header(blob)?;
        let fdt = Fdt::new(blob).map_err(DeviceTreeError::BadStructure)?;
        let tree = Self { fdt };
        let mut walk = tree.walk();
        while walk.next().is_some() {}
        match walk.depth {
            Depth::Limited => Err(DeviceTreeError::TooDeep { limit: MAX_DEPTH }),
            Depth::Whole => Ok(tree),
        }
    }

    /// The root node.
    pub fn root(self) -> Place<'a> {
        let mut chain = ArrayVec::new();
        chain.push(self.fdt.root());
        Place::new(chain)
    }

    /// All nodes, a parent before its children, in the order of the blob.
    pub fn walk(self) -> Walk<'a> {
        Walk {
            start: Some(self.root()),
            chain: ArrayVec::new(),
            pending: ArrayVec::new(),
            depth: Depth::Whole,
        }
    }

    /// The first enabled node, in the order of the blob, that is compatible
    /// with one of `names`.
    pub fn find_compatible(self, names: &[&str]) -> Option<Place<'a>> {
        self.walk()
            .find(|place| place.is_enabled() && place.is_compatible(names))
    }

    /// The node at `path`, an absolute path or an alias of one. A component
    /// without unit address also finds a node that has one.
    pub fn find(self, path: &str) -> Option<Place<'a>> {
        let absolute = if path.starts_with('/') {
            path
        } else {
            let (alias, rest) = match path.find('/') {
                Some(slash) => path.split_at(slash),
                None => (path, ""),
            };
            // An alias followed by more path components is allowed by the
            // specification, but nothing that exists uses it.
            if !rest.is_empty() {
                return None;
            }
            let aliases = self.root().child("aliases")?;
            aliases.text(alias).filter(|path| path.starts_with('/'))?
        };
        let mut place = self.root();
        for component in absolute.split('/').filter(|part| !part.is_empty()) {
            place = place.child(component)?;
        }
        Some(place)
    }

    /// The node with this `phandle`.
    pub fn find_phandle(self, phandle: u32) -> Option<Place<'a>> {
        self.walk()
            .find(|place| matches!(place.u32("phandle"), Ok(Some(value)) if value == phandle))
    }

    /// Entries of the memory reservation block: start and size in bytes.
    pub fn memory_reservations(self) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.fdt
            .memory_reservations()
            .map(|entry| (entry.address(), entry.size()))
    }
}

/// Checks what can be checked without reading the blocks, and cuts `blob` to
/// the size its header states.
fn check_header(blob: &[u8]) -> Result<&[u8], DeviceTreeError> {
    if blob.is_empty() {
        return Err(DeviceTreeError::Missing);
    }
    let too_short = DeviceTreeError::Truncated {
        needed: HEADER_SIZE,
        available: blob.len(),
    };
    let field = |index: usize| -> u32 {
        let bytes = blob.get(index * CELL..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    };
    if blob.len() < CELL {
        return Err(too_short);
    }
    if field(0) != MAGIC {
        return Err(DeviceTreeError::BadMagic { found: field(0) });
    }
    if blob.len() < HEADER_SIZE {
        return Err(too_short);
    }
    let total = field(1);
    if (total as usize) < HEADER_SIZE {
        return Err(DeviceTreeError::BadHeader {
            field: "totalsize",
            value: total,
            rule: "the header alone is 0x28 bytes long",
        });
    }
    let Some(blob) = blob.get(..total as usize) else {
        return Err(DeviceTreeError::Truncated {
            needed: total as usize,
            available: blob.len(),
        });
    };
    let blocks = [
        ("off_mem_rsvmap", field(4), 0),
        ("off_dt_struct", field(2), field(9)),
        ("off_dt_strings", field(3), field(8)),
    ];
    for (name, offset, size) in blocks {
        let end = u64::from(offset) + u64::from(size);
        if (offset as usize) < HEADER_SIZE || end > u64::from(total) {
            return Err(DeviceTreeError::BadHeader {
                field: name,
                value: offset,
                rule: "the block must lie behind the header and end within totalsize",
            });
        }
    }
    Ok(blob)
}

type Children<'a> = <FdtNode<'a> as Node>::Children<'a>;

/// Whether a walk saw the whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    Whole,
    Limited,
}

/// Iterator over all nodes; see [`Tree::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    start: Option<Place<'a>>,
    /// The nodes whose children are being walked, the root first.
    chain: ArrayVec<FdtNode<'a>, MAX_DEPTH>,
    /// For each of them, the children still to come.
    pending: ArrayVec<Children<'a>, MAX_DEPTH>,
    depth: Depth,
}

impl<'a> Walk<'a> {
    fn enter(&mut self, node: FdtNode<'a>) {
        if self.chain.try_push(node).is_ok() {
            // Both vectors have the same length and capacity.
            let _ = self.pending.try_push(node.children());
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Place<'a>;

    fn next(&mut self) -> Option<Place<'a>> {
        if let Some(root) = self.start.take() {
            self.enter(root.node());
            return Some(root);
        }
        loop {
            match self.pending.last_mut()?.next() {
                Some(child) => {
                    let mut chain = self.chain.clone();
                    if chain.try_push(child).is_err() {
                        self.depth = Depth::Limited;
                        continue;
                    }
                    self.enter(child);
                    return Some(Place::new(chain));
                }
                None => {
                    self.pending.pop();
                    self.chain.pop();
                }
            }
        }
    }
}
