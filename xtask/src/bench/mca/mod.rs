// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the hot loops cost on cortex-a72's pipelines, by llvm-mca: cycles per page-table entry, beside the
//! limit of one store pair per cycle.
//!
//! QEMU counts instructions and knows no cycles; this is an estimate of what a board would
//! need if everything is in the cache. What is analyzed are the instructions of the ELF file that boots
//! ([`loops`]). Checks, walks and accounts around a loop are not in it, nor are barriers, which
//! llvm-mca does not model.
//!
//! llvm-mca's word is that of LLVM's scheduling model. For cortex-a72 that is the model of the Cortex-A57, in
//! which a `STP` of two 64-bit registers keeps the only store unit for two cycles. So the table has two limits: a store
//! pair per cycle, and what the model takes for store pairs and nothing else, asked of the same llvm-mca.

mod estimate;
mod loops;
mod report;
mod tool;

use crate::build;
use crate::check::disassembly::code::Code;
use crate::scratch;
use crate::symbols::{Address, Symbols};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use loops::Wanted;
use std::fs;
use tool::{CPU, Mca as Tool};

/// A loop of the report.
#[derive(Debug)]
struct Hot {
    title: &'static str,
    wanted: Wanted,
}

/// The hot loops: which window comes to them (kernel/src/bench/windows.rs), and which access of
/// kernel/src/arch/hardware.rs they are.
const HOT: [Hot; 4] = [
    Hot::new(
        "map scattered",
        "kernel::bench::windows::map_scattered",
        "store_frames",
    ),
    Hot::new(
        "map contiguous",
        "kernel::bench::windows::map_contiguous",
        "store_linear",
    ),
    Hot::new("clear", "kernel::bench::windows::unmap", "store_zero"),
    Hot::new(
        "protect",
        "kernel::bench::windows::protect_read_only",
        "update_run",
    ),
];

/// Store pairs and nothing else, two entries each.
const ONLY_PAIRS: &str = "stp x0, x1, [x2]\nstp x0, x1, [x2, #16]\n";
const ONLY_PAIRS_PTES: f64 = 4.0;

impl Hot {
    const fn new(title: &'static str, window: &'static str, inside: &'static str) -> Self {
        Self {
            title,
            wanted: Wanted { window, inside },
        }
    }
}

/// Finds the hot loops in what was built, has llvm-mca look at each, and prints a table.
///
/// # Errors
///
/// When llvm-mca is missing (the error says what to install) or prints what cannot be read, or a loop
/// is not found.
pub fn analyse(workspace: &Workspace) -> Result<()> {
    let tool = Tool::find()?;
    let scratch = scratch::folder(workspace)?;
    let text = scratch.path().join("text");
    let elf = &build::build(workspace)?.elf;
    let bytes = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let code = Code::read(&bytes)?;
    let symbols = Symbols::read(elf, workspace.root())?;
    let mut rows = Vec::new();
    for hot in &HOT {
        let found = loops::find(&code, hot.wanted, |address| function_of(&symbols, address))?;
        rows.extend(report::rows(hot.title, found, |words| {
            tool.estimate(&tool.disassemble(words, &text)?, &text)
        })?);
    }
    let only_pairs = tool.estimate(ONLY_PAIRS, &text)?.bound() / ONLY_PAIRS_PTES;
    println!(
        "The hot loops on {CPU} by llvm-mca {}, the cache always hit:\n\n{}\n",
        tool.version()?,
        report::table(&rows, only_pairs)
    );
    for row in &rows {
        let (address, title) = row.place();
        println!("{title}: {}", place(&code, &symbols, address));
    }
    Ok(())
}

/// The innermost function that the code at `address` was compiled from.
fn function_of(symbols: &Symbols, address: u64) -> Option<String> {
    let frames = symbols.describe(address, Address::Instruction);
    let innermost = frames.into_iter().next()?;
    let name = innermost.split(" at ").next()?;
    Some(name.to_owned())
}

/// Where the loop at `address` is, in the machine code and in the sources.
fn place(code: &Code, symbols: &Symbols, address: u64) -> String {
    let function = match code.function_at(address) {
        Some((range, name)) => format!("{name}+{:#x}", address - range.start),
        None => format!("{address:#x}"),
    };
    match symbols.describe(address, Address::Instruction).first() {
        Some(source) => format!("{source}, in {function}"),
        None => function,
    }
}
