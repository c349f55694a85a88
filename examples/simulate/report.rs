//! The figures as tables of at most 100 columns, and as CSV.

use std::{
    fmt::{self, Write},
    io,
};

use crate::{
    policies::ORACLE,
    study::{Cell, Study},
};

const NAME_WIDTH: usize = 18;
const COLUMN_WIDTH: usize = 8;
/// As many as fit beside the names.
const COLUMNS: usize = 10;

/// Latencies, of which the oracle's is shown as it is and the others as multiples of it.
type Latency = fn(&Cell) -> f64;

/// The tables of all groups.
pub(crate) fn tables(study: &Study) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for group in study.groups() {
        let Some(first) = group.first() else { continue };
        let (clients, load) = (first.clients, first.load);
        let of = match first.seeds {
            1 => "one seed".to_owned(),
            seeds => format!("mean of {seeds} seeds"),
        };
        writeln!(text, "\n{clients} clients, load {load}, {of}")?;
        if group.iter().all(|cell| cell.scenario == first.scenario) {
            one_scenario(&mut text, study, group)?;
            continue;
        }
        let p99: Latency = |cell| cell.p99;
        let p999: Latency = |cell| cell.p999;
        relative(&mut text, study, group, "p99 over the oracle's (its own in ms)", p99)?;
        relative(&mut text, study, group, "p99.9 over the oracle's (its own in ms)", p999)?;
        matrix(&mut text, group, "errors and timeouts, % of the requests", |cell| {
            format!("{:.3}", (cell.errors() + cell.timeouts()) * 100.0)
        })?;
    }
    Ok(text)
}

fn relative(
    text: &mut String,
    study: &Study,
    group: &[Cell],
    title: &str,
    latency: Latency,
) -> fmt::Result {
    matrix(text, group, title, |cell| match study.oracle_of(cell) {
        Some(_) if cell.policy == ORACLE.name => format!("{:.1}", latency(cell)),
        Some(oracle) => format!("{:.2}", latency(cell) / latency(oracle)),
        None => "-".to_owned(),
    })
}

/// A line a policy, a column a scenario.
fn matrix(
    text: &mut String,
    group: &[Cell],
    title: &str,
    show: impl Fn(&Cell) -> String,
) -> fmt::Result {
    let Some(first) = group.first() else { return Ok(()) };
    let scenarios: Vec<_> = group.iter().filter(|cell| cell.policy == first.policy).collect();
    for part in scenarios.chunks(COLUMNS) {
        write!(text, "\n{title}\n{:NAME_WIDTH$}", "")?;
        for cell in part {
            write!(text, "{:>COLUMN_WIDTH$}", cell.scenario.column())?;
        }
        writeln!(text)?;
        for line in group.iter().filter(|cell| cell.scenario == first.scenario) {
            write!(text, "{:NAME_WIDTH$}", line.policy)?;
            let is_in_part = |cell: &&Cell| part.iter().any(|one| one.scenario == cell.scenario);
            for cell in group.iter().filter(|cell| cell.policy == line.policy).filter(is_in_part) {
                write!(text, "{:>COLUMN_WIDTH$}", show(cell))?;
            }
            writeln!(text)?;
        }
    }
    Ok(())
}

/// A line a policy, a column a figure.
fn one_scenario(text: &mut String, study: &Study, group: &[Cell]) -> fmt::Result {
    let Some(first) = group.first() else { return Ok(()) };
    writeln!(text, "{}: {}\n", first.scenario.name(), first.scenario.describe())?;
    writeln!(
        text,
        "{:NAME_WIDTH$}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}{:>11}{:>11}",
        "latency in ms",
        "mean",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "p99/oracle",
        "errors %",
        "timeouts %"
    )?;
    for cell in group {
        let relative = study.oracle_of(cell).map_or(f64::NAN, |oracle| cell.p99 / oracle.p99);
        writeln!(
            text,
            "{:NAME_WIDTH$}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>11.3}{:>11.4}{:>11.4}",
            cell.policy,
            cell.mean,
            cell.p50,
            cell.p90,
            cell.p99,
            cell.p999,
            relative,
            cell.errors() * 100.0,
            cell.timeouts() * 100.0
        )?;
    }
    Ok(())
}

/// Writes a line a cell.
pub(crate) fn write_csv(study: &Study, mut into: impl io::Write) -> io::Result<()> {
    let mut text = "scenario,policy,clients,load,seeds,requests,mean_ms,p50_ms,p90_ms,p99_ms,\
         p999_ms,p99_over_oracle,p999_over_oracle,errors,timeouts\n"
        .to_owned();
    for cell in study.cells() {
        let over = |latency: Latency| {
            study.oracle_of(cell).map_or(f64::NAN, |oracle| latency(cell) / latency(oracle))
        };
        text.push_str(&format!(
            "{},{},{},{},{},{},{:.3},{:.3},{:.3},{:.3},{:.3},{:.4},{:.4},{:.6},{:.6}\n",
            cell.scenario.name(),
            cell.policy,
            cell.clients,
            cell.load,
            cell.seeds,
            cell.requests,
            cell.mean,
            cell.p50,
            cell.p90,
            cell.p99,
            cell.p999,
            over(|cell| cell.p99),
            over(|cell| cell.p999),
            cell.errors(),
            cell.timeouts()
        ));
    }
    into.write_all(text.as_bytes())
}
