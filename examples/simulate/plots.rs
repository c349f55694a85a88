//! Pictures: latency by percentile, and the share of some servers over time, of each policy.

use std::{error::Error, fs, ops::Range, path::Path};

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

const SIZE: (u32, u32) = (760, 440);
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

/// An axis from the median on, logarithmic in the share of requests that are slower.
struct Percentiles;

#[derive(Clone, Copy)]
enum Picture {
    Latency,
    Share,
}

/// Draws all pictures of `study` into the directory `into`.
pub(crate) fn draw(study: &Study, into: &Path) -> Result<(), Box<dyn Error>> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| "the font that comes with the program is not one")?;
    fs::create_dir_all(into)?;
    for group in study.groups() {
        for cells in group.chunk_by(|one, next| one.scenario == next.scenario) {
            let Some(first) = cells.first() else { continue };
            let (scenario, clients, load) = (first.scenario.name(), first.clients, first.load);
            let into = into.display();
            let named = |what| format!("{into}/{what}-{scenario}-{clients}-{load}");
            Picture::Latency.draw_both(&named("latency"), cells)?;
            Picture::Share.draw_both(&named("share"), cells)?;
        }
    }
    Ok(())
}

impl Ranged for Percentiles {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let decades = |quantile: f64| -(1.0 - quantile).log10();
        let Range { start, end } = self.range();
        let share = (decades(*value) - decades(start)) / (decades(end) - decades(start));
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        vec![0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
    }

    fn range(&self) -> Range<f64> {
        1.0 - rest_at(0)..1.0 - rest_at(CURVE_POINTS - 1)
    }
}

impl ValueFormatter<f64> for Percentiles {
    /// To one decimal: the key points have no more.
    fn format_ext(&self, value: &f64) -> String {
        format!("{}", (1_000.0 * value).round() / 10.0)
    }
}

impl Picture {
    /// As SVG and as PNG, at `path` but for the extension.
    fn draw_both(self, path: &str, cells: &[Cell]) -> Result<(), Box<dyn Error>> {
        let svg = format!("{path}.svg");
        self.draw(&SVGBackend::new(&svg, SIZE).into_drawing_area(), cells)?;
        let png = format!("{path}.png");
        self.draw(&BitMapBackend::new(&png, SIZE).into_drawing_area(), cells)
    }

    fn draw<B>(self, area: &DrawingArea<B, Shift>, cells: &[Cell]) -> Result<(), Box<dyn Error>>
    where
        B: DrawingBackend,
        B::ErrorType: 'static,
    {
        match self {
            Self::Latency => draw_latencies(area, cells)?,
            Self::Share => draw_shares(area, cells)?,
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
    format!("{}, {} clients, load {}", first.scenario.name(), first.clients, first.load)
}

/// From the median to the slowest in a thousand, on logarithmic axes.
fn draw_latencies<B>(area: &DrawingArea<B, Shift>, cells: &[Cell]) -> Result<(), Box<dyn Error>>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    let Some(first) = cells.first() else { return Ok(()) };
    let curves = || cells.iter().flat_map(|cell| &cell.curve).copied();
    let least = curves().fold(f64::INFINITY, f64::min);
    let most = curves().fold(0.0, f64::max);
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(caption(first), ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(Percentiles, (least * 0.9..most * 1.1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile of the requests that were answered or given up")
        .y_desc("latency, ms")
        .y_label_formatter(&|millis| format!("{millis}"))
        .light_line_style(WHITE)
        .draw()?;
    for cell in cells {
        let colour = colour_of(cell);
        let points = cell.curve.iter().enumerate();
        let line = points.map(|(point, &millis)| (1.0 - rest_at(point), millis));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(cell.policy)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}

fn draw_shares<B>(area: &DrawingArea<B, Shift>, cells: &[Cell]) -> Result<(), Box<dyn Error>>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    let Some(first) = cells.first() else { return Ok(()) };
    let shares = cells.iter().flat_map(Cell::share_over_time).map(|(_, share)| share);
    let most = shares.fold(0.0, f64::max) * 100.0;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(caption(first), ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..RUN as f64 / SECOND as f64, 0.0..most.max(0.1) * 1.05)?;
    let (_, watched) = first.scenario.watched();
    chart
        .configure_mesh()
        .x_desc("time, s")
        .y_desc(format!("% of the requests to {watched}"))
        .light_line_style(WHITE)
        .draw()?;
    for cell in cells {
        let colour = colour_of(cell);
        let line = cell.share_over_time().map(|(at, share)| (at, share * 100.0));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(cell.policy)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}
