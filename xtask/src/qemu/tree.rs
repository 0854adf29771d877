// SPDX-License-Identifier: MIT OR Apache-2.0

//! Device trees, written node by node and flattened (Devicetree Specification, chapter 5).

use anyhow::Result;
use vm_fdt::{FdtReserveEntry, FdtWriter};

/// A node with its properties and what is below it.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    properties: Vec<(&'static str, Vec<u8>)>,
    children: Vec<Self>,
}

impl Node {
    /// A node without properties. The root has no name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            properties: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Adds a property without a value.
    pub fn flag(mut self, name: &'static str) -> Self {
        self.properties.push((name, Vec::new()));
        self
    }

    /// Adds a property of one text.
    pub fn text(self, name: &'static str, value: &str) -> Self {
        self.texts(name, &[value])
    }

    /// Adds a property of texts, each with the NUL at its end.
    pub fn texts(mut self, name: &'static str, values: &[&str]) -> Self {
        let bytes = values.iter().flat_map(|text| text.bytes().chain([0]));
        self.properties.push((name, bytes.collect()));
        self
    }

    /// Adds a property of cells of 32 bits.
    pub fn cells(mut self, name: &'static str, values: &[u32]) -> Self {
        let bytes = values.iter().flat_map(|cell| cell.to_be_bytes());
        self.properties.push((name, bytes.collect()));
        self
    }

    /// Adds a property of pairs of cells.
    pub fn words(mut self, name: &'static str, values: &[u64]) -> Self {
        let bytes = values.iter().flat_map(|word| word.to_be_bytes());
        self.properties.push((name, bytes.collect()));
        self
    }

    /// Adds how many cells addresses and sizes below this node have.
    pub fn addresses(self, address: u32, size: u32) -> Self {
        self.cells("#address-cells", &[address])
            .cells("#size-cells", &[size])
    }

    /// Adds nodes.
    pub fn with(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The tree below this node as a blob; `reserved` are start and size of memory that is not to
    /// be used.
    ///
    /// # Errors
    ///
    /// When a name or a reservation is one that no tree can have.
    pub fn blob(&self, reserved: &[(u64, u64)]) -> Result<Vec<u8>> {
        let entries = reserved.iter();
        let entries = entries.map(|(start, size)| FdtReserveEntry::new(*start, *size));
        let mut writer = FdtWriter::new_with_mem_reserv(&entries.collect::<Result<Vec<_>, _>>()?)?;
        self.write(&mut writer)?;
        Ok(writer.finish()?)
    }

    fn write(&self, writer: &mut FdtWriter) -> Result<()> {
        let node = writer.begin_node(&self.name)?;
        for (name, value) in &self.properties {
            writer.property(name, value)?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        Ok(writer.end_node(node)?)
    }
}
