// SPDX-License-Identifier: MIT OR Apache-2.0

//! The report as one self-contained document: statements, plots and tables. It loads nothing and runs nothing.
//!
//! Colors are variables of the style sheet, with a second set for a dark screen; the plots use them by class.

mod bars;
mod element;
mod plot;

use super::counted::{ETS2, Terms};
use super::linux::{self, Figure, Linux};
use super::results::Results;
use super::statements::{self, Statement};
use super::table::{self, Titled};
use crate::counts::{Cost, Measured, Operation};
use crate::test::soak::tasks::BACKENDS;
use element::{Element, element};
use plot::{Plot, Series};

const STYLE: &str = include_str!("style.css");

/// CPUs and policies that plots are made of; their barriers are what each is about.
const PLOTTED: [(&str, &str); 2] = [("cortex-a72", "classic"), ("max", ETS2)];

/// The document.
pub fn page(results: &Results, said: &[Statement]) -> String {
    let title = "lazymmu: executed instructions and barriers";
    let head = element("head")
        .with(element("meta").set("charset", "utf-8"))
        .with(
            element("meta")
                .set("name", "viewport")
                .set("content", "width=device-width"),
        )
        .with(
            element("meta")
                .set("name", "color-scheme")
                .set("content", "light dark"),
        )
        .with(element("title").text(title))
        .with(element("style").text(STYLE));
    let mut body = element("body")
        .with(element("h1").text(title))
        .with(element("p").text(&format!(
            "Written by cargo xtask bench: QEMU {} virt, one CPU, -icount shift=0,sleep=off, counted from outside by a \
             plugin. Instructions are no time.",
            results.qemu
        )))
        .with(claims(said));
    let aims = statements::targets(results);
    if !aims.is_empty() {
        body = body.with(titled(&table::of_targets(&aims)));
    }
    if let Some(line) = statements::not_judged(results) {
        body = body.with(element("p").text(&line));
    }
    body = body.with(element("h2").text("What each backend costs"));
    for (cpu, policy) in PLOTTED {
        let all = of(results, cpu, policy);
        if !all.is_empty() {
            let named: Vec<_> = all
                .iter()
                .map(|(slot, terms, one)| (*slot, terms.backend.as_str(), *one))
                .collect();
            let title =
                format!("Instructions of one page more, by operation and backend: {cpu}, {policy}");
            body = body.with(figure(bars::draw(&title, &named)));
        }
    }
    body = body.with(element("h2").text("By operation"));
    if let Some(line) = table::where_calls_end(results) {
        body = body.with(element("p").text(&line));
    }
    for (operation, table) in table::of_operations(results) {
        body = body.with(element("h3").text(operation.title));
        for (cpu, policy) in PLOTTED {
            let all = of(results, cpu, policy);
            if all.is_empty() {
                continue;
            }
            let plots = element("div").set("class", "pair");
            body = body.with(
                plots
                    .with(figure(barriers(operation, cpu, policy, &all)))
                    .with(figure(per_page(operation, cpu, policy, &all))),
            );
        }
        body = body.with(titled(&table));
    }
    body = body
        .with(element("h2").text("Scheduler and boot"))
        .with(titled(&table::of_scheduler(results)))
        .with(titled(&table::of_boot(results)))
        .with(of_linux());
    let html = element("html").set("lang", "en").with(head).with(body);
    format!("<!DOCTYPE html>\n{html}\n")
}

/// One backend under some terms: the slot of its color, the terms, its counts.
type One<'a> = (usize, &'a Terms, &'a Measured);

/// What was counted with this CPU and policy, each backend in its slot.
fn of<'a>(results: &'a Results, cpu: &str, policy: &str) -> Vec<One<'a>> {
    let known = BACKENDS.iter().enumerate();
    known
        .filter_map(|(slot, backend)| {
            let (terms, measured) = results
                .counted
                .get_key_value(&Terms::new(cpu, policy, backend))?;
            Some((slot, terms, measured))
        })
        .collect()
}

fn barriers(operation: &Operation, cpu: &str, policy: &str, all: &[One<'_>]) -> Element {
    let ours = |cost: &Cost, _| (cost.dsb + cost.isb) as f64;
    let linux = |figure: Figure, _| Some(figure.dsb()? + figure.isb()?);
    Plot {
        title: format!("Barriers of one call: {cpu}, {policy}"),
        x: "pages of the call",
        y: "DSB + ISB",
        series: series(operation, all, ours, linux),
    }
    .draw()
}

fn per_page(operation: &Operation, cpu: &str, policy: &str, all: &[One<'_>]) -> Element {
    let ours = |cost: &Cost, pages: u64| cost.instructions as f64 / pages as f64;
    let linux = |figure: Figure, pages: u64| Some(figure.instructions()? / pages as f64);
    Plot {
        title: format!("Instructions per page: {cpu}, {policy}"),
        x: "pages of the call",
        y: "instructions / page",
        series: series(operation, all, ours, linux),
    }
    .draw()
}

/// A line for each backend, and for each Linux whose calls were counted at several sizes.
fn series(
    operation: &Operation,
    all: &[One<'_>],
    ours: impl Fn(&Cost, u64) -> f64,
    theirs: impl Fn(Figure, u64) -> Option<f64>,
) -> Vec<Series> {
    let mut lines: Vec<Series> = all
        .iter()
        .map(|(slot, terms, measured)| Series {
            name: terms.backend.clone(),
            slot: *slot,
            points: measured
                .of(operation.op)
                .map(|(pages, cost)| (pages, ours(cost, pages)))
                .collect(),
        })
        .collect();
    let linux = Linux::get();
    for (i, kernel) in linux.kernels.iter().enumerate() {
        let calls = linux.whole_calls.iter().map(|row| row.pages);
        let points: Vec<(u64, f64)> = calls
            .filter_map(|pages| {
                let figure = linux.call(operation.op, pages, kernel)?;
                Some((pages, theirs(figure, pages)?))
            })
            .collect();
        if !points.is_empty() {
            lines.push(Series {
                name: linux::label(kernel),
                slot: BACKENDS.len() + i,
                points,
            });
        }
    }
    lines
}

fn figure(drawing: Element) -> Element {
    element("figure").with(drawing)
}

/// The statements, each with whether it holds.
fn claims(said: &[Statement]) -> Element {
    said.iter().fold(element("ul"), |list, statement| {
        let (class, verdict) = match statement.holds() {
            true => ("holds", "holds"),
            false => ("fails", "does not hold"),
        };
        let mut item = element("li")
            .with(element("b").set("class", class).text(verdict))
            .text(": ")
            .text(&statement.claim);
        let about = statement
            .against
            .iter()
            .map(|line| format!("against it: {line}"));
        let about = about.chain(
            statement
                .notes
                .iter()
                .map(|line| format!("cheaper: {line}")),
        );
        let lines: Vec<Element> = about.map(|line| element("li").text(&line)).collect();
        if !lines.is_empty() {
            item = item.with(lines.into_iter().fold(element("ul"), Element::with));
        }
        list.with(item)
    })
}

fn titled(table: &Titled) -> Element {
    let cells = |name: &'static str, cells: &[String]| {
        cells.iter().fold(element("tr"), |row, cell| {
            row.with(element(name).text(cell))
        })
    };
    let body = table
        .rows
        .iter()
        .fold(element("tbody"), |body, row| body.with(cells("td", row)));
    let table = element("table")
        .with(element("caption").text(&table.title))
        .with(element("thead").with(cells("th", &table.header)))
        .with(body);
    element("div").set("class", "wide").with(table)
}

/// All of Linux's figures, those without a counterpart too, and how they were measured.
fn of_linux() -> Element {
    let linux = Linux::get();
    let rows = linux.per_page.iter().map(|row| {
        let figures = linux.kernels.iter().map(|kernel| {
            let figure = row.figures.get(kernel);
            figure.map_or_else(|| "-".to_owned(), ToString::to_string)
        });
        [row.window.clone()].into_iter().chain(figures).collect()
    });
    let table = Titled {
        title: "Linux, of a page from 512 to 4096 pages: instructions / DSB / ISB / TLBI"
            .to_owned(),
        header: [String::new()]
            .into_iter()
            .chain(linux.kernels.iter().cloned())
            .collect(),
        rows: rows.collect(),
    };
    let how = linux.how.iter().fold(element("ul"), |list, line| {
        list.with(element("li").text(line))
    });
    element("section")
        .with(element("h2").text("Linux"))
        .with(how)
        .with(titled(&table))
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    fn statement(claim: &str) -> Statement {
        Statement {
            claim: claim.to_owned(),
            against: vec!["1 < 2 & \"3\"".to_owned()],
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_document_is_well_formed() {
        let page = page(&results(&[1, 16, 512, 4096]), &[statement("a</style>b")]);
        element::tests::check(&page);
        assert!(page.contains("a&lt;/style&gt;b"));
        assert!(page.contains("against it: 1 &lt; 2 &amp; &quot;3&quot;"));
        assert!(
            !page.contains("<script") && !page.contains("http://") && !page.contains("https://")
        );
    }

    #[test]
    fn it_says_what_was_counted() {
        let results = results(&[1, 512, 4096]);
        let page = page(&results, &[]);
        for text in [
            "map scattered frames, tables built",
            "120.8 / 0.002 / 0.002 / 0",
            "2.00 / 0 / 0 / 0",
            "63286 / 2 / 2",
            "linear map of all memory",
            "waking a task on another CPU",
        ] {
            assert!(page.contains(text), "{text}");
        }
        // Two plots for each operation and what is plotted, and one of bars.
        assert_eq!(
            page.matches("<svg").count(),
            PLOTTED.len() * (2 * crate::counts::OPERATIONS.len() + 1)
        );
        assert!(page.contains("user: munmap with page freeing"));
    }

    #[test]
    fn each_plot_says_what_linux_was_measured_on() {
        let page = page(&results(&[1, 512, 4096]), &[]);
        for plot in page.split("<svg").skip(1) {
            let (plot, _) = plot.split_once("</svg>").unwrap();
            // In the legend, and where the mouse is.
            for name in plot.split(">Linux ").skip(1) {
                let (name, _) = name.split_once('<').unwrap();
                assert!(name.contains(" (cortex-a72, classic)"), "{name}");
            }
        }
        assert!(page.contains("by operation and backend: max, ets2"));
        assert!(page.contains(">Linux 7.2.12 (cortex-a72, classic)<"));
    }

    #[test]
    fn it_is_the_same_each_time() {
        let results = results(&[1, 512, 4096]);
        assert_eq!(page(&results, &[]), page(&results, &[]));
    }

    #[test]
    fn little_or_nothing_makes_a_document_too() {
        element::tests::check(&page(&Results::default(), &[]));
        element::tests::check(&page(&results(&[1]), &[]));
    }
}
