// SPDX-License-Identifier: MIT OR Apache-2.0

//! The report as one self-contained document: statements, plots and tables. It loads nothing and runs nothing.

mod bars;
mod drawing;
mod plot;

use super::statements::Statement;
use super::tables::{self, Titled};
use crate::measure::boots::{BACKENDS, ETS2, Terms};
use crate::measure::costs::Costs;
use crate::measure::linux::{self, Figure, Linux};
use crate::measure::results::Results;
use crate::measure::subjects::Subject;
use anyhow::Result;
use plot::Series;

const STYLE: &str = include_str!("style.css");
const TITLE: &str = "lazymmu: executed instructions and barriers";

/// CPUs and policies that plots are made of; their barriers are what each is about.
const PLOTTED: [(&str, &str); 2] = [("cortex-a72", "classic"), ("max", ETS2)];

/// The document.
pub fn page(results: &Results, said: &[Statement]) -> Result<String> {
    let mut body = vec![
        element("h1", TITLE),
        element(
            "p",
            &format!(
                "Written by cargo xtask bench: QEMU {} virt, one CPU, -icount shift=0,sleep=off, counted from outside by \
                 a plugin. Instructions are no time.",
                results.qemu
            ),
        ),
        claims(said),
    ];
    body.extend(tables::of_targets(results).as_ref().map(titled));
    body.extend(tables::not_judged(results).map(|line| element("p", &line)));
    body.push(element("h2", "What each backend costs"));
    for (cpu, policy) in PLOTTED {
        let all = of(results, cpu, policy);
        if !all.is_empty() {
            let title =
                format!("Instructions of one page more, by operation and backend: {cpu}, {policy}");
            body.push(figure(&title, &bars::draw(&title, &all)?));
        }
    }
    body.push(element("h2", "By operation"));
    body.extend(tables::where_calls_end(results).map(|line| element("p", &line)));
    for (operation, table) in tables::of_operations(results) {
        body.push(element("h3", operation.title));
        for (cpu, policy) in PLOTTED {
            let all = of(results, cpu, policy);
            if !all.is_empty() {
                let pair = plots(operation, &format!("{cpu}, {policy}"), &all)?;
                body.push(format!("<div class=\"pair\">{pair}</div>"));
            }
        }
        body.push(titled(&table));
    }
    body.push(element("h2", "Scheduler and boot"));
    body.push(titled(&tables::of_scheduler(results)));
    body.push(titled(&tables::of_boot(results)));
    body.push(of_linux());
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\
         {}<style>{STYLE}</style></head><body>\n{}\n</body></html>\n",
        element("title", TITLE),
        body.join("\n")
    ))
}

/// What was counted with this CPU and policy: each backend with its slot.
fn of<'a>(results: &'a Results, cpu: &str, policy: &str) -> Vec<(usize, &'static str, &'a Costs)> {
    let known = BACKENDS.into_iter().enumerate();
    known
        .filter_map(|(slot, backend)| {
            let costs = results.under(&Terms::new(cpu, policy, backend))?;
            Some((slot, backend, costs))
        })
        .collect()
}

/// Both plots of an operation, ours beside Linux's.
fn plots(operation: &Subject, terms: &str, all: &[(usize, &str, &Costs)]) -> Result<String> {
    let barriers = series(operation, all, |call, _| call.barriers());
    let each = series(operation, all, |call, pages| {
        Some(call.instructions()? / pages as f64)
    });
    let all = [
        ("Barriers of one call", "DSB + ISB", barriers),
        ("Instructions per page", "instructions / page", each),
    ];
    let drawn = all.iter().map(|(title, y, lines)| {
        let title = format!("{title}: {terms}");
        Ok(figure(&title, &plot::draw(&title, y, lines)?))
    });
    drawn.collect()
}

/// A line for each backend, and for each Linux whose calls were counted at several sizes.
fn series(
    operation: &Subject,
    all: &[(usize, &str, &Costs)],
    value: impl Fn(Figure, u64) -> Option<f64>,
) -> Vec<Series> {
    let points = |calls: &mut dyn Iterator<Item = (u64, Figure)>| {
        calls
            .filter_map(|(pages, call)| Some((pages, value(call, pages)?)))
            .collect()
    };
    let ours = all.iter().map(|(slot, backend, costs)| Series {
        name: (*backend).to_owned(),
        slot: *slot,
        points: points(
            &mut costs
                .of(operation.op)
                .map(|(pages, cost)| (pages, Figure::from(cost))),
        ),
    });
    let linux = Linux::get();
    let theirs = (BACKENDS.len()..)
        .zip(&linux.kernels)
        .map(|(slot, kernel)| Series {
            name: linux::label(kernel),
            slot,
            points: points(&mut linux.calls(operation.op, kernel)),
        });
    let measured = theirs.filter(|series| !series.points.is_empty());
    ours.chain(measured).collect()
}

/// For a place where markup is read: between tags, and in a quoted attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escaped(text))
}

fn figure(title: &str, drawing: &str) -> String {
    let title = escaped(title);
    format!("<figure role=\"img\" aria-label=\"{title}\">{drawing}</figure>")
}

/// The statements, each with whether it holds.
fn claims(said: &[Statement]) -> String {
    let items = said.iter().map(|statement| {
        let (class, verdict) = match statement.holds() {
            true => ("holds", "holds"),
            false => ("fails", "does not hold"),
        };
        let details: String = statement
            .details()
            .map(|line| element("li", &line))
            .collect();
        let details = match details.as_str() {
            "" => details,
            _ => format!("<ul>{details}</ul>"),
        };
        let claim = escaped(&statement.claim);
        format!("<li><b class=\"{class}\">{verdict}</b>: {claim}{details}</li>\n")
    });
    format!("<ul>{}</ul>", items.collect::<String>())
}

fn titled(table: &Titled) -> String {
    let cells = |name: &str, cells: &[String]| {
        let cells = cells.iter().map(|cell| element(name, cell));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let rows = table.rows.iter().map(|row| cells("td", row));
    format!(
        "<div class=\"wide\"><table>{}<thead>{}</thead><tbody>{}</tbody></table></div>",
        element("caption", &table.title),
        cells("th", &table.header),
        rows.collect::<String>()
    )
}

/// All of Linux's figures, those without a counterpart too, and how they were measured.
fn of_linux() -> String {
    let linux = Linux::get();
    let rows = linux.per_page.iter().map(|row| {
        let figures = linux.kernels.iter().map(|kernel| {
            let figure = row.figures.get(kernel);
            figure.map_or_else(|| "-".to_owned(), ToString::to_string)
        });
        [row.window.clone()].into_iter().chain(figures).collect()
    });
    let mut header = vec![""];
    header.extend(linux.kernels.iter().map(String::as_str));
    let title = "Linux, of a page from 512 to 4096 pages: instructions / DSB / ISB / TLBI";
    let table = Titled::new(title, &header, rows.collect());
    let how: String = linux.how.iter().map(|line| element("li", line)).collect();
    let heading = element("h2", "Linux");
    format!(
        "<section>{heading}<ul>{how}</ul>{}</section>",
        titled(&table)
    )
}

#[cfg(test)]
mod tests;
