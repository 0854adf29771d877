// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flattened format (Devicetree Specification 5): header, blocks, tokens.
//!
//! [`Flat::new`] walks the structure block once, from its first token to its last. Afterwards nodes
//! and properties can be read without errors. Nothing recurses or allocates, and no byte sequence
//! causes a panic.
//!
//! It accepts what libfdt, and therefore Linux, accepts: versions 16 and 17, blocks in any order
//! and with any alignment, names of any length and of any bytes, and no-operations everywhere.
//! Linux does not see properties after a child node, and neither does this module.

use super::error::DeviceTreeError;

/// The greatest number of levels of nodes, the root included. Linux ignores deeper nodes; trees of
/// real boards have up to 8 levels.
pub const MAX_DEPTH: usize = 64;

/// Bytes of a cell.
pub const CELL: usize = 4;

const MAGIC: u32 = 0xd00d_feed;
/// Bytes of the header. Since version 17 it states the size of the structure block; before, it was
/// one cell shorter.
const HEADER_SIZE: usize = 40;
const HEADER_SIZE_16: usize = 36;
/// The supported versions; in earlier ones names are full paths.
const VERSIONS: [u32; 2] = [16, 17];

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// A flattened device tree whose blocks and nesting have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Flat<'a> {
    structure: &'a [u8],
    /// The strings block up to its last NUL.
    strings: &'a [u8],
    /// From the first memory reservation to the end of the blob.
    reservations: &'a [u8],
}

/// A token of the structure block; no-operations are left out.
#[derive(Clone, Copy, Debug)]
pub enum Token<'a> {
    /// A node begins.
    Begin {
        /// Its name with its unit address.
        name: &'a [u8],
    },
    /// A property of the node that began last, unless a child of it has begun since.
    Property {
        /// The strings from the first byte of its name on; [`is_named`] compares it.
        name: &'a [u8],
        /// Its bytes.
        value: &'a [u8],
    },
    /// A node ends.
    End,
    /// The structure block ends.
    Last,
}

/// A place in the structure block.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    flat: Flat<'a>,
    at: usize,
}

impl<'a> Flat<'a> {
    /// Checks `blob`, which may be longer than the tree in it.
    ///
    /// # Errors
    /// A wrong header, block or nesting.
    pub fn new(blob: &'a [u8]) -> Result<Self, DeviceTreeError> {
        let flat = blocks(blob)?;
        flat.check_nesting()?;
        Ok(flat)
    }

    /// The tokens from offset `at` of the structure block on.
    pub fn tokens(self, at: u32) -> Cursor<'a> {
        Cursor {
            flat: self,
            at: at as usize,
        }
    }

    /// Entries of the memory reservation block: start and size in bytes.
    pub fn memory_reservations(self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let entries = self.reservations.chunks_exact(2 * size_of::<u64>());
        entries
            .map(|entry| {
                let (start, size) = entry.split_at(size_of::<u64>());
                (number(start), number(size))
            })
            .take_while(|entry| *entry != (0, 0))
    }

    fn check_reservations(self, offset: u32) -> Result<(), DeviceTreeError> {
        let room = self.reservations.len() / (2 * size_of::<u64>());
        if self.memory_reservations().count() < room {
            return Ok(());
        }
        Err(bad_header(
            "off_mem_rsvmap",
            offset,
            "the reservations from there on have no end",
        ))
    }

    fn check_nesting(self) -> Result<(), DeviceTreeError> {
        let mut tokens = self.tokens(0);
        let mut depth = 0;
        let mut closed = false;
        loop {
            let offset = tokens.at;
            let bad = |problem| Err(DeviceTreeError::BadStructure { offset, problem });
            match tokens.read()? {
                Token::Begin { .. } if closed => return bad("a second root node begins"),
                Token::Begin { .. } if depth == MAX_DEPTH => {
                    return Err(DeviceTreeError::TooDeep { limit: MAX_DEPTH });
                }
                Token::Begin { .. } => depth += 1,
                Token::End if depth == 0 => return bad("a node ends that did not begin"),
                Token::End => {
                    depth -= 1;
                    closed = depth == 0;
                }
                Token::Property { .. } if depth == 0 => return bad("a property is in no node"),
                Token::Property { .. } => {}
                Token::Last if closed => return Ok(()),
                Token::Last => return bad("the tree ends within a node"),
            }
        }
    }
}

impl<'a> Cursor<'a> {
    /// Offset of the next token, or of the no-operations before it.
    pub fn offset(&self) -> u32 {
        // By its header a blob has less than 2^32 bytes.
        self.at as u32
    }

    /// The next token; at the end always [`Token::Last`].
    pub fn advance(&mut self) -> Token<'a> {
        // `Flat::new` has read every token without an error.
        self.read().unwrap_or(Token::Last)
    }

    fn read(&mut self) -> Result<Token<'a>, DeviceTreeError> {
        let mut at = self.at;
        let cell = |at: usize| -> Option<u32> {
            let bytes = self.flat.structure.get(at..)?.first_chunk()?;
            Some(u32::from_be_bytes(*bytes))
        };
        let bad = |problem| DeviceTreeError::BadStructure {
            offset: self.at,
            problem,
        };
        let cut = || bad("the structure block ends within a token");
        while cell(at) == Some(NOP) {
            at += CELL;
        }
        let token = cell(at).ok_or_else(cut)?;
        at += CELL;
        let token = match token {
            BEGIN_NODE => {
                let rest = self.flat.structure.get(at..).unwrap_or_default();
                let name = text_at(rest).ok_or_else(|| bad("a node's name has no end"))?;
                at += (name.len() + 1).next_multiple_of(CELL);
                Token::Begin { name }
            }
            PROPERTY => {
                let (length, name) = (cell(at), cell(at + CELL));
                let (length, name) = length.zip(name).ok_or_else(cut)?;
                at += 2 * CELL;
                let rest = self.flat.structure.get(at..).unwrap_or_default();
                let value = rest.get(..length as usize);
                let value = value.ok_or_else(|| bad("a property is longer than the tree"))?;
                let name = self.flat.strings.get(name as usize..);
                let name = name.filter(|name| !name.is_empty());
                let name = name.ok_or_else(|| bad("a property's name is not in the strings"))?;
                at += value.len().next_multiple_of(CELL);
                Token::Property { name, value }
            }
            END_NODE => Token::End,
            // The cursor stays where it is.
            END => return Ok(Token::Last),
            _ => return Err(bad("there is no such token")),
        };
        self.at = at;
        Ok(token)
    }
}

/// Whether the first string in `strings` is `name`. Only as many bytes as `name` has are compared,
/// because names may be long and may share their ends.
pub fn is_named(strings: &[u8], name: &str) -> bool {
    strings
        .strip_prefix(name.as_bytes())
        .is_some_and(|rest| rest.first() == Some(&0))
}

/// The bytes before the first NUL.
pub fn text_at(bytes: &[u8]) -> Option<&[u8]> {
    let length = bytes.iter().position(|byte| *byte == 0)?;
    bytes.get(..length)
}

/// The big-endian number in `bytes`; if there are more than eight bytes, in the last eight.
pub fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// Finds the blocks that the header describes.
fn blocks(blob: &[u8]) -> Result<Flat<'_>, DeviceTreeError> {
    if blob.is_empty() {
        return Err(DeviceTreeError::Missing);
    }
    let field = |index: usize| -> u32 {
        let bytes = blob.get(index * CELL..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    };
    let long_enough = |needed: usize| match blob.len() < needed {
        true => Err(DeviceTreeError::Truncated {
            needed,
            available: blob.len(),
        }),
        false => Ok(()),
    };
    let (version, last_compatible) = (field(5), field(6));
    let header = match version {
        16 => HEADER_SIZE_16,
        _ => HEADER_SIZE,
    };
    if blob.len() >= CELL && field(0) != MAGIC {
        return Err(DeviceTreeError::BadMagic { found: field(0) });
    }
    long_enough(header)?;
    if version < VERSIONS[0] || last_compatible > VERSIONS[1] || version < last_compatible {
        return Err(DeviceTreeError::BadVersion {
            version,
            last_compatible,
        });
    }
    let total = field(1);
    if (total as usize) < header {
        return Err(bad_header("totalsize", total, "the header alone is longer"));
    }
    long_enough(total as usize)?;
    let block = |field, offset: u32, size: Option<u32>| {
        let start = offset as usize;
        let end = size.map_or(total as usize, |size| start.saturating_add(size as usize));
        let bytes = blob.get(..total as usize).unwrap_or_default();
        let rule = "the block must lie after the header and end within totalsize";
        match bytes.get(start..end) {
            Some(bytes) if start >= header => Ok(bytes),
            _ => Err(bad_header(field, offset, rule)),
        }
    };
    let structure_size = (header == HEADER_SIZE).then(|| field(9));
    let flat = Flat {
        reservations: block("off_mem_rsvmap", field(4), None)?,
        structure: block("off_dt_struct", field(2), structure_size)?,
        strings: terminated(block("off_dt_strings", field(3), Some(field(8)))?),
    };
    flat.check_reservations(field(4))?;
    Ok(flat)
}

/// `strings` up to its last NUL.
fn terminated(strings: &[u8]) -> &[u8] {
    let length = strings.iter().rposition(|byte| *byte == 0);
    strings.split_at(length.map_or(0, |last| last + 1)).0
}

fn bad_header(field: &'static str, value: u32, rule: &'static str) -> DeviceTreeError {
    DeviceTreeError::BadHeader { field, value, rule }
}
