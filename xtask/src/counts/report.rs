// SPDX-License-Identifier: MIT OR Apache-2.0

//! The report, for the terminal and as a document.

use super::lines::{Measured, PerPage};
use super::operations::{OPERATIONS, Operation, Standing};
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};

/// The report for the terminal.
///
/// # Errors
///
/// When an operation was not measured.
pub fn shown(measured: &Measured) -> Result<String> {
    let mut table = table(measured)?;
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let mut text = format!(
        "What one page more costs, from 512 to 4096 pages ({}):\n\n{table}\n\n{}",
        measured.terms,
        total(measured)
    );
    for (op, pages, spread) in spreads(measured) {
        text.push_str(&format!(
            "\nrepetitions of {} with pages={pages} differ by up to {spread} instructions",
            op.name
        ));
    }
    Ok(text)
}

/// The report as a document, from which [`Measured::parse`] reads everything again.
///
/// # Errors
///
/// When an operation was not measured.
pub fn markdown(measured: &Measured) -> Result<String> {
    let mut table = table(measured)?;
    table.load_style(presets::ASCII_MARKDOWN);
    Ok(format!(
        "<!-- Written by `cargo xtask counts --write`. `cargo xtask test` compares. -->\n\
         # Executed instructions per page\n\n\
         What one page more costs from 512 to 4096 pages: instructions, DSB, ISB and TLBI that\n\
         the library executes as compiled into this kernel. `cargo xtask counts` prints it:\n\
         QEMU `virt`, `-cpu max -icount shift=0,sleep=off`, `{}`,\n\
         the cheapest of three repetitions. What is measured stands in `kernel/src/bench/windows.rs`.\n\
         Linux is 7.2.12 (Debian's), counted from outside on cortex-a72: instructions / DSB / ISB / TLBI.\n\n\
         {table}\n\n\
         {}\n\n\
         \"Tables built\" counts the allocation and the zeroing of the page tables. In the loops over\n\
         known slots each table is a section of its own, which pays one pair.\n\n\
         `cargo xtask test` fails if a count below grows by more than {} %, if a barrier or TLBI is\n\
         added, or if a target that is met above is missed. A target that is missed is no failure.\n\n\
         ## Whole calls\n\n\
         `op` is the window's number; `spread` is by how much the dearest repetition was dearer.\n\n\
         ```text\n{measured}```\n",
        measured.terms,
        total(measured),
        super::compare::TOLERANCE,
    ))
}

fn table(measured: &Measured) -> Result<Table> {
    let mut table = Table::new();
    table.set_header([
        "operation",
        "instructions",
        "DSB",
        "ISB",
        "TLBI",
        "target",
        "Linux 7.2.12",
        "",
    ]);
    for operation in &OPERATIONS {
        let page = measured
            .per_page(operation.op)
            .with_context(|| format!("operation {} was not measured", operation.name))?;
        table.add_row(row(operation, page, operation.standing(measured)));
    }
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(table)
}

fn row(operation: &Operation, page: PerPage, standing: Standing) -> [String; 8] {
    let target = operation.target.map(|target| target.to_string());
    [
        operation.title.to_owned(),
        instructions(page.instructions),
        few(page.dsb),
        few(page.isb),
        few(page.tlbi),
        target.unwrap_or_default(),
        operation.linux.to_owned(),
        standing.to_string(),
    ]
}

/// Two decimals where they matter.
fn instructions(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1}")
    }
}

/// Up to three decimals; fewer where they are zeros.
fn few(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.strip_prefix("-0")
        .filter(|rest| rest.is_empty())
        .map_or(text, |_| "0")
        .to_owned()
}

fn total(measured: &Measured) -> String {
    let all = OPERATIONS
        .iter()
        .map(|operation| operation.standing(measured));
    let (met, missed) = all.fold((0, 0), |(met, missed), standing| match standing {
        Standing::Met => (met + 1, missed),
        Standing::Missed => (met, missed + 1),
        Standing::NoTarget => (met, missed),
    });
    format!("{met} targets met, {missed} missed.")
}

/// The windows whose repetitions differ.
fn spreads(measured: &Measured) -> impl Iterator<Item = (&'static Operation, u64, u64)> {
    OPERATIONS.iter().flat_map(move |operation| {
        measured
            .of(operation.op)
            .filter(|(_, cost)| cost.spread > 0)
            .map(move |(pages, cost)| (operation, pages, cost.spread))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let mut text = "counts backend=x policy=y\n".to_owned();
        for operation in &OPERATIONS {
            for pages in [512, 4096] {
                text.push_str(&format!(
                    "count op={} pages={pages} instructions={} spread={} ptes={pages} dsb=1 isb=1 tlbi=0\n",
                    operation.op,
                    pages * u64::from(operation.op),
                    u64::from(operation.op == 15 && pages == 512) * 7,
                ));
            }
        }
        Measured::parse(&text).unwrap()
    }

    #[test]
    fn a_document_says_again_what_was_measured() {
        let measured = measured();
        let document = markdown(&measured).unwrap();
        assert_eq!(Measured::parse(&document).unwrap(), measured);
        assert!(document.contains(" 128.0 |"), "{document}");
    }

    #[test]
    fn targets_and_differing_repetitions_are_told() {
        let text = shown(&measured()).unwrap();
        // Instructions per page are the operation's number: 1 and 11 are low enough.
        assert!(text.contains("2 targets met, 8 missed."), "{text}");
        assert!(
            text.contains("repetitions of map_each with pages=512 differ by up to 7"),
            "{text}"
        );
        assert_eq!(text.matches("differ").count(), 1);
    }

    #[test]
    fn nothing_is_left_out_in_silence() {
        let mut measured = measured();
        measured.costs.remove(&(18, 512));
        let error = shown(&measured).unwrap_err();
        assert_eq!(error.to_string(), "operation set_slots was not measured");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([2.944, 113.66].map(instructions), ["2.94", "113.7"]);
        assert_eq!(
            [0.0, 1.0, 0.00195, -0.0001, -0.25].map(few),
            ["0", "1", "0.002", "0", "-0.25"]
        );
    }
}
