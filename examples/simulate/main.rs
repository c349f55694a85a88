//! Policies compared over simulated servers: discrete events in virtual time, which drive the
//! library's own policies, nodes, estimates and leases. Seeded: the same figures in every run.
//!
//! `cargo run --release --example simulate` (`-- --help` lists what there is)

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

mod args;
mod measure;
mod oracle;
mod plots;
mod policies;
mod progress;
mod report;
mod run;
mod scenario;
mod server;
mod study;
mod time;

use std::{error::Error, fs, path::Path, process::ExitCode};

use crate::{
    args::{Args, HELP},
    scenario::Scenario,
    study::Study,
};

fn main() -> ExitCode {
    match compare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<(), Box<dyn Error>> {
    let Some(args) = Args::parse(std::env::args().skip(1))? else {
        help();
        return Ok(());
    };
    // Before the run, which may be long.
    let csv = args.csv.as_deref().map(|path| named(path, fs::File::create(path))).transpose()?;
    args.plots.as_deref().map(|path| named(path, fs::create_dir_all(path))).transpose()?;
    println!(
        "40 servers of 4 workers, FIFO; 10 ms of work a request, 0.2 ms of wire each way, timeout \
         2 s;\nPoisson arrivals for 20 s, counted from 3 s on; no retries"
    );
    let study = Study::run(&args)?;
    print!("{}", report::tables(&study)?);
    if let Some(file) = csv {
        report::write_csv(&study, file)?;
    }
    if let Some(directory) = &args.plots {
        plots::draw(&study, directory)?;
    }
    Ok(())
}

fn named<T>(path: &Path, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{}: {error}", path.display()))
}

fn help() {
    println!("{HELP}\nscenarios");
    for scenario in Scenario::ALL {
        println!("    {:18}{}", scenario.name(), scenario.describe());
    }
    println!("\npolicies (* unless others are asked for)");
    for contender in policies::ALL {
        let telling = if contender.telling { "*" } else { " " };
        println!("  {telling} {:19}{}", contender.name, contender.what);
    }
}
