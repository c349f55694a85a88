//! The scenarios of `examples/simulate`, cut short: the default policy against the one that is best
//! known elsewhere (P2C by peak EWMA), and against an oracle that knows all queues and speeds.
//!
//! Seeded, so each of these passes always or never. The bounds are the targets of
//! `docs/policies.md`, with room for the shorter run: over three seconds, the p99 of 40,000 requests is
//! within some 5 % of that of the full run.

#![allow(dead_code, reason = "the example uses what is not used here")]

#[path = "../examples/simulate/measure.rs"]
mod measure;
#[path = "../examples/simulate/oracle.rs"]
mod oracle;
#[path = "../examples/simulate/policies.rs"]
mod policies;
#[path = "../examples/simulate/run.rs"]
mod run;
#[path = "../examples/simulate/scenario.rs"]
mod scenario;
#[path = "../examples/simulate/server.rs"]
mod server;
#[path = "../examples/simulate/time.rs"]
mod time;

use crate::{
    measure::Measured,
    run::Setting,
    scenario::Scenario::{self, Exponential, FailFast, MixedSpeeds, RollingRestart, TwoClasses},
    time::SECOND,
};

const P99: f64 = 0.99;

fn simulate(policy: &str, scenario: Scenario, clients: usize) -> Measured {
    let contender = policies::named(policy).expect("it is one of them");
    // As long as it takes for something to happen, if anything does.
    let until = if matches!(scenario, FailFast | RollingRestart) { 9 * SECOND } else { 6 * SECOND };
    run::run(Setting { contender, scenario, clients, load: 0.85, seed: 1, until })
        .expect("no policy has a key to be wrong")
}

/// The p99 of `policy` as a multiple of the oracle's.
fn excess(policy: &str, scenario: Scenario, clients: usize) -> f64 {
    let p99 = |policy| simulate(policy, scenario, clients).latencies([P99])[0];
    p99(policy) / p99("oracle")
}

fn assert_beats_peak_ewma(scenario: Scenario, most: f64) {
    let (own, theirs) = (excess("default", scenario, 20), excess("peak-ewma", scenario, 20));
    assert!(own <= most, "{scenario:?}: {own:.3}");
    assert!(own - 1.0 <= 0.6 * (theirs - 1.0), "{scenario:?}: {own:.3} against {theirs:.3}");
}

#[test]
fn equal_servers() {
    assert_beats_peak_ewma(Exponential, 1.10 * 1.05);
}

#[test]
fn servers_of_different_speed() {
    assert_beats_peak_ewma(MixedSpeeds, 1.15 * 1.05);
}

/// Requests that take long by nature are not blamed on the server that had them.
#[test]
fn two_classes_of_requests() {
    assert_beats_peak_ewma(TwoClasses, 1.3);
}

/// R3: 20 clients with 16 requests a second each for the server that fails from 6 s on: they find
/// out by a few errors each, and not by hundreds.
#[test]
fn r3_a_server_that_fails_fast() {
    let run = simulate("default", FailFast, 20);
    assert!(run.failed > 0, "it has to be found out");
    assert!(run.failed <= 4 * 20, "{} of {}", run.failed, run.requests);
}

/// R18: servers that come back are no more attractive than others. Were they taken for the average,
/// 200 clients would flood them at once, and the p99 were over twice the oracle's; were they taken for
/// others that have answered, of whom 1,000 clients know few and like one, it were over three times.
#[test]
fn r18_fresh_servers_are_not_flooded() {
    for clients in [200, 1_000] {
        let own = excess("default", RollingRestart, clients);
        assert!(own <= 1.6, "{clients} clients: {own:.3}");
    }
}
