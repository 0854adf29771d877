// SPDX-License-Identifier: MIT OR Apache-2.0

//! Turns addresses of the kernel into function, file and line.
//!
//! The kernel prints bare addresses (`  #0 0xffffffff80081234`), because names
//! and line tables would be most of its image. [`Symbols::annotate`] completes
//! such a line from `target/kernel.elf`; inlined functions follow on lines of
//! their own, innermost first.

use addr2line::Context;
use anyhow::{Context as _, Result};
use gimli::{DwarfSections, EndianArcSlice, LittleEndian};
use object::{Object, ObjectSection, ObjectSegment};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Length of a frame's address, `0x` and 16 digits.
const ADDRESS: usize = 18;

/// The debug information of one kernel build.
pub struct Symbols {
    context: Context<EndianArcSlice<LittleEndian>>,
    /// Path prefix that is cut from file names.
    root: String,
    /// Where the image starts when the MMU is on.
    base: u64,
    /// Where it ends.
    end: u64,
    /// Start and name of what the symbol table knows, in ascending order: assembly
    /// has no other debug information.
    table: Vec<(u64, String)>,
}

/// Physical and virtual image start are the same modulo this (boot/src/lib.rs).
const BLOCK: u64 = 2 << 20;

impl std::fmt::Debug for Symbols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Symbols")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// What an address in a backtrace points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The instruction itself, as in an exception's ELR or a debugger's PC.
    Instruction,
    /// The instruction after a call: the call itself is what a reader wants, and
    /// after a call that does not return the next function may begin.
    Return,
}

impl Symbols {
    /// Reads the debug information of `elf`; file names are shown relative to `root`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or its debug information is damaged.
    pub fn read(elf: &Path, root: &Path) -> Result<Self> {
        let bytes = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let file = object::File::parse(&*bytes)?;
        let segments = || {
            file.segments()
                .map(|segment| (segment.address(), segment.size()))
        };
        let base = segments().map(|(start, _)| start).min();
        let base = base.with_context(|| format!("{} has no segments", elf.display()))?;
        let end = segments()
            .map(|(start, size)| start.saturating_add(size))
            .max();
        let dwarf = DwarfSections::load(|id| -> Result<Arc<[u8]>> {
            let data = file
                .section_by_name(id.name())
                .map(|section| section.data());
            Ok(data.transpose()?.unwrap_or_default().into())
        })?;
        let dwarf = dwarf.borrow(|section| EndianArcSlice::new(Arc::clone(section), LittleEndian));
        Ok(Self {
            context: Context::from_dwarf(dwarf)?,
            root: format!("{}/", root.display()),
            base,
            end: end.unwrap_or(base),
            table: file
                .symbol_map()
                .symbols()
                .iter()
                .map(|symbol| (symbol.address(), symbol.name().to_owned()))
                .collect(),
        })
    }

    /// Describes an address, `function at file:line`, innermost function first;
    /// empty when nothing is known of it.
    pub fn describe(&self, address: u64, kind: Address) -> Vec<String> {
        let probe = match kind {
            Address::Instruction => self.linked(address),
            Address::Return => self.linked(address).saturating_sub(4),
        };
        let described = self.functions_at(probe);
        if described.is_empty() {
            return self.symbol_at(probe).into_iter().collect();
        }
        described
    }

    fn symbol_at(&self, address: u64) -> Option<String> {
        let after = self.table.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.table.get(after.checked_sub(1)?)?;
        (address < self.end).then(|| {
            format!(
                "{:#}+{:#x}",
                rustc_demangle::demangle(name),
                address - start
            )
        })
    }

    fn functions_at(&self, address: u64) -> Vec<String> {
        let mut described = Vec::new();
        let Ok(mut frames) = self.context.find_frames(address).skip_all_loads() else {
            return described;
        };
        while let Ok(Some(frame)) = frames.next() {
            let function = frame.function.as_ref();
            let name = function.and_then(|function| function.raw_name().ok());
            let name = format!(
                "{:#}",
                rustc_demangle::demangle(name.as_deref().unwrap_or("?"))
            );
            let place = frame
                .location
                .and_then(|location| Some((location.file?, location.line?)));
            described.push(match place {
                Some((file, line)) => {
                    let file = shortened(file.strip_prefix(&self.root).unwrap_or(file));
                    format!("{name} at {file}:{line}")
                }
                None => name,
            });
        }
        described
    }

    /// The link address of code that runs at its physical address, before the MMU is on.
    fn linked(&self, address: u64) -> u64 {
        if address >= self.base {
            return address;
        }
        self.base + address.wrapping_sub(self.base) % BLOCK
    }

    /// Completes a backtrace line; any other line comes back as it is.
    pub fn annotate(&self, line: &str) -> String {
        let Some((number, address)) = backtrace_frame(line) else {
            return line.to_owned();
        };
        // Frame 0 is where the kernel stopped; all others are return addresses.
        let kind = if number == 0 {
            Address::Instruction
        } else {
            Address::Return
        };
        let mut annotated = line.trim_end().to_owned();
        let indent = line.find("0x").unwrap_or(0) + ADDRESS;
        for (depth, frame) in self.describe(address, kind).iter().enumerate() {
            if depth > 0 {
                annotated.push_str(&format!("\n{:indent$}", ""));
            }
            annotated.push(' ');
            annotated.push_str(frame);
        }
        annotated
    }
}

/// Leaves out where the standard library and other crates happen to lie.
fn shortened(file: &str) -> &str {
    let library = file
        .strip_prefix("/rustc/")
        .and_then(|rest| rest.split_once('/'));
    let registry = file
        .split_once("/registry/src/")
        .and_then(|(_, rest)| rest.split_once('/'));
    library.or(registry).map_or(file, |(_, rest)| rest)
}

/// Reads a line of the form `  #3 0xffffffff80081234`.
fn backtrace_frame(line: &str) -> Option<(u32, u64)> {
    let rest = line
        .strip_prefix([' ', '\t'])?
        .trim_start()
        .strip_prefix('#')?;
    let (number, address) = rest.split_once(" 0x")?;
    let digits = address.trim_end();
    if digits.len() != ADDRESS - 2 {
        return None;
    }
    Some((number.parse().ok()?, u64::from_str_radix(digits, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{backtrace_frame, shortened};

    #[test]
    fn backtrace_lines_are_recognized() {
        let address = 0xffff_ffff_8008_1234;
        assert_eq!(
            backtrace_frame("  #0 0xffffffff80081234"),
            Some((0, address))
        );
        assert_eq!(
            backtrace_frame("\t#12 0xffffffff80081234\r"),
            Some((12, address))
        );
    }

    #[test]
    fn other_lines_are_left_alone() {
        for line in [
            "#0 0xffffffff80081234",
            "  #0 0xffffffff8008123",
            "  #0 0xffffffff80081234 already::named at a.rs:1",
            "  # a comment",
            "  0xffffffff80081234",
        ] {
            assert_eq!(backtrace_frame(line), None, "{line}");
        }
    }

    #[test]
    fn paths_of_other_crates_are_shortened() {
        let cases = [
            (
                "/rustc/5980/library/core/src/ptr.rs",
                "library/core/src/ptr.rs",
            ),
            (
                "/x/.cargo/registry/src/index-1/spin-0.12.3/src/once.rs",
                "spin-0.12.3/src/once.rs",
            ),
            ("kernel/src/main.rs", "kernel/src/main.rs"),
        ];
        for (long, short) in cases {
            assert_eq!(shortened(long), short);
        }
    }
}
