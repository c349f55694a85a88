//! The scenarios of `examples/simulate`, cut short: the default policy against the one that is best
//! known elsewhere (P2C by peak EWMA), and against an oracle that knows all queues and speeds.
//!
//! Seeded, so each of these passes always or never. The bounds are the targets of
//! `docs/policies.md`, all but the errors of a failing server, with room for the shorter run and the single seed: over three
//! seconds, the p99 of 40,000 requests is within some 5 % of that of the full run.

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
    scenario::Scenario::{
        self, Antagonist, Exponential, FailFast, MixedSpeeds, RollingRestart, Stall, TwoClasses,
    },
    time::SECOND,
};

const P99: f64 = 0.99;
const P999: f64 = 0.999;
/// What the p99 of a shorter run may be off.
const ROOM: f64 = 1.05;

fn simulate(policy: &str, scenario: Scenario, clients: usize) -> Measured {
    let contender = policies::named(policy).expect("it is one of them");
    // As long as it takes for something to happen, if anything does.
    let until = match scenario {
        FailFast | Stall | RollingRestart => 9 * SECOND,
        _ => 6 * SECOND,
    };
    run::run(Setting { contender, scenario, clients, load: 0.85, seed: 1, until })
        .expect("no policy has a key to be wrong")
}

/// The p99 of `policy` as a multiple of the oracle's.
fn excess(policy: &str, scenario: Scenario, clients: usize) -> f64 {
    excess_at(P99, &mut simulate(policy, scenario, clients), scenario, clients)
}

fn excess_at(quantile: f64, run: &mut Measured, scenario: Scenario, clients: usize) -> f64 {
    let mut oracle = simulate("oracle", scenario, clients);
    run.latencies([quantile])[0] / oracle.latencies([quantile])[0]
}

fn errors(run: &Measured) -> f64 {
    (run.failed + run.timed_out) as f64 / run.requests as f64
}

fn assert_beats_peak_ewma(scenario: Scenario, most: f64) {
    let (own, theirs) = (excess("default", scenario, 20), excess("peak-ewma", scenario, 20));
    assert!(own <= most, "{scenario:?}: {own:.3}");
    assert!(own - 1.0 <= 0.6 * (theirs - 1.0), "{scenario:?}: {own:.3} against {theirs:.3}");
}

#[test]
fn equal_servers() {
    assert_beats_peak_ewma(Exponential, 1.10 * ROOM);
}

#[test]
fn servers_of_different_speed() {
    assert_beats_peak_ewma(MixedSpeeds, 1.15 * ROOM);
}

#[test]
fn servers_that_slow_down_at_times() {
    assert_beats_peak_ewma(Antagonist, 1.35 * ROOM);
}

/// 200 clients know a tenth of what 20 do of each server.
#[test]
fn many_clients_of_equal_servers() {
    let own = excess("default", Exponential, 200);
    assert!(own <= 1.25 * ROOM, "{own:.3}");
}

#[test]
fn many_clients_of_servers_of_different_speed() {
    let own = excess("default", MixedSpeeds, 200);
    assert!(own <= 1.35 * ROOM, "{own:.3}");
}

#[test]
fn many_clients_of_servers_that_slow_down_at_times() {
    let own = excess("default", Antagonist, 200);
    assert!(own <= 2.0 * ROOM, "{own:.3}");
}

/// Requests that take long by nature tell 200 clients no more than peak EWMA makes of them.
#[test]
fn many_clients_and_two_classes_of_requests() {
    let (own, theirs) = (excess("default", TwoClasses, 200), excess("peak-ewma", TwoClasses, 200));
    assert!(own <= theirs, "{own:.3} against {theirs:.3}");
}

/// A server that stands still holds the requests that are on it, and gets no more: of a thousand
/// requests it is not one.
#[test]
fn a_server_that_stands_still() {
    let mut run = simulate("default", Stall, 20);
    let own = excess_at(P999, &mut run, Stall, 20);
    assert!(own <= 1.10 * ROOM, "{own:.3}");
    assert!(errors(&run) <= 0.001, "{}", errors(&run));
}

/// Servers crash and come back, two at a time, and nobody retries.
#[test]
fn a_rolling_restart() {
    let mut run = simulate("default", RollingRestart, 20);
    let own = excess_at(P99, &mut run, RollingRestart, 20);
    assert!(own <= 1.15 * ROOM, "{own:.3}");
    assert!(errors(&run) <= 0.004, "{}", errors(&run));
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
