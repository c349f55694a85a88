//! R23: bounded loads, whatever the key and however many callers.

mod numbered;
mod support;

use std::{
    cell::Cell,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use evenkeel::{
    Balance, Endpoint, Weight,
    discovery::Update,
    node::Lease,
    policy::{
        BoundedLoad, HashKey, IntoPolicy, Maglev, Pick, PickContext, Picker, Policy, Rendezvous,
        RingHash, Rng, Scope, Tier,
    },
    pool::{Settings, TestBed},
};
use numbered::{endpoint, index_of};
use support::{Ask, Plain, World, guard, in_flight, just};
use tower::ServiceExt;

const CALLERS: u32 = 64;
const HOT: Option<u64> = Some(0x0123_4567_89ab_cdef);

fn bed(policy: impl IntoPolicy, endpoints: impl IntoIterator<Item = Endpoint>) -> TestBed {
    TestBed::new(policy, endpoints).expect("the factor makes sense").seed(1)
}

fn ten() -> impl Iterator<Item = Endpoint> {
    (0..10).map(endpoint)
}

/// What `count` requests in flight allow a node with `weight` of `sum`, where the factor is given in
/// hundredths.
fn bound(hundredths: u32, count: u32, weight: u32, sum: u32) -> u32 {
    (hundredths * count * weight).div_ceil(100 * sum)
}

/// 64 callers ask for one key without a pause: no node ever has more than ceil(1.25 x 6.4) of them,
/// and nobody is turned away. Watched by all of them, at every step.
#[test]
fn r23_a_hot_key_stays_within_its_bound_under_64_callers() {
    let beds = [
        bed(RingHash::new().bounded(1.25), ten()),
        bed(Maglev::new().bounded(1.25), ten()),
        bed(Rendezvous.bounded(1.25), ten()),
    ];
    for bed in &beds {
        let most = AtomicU32::new(0);
        let (all_hold, all_looked) =
            (Barrier::new(CALLERS as usize), Barrier::new(CALLERS as usize));
        thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    let see = || {
                        let seen = bed.nodes().map(|node| node.in_flight()).max();
                        most.fetch_max(seen.unwrap_or(0), Ordering::Relaxed);
                    };
                    for turn in 0..1_000 {
                        let lease = bed.pick(HOT).expect("the bounds add up to more than all");
                        see();
                        if turn % 7 == 0 {
                            thread::yield_now();
                        }
                        drop(lease);
                    }
                    let lease = bed.pick(HOT).expect("the bounds add up to more than all");
                    all_hold.wait();
                    see();
                    let held: u32 = bed.nodes().map(|node| node.in_flight()).sum();
                    all_looked.wait();
                    assert_eq!(held, CALLERS);
                    drop(lease);
                });
            }
        });
        let most = most.into_inner();
        assert!(most <= bound(125, CALLERS, 1, 10), "{most} on one node");
        assert!(bed.nodes().all(|node| node.in_flight() == 0));
    }
}

/// A policy whose callers have all picked before any of them takes its place: the worst that can
/// happen between the look and the count.
#[derive(Clone)]
struct AtOnce<P> {
    policy: P,
    all_picked: Arc<Barrier>,
}

struct AtOncePicker {
    picker: Arc<dyn Picker>,
    all_picked: Arc<Barrier>,
}

impl<P: Policy> Policy for AtOnce<P> {
    fn scope(&self) -> Scope {
        self.policy.scope()
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let all_picked = Arc::clone(&self.all_picked);
        Arc::new(AtOncePicker { picker: self.policy.build(tier), all_picked })
    }
}

impl Picker for AtOncePicker {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        thread_local! {
            static MET: Cell<bool> = const { Cell::new(false) };
        }
        let pick = self.picker.pick(cx);
        if !MET.replace(true) {
            self.all_picked.wait();
        }
        pick
    }
}

/// 64 callers who all saw an idle node: as many get their place there as the bound allows, the others
/// elsewhere.
#[test]
fn r23_callers_who_looked_at_once_stay_within_the_bound() {
    let all_picked = Arc::new(Barrier::new(CALLERS as usize));
    let bed = bed(AtOnce { policy: RingHash::new().bounded(1.25), all_picked }, ten());
    let held: Vec<Lease> = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| bed.pick(HOT).expect("the bounds add up to more than all")))
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("no panic")).collect()
    });
    assert_eq!(held.len() as u32, CALLERS);
    let most = bed.nodes().map(|node| node.in_flight()).max();
    assert!(most <= Some(bound(125, CALLERS, 1, 10)), "{most:?} on one node");
}

/// One after the other, at each number of requests in flight: the bound is met exactly, with weights.
#[test]
fn r23_the_bound_holds_at_every_count() {
    for hundredths in [100, 110, 125, 200] {
        for weights in [[1, 1, 1, 1, 1], [1, 2, 3, 4, 5], [1, 1, 1, 1, 100]] {
            let sum = weights.iter().sum::<u32>();
            let set = (0..5).map(|index| endpoint(index).with_weight(Weight(weights[index])));
            let bed = bed(RingHash::new().bounded(f64::from(hundredths) / 100.0), set);
            let mut rng = Rng::from_seed(5);
            let mut held: Vec<Lease> = Vec::new();
            for turn in 0..600 {
                let key = if turn % 3 == 0 { Some(rng.next_u64()) } else { HOT };
                let lease = bed.pick(key).expect("the bounds add up to more than all");
                let weight = weights[index_of(&lease)];
                let bound = bound(hundredths, held.len() as u32 + 1, weight, sum);
                let count = lease.node().in_flight();
                assert!(count <= bound, "{count} above {bound} at {} held", held.len());
                held.push(lease);
                if turn % 4 == 3 {
                    held.swap_remove(rng.below(held.len()));
                }
            }
        }
    }
}

/// A key leaves its node only for want of room, and then goes where a retry would go.
#[test]
fn r23_a_full_node_gives_way_to_the_next() {
    let ring = bed(RingHash::new(), ten());
    let bed = bed(RingHash::new().bounded(1.0), ten());
    let mut tried = Vec::new();
    let order: Vec<_> = (0..10)
        .map(|_| {
            let lease = ring.pick_except(HOT, &tried).expect("not all are tried");
            tried.push(lease.node().id());
            index_of(&lease)
        })
        .collect();
    // With a factor of 1 up to ten requests are one for each.
    let held: Vec<_> = (0..10).map(|_| bed.pick(HOT).expect("there is room")).collect();
    assert_eq!(held.iter().map(index_of).collect::<Vec<_>>(), order);
    drop(held);
    for number in 0..200 {
        let key = Some(number << 50);
        let (alone, bounded) = (ring.pick(key), bed.pick(key));
        assert_eq!(alone.as_ref().map(index_of), bounded.as_ref().map(index_of));
    }
}

/// What cannot be used is no part of the mean once the others need its room; never is a request
/// turned away for the bound alone.
#[test]
fn r23_the_mean_is_that_of_the_nodes_that_can_be_used() {
    let bed = bed(RingHash::new().bounded(1.25), ten());
    bed.links().skip(3).for_each(|link| link.failed("refused"));
    let held: Vec<_> = (0..100).map(|_| bed.pick(HOT).expect("three can be used")).collect();
    let bound = bound(125, 100, 1, 3);
    assert!(held.iter().all(|lease| lease.node().in_flight() <= bound));
    let one = bed.nodes().next().expect("there are ten").id();
    let two = bed.nodes().nth(1).expect("there are ten").id();
    let last = bed.pick_except(HOT, &[one, two]).expect("the third can be used");
    assert_eq!(index_of(&last), 2);
}

/// A request that finds nothing does not stay in the count: were it to, the owner would get more than
/// the one of two that a factor of 1 allows it.
#[test]
fn r23_who_finds_nothing_does_not_count() {
    let bed = bed(RingHash::new().bounded(1.0), ten());
    let all: Vec<_> = bed.nodes().map(|node| node.id()).collect();
    for _ in 0..100 {
        assert!(bed.pick_except(HOT, &all).is_none());
        drop(bed.pick(HOT));
    }
    let (first, second) = (bed.pick(HOT).expect("room"), bed.pick(HOT).expect("room"));
    assert_ne!(first.node().id(), second.node().id());
}

/// A cap of the settings holds besides.
#[test]
fn r23_the_stricter_of_cap_and_bound_holds() {
    let bed = bed(RingHash::new().bounded(2.0), ten()).max_in_flight(3);
    let held: Vec<_> = (0..30).map(|_| bed.pick(HOT).expect("there is room")).collect();
    assert!(bed.nodes().all(|node| node.in_flight() == 3));
    assert!(bed.pick(HOT).is_none());
    drop(held);
}

/// Envoy looks before it counts: a host may have one more than its slots, and no more than that while
/// one request comes after the other.
#[test]
fn envoy_bounds_are_looked_at_before_the_request_counts() {
    let bed = bed(BoundedLoad::envoy(RingHash::envoy(), 125), ten());
    let mut held = Vec::new();
    let mut above = 0;
    for count in 1..=200_u32 {
        let lease = bed.pick(HOT).expect("some host is taken");
        let slots = (f64::from((count * 125).div_ceil(100)) * 0.1).ceil() as u32;
        assert!(lease.node().in_flight() <= slots + 1);
        above += u32::from(lease.node().in_flight() > slots);
        held.push(lease);
    }
    assert!(above > 0, "as published, the bound is passed by one");
    assert!(bed.nodes().filter(|node| node.in_flight() > 0).count() >= 8);
}

#[test]
fn factors_below_the_mean_are_errors() {
    for factor in [0.99, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = TestBed::new(RingHash::new().bounded(factor), ten()).err();
        let error = error.expect("makes no sense").to_string();
        assert!(error.contains("factor of a bounded load"), "{error}");
    }
    assert!(TestBed::new(BoundedLoad::envoy(Maglev::envoy(), 99), ten()).is_err());
    // And that of the policy below it.
    assert!(TestBed::new(Maglev::new().table_size(8).bounded(1.5), ten()).is_err());
}

/// The same through a balancer: 64 calls of one key at once, which end one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r23_64_concurrent_calls_of_a_hot_key() {
    let set = Update::Set((0..10).map(support::endpoint).collect());
    let key = HashKey::of(|_: &Ask| HOT);
    let balance = Balance::builder(just(set))
        .policy(RingHash::new().bounded(1.25).keyed(key))
        .complete_at_response()
        .make(Plain(World::new()))
        .expect("a runtime is there");
    guard(balance.ready()).await.expect("it is open");
    let mut calls = Vec::new();
    for _ in 0..CALLERS {
        let (gate, ask) = Ask::held();
        let balance = balance.clone();
        calls.push((gate, tokio::spawn(balance.oneshot(ask))));
    }
    guard(async {
        while in_flight(&balance.status()) < CALLERS {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let status = balance.status();
    assert!(
        status.endpoints.iter().all(|one| one.in_flight <= bound(125, CALLERS, 1, 10)),
        "{status}"
    );
    for (gate, call) in calls {
        gate.send(()).expect("the call waits");
        guard(call).await.expect("no panic").expect("answered");
    }
    assert_eq!(in_flight(&balance.status()), 0);
}

/// Requests from before the policy changed are not counted; the new ones find their places all the
/// same.
#[tokio::test]
async fn r23_requests_of_a_former_policy_turn_nobody_away() {
    let set = Update::Set((0..4).map(support::endpoint).collect());
    let balance = Balance::builder(just(set))
        .policy(Rendezvous)
        .complete_at_response()
        .make(Plain(World::new()))
        .expect("a runtime is there");
    guard(balance.ready()).await.expect("it is open");
    let mut held = Vec::new();
    let hold = |held: &mut Vec<_>| {
        let (gate, ask) = Ask::held();
        held.push((gate, tokio::spawn(balance.clone().oneshot(ask))));
    };
    (0..40).for_each(|_| hold(&mut held));
    tokio::task::yield_now().await;
    let settings = Settings::new().policy(Rendezvous.bounded(1.25));
    balance.handle().update(settings).expect("the factor makes sense");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    (0..40).for_each(|_| hold(&mut held));
    guard(async {
        while in_flight(&balance.status()) < 80 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (gate, call) in held {
        gate.send(()).expect("the call waits");
        guard(call).await.expect("no panic").expect("answered");
    }
    assert_eq!(in_flight(&balance.status()), 0);
}
