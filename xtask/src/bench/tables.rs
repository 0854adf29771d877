// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tables, for the terminal and for the document: ours beside Linux's, one table for each operation.

use crate::measure::boots::{DEFER_BARRIERS, MOST_OF_USUAL};
use crate::measure::costs::{Cost, instructions};
use crate::measure::linux::{Figure, Linux, NEWEST};
use crate::measure::results::{HEADLINE, Results};
use crate::measure::subjects::{Group, SUBJECTS, Subject};
use comfy_table::{CellAlignment, Table, TableStyle, presets};
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
    /// A table.
    pub fn new(title: impl Into<String>, header: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self {
            title: title.into(),
            header: header.iter().map(|name| (*name).to_owned()).collect(),
            rows,
        }
    }

    /// For the terminal.
    pub fn shown(&self) -> String {
        format!("{}\n{}", self.title, self.drawn(presets::UTF8_BORDERS_ONLY))
    }

    /// For a document, without its title.
    pub fn markdown(&self) -> String {
        self.drawn(presets::ASCII_MARKDOWN)
    }

    fn drawn(&self, style: TableStyle) -> String {
        let mut table = Table::new();
        table.load_style(style);
        table.set_header(&self.header);
        table.add_rows(&self.rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// A cell of what may be unknown.
fn cell(of: Option<impl ToString>) -> String {
    of.map_or_else(|| "-".to_owned(), |of| of.to_string())
}

/// What an operation costs, and what it costs Linux.
fn of_operation(results: &Results, operation: &Subject) -> Titled {
    let op = operation.op;
    let sizes: BTreeSet<u64> = results
        .terms()
        .flat_map(|(_, costs)| costs.of(op).map(|(pages, _)| pages))
        .collect();
    // Most CPUs execute the same: a row says it once. So it is the CPUs, what is the same on them, and the cells.
    let mut ours: Vec<(Vec<&str>, String, Vec<String>)> = Vec::new();
    for (terms, costs) in results.terms() {
        let calls = sizes.iter().map(|pages| cell(costs.get(op, *pages)));
        let cells: Vec<String> = [cell(costs.per_page(op))]
            .into_iter()
            .chain(calls)
            .collect();
        let name = format!("{}, {}", terms.policy, terms.backend);
        match ours.iter_mut().find(|row| row.1 == name && row.2 == cells) {
            Some((cpus, ..)) => cpus.push(&terms.cpu),
            None => ours.push((vec![&terms.cpu], name, cells)),
        }
    }
    let mut rows: Vec<Vec<String>> = ours
        .into_iter()
        .map(|(cpus, name, cells)| row(format!("{}: {name}", cpus.join(", ")), cells))
        .collect();
    let linux = Linux::get();
    let of_linux = linux.kernels.iter().map(|kernel| {
        let calls = sizes
            .iter()
            .map(|pages| cell(linux.call(op, *pages, kernel)));
        let cells = [cell(linux.page(op, kernel))].into_iter().chain(calls);
        row(format!("Linux {kernel}"), cells.collect())
    });
    let ratio = ratio(results, op, &sizes);
    // What was not measured has no row.
    rows.extend(
        of_linux
            .chain(ratio)
            .filter(|row| row[1..].iter().any(|cell| cell != "-")),
    );
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

fn row(first: String, mut cells: Vec<String>) -> Vec<String> {
    cells.insert(0, first);
    cells
}

/// That calls for one page each have no windows of the largest size, if others have.
pub fn where_calls_end(results: &Results) -> Option<String> {
    let operations = results
        .windows()
        .filter(|((_, subject, _), _)| subject.group == Group::Operation);
    let largest = operations.map(|((_, _, pages), _)| pages).max()?;
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
    let ours = results.headline()?;
    let linux = Linux::get();
    let times = |linux: Option<Figure>, ours: Option<f64>| {
        let (linux, ours) = (linux?.instructions()?, ours.filter(|ours| *ours > 0.0)?);
        Some(format!("{:.1} x", linux / ours))
    };
    let page = ours.per_page(op).map(|page| page.instructions);
    let calls = sizes.iter().map(|pages| {
        let cost = ours.get(op, *pages).map(|cost| cost.instructions as f64);
        times(linux.call(op, *pages, NEWEST), cost)
    });
    let cells = [times(linux.page(op, NEWEST), page)]
        .into_iter()
        .chain(calls);
    let name = format!("Linux {NEWEST} : {DEFER_BARRIERS}");
    Some(row(name, cells.map(cell).collect()))
}

/// What the scheduler costs.
pub fn of_scheduler(results: &Results) -> Titled {
    let header = ["", "CPU", "instructions", "DSB", "ISB", "target"];
    let windows = of_group(results, Group::Scheduler).chain(of_group(results, Group::WakeUp));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (event, cpu, _, cost) in windows {
        let target = event.target.map(|target| target.to_string());
        let numbers = [cost.instructions, cost.dsb, cost.isb].map(|count| count.to_string());
        let mut row = vec![event.title.to_owned(), cpu.to_owned()];
        row.extend(numbers);
        row.push(target.unwrap_or_default());
        // A backend changes nothing here as a rule.
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let title = "The scheduler: all that is executed, drivers included; waking needs two CPUs, without -icount, best of 8";
    Titled::new(title, &header, rows)
}

/// What a boot costs.
pub fn of_boot(results: &Results) -> Titled {
    let header = "|CPU|pages|instructions|per page|DSB|ISB|TLBI";
    let rows = of_group(results, Group::Boot).map(|(window, cpu, pages, cost)| {
        let mapped = Some(pages).filter(|pages| *pages > 0);
        let each = mapped.map(|pages| instructions(cost.instructions as f64 / pages as f64));
        let mut row = vec![window.title.to_owned(), cpu.to_owned()];
        row.push(mapped.map(|pages| pages.to_string()).unwrap_or_default());
        row.push(cost.instructions.to_string());
        row.push(each.unwrap_or_default());
        row.extend([cost.dsb, cost.isb, cost.tlbi].map(|count| count.to_string()));
        row
    });
    let header: Vec<&str> = header.split('|').collect();
    Titled::new("The boot, with one CPU and 1 GiB", &header, rows.collect())
}

/// The windows of the subjects of `group`, subject by subject.
fn of_group(
    results: &Results,
    group: Group,
) -> impl Iterator<Item = (&'static Subject, &str, u64, &Cost)> {
    Subject::all(group).flat_map(move |subject| {
        results
            .measured
            .iter()
            .flat_map(move |(measurement, costs)| {
                let windows = costs.of(subject.op);
                windows.map(move |(pages, cost)| (subject, measurement.cpu(), pages, cost))
            })
    })
}

/// The targets under the terms under which they are meant, if these were measured.
pub fn of_targets(results: &Results) -> Option<Titled> {
    let costs = results.headline()?;
    let row = |subject: &Subject| {
        let (target, measured) = (subject.target?, subject.instructions(costs)?);
        let percent = (measured / target.instructions - 1.0) * 100.0;
        let met = subject.met(costs)?;
        Some(vec![
            subject.title.to_owned(),
            match measured.fract() == 0.0 {
                true => measured.to_string(),
                false => instructions(measured),
            },
            target.to_string(),
            if met { "met" } else { "missed" }.to_owned(),
            match met || percent > 0.0 {
                true => format!("{percent:+.0} %"),
                false => "barriers".to_owned(),
            },
        ])
    };
    let header = ["", "instructions", "target", "", "by"];
    let title = "Targets: of a page or an event, on cortex-a72, classic, defer-barriers";
    let rows = SUBJECTS.iter().filter_map(row).collect();
    Some(Titled::new(title, &header, rows))
}

/// That the targets were not judged, and what judges them, if they were not measured.
pub fn not_judged(results: &Results) -> Option<String> {
    let [cpu, policy, backend] = HEADLINE;
    results.headline().is_none().then(|| {
        format!(
            "The targets were not judged, because they are meant for {cpu}, {policy}, {backend}: \
             --cpu {cpu} --policy {policy} --backend {backend} judges them."
        )
    })
}

/// All tables of operations that were measured, in the order of the report.
pub fn of_operations(results: &Results) -> Vec<(&'static Subject, Titled)> {
    let measured = |operation: &&Subject| {
        let mut all = results.terms();
        all.any(|(_, costs)| costs.of(operation.op).next().is_some())
    };
    let known = Subject::all(Group::Operation).filter(measured);
    known
        .map(|operation| (operation, of_operation(results, operation)))
        .collect()
}

#[cfg(test)]
mod tests;
