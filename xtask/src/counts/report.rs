// SPDX-License-Identifier: MIT OR Apache-2.0

//! The report, for the terminal and as a document.

use super::events::EVENTS;
use super::lines::{Measured, PerPage};
use super::operations::{OPERATIONS, Operation, Standing};
use crate::bench::linux::{self, Linux};
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};

/// The report for the terminal.
///
/// # Errors
///
/// When an operation or event was not measured.
pub fn shown(measured: &Measured) -> Result<String> {
    let [pages, events] = [table(measured)?, event_table(measured)?].map(|mut table| {
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table
    });
    let mut text = format!(
        "What one page more costs, from 512 to 4096 pages ({}):\n\n{pages}\n\n{}\n\n\
         What the scheduler costs:\n\n{events}\n\n{}",
        measured.terms,
        pages_total(measured),
        events_total(measured)
    );
    for (what, spread) in spreads(measured) {
        text.push_str(&format!(
            "\nrepetitions of {what} differ by up to {spread} instructions"
        ));
    }
    Ok(text)
}

/// The report as a document, from which [`Measured::parse`] reads everything again.
///
/// # Errors
///
/// When an operation or event was not measured.
pub fn markdown(measured: &Measured) -> Result<String> {
    let [pages, events] = [table(measured)?, event_table(measured)?].map(|mut table| {
        table.load_style(presets::ASCII_MARKDOWN);
        table
    });
    Ok(format!(
        "<!-- Written by `cargo xtask counts --write`. `cargo xtask test` compares. -->\n\
         # Executed instructions\n\n\
         `cargo xtask counts` prints both tables: QEMU `virt`,\n\
         `-cpu max -icount shift=0,sleep=off`, `{}`.\n\
         `cargo xtask test` fails if a count below grows by more than {} %, if a barrier or TLBI is\n\
         added, or if a target that is met is missed. A target that is missed is no failure.\n\n\
         ## Per page\n\n\
         What one page more costs from 512 to 4096 pages: instructions, DSB, ISB and TLBI that\n\
         the library executes as compiled into this kernel, in the cheapest of three repetitions. What is\n\
         measured stands in `kernel/src/bench/windows.rs`.\n\
         Linux is 7.2.12 (Debian's), counted from outside on cortex-a72: instructions / DSB / ISB / TLBI.\n\n\
         {pages}\n\n\
         {}\n\n\
         \"Tables built\" counts the allocation and the zeroing of the page tables. In the loops over\n\
         known slots each table is a section of its own, which pays one pair.\n\n\
         ## What the scheduler costs\n\n\
         Two tasks on one CPU, the cheapest of eight repetitions, without what the measuring itself costs\n\
         (`kernel/src/bench/scheduler.rs`).\n\n\
         {events}\n\n\
         {}\n\n\
         A switch and a yield go from the last word of the task that leaves to the first of the one that\n\
         comes. A tick finds the time slice not over: entry, interrupt controller, the look at the queue,\n\
         the timer armed anew, and return. The library's part of a switch, which is contained in both\n\
         ways, is a load, a test and a branch on the task's lazy state, and the DSB (R17) with its\n\
         counting; it has no target of its own.\n\n\
         ## Whole calls\n\n\
         `op` is the window's number; `spread` is by how much the dearest repetition was dearer.\n\n\
         ```text\n{measured}```\n",
        measured.terms,
        super::compare::TOLERANCE,
        pages_total(measured),
        events_total(measured),
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

fn event_table(measured: &Measured) -> Result<Table> {
    let mut table = Table::new();
    table.set_header(["event", "instructions", "DSB", "ISB", "target", ""]);
    for event in &EVENTS {
        let cost = measured
            .events
            .get(event.name)
            .with_context(|| format!("event {} was not measured", event.name))?;
        let target = event.target.map(|target| format!("<= {target}"));
        table.add_row([
            event.title.to_owned(),
            cost.instructions.to_string(),
            cost.dsb.to_string(),
            cost.isb.to_string(),
            target.unwrap_or_default(),
            event.standing(measured).to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(table)
}

fn row(operation: &Operation, page: PerPage, standing: Standing) -> [String; 8] {
    let target = operation.target.map(|target| target.to_string());
    let linux = Linux::get().page(operation.op, linux::NEWEST);
    [
        operation.title.to_owned(),
        instructions(page.instructions),
        few(page.dsb),
        few(page.isb),
        few(page.tlbi),
        target.unwrap_or_default(),
        linux.map(|figure| figure.to_string()).unwrap_or_default(),
        standing.to_string(),
    ]
}

/// Two decimals where they matter.
pub fn instructions(value: f64) -> String {
    if value.abs() < 0.005 {
        "0".to_owned()
    } else if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1}")
    }
}

/// Up to three decimals; fewer where they are zeros.
pub fn few(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.strip_prefix("-0")
        .filter(|rest| rest.is_empty())
        .map_or(text, |_| "0")
        .to_owned()
}

fn pages_total(measured: &Measured) -> String {
    total(OPERATIONS.iter().map(|one| one.standing(measured)))
}

fn events_total(measured: &Measured) -> String {
    total(EVENTS.iter().map(|one| one.standing(measured)))
}

fn total(all: impl Iterator<Item = Standing>) -> String {
    let (met, missed) = all.fold((0, 0), |(met, missed), standing| match standing {
        Standing::Met => (met + 1, missed),
        Standing::Missed => (met, missed + 1),
        Standing::NoTarget => (met, missed),
    });
    format!("{met} targets met, {missed} missed.")
}

/// The windows and events whose repetitions differ, and by how much.
fn spreads(measured: &Measured) -> impl Iterator<Item = (String, u64)> {
    let windows = OPERATIONS.iter().flat_map(|operation| {
        measured.of(operation.op).map(|(pages, cost)| {
            (
                format!("{} with pages={pages}", operation.name),
                cost.spread,
            )
        })
    });
    let events = measured
        .events
        .iter()
        .map(|(name, cost)| ((*name).to_owned(), cost.spread));
    windows.chain(events).filter(|(_, spread)| *spread > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let mut text = "counts backend=x policy=y\n".to_owned();
        for operation in &OPERATIONS {
            for pages in [512, 4096] {
                text.push_str(&format!(
                    "count op={} pages={pages} instructions={} spread={} ptes={pages} dsb=1 isb=1 tlbi=0 ish=0 dmb=0\n",
                    operation.op,
                    pages * u64::from(operation.op),
                    u64::from(operation.op == 15 && pages == 512) * 7,
                ));
            }
        }
        for event in &EVENTS {
            let spread = if event.name == "tick" { 9 } else { 0 };
            text.push_str(&format!(
                "event name={} instructions=200 spread={spread} dsb=1 isb=0\n",
                event.name
            ));
        }
        Measured::parse(&text).unwrap()
    }

    #[test]
    fn a_document_says_again_what_was_measured() {
        let measured = measured();
        let document = markdown(&measured).unwrap();
        assert_eq!(Measured::parse(&document).unwrap(), measured);
        assert!(document.contains(" 128.0 |"), "{document}");
        assert!(document.contains(" <= 150 | missed |"), "{document}");
    }

    #[test]
    fn targets_and_differing_repetitions_are_told() {
        let text = shown(&measured()).unwrap();
        // Instructions per page are the operation's number: 1 and 11 are low enough.
        assert!(text.contains("2 targets met, 10 missed."), "{text}");
        assert!(
            text.contains("repetitions of map_each with pages=512 differ by up to 7"),
            "{text}"
        );
        // 200 instructions are low enough for a yield and a tick.
        assert!(text.contains("2 targets met, 1 missed."), "{text}");
        assert!(text.contains("repetitions of tick differ by up to 9"));
        assert_eq!(text.matches("differ").count(), 2);
    }

    #[test]
    fn nothing_is_left_out_in_silence() {
        let mut measured = measured();
        measured.costs.remove(&(18, 512));
        let error = shown(&measured).unwrap_err();
        assert_eq!(error.to_string(), "operation set_slots was not measured");
        let mut measured = self::measured();
        measured.events.remove("tick");
        let error = markdown(&measured).unwrap_err();
        assert_eq!(error.to_string(), "event tick was not measured");
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
