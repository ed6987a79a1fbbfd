//! One axis as a picture: the median as a line, the extremes as a band around it. SVG, so that a diff of the
//! repository shows what changed, and a page can scale it.

use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use crate::Outcome;
use crate::axis::{Axis, Scale, grouped};
use crate::figures::Spread;

/// In pixels.
const SIZE: (u32, u32) = (800, 460);
const CAPTION_LINE: i32 = 16;
const CAPTION_HEIGHT: u32 = 44;
const FONT: &str = "sans-serif";
/// plotters' measure of a font, which it writes as 0.81 of that in pixels.
const HEADING: u32 = 22;
const LABEL: u32 = 16;
const CAPTION: u32 = 15;
const LINE: RGBColor = RGBColor(31, 90, 166);
const GREY: RGBColor = RGBColor(110, 110, 110);
const BAND_OPACITY: f64 = 0.2;
/// Of a scale's length, at both of its ends.
const PADDING: f64 = 0.04;
/// About so many, on a linear scale.
const TICKS: u32 = 6;

/// `how` it was measured stands below, as what is the same at all points does.
pub fn draw(file: &Path, axis: &Axis, measured: &[(usize, Spread)], how: &str) -> Outcome<()> {
    let across = Across::of(axis);
    let costs = measured.iter().flat_map(|(_, cost)| [cost.min, cost.max]);
    let up = Up::of(axis.cost_scale, costs)?;
    let place = |point: usize, cost: f64| (across.place(point), up.place(cost));

    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (chart_area, caption_area) = area.split_vertically(SIZE.1 - CAPTION_HEIGHT);
    for (text, y) in [(axis.what, 0), (how, CAPTION_LINE)] {
        caption_area.draw(&Text::new(text, (10, y), (FONT, CAPTION).into_font().color(&GREY)))?;
    }
    let heading = format!("CPU time per request against {}", axis.against);
    let mut chart = ChartBuilder::on(&chart_area)
        .caption(heading, (FONT, HEADING))
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(across.ruler(), up.ruler.clone())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GREY.mix(0.25))
        .label_style((FONT, LABEL))
        .axis_desc_style((FONT, LABEL))
        .x_desc(axis.against)
        .y_desc("µs per request")
        .x_label_formatter(&|place| across.label(*place))
        .y_label_formatter(&|place| up.label(*place))
        .draw()?;
    if let (Some(bound), Some((_, first))) = (axis.bound, measured.first()) {
        let bound = first.median * bound;
        let line = axis.points.iter().map(|&point| place(point, bound));
        let line = DashedLineSeries::new(line, 6, 4, GREY.stroke_width(1));
        chart.draw_series(line)?;
    }
    let lower = measured.iter().map(|&(point, cost)| place(point, cost.min));
    let upper = measured.iter().rev().map(|&(point, cost)| place(point, cost.max));
    let band = lower.chain(upper).collect::<Vec<_>>();
    chart.draw_series([Polygon::new(band, LINE.mix(BAND_OPACITY))])?;
    let medians: Vec<_> = measured.iter().map(|&(point, cost)| place(point, cost.median)).collect();
    chart.draw_series(LineSeries::new(medians.iter().copied(), LINE.stroke_width(2)))?;
    chart.draw_series(medians.iter().map(|&at| Circle::new(at, 3, LINE.filled())))?;
    area.present()?;
    Ok(())
}

/// A scale's length with the places of its ticks, in its own terms: a logarithm on a logarithmic one.
#[derive(Clone)]
struct Ruler {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Ruler {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, pixels: (i32, i32)) -> i32 {
        let share = (place - self.range.start) / (self.range.end - self.range.start);
        pixels.0 + (f64::from(pixels.1 - pixels.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
        }
    }
}

/// What grows, from left to right: the ticks are its points.
struct Across<'a> {
    axis: &'a Axis,
    /// Where a logarithmic scale has its zero: one step before its first point.
    zero: f64,
}

impl<'a> Across<'a> {
    fn of(axis: &'a Axis) -> Self {
        let mut positive = axis.points.iter().filter(|&&point| point > 0).map(|&point| point as f64);
        let first = positive.next().unwrap_or(1.0);
        let zero = match axis.scale {
            Scale::Linear => 0.0,
            Scale::Log => first * first / positive.next().unwrap_or(first * 10.0),
        };
        Self { axis, zero }
    }

    fn place(&self, point: usize) -> f64 {
        self.axis.scale.place(if point == 0 { self.zero } else { point as f64 })
    }

    fn ruler(&self) -> Ruler {
        let ticks: Vec<f64> = self.axis.points.iter().map(|&point| self.place(point)).collect();
        let [first, last] = [ticks.first(), ticks.last()].map(|end| end.copied().unwrap_or(0.0));
        Ruler { range: padded(first..last), ticks }
    }

    fn label(&self, place: f64) -> String {
        let distance = |point: &&usize| (self.place(**point) - place).abs();
        let point = self.axis.points.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        point.map_or_else(String::new, |&point| (self.axis.show)(point))
    }
}

/// Cost, from the bottom to the top: a linear scale begins at zero.
struct Up {
    scale: Scale,
    ruler: Ruler,
}

impl Up {
    fn of(scale: Scale, costs: impl Iterator<Item = f64> + Clone) -> Outcome<Self> {
        let lowest =
            costs.clone().min_by(f64::total_cmp).ok_or("nothing was measured that could be drawn")?;
        let highest = costs.max_by(f64::total_cmp).unwrap_or(lowest);
        let (range, ticks) = match scale {
            Scale::Linear => {
                let step = round_step(highest / f64::from(TICKS));
                let top = highest + step;
                (0.0..top, (0..=TICKS).map(|n| f64::from(n) * step).filter(|tick| *tick <= top).collect())
            }
            Scale::Log => {
                let decades = lowest.log10().floor() as i32..=highest.log10().floor() as i32;
                let ticks = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|n| n * 10_f64.powi(decade)));
                let range = padded(lowest.log10()..highest.log10());
                let ticks: Vec<f64> = ticks.map(f64::log10).filter(|tick| range.contains(tick)).collect();
                (range, ticks)
            }
        };
        Ok(Self { scale, ruler: Ruler { range, ticks } })
    }

    fn place(&self, cost: f64) -> f64 {
        self.scale.place(cost)
    }

    fn label(&self, place: f64) -> String {
        let cost = match self.scale {
            Scale::Linear => place,
            Scale::Log => 10_f64.powf(place),
        };
        if cost >= 1.0 || cost == 0.0 { grouped(cost.round() as usize) } else { format!("{cost:.2}") }
    }
}

fn padded(range: Range<f64>) -> Range<f64> {
    let padding = ((range.end - range.start) * PADDING).max(f64::EPSILON);
    range.start - padding..range.end + padding
}

/// The next of 1, 2, 5, 10, 20 …
fn round_step(least: f64) -> f64 {
    let decade = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].map(|n| n * decade).into_iter().find(|step| *step >= least).unwrap_or(10.0 * decade)
}
