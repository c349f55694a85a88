use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::node::{Clock, Fleet, Outcome, Seeds, Time};

/// Whatever may be done to a lease before it is dropped.
#[derive(Clone, Copy, Debug)]
enum Step {
    Respond(bool),
    Fail,
    Finish,
    BreakOff,
    TimeOut,
    Pass,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Respond),
        Just(Step::Fail),
        Just(Step::Finish),
        Just(Step::BreakOff),
        Just(Step::TimeOut),
        Just(Step::Pass),
        Just(Step::Release),
    ]
}

fn take(lease: &mut Lease, step: Step) {
    match step {
        Step::Respond(true) => lease.respond(Head::AtEnd),
        Step::Respond(false) => lease.respond(Head::Decided(Outcome::Success.into())),
        Step::Fail => lease.fail(Outcome::Failure.into()),
        Step::Finish => lease.finish(Outcome::Success.into()),
        Step::BreakOff => lease.break_off(Outcome::Failure.into()),
        Step::TimeOut => lease.time_out(),
        Step::Pass => lease.pass(),
        Step::Release => lease.release(),
    }
}

/// Time that steps as it is told, back too.
struct Jumping(Instant, AtomicU64);

impl Time for Jumping {
    fn now(&self) -> Instant {
        // 3 s on, then 2 s back, and so on.
        let turn = self.1.fetch_add(1, Ordering::Relaxed);
        self.0 + Duration::from_secs(turn / 2 + if turn % 2 == 0 { 0 } else { 3 })
    }

    fn sleep_until(&self, _until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

fn node() -> Arc<Node> {
    let clock = Clock::custom(Jumping(Clock::default().now(), AtomicU64::new(0)));
    let (fleet, _) = Fleet::new(clock, Seeds::fixed(1));
    Node::new(0, &Endpoint::new(([10, 0, 0, 1], 80)), fleet)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// T5, T6, T11, R15: whatever is said of requests, in whatever order, and though the clock goes
    /// back, each is counted until its release or drop, and the wait for its head ends once.
    #[test]
    fn counts_are_released_once(
        leases in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(step(), 0..6)),
            1..20,
        ),
        capped in any::<bool>(),
    ) {
        let node = node();
        let mut expected = 0;
        let mut held = Vec::new();
        for (timed, steps) in leases {
            let timed = timed.then(|| (node.fleet.now_nanos(), LatencyModel::Average));
            let mut lease = Lease::acquire(&node, capped.then_some(20), timed).unwrap();
            expected += 1;
            for &step in &steps {
                take(&mut lease, step);
            }
            expected -= u32::from(steps.iter().any(|step| matches!(step, Step::Release)));
            prop_assert_eq!(node.in_flight(), expected);
            held.push(lease);
        }
        drop(held);
        prop_assert_eq!(node.in_flight(), 0);
        prop_assert_eq!(node.stats.oldest_nanos(node.fleet.now_nanos()), 0);
        let success = node.success(node.fleet.now());
        prop_assert!((0.001..=1.0).contains(&success));
    }
}

/// A request that is passed on, or that was never processed, says nothing of the node.
#[test]
fn what_goes_elsewhere_teaches_nothing() {
    let node = node();
    for _ in 0..20 {
        let now = node.fleet.now_nanos();
        Lease::acquire(&node, None, Some((now, LatencyModel::Peak))).unwrap().cancel();
    }
    assert!(node.is_blameless() && !node.stats.has_latency());
    assert_eq!(node.in_flight(), 0);
}

/// The head decides; what breaks off afterwards counts all the same.
#[test]
fn a_stream_that_breaks_off_is_a_failure_after_a_good_head() {
    let node = node();
    let mut lease = Lease::acquire(&node, None, None).unwrap();
    lease.respond(Head::Decided(Outcome::Success.into()));
    lease.finish(Outcome::Failure.into());
    assert!(node.is_blameless(), "the head said all");
    lease.break_off(Outcome::Failure.into());
    assert!(!node.is_blameless());
}

/// T11: a latency measured across a step back of the clock is zero, and no wonder of the age.
#[test]
fn t11_a_latency_is_never_negative() {
    let node = node();
    let later = node.fleet.now() + Duration::from_secs(3_600);
    let timed = Some((node.fleet.nanos(later), LatencyModel::Average));
    let mut lease = Lease::acquire(&node, None, timed).unwrap();
    lease.finish(Outcome::Success.into());
    assert!(node.latency_nanos(LatencyModel::Average, later) < 1.0);
}
