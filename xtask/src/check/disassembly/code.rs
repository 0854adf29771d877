// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's `.text` as the rules see it: words, which of them are data, and functions by name.

use super::decode::{Op, decode};
use anyhow::{Context, Result, ensure};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::ops::Range;

/// The executable part of an image.
#[derive(Debug)]
pub struct Code {
    /// Address of the first word.
    base: u64,
    words: Vec<u32>,
    /// Starts of code and data in turn, in ascending order (the `$x` and `$d` of AAELF64 5.5.5).
    marks: Vec<(u64, Content)>,
    /// Functions and other named places that have a size, in ascending order.
    functions: Vec<(Range<u64>, String)>,
    /// The part that may run with the MMU off, `.text.boot`.
    boot: Range<u64>,
}

/// What the words from a mark on are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Code, // instructions
    Data, // literals and padding
}

impl Code {
    /// From its parts.
    pub fn new(
        base: u64,
        words: Vec<u32>,
        mut marks: Vec<(u64, Content)>,
        mut functions: Vec<(Range<u64>, String)>,
    ) -> Self {
        // Sections follow each other, so of two marks at one place the last one counts.
        marks.sort_by_key(|mark| mark.0);
        functions.sort_by_key(|function| (function.0.start, function.0.end));
        Self {
            base,
            words,
            marks,
            functions,
            boot: base..base,
        }
    }

    /// The same code with its boot part ending at `end`.
    pub fn with_boot(mut self, end: u64) -> Self {
        self.boot.end = end;
        self
    }

    /// The part that may run with the MMU off.
    pub const fn boot(&self) -> &Range<u64> {
        &self.boot
    }

    /// Reads the section `.text` of an ELF file.
    ///
    /// # Errors
    ///
    /// When it is no such file, or has no symbols.
    pub fn read(elf: &[u8]) -> Result<Self> {
        let file =
            ElfFile64::<Endianness>::parse(elf).context("the kernel is no 64-bit ELF file")?;
        let text = file
            .section_by_name(".text")
            .context("the kernel has no section .text; check linker.ld")?;
        let (bytes, _) = text.data()?.as_chunks::<4>();
        let words = bytes.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let inside = text.address()..text.address() + text.size();
        let (mut marks, mut functions) = (Vec::new(), Vec::new());
        for symbol in file.symbols() {
            let (start, name) = (symbol.address(), symbol.name().unwrap_or_default());
            if !inside.contains(&start) {
                continue;
            }
            match name.get(..2) {
                Some("$x") => marks.push((start, Content::Code)),
                Some("$d") => marks.push((start, Content::Data)),
                _ if symbol.size() > 0 && symbol.kind() != SymbolKind::Section => {
                    let name = format!("{:#}", rustc_demangle::demangle(name));
                    functions.push((start..start + symbol.size(), name));
                }
                _ => {}
            }
        }
        ensure!(
            !marks.is_empty() && !functions.is_empty(),
            "the kernel's ELF file has no symbols, so code and data cannot be told apart"
        );
        let boot_end = file
            .symbol_by_name("_text_boot_end")
            .context("the kernel has no symbol _text_boot_end; check linker.ld")?;
        let code = Self::new(text.address(), words, marks, functions);
        Ok(code.with_boot(boot_end.address()))
    }

    /// What the instruction at `address` does; nothing where there is data, or no code at all.
    pub fn op(&self, address: u64) -> Option<Op> {
        let after = self.marks.partition_point(|mark| mark.0 <= address);
        let is_code = after
            .checked_sub(1)
            .is_none_or(|mark| self.marks[mark].1 == Content::Code);
        let word = self.word(address).filter(|_| is_code)?;
        Some(decode(word, address))
    }

    /// The eight bytes at `address`.
    pub fn literal(&self, address: u64) -> Option<u64> {
        let (low, high) = (self.word(address)?, self.word(address.wrapping_add(4))?);
        Some(u64::from(high) << 32 | u64::from(low))
    }

    /// The four bytes at `address`, code or data.
    pub fn word(&self, address: u64) -> Option<u32> {
        let offset = address.checked_sub(self.base)?;
        let index = usize::try_from(offset / 4).ok()?;
        self.words.get(index).copied()
    }

    /// Addresses of all instructions.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        (0..self.words.len() as u64)
            .map(|index| self.base + 4 * index)
            .filter(|address| self.op(*address).is_some())
    }

    /// Where the function `name` is.
    pub fn function(&self, name: &str) -> Option<Range<u64>> {
        let found = self.functions.iter().find(|function| function.1 == name)?;
        Some(found.0.clone())
    }

    /// The function that `address` is in.
    pub fn function_at(&self, address: u64) -> Option<(&Range<u64>, &str)> {
        let after = self
            .functions
            .partition_point(|function| function.0.start <= address);
        self.functions[..after]
            .iter()
            .rev()
            .find(|function| function.0.contains(&address))
            .map(|(range, name)| (range, name.as_str()))
    }

    /// `address` as a person reads it: name and offset, and the instruction.
    pub fn describe(&self, address: u64) -> String {
        let word = self.word(address).unwrap_or_default();
        let place = match self.function_at(address) {
            Some((range, name)) => format!("{name}+{:#x}", address - range.start),
            None => format!("{address:#x}"),
        };
        match self.op(address) {
            Some(op) => format!("{place}: {op} ({word:#010x})"),
            None => format!("{place}: no instruction"),
        }
    }
}
