//! Pictures: latency by percentile, and the share of some servers over time, of each policy.

use std::{error::Error, ops::Range, path::Path};

use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter},
    },
    prelude::*,
    style::register_font,
};

use crate::{
    policies,
    scenario::RUN,
    study::{CURVE_POINTS, Cell, Study, rest_at},
    time::SECOND,
};

const SIZE: (u32, u32) = (880, 460);
/// Of the legend, right of the chart, where it covers nothing.
const LEGEND: i32 = 150;
const FONT: &str = "sans-serif";
const LABELS: i32 = 14;
const GRID: RGBColor = RGBColor(220, 220, 220);
/// Colours that those who see few can tell apart (Okabe and Ito, "Color Universal Design", 2008),
/// and then some more.
const COLOURS: [RGBColor; 11] = [
    RGBColor(0, 0, 0),
    RGBColor(153, 153, 153),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(190, 170, 0),
    RGBColor(0, 114, 178),
    RGBColor(204, 121, 167),
    RGBColor(0, 158, 115),
    RGBColor(120, 80, 40),
    RGBColor(90, 60, 150),
    RGBColor(213, 94, 0),
];

/// What one picture shows of each policy, along two axes.
struct Picture<'a> {
    x: Axis,
    y: Axis,
    line: &'a dyn Fn(&Cell) -> Vec<(f64, f64)>,
}

/// An axis: what it means, how values are spread along it, and which of them are written there.
#[derive(Clone)]
struct Axis {
    means: String,
    range: Range<f64>,
    spread: fn(f64) -> f64,
    ticks: Vec<f64>,
}

/// Draws all pictures of `study` into `into`, a directory.
pub(crate) fn draw(study: &Study, into: &Path) -> Result<(), Box<dyn Error>> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| "the font that comes with the program is not one")?;
    for group in study.groups() {
        for cells in group.chunk_by(|one, next| one.scenario == next.scenario) {
            let Some(first) = cells.first() else { continue };
            let (scenario, clients, load) = (first.scenario.name(), first.clients, first.load);
            let into = into.display();
            let named = |what| format!("{into}/{what}-{scenario}-{clients}-{load}");
            latencies(cells).draw_both(&named("latency"), cells)?;
            shares(cells).draw_both(&named("share"), cells)?;
        }
    }
    Ok(())
}

/// From the median to the slowest in a thousand, on logarithmic axes.
fn latencies(cells: &[Cell]) -> Picture<'static> {
    let curves = || cells.iter().flat_map(|cell| &cell.curve).copied();
    let least = curves().fold(f64::INFINITY, f64::min);
    let most = curves().fold(0.0, f64::max);
    let percentile = |point| 100.0 * (1.0 - rest_at(point));
    Picture {
        x: Axis {
            means: "percentile of the requests that were answered or given up".to_owned(),
            range: percentile(0)..percentile(CURVE_POINTS - 1),
            spread: |percentile| -(1.0 - percentile / 100.0).log10(),
            ticks: vec![50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9],
        },
        y: Axis {
            means: "latency, ms".to_owned(),
            range: least * 0.9..most * 1.1,
            spread: f64::log10,
            ticks: (0..5).flat_map(|decade| round_numbers(10_f64.powi(decade))).collect(),
        },
        line: &|cell| {
            let points = cell.curve.iter().enumerate();
            points.map(|(point, &millis)| (100.0 * (1.0 - rest_at(point)), millis)).collect()
        },
    }
}

fn shares(cells: &[Cell]) -> Picture<'static> {
    let shares = cells.iter().flat_map(Cell::share_over_time).map(|(_, share)| share);
    let most = (shares.fold(0.0, f64::max) * 105.0).max(0.1);
    let watched = cells.first().map_or("", |cell| cell.scenario.watched().1);
    Picture {
        x: Axis::even("time, s".to_owned(), RUN as f64 / SECOND as f64),
        y: Axis::even(format!("% of the requests to {watched}"), most),
        line: &|cell| cell.share_over_time().map(|(at, share)| (at, share * 100.0)).collect(),
    }
}

fn round_numbers(scale: f64) -> [f64; 3] {
    [scale, 2.0 * scale, 5.0 * scale]
}

impl Axis {
    /// From 0 to `most`, with up to ten steps of a round size.
    fn even(means: String, most: f64) -> Self {
        let mut sizes = (-3..5).flat_map(|decade| round_numbers(10_f64.powi(decade)));
        let step = sizes.find(|size| most / size <= 10.0).unwrap_or(most);
        let ticks = (0..=10).map(|count| f64::from(count) * step).collect();
        Self { means, range: 0.0..most, spread: |value| value, ticks }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let [start, end] = [self.range.start, self.range.end].map(self.spread);
        let share = ((self.spread)(*value) - start) / (end - start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let Range { start, end } = self.range;
        self.ticks.iter().copied().filter(|tick| (start..=end).contains(tick)).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    /// No tick has more decimals.
    fn format_ext(&self, value: &f64) -> String {
        format!("{}", (1_000.0 * value).round() / 1_000.0)
    }
}

impl Picture<'_> {
    /// As SVG and as PNG, at `path` but for the extension.
    fn draw_both(&self, path: &str, cells: &[Cell]) -> Result<(), Box<dyn Error>> {
        let svg = format!("{path}.svg");
        self.draw(&SVGBackend::new(&svg, SIZE).into_drawing_area(), cells)?;
        let png = format!("{path}.png");
        self.draw(&BitMapBackend::new(&png, SIZE).into_drawing_area(), cells)
    }

    fn draw<B>(&self, area: &DrawingArea<B, Shift>, cells: &[Cell]) -> Result<(), Box<dyn Error>>
    where
        B: DrawingBackend,
        B::ErrorType: 'static,
    {
        let Some(first) = cells.first() else { return Ok(()) };
        area.fill(&WHITE)?;
        let area = area.margin(8, 0, 0, 0).titled(&caption(first), (FONT, 18))?;
        let (left, right) = area.split_horizontally(SIZE.0 as i32 - LEGEND);
        let mut chart = ChartBuilder::on(&left)
            .margin(10)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .x_desc(&self.x.means)
            .y_desc(&self.y.means)
            .label_style((FONT, LABELS))
            .axis_desc_style((FONT, LABELS))
            .bold_line_style(GRID)
            .max_light_lines(0)
            .draw()?;
        for (place, cell) in (0..).zip(cells) {
            let style = colour_of(cell).stroke_width(2);
            chart.draw_series(LineSeries::new((self.line)(cell), style))?;
            let height = 20 + 22 * place;
            right.draw(&PathElement::new([(4, height + 7), (26, height + 7)], style))?;
            right.draw(&Text::new(cell.policy, (32, height), (FONT, LABELS)))?;
        }
        area.present()?;
        Ok(())
    }
}

/// The same in every picture.
fn colour_of(cell: &Cell) -> RGBColor {
    let place = policies::ALL.iter().position(|one| one.name == cell.policy);
    COLOURS[place.unwrap_or(0) % COLOURS.len()]
}

fn caption(first: &Cell) -> String {
    let (scenario, clients, load) = (first.scenario.describe(), first.clients, first.load);
    format!("{scenario} ({clients} clients, load {load})")
}
