// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bars: what one page more costs in each operation, a bar for each backend, and a line where Linux is.
//!
//! The scale is logarithmic, because a queue of calls costs a hundred times what a store does.

use super::drawing::{self, Area, Axis, Hover, INK, Place};
use crate::measure::boots::BACKENDS;
use crate::measure::costs::{Costs, instructions};
use crate::measure::linux::{self, Figure, Linux, NEWEST};
use crate::measure::subjects::{Group, Subject};
use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// Pixels of the width.
const WIDTH: u32 = 1060;
/// What the ends of the scale represent.
const RANGE: [f64; 2] = [1.0, 1000.0];
/// Pixels of the height of a bar, and of what is between operations.
const BAR: i32 = 11;
const GAP: i32 = 10;
/// Pixels above and below the bars: title and legend, and the axis.
const ABOVE: i32 = 74;
const BELOW: i32 = 44;
/// Linux's slot.
const LINUX: usize = BACKENDS.len();

/// The bars of these backends: the slot, a name, costs.
pub fn draw(title: &str, backends: &[(usize, &str, &Costs)]) -> Result<String> {
    let known: Vec<&Subject> = Subject::all(Group::Operation)
        .filter(|operation| {
            let mut all = backends.iter();
            all.any(|(_, _, costs)| costs.per_page(operation.op).is_some())
        })
        .collect();
    let group = i32::try_from(backends.len())? * BAR + GAP;
    let height = ABOVE + i32::try_from(known.len())? * group + BELOW;
    drawing::svg((WIDTH, height.unsigned_abs()), |root| {
        root.draw(&Text::new(title.to_owned(), (0, 6), drawing::title()))?;
        legend(root, backends)?;
        let mut chart = ChartBuilder::on(root)
            .margin_top(ABOVE)
            .margin_right(140)
            .x_label_area_size(BELOW)
            .y_label_area_size(350)
            .build_cartesian_2d(Axis::of(RANGE.into_iter()), 0.0..1.0)?;
        let mut mesh = chart.configure_mesh();
        drawing::style(&mut mesh);
        mesh.disable_y_mesh()
            .y_labels(0)
            .x_desc("instructions per page, from 512 to 4096 pages")
            .draw()?;
        // What the scale does not reach is at its end.
        let x = |value: f64| {
            let value = value.clamp(RANGE[0], RANGE[1]);
            chart.backend_coord(&(value, 0.0)).0
        };
        let left = x(RANGE[0]);
        let mut hovers = Vec::new();
        for (row, operation) in (0..).zip(&known) {
            let top = ABOVE + row * group;
            let middle = top + (group - GAP) / 2;
            let title = operation.title;
            drawing::write(root, title, (left - 10, middle), HPos::Right, INK)?;
            let mut hover = |corners: [Place; 2], name: &str, value: &str| {
                let text = format!("{title}, {name}: {value} instructions per page");
                hovers.push(Hover { corners, text });
            };
            for (y, (slot, name, costs)) in
                (top..).step_by(BAR.unsigned_abs() as usize).zip(backends)
            {
                let Some(page) = costs.per_page(operation.op) else {
                    continue;
                };
                let end = x(page.instructions).max(left + 1);
                let corners = [(left, y), (end, y + BAR - 2)];
                root.draw(&Rectangle::new(corners, drawing::color(*slot).filled()))?;
                let value = instructions(page.instructions);
                drawing::write(root, &value, (end + 4, y + BAR / 2), HPos::Left, INK)?;
                hover(corners, name, &value);
            }
            let linux = Linux::get().page(operation.op, NEWEST);
            if let Some(value) = linux.and_then(Figure::instructions) {
                let (at, bottom) = (x(value), top + group - GAP + 1);
                drawing::line(root, LINUX, vec![(at, top - 3), (at, bottom)])?;
                let corners = [(at - 3, top - 3), (at + 3, bottom)];
                hover(corners, &format!("Linux {NEWEST}"), &value.to_string());
            }
        }
        Ok(hovers)
    })
}

fn legend(root: &Area<'_>, backends: &[(usize, &str, &Costs)]) -> Result<()> {
    let mut x = 0;
    for (slot, name, _) in backends {
        let key = Rectangle::new([(x, 36), (x + 12, 48)], drawing::color(*slot).filled());
        root.draw(&key)?;
        drawing::write(root, name, (x + 18, 42), HPos::Left, INK)?;
        x += 160;
    }
    drawing::line(root, LINUX, vec![(x + 6, 34), (x + 6, 50)])?;
    let name = linux::label(NEWEST);
    drawing::write(root, &name, (x + 18, 42), HPos::Left, INK)
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::measure::results::tests::results;

    #[test]
    fn each_operation_has_a_bar_for_each_backend() {
        let results = results(&[512, 4096]);
        let backends: Vec<_> = results
            .terms()
            .take(2)
            .enumerate()
            .map(|(i, (_, costs))| (i, "x < y", costs))
            .collect();
        let drawn = draw("a & b", &backends).unwrap();
        check(&drawn);
        let operations = Subject::all(Group::Operation).count();
        for color in ["#0060B5", "#B54300"] {
            // One for each operation, and the key of the legend.
            let filled = format!("fill=\"{color}\"");
            assert_eq!(drawn.matches(&filled).count(), operations + 1, "{color}");
        }
        assert!(
            drawn.contains(
                "map scattered frames, tables built, x &lt; y: 2.00 instructions per page"
            )
        );
        assert!(drawn.contains("Linux 7.2.12: 120.8 instructions per page"));
        assert!(drawn.contains("\ninstructions per page, from 512 to 4096 pages\n"));
    }

    #[test]
    fn nothing_can_be_drawn() {
        check(&draw("nothing", &[]).unwrap());
    }
}
