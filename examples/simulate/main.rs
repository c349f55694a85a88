//! Policies compared over simulated servers: discrete events in virtual time, which drive the
//! library's own policies, nodes, estimates and leases. Seeded: the same figures in every run.
//!
//! `cargo run --release --example simulate` (`-- --help` lists what there is)

#![allow(clippy::print_stdout, reason = "it is there to be read")]

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

use std::error::Error;

use crate::{
    args::{Args, HELP},
    scenario::Scenario,
    study::Study,
};

fn main() -> Result<(), Box<dyn Error>> {
    let Some(args) = Args::parse(std::env::args().skip(1))? else {
        help();
        return Ok(());
    };
    println!(
        "40 servers of 4 workers, FIFO; 10 ms of work a request, 0.2 ms of wire each way, timeout \
         2 s;\nPoisson arrivals for 20 s, counted from 3 s on; no retries"
    );
    let study = Study::run(&args)?;
    print!("{}", report::tables(&study)?);
    if let Some(path) = &args.csv {
        report::write_csv(&study, path)?;
    }
    if let Some(directory) = &args.plots {
        plots::draw(&study, directory)?;
    }
    Ok(())
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
