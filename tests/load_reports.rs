//! Weighted round robin by the load that endpoints report: the rules of gRFC A58 in a time moved by
//! hand, with the figures of grpc-go's tests.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod numbered;

#[path = "support/hand_time.rs"]
mod hand_time;

use std::time::Duration;

use evenkeel::{
    Endpoint, Weight,
    node::{LoadReport, Outcome},
    policy::{Rng, RoundRobin, WeightedRoundRobin},
    pool::TestBed,
};
use hand_time::HandTime;
use numbered::{endpoint, index_of};

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);

/// What endpoints say of themselves, by number: requests and errors a second, and utilization.
type Says = [(f64, f64, f64); 4];

/// As in grpc-go's tests: weights 10, 100, 20 and 200.
const SAYS: Says = [(10.0, 0.0, 1.0), (10.0, 0.0, 0.1), (20.0, 0.0, 1.0), (20.0, 0.0, 0.1)];

fn report((rps, eps, utilization): (f64, f64, f64)) -> LoadReport {
    let mut report = LoadReport::default();
    (report.rps, report.eps, report.application_utilization) = (rps, eps, utilization);
    report
}

/// No blackout, and updates as often as the test asks for them.
fn policy() -> WeightedRoundRobin {
    WeightedRoundRobin::new().blackout_period(Duration::ZERO)
}

fn bed(policy: WeightedRoundRobin, count: usize, time: &HandTime) -> TestBed {
    TestBed::new(policy, (0..count).map(endpoint)).unwrap().clock(time.clock(), 7)
}

/// Every endpoint answers once, with its report.
fn report_all(bed: &TestBed, says: &Says) {
    let ids: Vec<_> = bed.nodes().map(|node| node.id()).collect();
    for id in &ids {
        let others: Vec<_> = ids.iter().copied().filter(|other| other != id).collect();
        let mut lease = bed.pick_except(None, &others).unwrap();
        assert!(lease.wants_report());
        lease.report(&report(says[index_of(&lease)]));
        lease.finish(Outcome::Success.into());
    }
}

/// A hundred requests go by `weights`, two more or fewer (grpc-go's `checkWeights`).
#[track_caller]
fn assert_weights(bed: &TestBed, weights: &[(usize, u64)]) {
    let mut counts = [0_u64; 4];
    for _ in 0..100 {
        let mut lease = bed.pick(None).unwrap();
        counts[index_of(&lease)] += 1;
        lease.finish(Outcome::Success.into());
    }
    let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
    for &(index, weight) in weights {
        let wanted = 100 * weight / total;
        assert!(counts[index].abs_diff(wanted) <= 2, "{counts:?} for {weights:?}");
    }
    assert_eq!(counts.iter().sum::<u64>(), 100);
}

/// grpc-go, balancer_test.go: OneAddress, TwoAddresses_ReportingDisabled.
#[test]
fn grpc_go_one_endpoint_and_no_reports() {
    let time = HandTime::new();
    let mut one = bed(policy(), 1, &time);
    for _ in 0..10 {
        report_all(&one, &SAYS);
        one.rebuild();
        assert_weights(&one, &[(0, 1)]);
    }
    assert_weights(&bed(policy(), 2, &time), &[(0, 1), (1, 1)]);
}

/// The same: TwoAddresses_ReportingEnabledPerCall, -UpdateLoads.
#[test]
fn grpc_go_reports_decide_and_change() {
    let mut bed = bed(policy(), 2, &HandTime::new());
    report_all(&bed, &SAYS);
    assert_weights(&bed, &[(0, 1), (1, 1)]);
    bed.rebuild();
    assert_weights(&bed, &[(0, 1), (1, 10)]);
    report_all(&bed, &[SAYS[1], SAYS[0], SAYS[0], SAYS[0]]);
    assert_weights(&bed, &[(0, 1), (1, 10)]);
    bed.rebuild();
    assert_weights(&bed, &[(0, 10), (1, 1)]);
}

/// The same: TwoAddresses_ErrorPenalty.
#[test]
fn grpc_go_errors_cost_by_the_penalty() {
    for (penalty, weights) in [(0.0, [1, 10]), (0.9, [1, 1])] {
        let mut bed = bed(policy().error_penalty(penalty), 2, &HandTime::new());
        report_all(&bed, &[(10.0, 0.0, 1.0), (10.0, 10.0, 0.1), SAYS[0], SAYS[0]]);
        bed.rebuild();
        assert_weights(&bed, &[(0, weights[0]), (1, weights[1])]);
    }
}

/// The same: TwoAddresses_BlackoutPeriod, with one second and with the default of ten.
#[test]
fn grpc_go_weights_wait_for_the_end_of_the_blackout() {
    for (policy, blackout) in [
        (WeightedRoundRobin::new().blackout_period(SECOND), SECOND),
        (WeightedRoundRobin::new(), 10 * SECOND),
    ] {
        let time = HandTime::new();
        let mut bed = bed(policy, 2, &time);
        report_all(&bed, &SAYS);
        for (now, weights) in
            [(Duration::ZERO, [1, 1]), (blackout - NANO, [1, 1]), (blackout, [1, 10])]
        {
            time.set(now);
            bed.rebuild();
            assert_weights(&bed, &[(0, weights[0]), (1, weights[1])]);
        }
    }
}

/// The same: TwoAddresses_WeightExpiration, with the default of three minutes.
#[test]
fn grpc_go_weights_expire() {
    let time = HandTime::new();
    let mut bed = bed(policy(), 2, &time);
    report_all(&bed, &SAYS);
    for (now, weights) in [(0, [1, 10]), (179, [1, 10]), (181, [1, 1])] {
        time.set(now * SECOND);
        bed.rebuild();
        assert_weights(&bed, &[(0, weights[0]), (1, weights[1])]);
    }
}

/// The same: AddressesChanging. What fails or goes takes nothing; what comes back, comes with its
/// weight as long as it drains, or else with the mean of the others until it reports.
#[test]
fn grpc_go_endpoints_change() {
    let mut bed = bed(policy(), 3, &HandTime::new());
    report_all(&bed, &SAYS);
    bed.rebuild();
    assert_weights(&bed, &[(0, 1), (1, 10), (2, 2)]);
    bed.update((0..4).map(endpoint));
    report_all(&bed, &SAYS);
    bed.rebuild();
    assert_weights(&bed, &[(0, 1), (1, 10), (2, 2), (3, 20)]);
    bed.links().nth(2).unwrap().failed("stopped");
    assert_weights(&bed, &[(0, 1), (1, 10), (3, 20)]);
    bed.update([0, 3].map(endpoint));
    assert_weights(&bed, &[(0, 1), (3, 20)]);
    bed.update([0, 3, 1].map(endpoint));
    // 10, 200, and their mean of 105 for the new one.
    assert_weights(&bed, &[(0, 10), (3, 200), (1, 105)]);
}

/// A58: an endpoint that connects anew waits for its blackout, and has the mean meanwhile.
#[test]
fn a_new_connection_begins_a_blackout() {
    let time = HandTime::new();
    let mut bed = bed(WeightedRoundRobin::new(), 3, &time);
    let links: Vec<_> = bed.links().collect();
    report_all(&bed, &SAYS);
    time.set(10 * SECOND);
    bed.rebuild();
    assert_weights(&bed, &[(0, 1), (1, 10), (2, 2)]);
    links[1].failed("reset");
    links[1].up();
    report_all(&bed, &SAYS);
    bed.rebuild();
    // 10, 20, and 15.
    assert_weights(&bed, &[(0, 10), (1, 15), (2, 20)]);
    time.set(20 * SECOND);
    bed.rebuild();
    assert_weights(&bed, &[(0, 1), (1, 10), (2, 2)]);
}

/// Until two endpoints have reported, the weights of discovery decide; then the reports alone.
#[test]
fn weights_of_discovery_stand_in_for_reports() {
    let endpoints =
        || (0..2).map(|index| endpoint(index).with_weight(Weight(1 + 3 * index as u32)));
    let mut bed = TestBed::new(policy(), endpoints()).unwrap().clock(HandTime::new().clock(), 7);
    assert_weights(&bed, &[(0, 1), (1, 4)]);
    report_all(&bed, &[SAYS[1], SAYS[0], SAYS[0], SAYS[0]]);
    bed.rebuild();
    assert_weights(&bed, &[(0, 10), (1, 1)]);
}

/// R16: weights that change 50 times a second, at a thousand requests a second that come when they
/// come, begin no schedule anew: two states that swap the two weights even out.
#[test]
fn r16_weights_that_change_do_not_bias() {
    let mut bed = bed(policy(), 2, &HandTime::new());
    let mut rng = Rng::from_seed(3);
    let mut counts = [0_u64; 2];
    for span in 0..1_000 {
        let (one, other) = if span % 2 == 0 { (0, 1) } else { (1, 0) };
        report_all(&bed, &[SAYS[one], SAYS[other], SAYS[0], SAYS[0]]);
        bed.rebuild();
        for _ in 0..11 + rng.below(20) {
            counts[index_of(&bed.pick(None).unwrap())] += 1;
        }
    }
    // Of 20,500 in the mean. The lengths of the spans have a standard deviation of 5.8, of which
    // the heavier node gets 0.82 more than the lighter: 150 in all. Where in its cycle a span begins
    // adds at most one a span, at random: 32. Five standard deviations are 770; a schedule that
    // began anew each time, with the same node, would be 1,000 off.
    assert!(counts[0].abs_diff(counts[1]) < 770, "{counts:?}");
}

/// A policy that does not ask for reports does not look for them.
#[test]
fn other_policies_do_not_want_reports() {
    let bed = TestBed::new(RoundRobin::new(), [Endpoint::new(([10, 0, 0, 1], 80))]).unwrap();
    let lease = bed.pick(None).unwrap();
    assert!(!lease.wants_report());
    lease.report(&report(SAYS[0]));
    let (zero, now) = (Duration::ZERO, evenkeel::node::Clock::default().now());
    assert_eq!(lease.node().reported_weight(zero, SECOND, now), None);
}
