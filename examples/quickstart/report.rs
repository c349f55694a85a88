//! What came of the load, as a table.

use std::{
    collections::BTreeMap,
    fmt,
    io::{IsTerminal, Write},
    time::Duration,
};

use evenkeel::Endpoint;

/// One request.
pub(crate) struct Sample {
    pub endpoint: Option<Endpoint>,
    pub good: bool,
    pub took: Duration,
}

#[derive(Default)]
pub(crate) struct Report {
    endpoints: BTreeMap<String, Row>,
    total: Row,
}

#[derive(Default)]
struct Row {
    good: usize,
    took: Vec<Duration>,
}

/// A line that fills up, where somebody is looking.
pub(crate) struct Progress<'a> {
    name: &'a str,
    whole: Duration,
    shown: bool,
}

impl Report {
    /// With a row for each of `names`, whether or not anything is sent there.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let endpoints = names.into_iter().map(|name| (name.to_owned(), Row::default()));
        Self { endpoints: endpoints.collect(), total: Row::default() }
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        let name = match &sample.endpoint {
            None => "(none)",
            Some(endpoint) => endpoint.metadata().get("name").map_or("(unnamed)", |name| name),
        };
        self.endpoints.entry(name.to_owned()).or_default().add(&sample);
        self.total.add(&sample);
    }
}

impl Row {
    fn add(&mut self, sample: &Sample) {
        self.good += usize::from(sample.good);
        self.took.push(sample.took);
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, name: &str, all: usize) -> fmt::Result {
        let mut took = self.took.clone();
        took.sort_unstable();
        let percentile = |share: f64| {
            let rank = (took.len() as f64 * share).ceil() as usize;
            let took = took.get(rank.saturating_sub(1));
            took.map_or("-".into(), |took| format!("{:.1} ms", took.as_secs_f64() * 1e3))
        };
        let percent = |part: usize, whole: usize| match whole {
            0 => "-".into(),
            _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
        };
        writeln!(
            f,
            "  {name:<12} {:>8} {:>10} {:>12} {:>12} {:>12}",
            took.len(),
            percent(took.len(), all),
            percent(self.good, took.len()),
            percentile(0.50),
            percentile(0.99),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["endpoint", "requests", "share", "success", "p50", "p99"];
        let [endpoint, requests, share, success, p50, p99] = head;
        writeln!(
            f,
            "  {endpoint:<12} {requests:>8} {share:>10} {success:>12} {p50:>12} {p99:>12}"
        )?;
        let all = self.total.took.len();
        for (name, row) in &self.endpoints {
            row.write(f, name, all)?;
        }
        self.total.write(f, "total", all)
    }
}

impl<'a> Progress<'a> {
    pub(crate) fn new(name: &'a str, whole: Duration) -> Self {
        Self { name, whole, shown: std::io::stderr().is_terminal() }
    }

    pub(crate) fn show(&self, elapsed: Duration) {
        // With the longest name no wider than 80 columns: a line that wraps cannot be written over.
        const WIDTH: usize = 24;
        let share = (elapsed.as_secs_f64() / self.whole.as_secs_f64()).min(1.0);
        let full = (share * WIDTH as f64) as usize;
        self.write(&format!(
            "{} [{:<WIDTH$}] {:>3.0} %",
            self.name,
            "#".repeat(full),
            share * 100.0
        ));
    }

    pub(crate) fn clear(&self) {
        self.write(&" ".repeat(79));
        self.write("");
    }

    fn write(&self, line: &str) {
        if self.shown {
            // Nothing is lost if a terminal takes no progress bar.
            let _ = write!(std::io::stderr(), "\r{line}");
        }
    }
}
