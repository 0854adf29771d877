// SPDX-License-Identifier: MIT OR Apache-2.0

//! What both kinds of plots share: colors, marks, fonts, logarithmic axes, and what is shown where the mouse is.
//!
//! The plots are drawn by plotters, as SVG. The document's style sheet finds lines by their colors: it dashes them, and
//! has other colors for a dark screen.

use super::escaped;
use anyhow::Result;
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

/// The area that is drawn to.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A place in pixels.
pub type Place = (i32, i32);

/// Of backends and of Linux's versions, by slot.
const COLORS: [RGBColor; 8] = [
    RGBColor(0x00, 0x60, 0xb5),
    RGBColor(0xb5, 0x43, 0x00),
    RGBColor(0x00, 0x7a, 0x4d),
    RGBColor(0x8a, 0x2f, 0xa8),
    RGBColor(0xc0, 0x14, 0x3c),
    RGBColor(0x1c, 0x1e, 0x22),
    RGBColor(0x6a, 0x6f, 0x76),
    RGBColor(0x6a, 0x6f, 0x77),
];
/// Of text.
pub const INK: RGBColor = RGBColor(0x1c, 0x1e, 0x21);
/// Of the numbers at axes.
const SOFT: RGBColor = RGBColor(0x5a, 0x60, 0x68);
/// Of the grid.
const FAINT: RGBColor = RGBColor(0xd8, 0xdb, 0xe0);
/// plotters writes sizes that are smaller by this factor.
const FACTOR: f64 = 1.24;

/// The color of a slot.
pub fn color(slot: usize) -> RGBColor {
    COLORS[slot % COLORS.len()]
}

/// A text in the document's size.
pub fn font(color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", 12.0 * FACTOR).into_font().color(&color)
}

/// The text of a title.
pub fn title() -> TextStyle<'static> {
    let font = ("sans-serif", 14.0 * FACTOR, FontStyle::Bold);
    font.into_font().color(&INK)
}

/// Writes `text`; `place` is in the middle of its height, at its beginning or its end.
pub fn write(area: &Area<'_>, text: &str, place: Place, from: HPos, color: RGBColor) -> Result<()> {
    let style = font(color).pos(Pos::new(from, VPos::Center));
    area.draw(&Text::new(text.to_owned(), place, style))?;
    Ok(())
}

/// Draws the line of a slot; the style sheet dashes it.
pub fn line(area: &Area<'_>, slot: usize, places: Vec<Place>) -> Result<()> {
    area.draw(&PathElement::new(places, color(slot).stroke_width(2)))?;
    Ok(())
}

/// Draws the mark of a slot: lines that lie on each other are told apart by shapes of different sizes.
pub fn mark(area: &Area<'_>, slot: usize, place: Place) -> Result<()> {
    let style = color(slot).filled();
    let (x, y) = place;
    match slot % 3 {
        0 => area.draw(&Circle::new(place, if slot == 0 { 6 } else { 3 }, style))?,
        1 => area.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], style))?,
        _ => area.draw(&TriangleMarker::new(place, 5, style))?,
    }
    Ok(())
}

/// A logarithmic axis over decades. Zero, which has no logarithm, has a place of its own below the smallest decade.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    decades: [i32; 2],
    zero: bool,
}

impl Axis {
    /// The axis on which these values are.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = values.clone().filter(|value| *value > 0.0);
        let least = positive.clone().map(|value| value.log10().floor() as i32);
        let most = positive.map(|value| value.log10().ceil() as i32);
        let least = least.min().unwrap_or(0);
        Self {
            decades: [least, most.max().unwrap_or(1).max(least + 1)],
            zero: values.into_iter().any(|value| value <= 0.0),
        }
    }

    fn first(self) -> i32 {
        self.decades[0] - i32::from(self.zero)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let [_, last] = self.decades;
        let at = if *value > 0.0 {
            value.log10()
        } else {
            self.first().into()
        };
        let share = (at - f64::from(self.first())) / f64::from(last - self.first());
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let [low, high] = self.decades;
        let decades = (low..=high).map(|decade| 10_f64.powi(decade));
        self.zero
            .then_some(0.0)
            .into_iter()
            .chain(decades)
            .collect()
    }

    fn range(&self) -> Range<f64> {
        let [low, high] = self.decades.map(|decade| 10_f64.powi(decade));
        (if self.zero { 0.0 } else { low })..high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        match *value {
            1e6.. => format!("{} M", value / 1e6),
            1e3..1e6 => format!("{} k", value / 1e3),
            value => value.to_string(),
        }
    }
}

/// What is drawn of axes.
pub fn style<Y>(mesh: &mut MeshStyle<'_, '_, Axis, Y, SVGBackend<'_>>)
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    mesh.axis_style(FAINT)
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .label_style(font(SOFT))
        .axis_desc_style(font(INK));
}

/// What is shown while the mouse is between two corners.
#[derive(Clone, Debug)]
pub struct Hover {
    /// The upper left corner and the lower right one.
    pub corners: [Place; 2],
    /// The text.
    pub text: String,
}

/// Draws a plot of this size; `draw` returns what is shown where the mouse is.
pub fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<Vec<Hover>>) -> Result<String> {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
    let hovers = draw(&area)?;
    area.present()?;
    drop(area);
    // plotters has no titles.
    let titles: String = hovers
        .iter()
        .map(|Hover { corners, text }| {
            let [(left, top), (right, bottom)] = *corners;
            let (width, height) = (right - left, bottom - top);
            let text = escaped(text);
            format!(
                "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"transparent\">\
                 <title>{text}</title></rect>\n"
            )
        })
        .collect();
    Ok(text.replace("</svg>", &(titles + "</svg>")))
}

#[cfg(test)]
mod tests {
    use super::super::STYLE;
    use super::*;

    #[test]
    fn an_axis_has_a_place_for_zero() {
        let axis = Axis::of([0.0, 1.0, 100.0].into_iter());
        assert_eq!(
            [0.0, 1.0, 10.0, 100.0].map(|value| axis.map(&value, (300, 0))),
            [300, 200, 100, 0]
        );
        assert_eq!(axis.key_points(9), [0.0, 1.0, 10.0, 100.0]);
        assert_eq!(axis.range(), 0.0..100.0);
        let bare = Axis::of([0.5, 20.0].into_iter());
        assert_eq!(bare.key_points(9), [0.1, 1.0, 10.0, 100.0]);
        assert_eq!(bare.range(), 0.1..100.0);
    }

    #[test]
    fn powers_are_short() {
        assert_eq!(
            [0.0, 0.01, 1.0, 100.0, 1e4, 1e7].map(|value| Axis::format(&value)),
            ["0", "0.01", "1", "100", "10 k", "10 M"]
        );
    }

    #[test]
    fn the_style_sheet_replaces_each_color() {
        let colors = COLORS.into_iter().chain([INK, SOFT, FAINT]);
        for RGBColor(red, green, blue) in colors {
            let value = format!("\"#{red:02X}{green:02X}{blue:02X}\"");
            for attribute in ["stroke", "fill"] {
                let rule = format!("svg [{attribute}={value}] {{ {attribute}: var(--");
                assert!(STYLE.contains(&rule), "{rule}");
            }
        }
    }
}
