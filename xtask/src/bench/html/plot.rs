// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lines over pages: both axes are logarithmic, because sizes and costs are.

use super::drawing::{self, Axis, Hover, INK};
use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// Pixels of a plot.
const SIZE: (u32, u32) = (760, 340);
/// Pixels from the left to the legend.
const LEGEND: i32 = 450;
/// Pixels from the top to the first line of the legend, and from line to line.
const LINES: [i32; 2] = [46, 20];
/// Pixels from a mark within which its value is shown.
const NEAR: i32 = 7;

/// A line.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Its color, dashes and marks.
    pub slot: usize,
    /// Pages and value.
    pub points: Vec<(u64, f64)>,
}

/// The plot of these lines, as SVG; `y` is at its left.
pub fn draw(title: &str, y: &str, lines: &[Series]) -> Result<String> {
    drawing::svg(SIZE, |root| {
        let points = || lines.iter().flat_map(|series| &series.points);
        let pages = Axis::of(points().map(|(pages, _)| *pages as f64));
        let values = Axis::of(points().map(|(_, value)| *value));
        let (area, _) = root.split_horizontally(LEGEND);
        let mut chart = ChartBuilder::on(&area)
            .caption(title, drawing::title())
            .margin(6)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(pages, values)?;
        let mut mesh = chart.configure_mesh();
        drawing::style(&mut mesh);
        mesh.x_desc("pages of the call").y_desc(y).draw()?;
        let mut hovers = Vec::new();
        for (row, Series { name, slot, points }) in (0..).zip(lines) {
            let places: Vec<_> = points
                .iter()
                .map(|(pages, value)| chart.backend_coord(&(*pages as f64, *value)))
                .collect();
            drawing::line(root, *slot, places.clone())?;
            for ((left, top), (pages, value)) in places.iter().zip(points) {
                drawing::mark(root, *slot, (*left, *top))?;
                hovers.push(Hover {
                    corners: [(left - NEAR, top - NEAR), (left + NEAR, top + NEAR)],
                    text: format!("{name}, {pages} pages: {}", number(*value)),
                });
            }
            let [first, height] = LINES;
            let at = first + row * height;
            drawing::line(root, *slot, vec![(LEGEND + 16, at), (LEGEND + 44, at)])?;
            drawing::mark(root, *slot, (LEGEND + 30, at))?;
            drawing::write(root, name, (LEGEND + 52, at), HPos::Left, INK)?;
        }
        Ok(hovers)
    })
}

/// As short as it may be.
fn number(value: f64) -> String {
    ((value * 100.0).round() / 100.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    fn plot(points: &[(u64, f64)]) -> String {
        let line = Series {
            name: "eager & co".to_owned(),
            slot: 4,
            points: points.to_vec(),
        };
        let drawn = draw("a < b", "DSB", &[line]).unwrap();
        check(&drawn);
        drawn
    }

    #[test]
    fn a_plot_has_title_axes_legend_and_values() {
        let drawn = plot(&[(1, 0.0), (512, 512.0), (4096, 4096.0)]);
        for text in [
            "a &lt; b",
            "\npages of the call\n",
            "\nDSB\n",
            "\neager &amp; co\n",
            "<title>eager &amp; co, 512 pages: 512</title>",
            "\n0\n",
            "\n10 k\n",
        ] {
            assert!(drawn.contains(text), "{text} in {drawn}");
        }
        // The line and the one of the legend; the marks of three values and of the legend.
        assert_eq!(
            drawn
                .matches("<polyline fill=\"none\" opacity=\"1\" stroke=\"#C0143C\"")
                .count(),
            2
        );
        assert_eq!(drawn.matches("<rect").count(), 4 + 3);
    }

    #[test]
    fn nothing_and_zeros_alone_can_be_drawn() {
        for points in [&[][..], &[(1, 0.0)], &[(1, 1.0)]] {
            let drawn = plot(points);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 2.5, 3.456, 1000.0].map(number),
            ["0", "2.5", "3.46", "1000"]
        );
    }
}
