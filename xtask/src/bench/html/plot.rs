// SPDX-License-Identifier: MIT OR Apache-2.0

//! Lines over pages: both axes are logarithmic, because sizes and costs are. Zero, which has no logarithm, has a place
//! of its own below the smallest decade.

use super::element::{Element, element};

/// The drawing, in its own units.
const SIZE: [f64; 2] = [760.0, 340.0];
/// Of the area of the lines: left, top, right, bottom.
const AREA: [f64; 4] = [72.0, 38.0, 440.0, 290.0];
/// Height of a line of the legend.
const LINE: f64 = 20.0;

/// A line.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Its color and dashes in the style sheet, and the shape of its marks.
    pub slot: usize,
    /// Pages and value.
    pub points: Vec<(u64, f64)>,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x: &'static str,
    /// At its left, with the unit.
    pub y: &'static str,
    /// Its lines.
    pub series: Vec<Series>,
}

/// A logarithmic scale between two decades.
#[derive(Clone, Copy, Debug)]
struct Scale {
    decades: [i32; 2],
    /// Whether there are zeros, one decade below.
    zero: bool,
    /// Where the ends are in the drawing.
    ends: [f64; 2],
}

impl Scale {
    fn new(values: impl Iterator<Item = f64>, ends: [f64; 2]) -> Self {
        let mut decades: Option<[i32; 2]> = None;
        let mut zero = false;
        for value in values {
            if value <= 0.0 {
                zero = true;
                continue;
            }
            let [low, high] = [value.log10().floor() as i32, value.log10().ceil() as i32];
            let [least, most] = decades.unwrap_or([low, high]);
            decades = Some([least.min(low), most.max(high)]);
        }
        let [least, most] = decades.unwrap_or([0, 1]);
        Self {
            decades: [least, most.max(least + 1)],
            zero,
            ends,
        }
    }

    fn first(self) -> i32 {
        self.decades[0] - i32::from(self.zero)
    }

    fn place(self, value: f64) -> f64 {
        let [_, last] = self.decades;
        let at = if value <= 0.0 {
            f64::from(self.first())
        } else {
            value.log10()
        };
        let share = (at - f64::from(self.first())) / f64::from(last - self.first());
        self.ends[0] + share * (self.ends[1] - self.ends[0])
    }

    /// Where ticks are, and what stands there.
    fn ticks(self) -> Vec<(f64, String)> {
        let [low, high] = self.decades;
        let zero = self.zero.then(|| (self.place(0.0), "0".to_owned()));
        let decades = (low..=high).map(|decade| (self.place(10_f64.powi(decade)), short(decade)));
        zero.into_iter().chain(decades).collect()
    }
}

/// A power of ten.
fn short(decade: i32) -> String {
    match decade {
        6.. => format!("{} M", 10_u64.pow(decade.unsigned_abs() - 6)),
        3..6 => format!("{} k", 10_u64.pow(decade.unsigned_abs() - 3)),
        0..3 => 10_u64.pow(decade.unsigned_abs()).to_string(),
        _ => format!("{:.*}", decade.unsigned_abs() as usize, 10_f64.powi(decade)),
    }
}

impl Plot {
    /// As SVG.
    pub fn draw(&self) -> Element {
        let [left, top, right, bottom] = AREA;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Scale::new(points().map(|(pages, _)| *pages as f64), [left, right]);
        let y = Scale::new(points().map(|(_, value)| *value), [bottom, top]);
        let [width, height] = SIZE;
        let mut drawing = element("svg")
            .set("viewBox", format!("0 0 {width} {height}"))
            .set("role", "img")
            .with(element("title").text(&self.title))
            .with(label(left, 20.0, "title", &self.title));
        for (at, text) in x.ticks() {
            drawing = drawing
                .with(rule([at, top], [at, bottom], "grid"))
                .with(label(at, bottom + 18.0, "middle soft", &text));
        }
        for (at, text) in y.ticks() {
            drawing = drawing
                .with(rule([left, at], [right, at], "grid"))
                .with(label(left - 8.0, at + 4.0, "end soft", &text));
        }
        let middle = (top + bottom) / 2.0;
        drawing = drawing
            .with(label((left + right) / 2.0, bottom + 38.0, "middle", self.x))
            .with(
                label(16.0, middle, "middle", self.y)
                    .set("transform", format!("rotate(-90 16 {middle})")),
            );
        for (row, series) in self.series.iter().enumerate() {
            let placed: Vec<[f64; 2]> = series
                .points
                .iter()
                .map(|(pages, value)| [x.place(*pages as f64), y.place(*value)])
                .collect();
            let path: Vec<String> = placed
                .iter()
                .map(|[x, y]| format!("{x:.1},{y:.1}"))
                .collect();
            let slot = series.slot;
            drawing = drawing.with(
                element("polyline")
                    .set("class", format!("line s{slot}"))
                    .set("points", path.join(" ")),
            );
            for (place, (pages, value)) in placed.iter().zip(&series.points) {
                let said = format!("{}, {pages} pages: {}", series.name, number(*value));
                drawing = drawing.with(mark(*place, slot).with(element("title").text(&said)));
            }
            let at = top + 8.0 + row as f64 * LINE;
            let from = right + 16.0;
            drawing = drawing
                .with(rule(
                    [from, at],
                    [from + 28.0, at],
                    &format!("line s{slot}"),
                ))
                .with(mark([from + 14.0, at], slot))
                .with(label(from + 36.0, at + 4.0, "", &series.name));
        }
        drawing
    }
}

/// As short as it may be.
pub fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text at a place.
pub fn label(x: f64, y: f64, class: &str, text: &str) -> Element {
    let label = element("text")
        .set("x", format!("{x:.1}"))
        .set("y", format!("{y:.1}"));
    let label = match class {
        "" => label,
        _ => label.set("class", class),
    };
    label.text(text)
}

/// A line between two places.
pub fn rule(from: [f64; 2], to: [f64; 2], class: &str) -> Element {
    element("line")
        .set("class", class)
        .set("x1", format!("{:.1}", from[0]))
        .set("y1", format!("{:.1}", from[1]))
        .set("x2", format!("{:.1}", to[0]))
        .set("y2", format!("{:.1}", to[1]))
}

/// A mark: lines that lie on each other are told apart by shapes of different sizes.
fn mark([x, y]: [f64; 2], slot: usize) -> Element {
    let class = format!("f{slot}");
    match slot % 3 {
        0 => element("circle")
            .set("class", class)
            .set("cx", format!("{x:.1}"))
            .set("cy", format!("{y:.1}"))
            .set("r", if slot == 0 { 5.5 } else { 3.0 }),
        1 => element("rect")
            .set("class", class)
            .set("x", format!("{:.1}", x - 3.5))
            .set("y", format!("{:.1}", y - 3.5))
            .set("width", 7)
            .set("height", 7),
        _ => {
            let points = [[x, y - 4.5], [x - 4.0, y + 3.0], [x + 4.0, y + 3.0]];
            let points = points.map(|[x, y]| format!("{x:.1},{y:.1}"));
            element("polygon")
                .set("class", class)
                .set("points", points.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::element::tests::check;
    use super::*;

    fn plot(points: &[(u64, f64)]) -> Plot {
        Plot {
            title: "a < b".to_owned(),
            x: "pages",
            y: "DSB",
            series: vec![Series {
                name: "eager & co".to_owned(),
                slot: 4,
                points: points.to_vec(),
            }],
        }
    }

    #[test]
    fn a_plot_has_title_axes_legend_and_values() {
        let drawn = plot(&[(1, 0.0), (512, 512.0), (4096, 4096.0)])
            .draw()
            .to_string();
        check(&drawn);
        for text in [
            "a &lt; b",
            ">pages<",
            ">DSB<",
            ">eager &amp; co<",
            "eager &amp; co, 512 pages: 512",
            ">10 k<",
        ] {
            assert!(drawn.contains(text), "{text} in {drawn}");
        }
        assert_eq!(drawn.matches("<polyline").count(), 1);
        assert_eq!(drawn.matches("<title>").count(), 1 + 3);
    }

    #[test]
    fn a_scale_has_a_place_for_zero() {
        let scale = Scale::new([0.0, 1.0, 100.0].into_iter(), [0.0, 300.0]);
        assert_eq!(
            [0.0, 1.0, 10.0, 100.0].map(|value| scale.place(value).round()),
            [0.0, 100.0, 200.0, 300.0]
        );
        let ticks: Vec<String> = scale.ticks().into_iter().map(|(_, text)| text).collect();
        assert_eq!(ticks, ["0", "1", "10", "100"]);
        let bare = Scale::new([0.5, 20.0].into_iter(), [0.0, 300.0]);
        assert_eq!(
            bare.ticks().first().map(|(at, text)| (*at, text.as_str())),
            Some((0.0, "0.1"))
        );
    }

    #[test]
    fn nothing_and_zeros_alone_can_be_drawn() {
        for points in [&[][..], &[(1, 0.0)], &[(1, 1.0)]] {
            let drawn = plot(points).draw().to_string();
            check(&drawn);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }

    #[test]
    fn numbers_and_powers_are_short() {
        assert_eq!(
            [0.0, 2.5, 3.456, 1000.0].map(number),
            ["0", "2.5", "3.46", "1000"]
        );
        assert_eq!(
            [-2, 0, 2, 4, 7].map(short),
            ["0.01", "1", "100", "10 k", "10 M"]
        );
    }
}
