// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree as a whole: iterating over nodes and finding them.

use arrayvec::ArrayVec;

use super::error::DeviceTreeError;
use super::flat::{Cursor, Flat, Token};
use super::place::{Chain, Place};

/// A checked device tree blob.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    flat: Flat<'a>,
}

impl<'a> Tree<'a> {
    /// Checks `blob`, which may be longer than the tree in it.
    ///
    /// # Errors
    /// A wrong header, block or nesting.
    pub fn new(blob: &'a [u8]) -> Result<Self, DeviceTreeError> {
        Ok(Self {
            flat: Flat::new(blob)?,
        })
    }

    /// The root node.
    pub fn root(self) -> Place<'a> {
        match self.walk().next() {
            Some(root) => root,
            None => unreachable!("`Flat::new` refuses a tree without root"),
        }
    }

    /// All nodes, a parent before its children, in the order of the blob.
    pub fn walk(self) -> Walk<'a> {
        Walk {
            flat: self.flat,
            tokens: self.flat.tokens(0),
            chain: ArrayVec::new(),
        }
    }

    /// The first enabled node, in the order of the blob, that is compatible with one of `names`.
    pub fn find_compatible(self, names: &[&str]) -> Option<Place<'a>> {
        self.walk()
            .find(|place| place.is_enabled() && place.is_compatible(names))
    }

    /// The node at `path`, which is absolute or begins with an alias. A component
    /// without unit address also finds a node that has one.
    pub fn find(self, path: &str) -> Option<Place<'a>> {
        let (start, rest) = if path.starts_with('/') {
            (self.root(), path)
        } else {
            let (alias, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
            let aliases = self.root().child("aliases")?;
            let absolute = aliases.text(alias).filter(|path| path.starts_with('/'))?;
            (self.follow(self.root(), absolute)?, rest)
        };
        self.follow(start, rest)
    }

    fn follow(self, start: Place<'a>, path: &str) -> Option<Place<'a>> {
        let mut components = path.split('/').filter(|part| !part.is_empty());
        components.try_fold(start, |place, component| place.child(component))
    }

    /// The node with this `phandle`.
    pub fn find_phandle(self, phandle: u32) -> Option<Place<'a>> {
        let has_it = |place: &Place<'_>, name| matches!(place.u32(name), Ok(Some(value)) if value == phandle);
        self.walk()
            .find(|place| has_it(place, "phandle") || has_it(place, "linux,phandle"))
    }

    /// Entries of the memory reservation block: start and size in bytes.
    pub fn memory_reservations(self) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.flat.memory_reservations()
    }
}

/// Iterator over all nodes; see [`Tree::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    flat: Flat<'a>,
    tokens: Cursor<'a>,
    /// The nodes that have begun and not ended, the root first.
    chain: Chain,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Place<'a>;

    fn next(&mut self) -> Option<Place<'a>> {
        loop {
            let at = self.tokens.offset();
            match self.tokens.advance() {
                Token::Begin { .. } => {
                    // The chain has room, because `Flat::new` has checked the depth.
                    let _ = self.chain.try_push(at);
                    return Some(Place::new(self.flat, self.chain.clone()));
                }
                Token::End => {
                    self.chain.pop();
                }
                Token::Property { .. } => {}
                Token::Last => return None,
            }
        }
    }
}
