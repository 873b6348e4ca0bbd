//! Line and scatter plots as inline SVG.

use crate::{Error, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

const WIDTH: u32 = 540;
const HEIGHT: u32 = 340;
const FONT: &str = "sans-serif";

/// Axes, their labels and text. The SVG gets the page's text colour in its place, dark or light.
const INK: RGBColor = RGBColor(1, 2, 3);

/// Colours that can be told apart and read on white and on black.
const PALETTE: [(u8, u8, u8); 10] = [
    (31, 119, 200),
    (224, 120, 20),
    (40, 150, 80),
    (200, 60, 60),
    (140, 95, 200),
    (150, 110, 80),
    (215, 95, 170),
    (120, 130, 140),
    (165, 160, 30),
    (20, 160, 180),
];

fn colour(series: usize) -> RGBColor {
    let (r, g, b) = PALETTE[series % PALETTE.len()];
    RGBColor(r, g, b)
}

/// The colour of a series as CSS writes it.
pub(super) fn css_colour(series: usize) -> String {
    let (r, g, b) = PALETTE[series % PALETTE.len()];
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Line,
    Dashed,
    /// A line with its points marked.
    Marked,
    Points,
}

#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) colour: usize,
    pub(super) style: Style,
    pub(super) points: Vec<(f64, f64)>,
}

/// How the numbers of the x axis are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// Points are binary logarithms; each that occurs is labelled, and no other.
    Log2,
    /// Points are decimal logarithms.
    Log10,
}

#[derive(Debug)]
pub(super) struct Plot<'a> {
    /// What is seen, for those who do not see it.
    pub(super) about: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) scale: Scale,
    pub(super) series: Vec<Series>,
    /// Text beside points.
    pub(super) labels: Vec<(f64, f64, String)>,
}

impl Plot<'_> {
    /// The plot as an SVG element; empty where there is no finite point.
    ///
    /// # Errors
    /// What the drawing library reports.
    pub(super) fn draw(&self) -> Result<String> {
        let points = || {
            let all = self.series.iter().flat_map(|s| &s.points);
            all.filter(|p| p.0.is_finite() && p.1.is_finite())
        };
        if points().next().is_none() {
            return Ok(String::new());
        }
        let xs = span(points().map(|p| p.0));
        let ys = span(points().map(|p| p.1));
        let mut svg = String::new();
        self.paint(&mut svg, xs, ys)
            .map_err(|e| Error::usage(format!("cannot draw {}: {e}", self.about)))?;
        let inner = svg.split_once('>').map_or("", |(_, inner)| inner);
        let ink = format!("#{:02X}{:02X}{:02X}", INK.0, INK.1, INK.2);
        Ok(format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">{}",
            super::html::escape(self.about),
            inner.replace(&ink, "currentColor").trim_end()
        ))
    }

    fn paint(
        &self,
        svg: &mut String,
        xs: Range<f64>,
        ys: Range<f64>,
    ) -> std::result::Result<(), Box<dyn std::error::Error + '_>> {
        let decimals = decimals(&ys);
        let number = |x: &f64| match self.scale {
            Scale::Linear => short(*x),
            Scale::Log10 => short(10_f64.powf(*x)),
            Scale::Log2 => String::new(),
        };
        let floor = ys.start;
        let area = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin_top(12)
            .margin_right(24)
            .x_label_area_size(52)
            .y_label_area_size(76)
            .build_cartesian_2d(xs, ys)
            .map_err(|e| e.to_string())?;
        let text = (FONT, 17).into_font().color(&INK);
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(if self.scale == Scale::Log2 { 0 } else { 8 })
            .y_labels(7)
            .x_label_formatter(&number)
            .y_label_formatter(&|y| format!("{y:.decimals$}"))
            .label_style(text.clone())
            .axis_desc_style(text.clone())
            .axis_style(INK.mix(0.6))
            .bold_line_style(INK.mix(0.14))
            .light_line_style(INK.mix(0.0))
            .max_light_lines(0)
            .draw()
            .map_err(|e| e.to_string())?;
        for series in &self.series {
            let line = colour(series.colour).stroke_width(2);
            let points = series.points.iter().copied();
            let points = points.filter(|p| p.0.is_finite() && p.1.is_finite());
            match series.style {
                Style::Points => {}
                Style::Dashed => {
                    let dashes = DashedLineSeries::new(points.clone(), 6, 4, line);
                    chart.draw_series(dashes).map_err(|e| e.to_string())?;
                }
                Style::Line | Style::Marked => {
                    let line = LineSeries::new(points.clone(), line);
                    chart.draw_series(line).map_err(|e| e.to_string())?;
                }
            }
            if matches!(series.style, Style::Points | Style::Marked) {
                let dot = |p| Circle::new(p, 4, colour(series.colour).filled());
                chart.draw_series(points.map(dot)).map_err(|e| e.to_string())?;
            }
        }
        if self.scale == Scale::Log2 {
            let mut ticks: Vec<f64> =
                self.series.iter().flat_map(|s| &s.points).map(|p| p.0).collect();
            ticks.sort_by(f64::total_cmp);
            ticks.dedup();
            let below = text.pos(Pos::new(HPos::Center, VPos::Top));
            for x in ticks {
                let (at, bottom) = chart.backend_coord(&(x, floor));
                let label = short(x.exp2().round());
                area.draw(&Text::new(label, (at, bottom + 6), below.clone()))
                    .map_err(|e| e.to_string())?;
            }
        }
        let style = (FONT, 15).into_font().color(&INK);
        let mut taken: Vec<Box2> = Vec::new();
        for (x, y, label) in self.labels.iter().filter(|l| l.0.is_finite() && l.1.is_finite()) {
            let at = chart.backend_coord(&(*x, *y));
            let Some((place, anchor)) = free_place(at, label, &mut taken) else { continue };
            area.draw(&Text::new(label.as_str(), place, style.pos(anchor)))
                .map_err(|e| e.to_string())?;
        }
        drop(chart);
        area.present().map_err(|e| e.to_string())?;
        drop(area);
        Ok(())
    }
}

/// Left, top, right, bottom.
type Box2 = (i32, i32, i32, i32);

/// Where a label beside the point `at` covers neither another nor the edge: right of it, left, above, below.
fn free_place(at: (i32, i32), label: &str, taken: &mut Vec<Box2>) -> Option<((i32, i32), Pos)> {
    let wide = 4 + 8 * label.chars().count() as i32;
    let (x, y) = at;
    let places = [
        ((x + 6, y), HPos::Left, (x + 6, y - 7, x + 6 + wide, y + 7)),
        ((x - 6, y), HPos::Right, (x - 6 - wide, y - 7, x - 6, y + 7)),
        ((x, y - 15), HPos::Center, (x - wide / 2, y - 22, x + wide / 2, y - 8)),
        ((x, y + 15), HPos::Center, (x - wide / 2, y + 8, x + wide / 2, y + 22)),
    ];
    let apart = |a: &Box2, b: &Box2| a.2 < b.0 || b.2 < a.0 || a.3 < b.1 || b.3 < a.1;
    let (place, side, covered) = places.into_iter().find(|(_, _, covered)| {
        covered.0 >= 76 && covered.2 <= WIDTH as i32 && taken.iter().all(|t| apart(t, covered))
    })?;
    taken.push(covered);
    Some((place, Pos::new(side, VPos::Center)))
}

/// A range that holds the values with a little room at both ends.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let room = if high > low { (high - low) * 0.06 } else { low.abs().max(1.0) * 0.05 };
    low - room..high + room
}

/// Decimals that tell the labels of an axis apart.
fn decimals(range: &Range<f64>) -> usize {
    let step = (range.end - range.start) / 7.0;
    (-step.log10().floor()).clamp(0.0, 6.0) as usize
}

/// A number in few characters: 1.5k, 20M.
pub(super) fn short(x: f64) -> String {
    let (scaled, unit) = match x.abs() {
        x if x >= 1e9 => (1e9, "G"),
        x if x >= 1e6 => (1e6, "M"),
        x if x >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let text = format!("{:.1}", x / scaled);
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>, labels: &[&str]) -> Plot<'static> {
        let labels = labels.iter().zip(&points).map(|(l, p)| (p.0, p.1, (*l).to_owned())).collect();
        let series = vec![Series { colour: 0, style: Style::Points, points }];
        Plot { about: "a <plot>", x: "x", y: "y", scale: Scale::Linear, series, labels }
    }

    #[test]
    fn drawings() {
        let svg = plot(vec![(0.0, 1.0), (2.0, 3.0)], &["de", "<script>"]).draw().unwrap();
        assert!(svg.starts_with("<svg viewBox") && svg.ends_with("</svg>"));
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script"), "{svg}");
        assert!(svg.contains("currentColor") && !svg.contains("#010203") && !svg.contains("http"));
    }

    #[test]
    fn nothing_or_one_point_or_no_number() {
        assert_eq!(plot(vec![], &[]).draw().unwrap(), "");
        assert_eq!(plot(vec![(f64::NAN, 1.0)], &["x"]).draw().unwrap(), "");
        let svg = plot(vec![(5.0, 0.0), (f64::INFINITY, 1.0)], &[]).draw().unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        let names = ["aa", "bb", "cc", "dd", "ee", "ff"];
        let mut taken = Vec::new();
        let placed = names.iter().filter(|n| free_place((200, 100), n, &mut taken).is_some());
        assert_eq!(placed.count(), 4);
        // At the right edge a label goes to the left.
        let (place, _) = free_place((WIDTH as i32 - 5, 200), "zh", &mut taken).unwrap();
        assert!(place.0 < WIDTH as i32 - 5);
    }

    #[test]
    fn short_numbers() {
        let shorts = [0.0, 0.5, 999.0, 1500.0, 20e6, 3.2e9].map(short);
        assert_eq!(shorts, ["0", "0.5", "999", "1.5k", "20M", "3.2G"]);
        assert_eq!(
            (decimals(&(0.0..7.0)), decimals(&(1.0..1.07)), decimals(&(0.0..700.0))),
            (0, 2, 0)
        );
    }
}
