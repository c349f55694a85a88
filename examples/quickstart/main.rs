//! Five real HTTP servers on loopback, one of them ten times slower, one broken, and a sixth port
//! that refuses: the same load through three policies, while one server goes and a new one comes.
//!
//! `cargo run --release --example quickstart`

#![allow(clippy::print_stdout, reason = "it is there to be read")]
#![allow(clippy::disallowed_methods, reason = "it reads the time as any program does")]

mod report;
mod servers;

use std::{error::Error, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Balance, BoxError, Endpoint,
    client::HttpService,
    discovery::{Registration, Registry},
    policy::{IntoPolicy, LeastLoad, LeastRequest, NoKey, RoundRobin},
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio::{task::JoinSet, time::Instant};
use tower::ServiceExt;

use crate::{
    report::{Progress, Report, Sample},
    servers::{Kind, Server},
};

/// The load: so many requests a second, whatever comes of them, for so long.
const REQUESTS_PER_SECOND: u32 = 400;
const LOAD: Duration = Duration::from_secs(6);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{REQUESTS_PER_SECOND} requests a second for {LOAD:?}, through each of three policies, to:"
    );
    println!("  normal 1-3   which answer after about 10 ms");
    println!("               (halfway, normal 3 goes and normal 4 comes)");
    println!("  slow         which answers after about 100 ms");
    println!("  broken       which answers 500 at once");
    println!("  refusing     a port where nobody listens");
    run("round robin", RoundRobin::new()).await?;
    run("least request, of two choices", LeastRequest::new()).await?;
    run("default: expected cost, of all endpoints", LeastLoad::default()).await?;
    Ok(())
}

async fn run(name: &str, policy: impl IntoPolicy<Key = NoKey>) -> Result<(), Box<dyn Error>> {
    let registry = Registry::new();
    let mut running = Vec::new();
    let early = [("normal 1", Kind::Normal), ("normal 2", Kind::Normal)];
    for (name, kind) in early.into_iter().chain([("slow", Kind::Slow), ("broken", Kind::Broken)]) {
        running.push(Server::start(&registry, name, kind).await?);
    }
    let mut going = Some(Server::start(&registry, "normal 3", Kind::Normal).await?);
    let _refusing = refusing(&registry).await?;

    // This is all there is to it: where endpoints come from, and how one is picked.
    let balance = Balance::builder(registry.clone()).policy(policy).http()?;
    balance.ready().await?;

    let listed = balance.status().endpoints;
    let mut report = Report::of(
        listed.iter().filter_map(|one| one.endpoint.metadata().get("name").map(|name| &**name)),
    );
    let progress = Progress::new(name, LOAD);
    let mut calls = JoinSet::new();
    let begin = Instant::now();
    let requests = REQUESTS_PER_SECOND * LOAD.as_secs() as u32;
    for number in 0..requests {
        tokio::time::sleep_until(begin + LOAD * number / requests).await;
        if number == requests / 2 {
            // As in a rolling restart: the new one is there before the old one leaves.
            running.push(Server::start(&registry, "normal 4", Kind::Normal).await?);
            if let Some(server) = going.take() {
                server.stop();
            }
        }
        calls.spawn(call(balance.clone()));
        while let Some(sample) = calls.try_join_next() {
            report.add(sample?);
        }
        progress.show(begin.elapsed());
    }
    while let Some(sample) = calls.join_next().await {
        report.add(sample?);
    }
    progress.clear();
    print!("\n{name}\n{report}");
    Ok(())
}

/// One request, and what came of it.
async fn call(balance: Balance<HttpService>) -> Sample {
    let begin = Instant::now();
    let request = Request::get("http://quickstart.example/").body(Empty::<Bytes>::new());
    match request.map_err(BoxError::from) {
        Ok(request) => match balance.oneshot(request).await {
            Ok(response) => {
                let endpoint = response.body().endpoint();
                let good = response.status() == StatusCode::OK;
                let whole = response.into_body().collect().await.is_ok();
                Sample { endpoint: Some(endpoint), good: good && whole, took: begin.elapsed() }
            }
            Err(error) => {
                let endpoint = error.endpoint().cloned();
                Sample { endpoint, good: false, took: begin.elapsed() }
            }
        },
        Err(_) => Sample { endpoint: None, good: false, took: begin.elapsed() },
    }
}

/// Lists a port where nobody listens.
async fn refusing(registry: &Registry) -> Result<Registration, Box<dyn Error>> {
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        listener.local_addr()?
    };
    let endpoint = Endpoint::new(address).with_metadata("name", "refusing");
    Ok(registry.register(endpoint)?)
}
