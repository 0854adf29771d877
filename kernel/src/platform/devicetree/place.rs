// SPDX-License-Identifier: MIT OR Apache-2.0
//! One node and its surroundings: properties, cells, addresses.
//!
//! What a property means depends on the nodes above: the parent's cell counts
//! say how `reg` is read, the `ranges` of every bus up to the root say which
//! address the CPU uses. A [`Place`] therefore carries the chain of nodes that
//! leads to it; that also gives messages a path.

use arrayvec::ArrayVec;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

use super::error::{DeviceTreeError, NodePath, Quoted};
use super::tree::{CELL, MAX_DEPTH};
use crate::platform::phys_range::PhysRange;

/// A node together with the nodes above it.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// Root first, the node itself last; never empty.
    chain: ArrayVec<FdtNode<'a>, MAX_DEPTH>,
}

impl<'a> Place<'a> {
    /// The last node of `chain`, which holds at least the root.
    pub fn new(chain: ArrayVec<FdtNode<'a>, MAX_DEPTH>) -> Self {
        Self { chain }
    }

    /// The node itself.
    pub fn node(&self) -> FdtNode<'a> {
        self.chain[self.chain.len() - 1]
    }

    /// Path for messages.
    pub fn path(&self) -> NodePath {
        let mut path = NodePath::new();
        for node in self.chain.iter().skip(1) {
            path.append("/");
            path.append(node.name());
        }
        if self.chain.len() == 1 {
            path.append("/");
        }
        path
    }

    /// The node's name without unit address.
    pub fn base_name(&self) -> &'a str {
        self.node().name_without_address()
    }

    /// The enclosing node, or the root itself.
    pub fn parent(&self) -> Self {
        let mut chain = self.chain.clone();
        if chain.len() > 1 {
            chain.pop();
        }
        Self { chain }
    }

    /// Direct children.
    pub fn children(&self) -> impl Iterator<Item = Place<'a>> + use<'a> {
        let above = self.chain.clone();
        self.node().children().fuse().map(move |child| {
            let mut chain = above.clone();
            // Cannot fail: `Tree::new` refused deeper trees.
            let _ = chain.try_push(child);
            Place { chain }
        })
    }

    /// The child called `name`, or `name@...` if `name` has no unit address.
    pub fn child(&self, name: &str) -> Option<Place<'a>> {
        self.children().find(|child| {
            let full = child.node().name();
            full == name || (!name.contains('@') && child.base_name() == name)
        })
    }

    /// The bytes of a property.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        let property = self.node().property(name)?;
        property.value_as::<&'a [u8]>().ok()
    }

    /// The text of a property, `None` if it is missing or no string.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let (last, text) = self.property(name)?.split_last()?;
        let text = core::str::from_utf8(text).ok()?;
        (*last == 0 && !text.contains('\0')).then_some(text)
    }

    /// The text of a property that must be a string where it is present.
    ///
    /// # Errors
    /// [`DeviceTreeError::BadString`].
    pub fn checked_text(&self, name: &'static str) -> Result<Option<&'a str>, DeviceTreeError> {
        match (self.property(name), self.text(name)) {
            (None, _) => Ok(None),
            (Some(_), Some(text)) => Ok(Some(text)),
            (Some(_), None) => Err(DeviceTreeError::BadString {
                node: self.path(),
                property: name,
            }),
        }
    }

    /// The strings of a list property; ends early at one that is none.
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

    /// Whether `compatible` lists one of `names`.
    pub fn is_compatible(&self, names: &[&str]) -> bool {
        self.texts("compatible").any(|entry| names.contains(&entry))
    }

    /// Whether `status` is `okay` (or `ok`, as some firmware writes) or absent.
    pub fn is_enabled(&self) -> bool {
        self.property("status").is_none() || matches!(self.text("status"), Some("okay" | "ok"))
    }

    /// `#address-cells` or `#size-cells`, for this node's children.
    fn cells(&self, name: &'static str, allowed: Cells) -> Result<usize, DeviceTreeError> {
        let Some(value) = self.u32(name)? else {
            return Err(DeviceTreeError::MissingProperty {
                node: self.path(),
                property: name,
            });
        };
        let (least, rule) = match allowed {
            Cells::OneOrTwo => (1, "1 or 2"),
            Cells::UpToTwo => (0, "0, 1 or 2"),
        };
        if (least..=2).contains(&value) {
            Ok(value as usize)
        } else {
            Err(DeviceTreeError::BadValue {
                node: self.path(),
                property: name,
                value: Quoted::from_arguments(format_args!("{value}")),
                allowed: rule,
            })
        }
    }

    /// `reg` as pairs of address and size in the address space of the parent.
    ///
    /// # Errors
    /// Missing property, wrong length, or cells the kernel cannot read.
    pub fn reg(
        &self,
        sizes: Sizes,
    ) -> Result<impl Iterator<Item = (u64, u64)> + use<'a>, DeviceTreeError> {
        let bus = self.parent();
        let address = bus.cells("#address-cells", Cells::OneOrTwo)?;
        let size = match sizes {
            Sizes::None => bus.cells("#size-cells", Cells::UpToTwo)?,
            Sizes::Bytes => bus.cells("#size-cells", Cells::OneOrTwo)?,
        };
        let Some(value) = self.property("reg") else {
            return Err(DeviceTreeError::MissingProperty {
                node: self.path(),
                property: "reg",
            });
        };
        let unit = (address + size) * CELL;
        if value.is_empty() || !value.len().is_multiple_of(unit) {
            return Err(self.bad_length("reg", value.len(), unit));
        }
        Ok(value.chunks_exact(unit).map(move |entry| {
            let (first, second) = entry.split_at(address * CELL);
            (number(first), number(second))
        }))
    }

    /// Entry `index` of `reg`, translated to an address of the CPU.
    ///
    /// # Errors
    /// As [`reg`](Self::reg); there is no such entry; the range is empty or
    /// wraps; a bus above does not pass the address on.
    pub fn registers(&self, index: usize) -> Result<PhysRange, DeviceTreeError> {
        let mut entries = self.reg(Sizes::Bytes)?;
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

    /// Follows `ranges` from the node's parent up to the root.
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
                let child = bus.cells("#address-cells", Cells::OneOrTwo)?;
                let parent = above.cells("#address-cells", Cells::OneOrTwo)?;
                let length = bus.cells("#size-cells", Cells::OneOrTwo)?;
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

    /// The error for a property of a length its type does not allow.
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

/// How many cells a count may state.
#[derive(Clone, Copy)]
enum Cells {
    OneOrTwo,
    UpToTwo,
}

/// Whether entries of `reg` have a size.
#[derive(Clone, Copy, Debug)]
pub enum Sizes {
    /// Addresses of memory, each with a length in bytes.
    Bytes,
    /// Identifiers, for example of CPUs.
    None,
}

/// The big-endian number in up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}
