// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tables, for the terminal and for the document: ours beside Linux's, one table for each operation.

use super::counted::MOST_OF_USUAL;
use super::linux::{Figure, Linux, NEWEST};
use super::results::{BOOT, Results};
use super::statements::Aimed;
use crate::counts::{
    Cost, EVENTS, Measured, OPERATIONS, Operation, PerPage, WAKES, few, instructions,
};
use comfy_table::{CellAlignment, Table, presets};
use std::collections::BTreeSet;

/// A table with its title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Titled {
    /// What it shows.
    pub title: String,
    /// Its columns.
    pub header: Vec<String>,
    /// Its rows, each as long as the header.
    pub rows: Vec<Vec<String>>,
}

impl Titled {
    /// For the terminal.
    pub fn shown(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(&self.header);
        for row in &self.rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n{table}", self.title)
    }

    fn new(title: String, header: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self {
            title,
            header: header.iter().map(|name| (*name).to_owned()).collect(),
            rows,
        }
    }
}

/// What an operation costs, and what it costs Linux.
pub fn of_operation(results: &Results, operation: &Operation) -> Titled {
    let op = operation.op;
    let sizes: BTreeSet<u64> = results
        .counted
        .values()
        .flat_map(|measured| measured.of(op).map(|(pages, _)| pages))
        .collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (terms, measured) in &results.counted {
        let mut cells = vec![measured.per_page(op).map_or_else(|| "-".to_owned(), page)];
        cells.extend(sizes.iter().map(|pages| {
            let cost = measured.costs.get(&(op, *pages));
            cost.map_or_else(|| "-".to_owned(), call)
        }));
        let name = format!("{}, {}", terms.policy, terms.backend);
        // Most CPUs execute the same: a row says it once.
        let same = rows.iter_mut().find(|row| {
            row[0]
                .split_once(": ")
                .is_some_and(|(_, known)| known == name)
                && row[1..] == cells
        });
        match same {
            Some(row) => row[0] = row[0].replacen(": ", &format!(", {}: ", terms.cpu), 1),
            None => {
                cells.insert(0, format!("{}: {name}", terms.cpu));
                rows.push(cells);
            }
        }
    }
    let linux = Linux::get();
    for kernel in &linux.kernels {
        let figure = |figure: Option<Figure>| {
            figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string())
        };
        let mut row = vec![format!("Linux {kernel}"), figure(linux.page(op, kernel))];
        row.extend(
            sizes
                .iter()
                .map(|pages| figure(linux.call(op, *pages, kernel))),
        );
        if row[1..].iter().any(|cell| cell != "-") {
            rows.push(row);
        }
    }
    rows.extend(ratio(results, op, &sizes));
    let mut header = vec!["", "one page more"];
    let calls: Vec<String> = sizes.iter().map(|pages| plural(*pages)).collect();
    header.extend(calls.iter().map(String::as_str));
    let mut title = format!(
        "{} (op {op}): instructions / DSB / ISB / TLBI, of a page from 512 to 4096 pages, and of one call",
        operation.title
    );
    // What Linux does is not always the same.
    if let Some(window) = linux.window(op) {
        title.push_str(&format!("; Linux: {window}"));
    }
    Titled::new(title, &header, rows)
}

/// That calls for one page each have no windows of the largest size, if others have.
pub fn where_calls_end(results: &Results) -> Option<String> {
    let sizes = results.counted.values().flat_map(|one| one.costs.keys());
    let largest = sizes.map(|(_, pages)| *pages).max()?;
    (largest > MOST_OF_USUAL).then(|| {
        format!("Windows in which each page is a call of its own end at {MOST_OF_USUAL} pages.")
    })
}

fn plural(pages: u64) -> String {
    match pages {
        1 => "1 page".to_owned(),
        _ => format!("{pages} pages"),
    }
}

/// How many times as many instructions the newest Linux executes as ours on the same CPU.
fn ratio(results: &Results, op: u8, sizes: &BTreeSet<u64>) -> Option<Vec<String>> {
    let (terms, ours) = results.headline()?;
    let linux = Linux::get();
    let times = |linux: Option<Figure>, ours: Option<f64>| match (
        linux.and_then(Figure::instructions),
        ours,
    ) {
        (Some(linux), Some(ours)) if ours > 0.0 => format!("{:.1} x", linux / ours),
        _ => "-".to_owned(),
    };
    let page = ours.per_page(op).map(|page| page.instructions);
    let mut row = vec![
        format!("Linux {NEWEST} : {}", terms.backend),
        times(linux.page(op, NEWEST), page),
    ];
    row.extend(sizes.iter().map(|pages| {
        let cost = ours.costs.get(&(op, *pages));
        times(
            linux.call(op, *pages, NEWEST),
            cost.map(|cost| cost.instructions as f64),
        )
    }));
    row[1..].iter().any(|cell| cell != "-").then_some(row)
}

pub fn page(page: PerPage) -> String {
    let barriers = [page.dsb, page.isb, page.tlbi].map(few).join(" / ");
    format!("{} / {barriers}", instructions(page.instructions))
}

fn call(cost: &Cost) -> String {
    format!(
        "{} / {} / {} / {}",
        cost.instructions, cost.dsb, cost.isb, cost.tlbi
    )
}

/// What the scheduler costs.
pub fn of_scheduler(results: &Results) -> Titled {
    let header = ["", "CPU", "instructions", "DSB", "ISB", "target"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    for event in EVENTS.iter().chain(&WAKES) {
        let counted = results
            .counted
            .iter()
            .map(|(terms, measured)| (&terms.cpu, measured));
        let of: Vec<(&String, &Measured)> = counted.chain(&results.boots).collect();
        for (cpu, measured) in of {
            let Some(cost) = measured.events.get(event.name) else {
                continue;
            };
            let target = event
                .target
                .map(|target| format!("<= {target}"))
                .unwrap_or_default();
            let row = vec![
                event.title.to_owned(),
                cpu.clone(),
                cost.instructions.to_string(),
                cost.dsb.to_string(),
                cost.isb.to_string(),
                target,
            ];
            // A backend changes nothing here as a rule.
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
    }
    let title = "The scheduler: all that is executed, drivers included; waking needs two CPUs, without -icount, best of 8";
    Titled::new(title.to_owned(), &header, rows)
}

/// What a boot costs.
pub fn of_boot(results: &Results) -> Titled {
    let header = [
        "",
        "CPU",
        "pages",
        "instructions",
        "per page",
        "DSB",
        "ISB",
        "TLBI",
    ];
    let mut rows = Vec::new();
    for (op, _, title) in BOOT {
        for (cpu, measured) in &results.boots {
            for (pages, cost) in measured.of(op) {
                let (of, each) = match pages {
                    0 => (String::new(), String::new()),
                    _ => (
                        pages.to_string(),
                        instructions(cost.instructions as f64 / pages as f64),
                    ),
                };
                rows.push(vec![
                    title.to_owned(),
                    cpu.clone(),
                    of,
                    cost.instructions.to_string(),
                    each,
                    cost.dsb.to_string(),
                    cost.isb.to_string(),
                    cost.tlbi.to_string(),
                ]);
            }
        }
    }
    Titled::new("The boot, with one CPU and 1 GiB".to_owned(), &header, rows)
}

/// The targets.
pub fn of_targets(aims: &[Aimed]) -> Titled {
    let header = ["", "instructions", "target", "", "by"];
    let rows = aims.iter().map(|aim| {
        vec![
            aim.title.to_owned(),
            aim.measured.clone(),
            aim.target.clone(),
            aim.standing.to_string(),
            aim.by.clone(),
        ]
    });
    let title = "Targets: of a page or an event, on cortex-a72, classic, defer-barriers";
    Titled::new(title.to_owned(), &header, rows.collect())
}

/// All tables of operations that were measured, in the order of the report.
pub fn of_operations(results: &Results) -> Vec<(&'static Operation, Titled)> {
    let measured = |operation: &&Operation| {
        results
            .counted
            .values()
            .any(|one| one.of(operation.op).next().is_some())
    };
    let known = OPERATIONS.iter().filter(measured);
    known
        .map(|operation| (operation, of_operation(results, operation)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::super::statements::targets;
    use super::*;

    fn row<'a>(table: &'a Titled, first: &str) -> &'a [String] {
        let row = table.rows.iter().find(|row| row[0] == first);
        row.unwrap_or_else(|| panic!("no row {first}: {table:?}"))
    }

    #[test]
    fn ours_stand_beside_those_of_linux() {
        let results = results(&[1, 512, 4096]);
        let table = of_operation(&results, &OPERATIONS[0]);
        assert_eq!(
            table.header,
            ["", "one page more", "1 page", "512 pages", "4096 pages"]
        );
        assert!(
            table
                .title
                .ends_with("Linux: vmap of an array of frames (tables are kept from call to call)")
        );
        assert_eq!(
            row(&table, "cortex-a72, max: classic, multicall")[1..3],
            ["2.00 / 0 / 0 / 0", "102 / 1 / 1 / 0"]
        );
        assert_eq!(
            row(&table, "Linux 7.2.12"),
            [
                "Linux 7.2.12",
                "120.8 / 0.002 / 0.002 / 0",
                "1401 / 1 / 1",
                "63286 / 2 / 2",
                "496138 / 9 / 9"
            ]
        );
        assert_eq!(row(&table, "Linux 6.1.176")[2], "-");
        assert_eq!(row(&table, "Linux 7.2.12 : defer-barriers")[1], "60.4 x");
        assert!(table.rows.iter().all(|row| row.len() == table.header.len()));
        assert!(table.shown().contains("120.8 / 0.002"), "{}", table.shown());
    }

    #[test]
    fn what_linux_was_not_asked_for_has_no_row() {
        let op = OPERATIONS
            .iter()
            .find(|operation| operation.op == 12)
            .unwrap();
        let table = of_operation(&results(&[512, 4096]), op);
        assert!(
            table.rows.iter().all(|row| !row[0].contains("Linux")),
            "{table:?}"
        );
    }

    #[test]
    fn where_calls_end_is_told_beside_larger_windows() {
        assert_eq!(where_calls_end(&results(&[1, 65_536])), None);
        let line = where_calls_end(&results(&[1, 1_048_576])).unwrap();
        assert!(line.ends_with("end at 65536 pages."), "{line}");
    }

    #[test]
    fn cpus_that_differ_have_rows_of_their_own() {
        let mut results = results(&[512, 4096]);
        let (_, first) = results.counted.iter_mut().next().unwrap();
        first.costs.entry((1, 512)).and_modify(|cost| cost.tlbi = 1);
        let table = of_operation(&results, &OPERATIONS[0]);
        assert_eq!(
            row(&table, "cortex-a72: classic, batch-invalidations")[2],
            "1124 / 1 / 1 / 1"
        );
        assert_eq!(
            row(&table, "max: classic, batch-invalidations")[2],
            "1124 / 1 / 1 / 0"
        );
    }

    #[test]
    fn scheduler_boot_and_targets_have_tables() {
        let results = results(&[512, 4096]);
        let scheduler = of_scheduler(&results);
        assert_eq!(scheduler.rows.len(), 2 * (EVENTS.len() + WAKES.len()));
        let boot = of_boot(&results);
        assert_eq!(
            row(&boot, "linear map of all memory")[2..5],
            ["262144", "141000", "0.54"]
        );
        let aims = of_targets(&targets(&results));
        assert_eq!(
            row(&aims, "yield to the other task")[1..],
            ["132", "<= 300", "met", "-56 %"]
        );
    }
}
