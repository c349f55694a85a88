//! The command line.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{
    policies::{self, Contender, ORACLE},
    scenario::Scenario,
};

pub(crate) const HELP: &str = "\
Compares policies over simulated servers, in virtual time: the library's own policies, nodes,
estimates and leases, without sockets or a runtime. Everything is seeded.

    cargo run --release --example simulate -- [OPTIONS]

    --scenario LIST   which of the scenarios below (all but the subsets)
    --policy LIST     which of the policies below (a few that tell the most); the oracle always runs
    --clients LIST    how many clients share the servers (20)
    --load LIST       of the servers' whole capacity (0.85)
    --seeds N         runs of each, with seeds of their own (2)
    --threads N       runs at once (one a core)
    --full            all policies and scenarios, 20, 200 and 1,000 clients, loads 0.7, 0.85 and
                      0.95, 5 seeds; an option given besides narrows it
    --csv FILE        writes all figures there
    --plots DIR       writes pictures there, PNG and SVG: latency percentiles, share over time
    --help            says this
";

/// What was asked for.
pub(crate) struct Args {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) clients: Vec<usize>,
    pub(crate) loads: Vec<f64>,
    pub(crate) seeds: u64,
    pub(crate) threads: usize,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) plots: Option<PathBuf>,
}

/// Why the command line is not understood.
#[derive(Debug, PartialEq)]
pub(crate) enum ArgError {
    Unknown(String),
    NoValue(String),
    Value { option: String, value: String, wanted: String },
}

#[derive(Default)]
struct Given {
    scenarios: Option<Vec<Scenario>>,
    contenders: Option<Vec<Contender>>,
    clients: Option<Vec<usize>>,
    loads: Option<Vec<f64>>,
    seeds: Option<u64>,
    threads: Option<usize>,
    full: bool,
    csv: Option<PathBuf>,
    plots: Option<PathBuf>,
}

impl Args {
    /// Nothing if help was asked for.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Option<Self>, ArgError> {
        let mut given = Given::default();
        let mut args = args;
        while let Some(option) = args.next() {
            if option == "--help" || option == "-h" {
                return Ok(None);
            }
            if option == "--full" {
                given.full = true;
                continue;
            }
            let known =
                ["scenario", "policy", "clients", "load", "seeds", "threads", "csv", "plots"];
            if !option.strip_prefix("--").is_some_and(|name| known.contains(&name)) {
                return Err(ArgError::Unknown(option));
            }
            let value = args.next().ok_or_else(|| ArgError::NoValue(option.clone()))?;
            given.take(&option, value)?;
        }
        Ok(Some(given.complete()))
    }
}

impl Given {
    fn take(&mut self, option: &str, value: String) -> Result<(), ArgError> {
        match option {
            "--scenario" => {
                let named = |name: &str| Scenario::ALL.into_iter().find(|one| one.name() == name);
                let names = Scenario::ALL.map(Scenario::name).join(", ");
                self.scenarios = Some(list(option, &value, &names, named)?);
            }
            "--policy" => {
                let names: Vec<_> = policies::ALL.iter().map(|one| one.name).collect();
                self.contenders = Some(list(option, &value, &names.join(", "), policies::named)?);
            }
            "--clients" => {
                let number =
                    |text: &str| in_range(text, |number: &usize| (1..=10_000).contains(number));
                self.clients = Some(list(option, &value, "numbers from 1 to 10000", number)?);
            }
            "--load" => {
                let number = |text: &str| in_range(text, |load: &f64| *load > 0.0 && *load < 1.0);
                self.loads = Some(list(option, &value, "numbers above 0 and below 1", number)?);
            }
            "--seeds" => self.seeds = Some(one(option, &value)?),
            "--threads" => self.threads = Some(one(option, &value)?),
            "--csv" => self.csv = Some(value.into()),
            _ => self.plots = Some(value.into()),
        }
        Ok(())
    }

    fn complete(self) -> Args {
        let full = self.full;
        let contenders = self.contenders.unwrap_or_else(|| {
            policies::ALL.iter().copied().filter(|one| full || one.telling).collect()
        });
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Args {
            scenarios: self.scenarios.unwrap_or_else(|| {
                Scenario::ALL.into_iter().filter(|one| full || !one.is_subset()).collect()
            }),
            contenders: with_oracle(contenders),
            clients: self
                .clients
                .unwrap_or_else(|| if full { vec![20, 200, 1_000] } else { vec![20] }),
            loads: self
                .loads
                .unwrap_or_else(|| if full { vec![0.7, 0.85, 0.95] } else { vec![0.85] }),
            seeds: self.seeds.unwrap_or(if full { 5 } else { 2 }),
            threads: self.threads.unwrap_or_else(cores),
            csv: self.csv,
            plots: self.plots,
        }
    }
}

/// The others are measured by it, so it comes first.
fn with_oracle(contenders: Vec<Contender>) -> Vec<Contender> {
    let others = contenders.into_iter().filter(|one| one.name != ORACLE.name);
    std::iter::once(ORACLE).chain(others).collect()
}

/// Each once, in the order that was asked for.
fn list<T: PartialEq>(
    option: &str,
    value: &str,
    wanted: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ArgError> {
    let mut each = Vec::new();
    for part in value.split(',').map(str::trim) {
        let one = read(part).ok_or_else(|| ArgError::Value {
            option: option.to_owned(),
            value: part.to_owned(),
            wanted: wanted.to_owned(),
        })?;
        if !each.contains(&one) {
            each.push(one);
        }
    }
    Ok(each)
}

fn in_range<T: FromStr>(text: &str, accepted: impl Fn(&T) -> bool) -> Option<T> {
    text.parse().ok().filter(accepted)
}

fn one<T: FromStr + PartialOrd + From<u8>>(option: &str, value: &str) -> Result<T, ArgError> {
    in_range(value, |number: &T| *number >= T::from(1)).ok_or_else(|| ArgError::Value {
        option: option.to_owned(),
        value: value.to_owned(),
        wanted: "a number from 1 on".to_owned(),
    })
}

impl fmt::Display for ArgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(option) => write!(f, "there is no option {option}; --help lists them"),
            Self::NoValue(option) => write!(f, "{option} needs a value"),
            Self::Value { option, value, wanted } => {
                write!(f, "{option} {value}: wanted are {wanted}")
            }
        }
    }
}

impl std::error::Error for ArgError {}
