// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bars: what one page more costs in each operation, a bar for each backend, and a mark where Linux is.
//!
//! The scale is logarithmic, because a queue of calls costs a hundred times what a store does.

use super::super::linux::{self, Figure, Linux, NEWEST};
use super::element::{Element, element};
use super::plot::{label, rule};
use crate::counts::{Measured, OPERATIONS, instructions};

const WIDTH: f64 = 1060.0;
/// Where bars begin and end.
const SPAN: [f64; 2] = [330.0, 900.0];
/// What the ends stand for.
const RANGE: [f64; 2] = [1.0, 1000.0];
/// Height of a bar, and of what is between operations.
const BAR: f64 = 11.0;
const GAP: f64 = 10.0;
/// Where the first operation is: below title and legend.
const TOP: f64 = 74.0;

/// The bars of these backends: the slot of a color, a name, counts.
pub fn draw(title: &str, backends: &[(usize, &str, &Measured)]) -> Element {
    let per_page = |measured: &Measured, op| measured.per_page(op).map(|page| page.instructions);
    let known = OPERATIONS.iter().filter(|operation| {
        backends
            .iter()
            .any(|(_, _, measured)| per_page(measured, operation.op).is_some())
    });
    let known: Vec<_> = known.collect();
    let group = backends.len() as f64 * BAR + GAP;
    let bottom = TOP + known.len() as f64 * group;
    let mut drawing = element("svg")
        .set("viewBox", format!("0 0 {WIDTH} {:.0}", bottom + 46.0))
        .set("role", "img")
        .with(element("title").text(title))
        .with(label(0.0, 20.0, "title", title));
    drawing = legend(drawing, backends);
    let mut tick = RANGE[0];
    while tick <= RANGE[1] {
        let at = place(tick);
        drawing = drawing
            .with(rule([at, TOP - 6.0], [at, bottom], "grid"))
            .with(label(at, bottom + 16.0, "middle soft", &format!("{tick}")));
        tick *= 10.0;
    }
    let middle = (SPAN[0] + SPAN[1]) / 2.0;
    drawing = drawing.with(label(
        middle,
        bottom + 36.0,
        "middle",
        "instructions per page, from 512 to 4096 pages",
    ));
    for (row, operation) in known.iter().enumerate() {
        let top = TOP + row as f64 * group;
        let center = top + (group - GAP) / 2.0 + 4.0;
        drawing = drawing.with(label(SPAN[0] - 10.0, center, "end", operation.title));
        for (i, (slot, name, measured)) in backends.iter().enumerate() {
            let Some(value) = per_page(measured, operation.op) else {
                continue;
            };
            let said = format!(
                "{}, {name}: {} instructions per page",
                operation.title,
                instructions(value)
            );
            let (y, end) = (top + i as f64 * BAR, place(value));
            let bar = element("rect")
                .set("class", format!("f{slot}"))
                .set("x", SPAN[0])
                .set("y", format!("{y:.1}"))
                .set("width", format!("{:.1}", (end - SPAN[0]).max(1.0)))
                .set("height", BAR - 2.0);
            drawing = drawing
                .with(bar.with(element("title").text(&said)))
                .with(label(
                    end + 4.0,
                    y + BAR - 2.0,
                    "soft",
                    &instructions(value),
                ));
        }
        if let Some(value) = Linux::get()
            .page(operation.op, NEWEST)
            .and_then(Figure::instructions)
        {
            let at = place(value);
            let said = format!(
                "{}, Linux {NEWEST}: {value} instructions per page",
                operation.title
            );
            let mark = rule([at, top - 3.0], [at, top + group - GAP + 1.0], "line s5");
            drawing = drawing.with(mark.with(element("title").text(&said)));
        }
    }
    drawing
}

fn legend(mut drawing: Element, backends: &[(usize, &str, &Measured)]) -> Element {
    let mut x = 0.0;
    for (slot, name, _) in backends {
        let key = element("rect")
            .set("class", format!("f{slot}"))
            .set("x", format!("{x:.1}"))
            .set("y", 36)
            .set("width", 12)
            .set("height", 12);
        drawing = drawing.with(key).with(label(x + 18.0, 47.0, "", name));
        x += 160.0;
    }
    drawing
        .with(rule([x + 6.0, 34.0], [x + 6.0, 50.0], "line s5"))
        .with(label(x + 18.0, 47.0, "", &linux::label(NEWEST)))
}

/// Where a value is; what the scale does not reach is at its end.
fn place(value: f64) -> f64 {
    let [low, high] = RANGE.map(f64::log10);
    let share = (value.max(RANGE[0]).log10() - low) / (high - low);
    SPAN[0] + share.min(1.0) * (SPAN[1] - SPAN[0])
}

#[cfg(test)]
mod tests {
    use super::super::super::results::tests::results;
    use super::super::element::tests::check;
    use super::*;

    #[test]
    fn each_operation_has_a_bar_for_each_backend() {
        let results = results(&[512, 4096]);
        let backends: Vec<_> = results
            .counted
            .values()
            .take(2)
            .enumerate()
            .map(|(i, one)| (i, "x < y", one))
            .collect();
        let drawn = draw("a & b", &backends).to_string();
        check(&drawn);
        // Two keys of the legend.
        assert_eq!(drawn.matches("<rect").count(), 2 + 2 * OPERATIONS.len());
        assert!(
            drawn.contains(
                "map scattered frames, tables built, x &lt; y: 2.00 instructions per page"
            )
        );
        assert!(drawn.contains("Linux 7.2.12: 120.8 instructions per page"));
    }

    #[test]
    fn nothing_can_be_drawn() {
        check(&draw("nothing", &[]).to_string());
    }

    #[test]
    fn values_outside_of_the_scale_are_at_its_ends() {
        assert_eq!(
            [0.1, 1.0, 1000.0, 1e6].map(place),
            [SPAN[0], SPAN[0], SPAN[1], SPAN[1]]
        );
    }
}
