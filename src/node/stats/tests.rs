use std::time::Duration;

use super::*;
use crate::node::{Clock, Seeds, success::FLOOR};

fn fleet() -> std::sync::Arc<Fleet> {
    Fleet::new(Clock::default(), Seeds::fixed(1)).0
}

/// So many milliseconds, as the fleet counts.
const fn at(millis: u64) -> u64 {
    millis * 1_000_000
}

fn timing(now: u64, millis: u64, model: LatencyModel) -> (Timing, LatencyModel) {
    (Timing { now: at(now), nanos: at(millis) }, model)
}

const MODELS: [LatencyModel; 2] = [LatencyModel::Average, LatencyModel::Peak];

fn succeed(stats: &Stats, fleet: &Fleet, now: u64, millis: u64, model: LatencyModel) {
    stats.learn(fleet, Outcome::Success.into(), Some(timing(now, millis, model)));
}

fn millis(stats: &Stats, fleet: &Fleet, now: u64, model: LatencyModel) -> f64 {
    f64::from(stats.latency.nanos(&Scan::of_few(model, fleet, at(now)))) / 1e6
}

/// Peak EWMA remembers a penalty, which nobody measured.
#[test]
fn a_penalty_is_no_measurement() {
    let (fleet, stats) = (fleet(), Stats::new());
    let failed = Some(timing(5, 1, LatencyModel::Peak));
    stats.learn(&fleet, Outcome::Failure.into(), failed);
    assert!(stats.remembered_nanos().is_some() && !stats.has_latency());
    succeed(&stats, &fleet, 6, 1, LatencyModel::Peak);
    assert!(stats.has_latency());
}

#[test]
fn a_failure_is_a_quarter_and_fades_over_five_seconds() {
    let (fleet, stats) = (fleet(), Stats::new());
    assert!(stats.is_blameless());
    stats.success.fail(at(0), Outcome::Failure.into());
    assert!(!stats.is_blameless());
    assert!((stats.success(at(0)) - 0.75).abs() < 1e-6);
    let later = stats.success(at(5_000));
    assert!((later - (1.0 - 0.25 / std::f64::consts::E)).abs() < 1e-3, "{later}");
    succeed(&stats, &fleet, 60_000, 1, LatencyModel::Average);
    assert!(stats.is_blameless(), "what is forgotten costs nothing");
}

#[test]
fn the_success_has_a_floor() {
    let stats = Stats::new();
    (0..1_000).for_each(|_| stats.success.fail(at(0), Outcome::Overloaded.into()));
    assert_eq!(stats.success(at(0)), FLOOR);
}

/// R3: a node that asks to be spared stays at the floor for that time, at most a minute, whatever
/// else it answers; the longest wish counts.
#[test]
fn r3_a_wish_to_be_spared_stands() {
    let (fleet, stats) = (fleet(), Stats::new());
    let spare = |seconds| Verdict {
        outcome: Outcome::Overloaded,
        spare_for: Some(Duration::from_secs(seconds)),
    };
    stats.success.fail(at(0), spare(8));
    stats.success.fail(at(0), spare(2));
    succeed(&stats, &fleet, 7_999, 1, LatencyModel::Average);
    assert_eq!(stats.success(at(7_999)), FLOOR);
    assert!(stats.success(at(8_000)) > 0.9);
    stats.success.fail(at(10_000), spare(3_600));
    assert_eq!(stats.success(at(69_999)), FLOOR);
    assert!(stats.success(at(70_000)) > 0.9);
}

/// T7: what was given up may raise the estimate and never lowers it, now or later.
#[test]
fn t7_an_abandoned_request_never_lowers_the_estimate() {
    for model in MODELS {
        for other in [5, 500] {
            for waited in [0, 1, 20, 49, 50, 51, 400, 5_000] {
                let fleet = fleet();
                let (stats, untouched, third) = (Stats::new(), Stats::new(), Stats::new());
                succeed(&third, &fleet, 0, other, model);
                succeed(&stats, &fleet, 0, 50, model);
                succeed(&untouched, &fleet, 0, 50, model);
                let before = millis(&untouched, &fleet, 3_000, model);
                stats.abandoned(&fleet, Some(timing(3_000, waited, model)));
                let after = millis(&stats, &fleet, 3_000, model);
                assert!(after >= before * 0.999_99, "{model:?}, {waited} ms: {before} to {after}");
                let rises = waited as f64 > before;
                assert_eq!(after > before * 1.000_01, rises, "{model:?}, {waited} ms");
                assert!(stats.is_blameless(), "one is neutral for the success");
            }
        }
    }
}

/// Five in a row without a byte are one failure while others answer, and none where nobody does.
#[test]
fn five_abandoned_in_a_row_are_one_failure_while_others_answer() {
    let (fleet, stats, other) = (fleet(), Stats::new(), Stats::new());
    (0..50).for_each(|_| stats.abandoned(&fleet, None));
    assert!(stats.is_blameless(), "nobody answers: it may be the network, or the caller");

    let stats = Stats::new();
    (0..3).for_each(|_| stats.abandoned(&fleet, None));
    other.answered(&fleet);
    stats.abandoned(&fleet, None);
    assert!(stats.is_blameless());
    stats.abandoned(&fleet, None);
    let failed = 1.0 - stats.success(fleet.now_nanos());
    assert!((failed - 0.25).abs() < 1e-2, "one failure: {failed}");

    let stats = Stats::new();
    for _ in 0..20 {
        (0..4).for_each(|_| stats.abandoned(&fleet, None));
        stats.answered(&fleet);
    }
    assert!(stats.is_blameless(), "a byte in between, and they are not in a row");
}

/// A time-out is a failure, and a sample of at least its length.
#[test]
fn a_time_out_is_a_failure_that_raises_the_latency() {
    for model in MODELS {
        let (fleet, stats) = (fleet(), Stats::new());
        succeed(&stats, &fleet, 0, 50, model);
        stats.timed_out(&fleet, Some(timing(0, 1_000, model)));
        assert!((stats.success(at(0)) - 0.75).abs() < 1e-6);
        assert!(millis(&stats, &fleet, 0, model) > 100.0);
        let (fleet, stats) = (self::fleet(), Stats::new());
        stats.timed_out(&fleet, None);
        assert!(!stats.is_blameless(), "also where no latency is measured");
    }
}

/// A failure is no fast answer: under no model does it lower the latency.
#[test]
fn r3_a_fast_failure_is_no_sample() {
    for model in MODELS {
        let (fleet, stats) = (fleet(), Stats::new());
        succeed(&stats, &fleet, 0, 50, model);
        for _ in 0..100 {
            let fast = Some(timing(0, 1, model));
            stats.learn(&fleet, Outcome::Failure.into(), fast);
        }
        assert!(millis(&stats, &fleet, 0, model) >= 50.0 * 0.999);
    }
}

/// T7: an old memory fades to what the pool answers now, and not to nothing; a node never heard of
/// is taken for that as well. What is long past has no part in it, so nothing is remembered for good.
#[test]
fn t7_memories_fade_to_what_the_pool_answers_now() {
    for model in MODELS {
        let (fleet, slow, other) = (fleet(), Stats::new(), Stats::new());
        let unknown = millis(&slow, &fleet, 0, model);
        assert!((unknown - 30.0).abs() < 1e-5, "{unknown} before the first answer");
        succeed(&slow, &fleet, 0, 300, model);
        assert_eq!(millis(&Stats::new(), &fleet, 0, model), 300.0);
        (0..500).for_each(|turn| succeed(&other, &fleet, turn * 10, 10, model));
        assert!((millis(&Stats::new(), &fleet, 5_000, model) - 10.0).abs() < 0.1);
        let young = millis(&slow, &fleet, 5_000, model);
        assert!((50.0..200.0).contains(&young), "{young}");
        assert!((millis(&slow, &fleet, 60_000, model) - 10.0).abs() < 0.1);
    }
}

/// T11: a clock that goes back ages nothing, spares nobody for longer than a wish after it, and
/// makes no estimate odd.
#[test]
fn t11_a_clock_that_goes_back_does_no_harm() {
    for model in MODELS {
        let (fleet, stats) = (fleet(), Stats::new());
        succeed(&stats, &fleet, 10_000, 50, model);
        stats.success.fail(at(10_000), Outcome::Failure.into());
        assert!((millis(&stats, &fleet, 2_000, model) - 50.0).abs() < 0.1);
        assert!((stats.success(at(2_000)) - 0.75).abs() < 1e-6);
        succeed(&stats, &fleet, 1_000, 50, model);
        assert!((millis(&stats, &fleet, 1_000, model) - 50.0).abs() < 0.1);
        let waiting = stats.enter_waiting(stats.occupancy(), None, at(5_000)).unwrap();
        assert_eq!(stats.oldest_nanos(at(1_000)), 0);
        let early = stats.enter_waiting(stats.occupancy(), None, at(1_000)).unwrap();
        assert!(stats.oldest_nanos(at(6_000)) >= 999_000_000);
        stats.end_waiting(waiting, at(5_000));
        stats.end_waiting(early, at(1_000));
        assert_eq!(stats.oldest_nanos(at(6_000)), 0);
    }
}
