// SPDX-License-Identifier: MIT OR Apache-2.0
//! A node and the nodes above it: properties, cells, addresses.
//!
//! The meaning of a property depends on the nodes above. The parent's cell counts give the format
//! of `reg`, and the `ranges` of every bus up to the root give the address that the CPU uses. A
//! [`Place`] therefore holds the chain of nodes from the root to it. The chain is also the path in
//! messages.

use core::iter;

use arrayvec::ArrayVec;

use super::error::{DeviceTreeError, MAX_PATH, NodePath, Quoted};
use super::flat::{CELL, Cursor, Flat, MAX_DEPTH, Token, is_named, number, text_at};
use crate::platform::phys_range::PhysRange;

/// Offsets of nodes in the structure block, the root first.
pub type Chain = ArrayVec<u32, MAX_DEPTH>;

/// Replaces the beginning of a long path.
const MARK: &str = "...";

/// A node together with the nodes above it.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    flat: Flat<'a>,
    /// Offsets from the root to the node itself; never empty.
    chain: Chain,
}

impl<'a> Place<'a> {
    /// The last node of `chain`, which holds at least the root.
    pub fn new(flat: Flat<'a>, chain: Chain) -> Self {
        Self { flat, chain }
    }

    /// The name of the node at `offset`, and the tokens after it.
    fn node_at(&self, offset: u32) -> (&'a [u8], Cursor<'a>) {
        let mut tokens = self.flat.tokens(offset);
        match tokens.advance() {
            Token::Begin { name } => (name, tokens),
            _ => (&[], tokens),
        }
    }

    fn node(&self) -> (&'a [u8], Cursor<'a>) {
        self.node_at(self.chain[self.chain.len() - 1])
    }

    /// Whether both are the same node of one tree.
    pub fn is(&self, other: &Self) -> bool {
        self.chain == other.chain
    }

    /// The node's name with its unit address.
    pub fn name(&self) -> &'a [u8] {
        self.node().0
    }

    /// The path for messages, without characters that could begin another line of the log. Only the
    /// end of a long path is kept.
    pub fn path(&self) -> NodePath {
        let mut path = NodePath::new();
        let names = || self.chain.iter().skip(1).map(|at| self.node_at(*at).0);
        let mut left: usize = names().map(|name| name.len() + 1).sum();
        for name in names() {
            // Skip names while the rest is too long; a mark replaces them.
            if left > MAX_PATH - MARK.len() && left > name.len() + 1 {
                left -= name.len() + 1;
                if path.as_str().is_empty() {
                    path.append(MARK);
                }
                continue;
            }
            path.append("/");
            for piece in name.utf8_chunks() {
                for character in piece.valid().chars() {
                    let shown = if character.is_control() {
                        '?'
                    } else {
                        character
                    };
                    path.append(shown.encode_utf8(&mut [0; 4]));
                }
                if !piece.invalid().is_empty() {
                    path.append("?");
                }
            }
        }
        if self.chain.len() == 1 {
            path.append("/");
        }
        path
    }

    /// The node's name without unit address.
    pub fn base_name(&self) -> &'a [u8] {
        let name = self.name();
        name.split(|byte| *byte == b'@').next().unwrap_or(name)
    }

    /// The enclosing node, or the root itself.
    pub fn parent(&self) -> Self {
        let mut above = self.clone();
        if above.chain.len() > 1 {
            above.chain.pop();
        }
        above
    }

    /// The node itself and those above it, up to the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Place<'a>> + use<'a> {
        iter::successors(Some(self.clone()), |place| {
            (place.chain.len() > 1).then(|| place.parent())
        })
    }

    /// Direct children.
    pub fn children(&self) -> impl Iterator<Item = Place<'a>> + use<'a> {
        let parent = self.clone();
        let mut tokens = self.node().1;
        let mut depth = 0_usize;
        iter::from_fn(move || {
            loop {
                let at = tokens.offset();
                match tokens.advance() {
                    Token::Begin { .. } => {
                        depth += 1;
                        if depth == 1 {
                            let mut child = parent.clone();
                            // The chain has room, because `Flat::new` has checked the depth.
                            let _ = child.chain.try_push(at);
                            return Some(child);
                        }
                    }
                    Token::End if depth > 0 => depth -= 1,
                    Token::Property { .. } => {}
                    Token::End | Token::Last => return None,
                }
            }
        })
        .fuse()
    }

    /// The child called `name`, or `name@...` if `name` has no unit address.
    pub fn child(&self, name: &str) -> Option<Place<'a>> {
        let name = name.as_bytes();
        self.children().find(|child| {
            child.name() == name || (!name.contains(&b'@') && child.base_name() == name)
        })
    }

    /// The bytes of a property.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        let mut tokens = self.node().1;
        loop {
            match tokens.advance() {
                Token::Property { name: found, value } if is_named(found, name) => {
                    return Some(value);
                }
                Token::Property { .. } => {}
                Token::Begin { .. } | Token::End | Token::Last => return None,
            }
        }
    }

    /// The text of a property: its first string, or an empty text if the property is empty; `None`
    /// if it is missing or not a string.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let value = self.property(name)?;
        let text = if value.is_empty() {
            value
        } else {
            text_at(value)?
        };
        core::str::from_utf8(text).ok()
    }

    /// The text of a property that must be a string if it is present.
    ///
    /// # Errors
    /// [`DeviceTreeError::BadString`].
    pub fn checked_text(&self, name: &'static str) -> Result<Option<&'a str>, DeviceTreeError> {
        match (self.property(name), self.text(name)) {
            (None, _) => Ok(None),
            (Some(_), Some(text)) => Ok(Some(text)),
            (Some(_), None) => Err(self.bad_string(name)),
        }
    }

    /// The strings of a list property, up to the first that is not a string.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let value = self
            .property(name)
            .and_then(|value| value.strip_suffix(&[0]));
        value
            .into_iter()
            .flat_map(|value| value.split(|byte| *byte == 0))
            .map_while(|text| core::str::from_utf8(text).ok())
    }

    /// The single cell of a property.
    ///
    /// # Errors
    /// [`DeviceTreeError::BadLength`].
    pub fn u32(&self, name: &'static str) -> Result<Option<u32>, DeviceTreeError> {
        match self.property(name) {
            None => Ok(None),
            Some(value) => match value.try_into() {
                Ok(bytes) => Ok(Some(u32::from_be_bytes(bytes))),
                Err(_) => Err(self.bad_length(name, value.len(), CELL)),
            },
        }
    }

    /// A number of one or two cells.
    ///
    /// # Errors
    /// [`DeviceTreeError::BadLength`].
    pub fn u64(&self, name: &'static str) -> Result<Option<u64>, DeviceTreeError> {
        match self.property(name) {
            None => Ok(None),
            Some(value) if [CELL, 2 * CELL].contains(&value.len()) => Ok(Some(number(value))),
            Some(value) => Err(self.bad_length(name, value.len(), CELL)),
        }
    }

    /// Whether `compatible` lists one of `names`.
    pub fn is_compatible(&self, names: &[&str]) -> bool {
        self.texts("compatible").any(|entry| names.contains(&entry))
    }

    /// Whether `status` is `okay` (or `ok`, as some firmware writes) or absent.
    pub fn is_enabled(&self) -> bool {
        self.property("status").is_none() || matches!(self.text("status"), Some("okay" | "ok"))
    }

    /// `#address-cells` or `#size-cells`, for this node's children. A node without the property has
    /// the value of the node above it, as in Linux.
    fn cells(&self, name: &'static str) -> Result<usize, DeviceTreeError> {
        for place in self.ancestors() {
            match place.u32(name)? {
                None => {}
                Some(value @ 1..=2) => return Ok(value as usize),
                Some(value) => {
                    return Err(DeviceTreeError::BadValue {
                        node: place.path(),
                        property: name,
                        value: Quoted::from_arguments(format_args!("{value}")),
                        allowed: "1 or 2",
                    });
                }
            }
        }
        Err(DeviceTreeError::MissingProperty {
            node: NodePath::from_text("/"),
            property: name,
        })
    }

    /// The address at the beginning of `reg`, for example the identifier of a CPU. The rest of
    /// `reg` is not read.
    ///
    /// # Errors
    /// The property is missing or too short, or its number of cells is not supported.
    pub fn first_address(&self) -> Result<u64, DeviceTreeError> {
        const NAME: &str = "reg";
        let unit = self.parent().cells("#address-cells")? * CELL;
        let Some(value) = self.property(NAME) else {
            return Err(self.missing(NAME));
        };
        let first = value.get(..unit).map(number);
        first.ok_or_else(|| self.bad_length(NAME, value.len(), unit))
    }

    /// `reg` as pairs of address and size in the address space of the parent.
    ///
    /// # Errors
    /// The property is missing, its length is wrong, or its number of cells is not supported.
    pub fn reg(&self) -> Result<impl Iterator<Item = (u64, u64)> + use<'a>, DeviceTreeError> {
        self.pairs("reg")
    }

    /// A property that is laid out like `reg`.
    ///
    /// # Errors
    /// As [`reg`](Self::reg).
    pub fn pairs(
        &self,
        name: &'static str,
    ) -> Result<impl Iterator<Item = (u64, u64)> + use<'a>, DeviceTreeError> {
        let bus = self.parent();
        let address = bus.cells("#address-cells")?;
        let size = bus.cells("#size-cells")?;
        let Some(value) = self.property(name) else {
            return Err(self.missing(name));
        };
        let unit = (address + size) * CELL;
        if value.is_empty() || !value.len().is_multiple_of(unit) {
            return Err(self.bad_length(name, value.len(), unit));
        }
        Ok(value.chunks_exact(unit).map(move |entry| {
            let (first, second) = entry.split_at(address * CELL);
            (number(first), number(second))
        }))
    }

    /// Entry `index` of `reg`, translated to an address of the CPU.
    ///
    /// # Errors
    /// As [`reg`](Self::reg). Also: there is no such entry, the range is empty or wraps, or a bus
    /// above does not translate the address.
    pub fn registers(&self, index: usize) -> Result<PhysRange, DeviceTreeError> {
        let mut entries = self.reg()?;
        let Some((address, size)) = entries.nth(index) else {
            return Err(DeviceTreeError::BadValue {
                node: self.path(),
                property: "reg",
                value: Quoted::from_arguments(format_args!("without entry {index}")),
                allowed: "one entry per register region of the binding",
            });
        };
        self.translate(address, size)
    }

    /// Translates an address through the `ranges` from the node's parent up to the root.
    fn translate(&self, address: u64, size: u64) -> Result<PhysRange, DeviceTreeError> {
        let mut at = self.range(address, size)?;
        let mut bus = self.parent();
        while bus.chain.len() > 1 {
            let above = bus.parent();
            let not_mapped = || DeviceTreeError::Untranslatable {
                node: self.path(),
                bus: bus.path(),
                address: at.start(),
            };
            let ranges = bus.property("ranges").ok_or_else(not_mapped)?;
            // Empty `ranges`: both address spaces are the same.
            if !ranges.is_empty() {
                let child = bus.cells("#address-cells")?;
                let parent = above.cells("#address-cells")?;
                let length = bus.cells("#size-cells")?;
                let unit = (child + parent + length) * CELL;
                if !ranges.len().is_multiple_of(unit) {
                    return Err(bus.bad_length("ranges", ranges.len(), unit));
                }
                let mut windows = ranges.chunks_exact(unit).filter_map(|entry| {
                    let (from, rest) = entry.split_at(child * CELL);
                    let (to, length) = rest.split_at(parent * CELL);
                    let window = PhysRange::new(number(from), number(length))?;
                    window.contains(at).then(|| {
                        let offset = at.start() - window.start();
                        number(to).checked_add(offset)
                    })
                });
                let start = windows.next().ok_or_else(not_mapped)?;
                let start = start.ok_or_else(not_mapped)?;
                at = self.range(start, at.size())?;
            }
            bus = above;
        }
        Ok(at)
    }

    /// A range stated by this node.
    ///
    /// # Errors
    /// [`DeviceTreeError::BadRange`] if it is empty or wraps.
    pub fn range(&self, start: u64, size: u64) -> Result<PhysRange, DeviceTreeError> {
        PhysRange::new(start, size).ok_or_else(|| DeviceTreeError::BadRange {
            node: self.path(),
            start,
            size,
        })
    }

    /// The error for a missing property.
    pub fn missing(&self, property: &'static str) -> DeviceTreeError {
        DeviceTreeError::MissingProperty {
            node: self.path(),
            property,
        }
    }

    /// The error for a property that is not a string.
    pub fn bad_string(&self, property: &'static str) -> DeviceTreeError {
        DeviceTreeError::BadString {
            node: self.path(),
            property,
        }
    }

    /// The error for a property whose length does not match its type.
    pub fn bad_length(
        &self,
        property: &'static str,
        length: usize,
        unit: usize,
    ) -> DeviceTreeError {
        DeviceTreeError::BadLength {
            node: self.path(),
            property,
            length,
            unit,
        }
    }
}
