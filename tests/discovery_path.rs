//! What each kind of update does to the set in use, and what of a node survives it.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use evenkeel::{
    Address, AtResponse, Balance, Builder, DiscoverError, Endpoint, Weight,
    discovery::{Discover, OnEmpty, Reason, Registry, Update},
    node::LinkState,
    policy::{NoKey, RoundRobin},
    pool::EndpointState,
};
use futures::stream;
use support::{
    Ask, Managed, Plain, World, endpoint, endpoints, feed, guard, in_flight, just, name, names,
    now, of, quiet, set,
};
use tower::ServiceExt;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

fn over<D: Discover>(source: D) -> Builder<D, NoKey, AtResponse> {
    Balance::builder(source).policy(RoundRobin::new()).seed(7).complete_at_response()
}

fn failed(text: &str) -> Update {
    Update::Failed(DiscoverError::new(text))
}

/// R5, T10: a failure leaves the last good set standing for ever; its age and the error show.
#[tokio::test(start_paused = true)]
async fn r5_a_failure_leaves_the_last_set_for_ever_and_shows_its_age() {
    let (feed, source) = feed();
    let balance = over(source).make(Plain(World::new())).unwrap();
    feed.say(set(1..=2));
    quiet().await;
    for day in 1..=30 {
        tokio::time::sleep(DAY).await;
        feed.say(failed("SERVFAIL"));
        quiet().await;
        let status = balance.status();
        assert_eq!(names(&status), [name(1), name(2)]);
        assert_eq!(status.discovery.answered.unwrap().as_secs(), day * DAY.as_secs());
        assert!(status.discovery.heard.unwrap() < SECOND);
        assert_eq!(status.discovery.error.as_ref().unwrap().to_string(), "SERVFAIL");
        assert!(status.to_string().contains("discovery error: SERVFAIL"), "{status}");
        balance.clone().oneshot(Ask::default()).await.unwrap();
    }
    feed.say(set(1..=2));
    quiet().await;
    assert!(balance.status().discovery.error.is_none());
}

/// R5, T10: what is partial is applied as a set, and its error shows; of nothing it keeps the set.
#[tokio::test(start_paused = true)]
async fn r5_a_partial_set_is_applied_with_its_error_and_one_of_nothing_keeps_the_last() {
    let (feed, source) = feed();
    let balance = over(source).make(Plain(World::new())).unwrap();
    feed.say(set(1..=2));
    feed.say(Update::Partial(endpoints(2..=3), DiscoverError::new("AAAA timed out")));
    quiet().await;
    let status = balance.status();
    assert_eq!(names(&status), [name(2), name(3)]);
    assert_eq!(status.discovery.error.unwrap().to_string(), "AAAA timed out");
    tokio::time::sleep(SECOND).await;
    feed.say(Update::Partial(endpoints([]), DiscoverError::new("both timed out")));
    quiet().await;
    let status = balance.status();
    assert_eq!(names(&status), [name(2), name(3)]);
    assert_eq!(status.discovery.error.unwrap().to_string(), "both timed out");
    assert!(status.discovery.answered.unwrap() >= SECOND, "it is no answer");
}

/// R5, T10: known to be empty, under each choice of what that does. A set of nothing is the same.
#[tokio::test(start_paused = true)]
async fn r5_known_empty_does_what_was_chosen() {
    for empty in [Update::Empty(Reason::says("NXDOMAIN")), set([])] {
        for choice in [OnEmpty::Clear, OnEmpty::KeepFor(30 * SECOND), OnEmpty::Keep] {
            let (feed, source) = feed();
            let balance = over(source).on_empty(choice).make(Plain(World::new())).unwrap();
            let listed = |balance: &Balance<_, _, _>| names(&balance.status()).len();
            feed.say(set(1..=2));
            quiet().await;
            feed.say(empty.clone());
            quiet().await;
            assert!(balance.status().discovery.empty.is_some());
            assert_eq!(listed(&balance), if choice == OnEmpty::Clear { 0 } else { 2 });
            // Neither a second such answer nor a failure starts the time anew.
            tokio::time::sleep(20 * SECOND).await;
            feed.say(empty.clone());
            feed.say(failed("SERVFAIL"));
            tokio::time::sleep(9 * SECOND).await;
            assert_eq!(listed(&balance), if choice == OnEmpty::Clear { 0 } else { 2 });
            tokio::time::sleep(2 * SECOND).await;
            assert_eq!(listed(&balance), if choice == OnEmpty::Keep { 2 } else { 0 });
            feed.say(set([3]));
            quiet().await;
            assert!(names(&balance.status()).contains(&name(3)));
            assert!(balance.status().discovery.empty.is_none());
            // Listed again in time, the set stays.
            feed.say(empty.clone());
            tokio::time::sleep(10 * SECOND).await;
            feed.say(set([3]));
            tokio::time::sleep(60 * SECOND).await;
            assert_eq!(names(&balance.status()), [name(3)]);
        }
    }
}

/// T15: a stream that ends leaves its set, and is never polled again.
#[tokio::test(start_paused = true)]
async fn t15_a_stream_that_ends_leaves_its_set_and_is_not_polled_again() {
    let (feed, source) = feed();
    let polls = feed.polls();
    let balance = over(source).make(Plain(World::new())).unwrap();
    feed.say(set(1..=2));
    quiet().await;
    drop(feed);
    quiet().await;
    let before = polls.load(Ordering::SeqCst);
    tokio::time::sleep(DAY).await;
    balance.clone().oneshot(Ask::default()).await.unwrap();
    assert_eq!(polls.load(Ordering::SeqCst), before);
    assert_eq!(names(&balance.status()), [name(1), name(2)]);

    // Such as panic when they are polled once more: the end comes together with the last update.
    let source = stream::unfold(Some(set([1])), |next| async { Some((next?, None)) });
    let balance = over(source).make(Plain(World::new())).unwrap();
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(1));
    assert!(!balance.status().closed);
}

/// T15: a source that never pauses neither takes the worker nor keeps others waiting.
#[tokio::test]
async fn t15_a_source_without_a_pause_does_not_take_the_worker() {
    let balance = over(stream::repeat(set(1..=2))).make(Plain(World::new())).unwrap();
    guard(async {
        for _ in 0..100 {
            balance.clone().oneshot(Ask::default()).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Connections are heard of between.
    let world = World::new();
    let managed = over(stream::repeat(set(1..=2))).make(Managed(Arc::clone(&world))).unwrap();
    guard(async {
        while managed.status().endpoints.iter().filter(|one| one.link == LinkState::Up).count() < 2
        {
            tokio::task::yield_now().await;
        }
        world.link(1).failed("reset");
        while world.dials() < 3 {
            tokio::task::yield_now().await;
        }
        managed.clone().oneshot(Ask::default()).await.unwrap();
    })
    .await;
}

/// Rule 6: of duplicates the first counts, and weights are not added.
#[tokio::test(start_paused = true)]
async fn duplicates_count_once_and_the_first_wins() {
    let world = World::new();
    let listed = [
        endpoint(1).with_weight(Weight(3)),
        endpoint(2).with_weight(Weight(3)),
        endpoint(1).with_weight(Weight(100)),
    ];
    let balance = over(just(Update::Set(listed.into()))).make(Plain(Arc::clone(&world))).unwrap();
    let shares = shares(&balance, 100).await;
    assert_eq!((shares[&name(1)], shares[&name(2)]), (50, 50));
    assert_eq!(world.made(), 2);
    assert_eq!(of(&balance.status(), 1).endpoint.weight(), Weight(3));
}

async fn shares(
    balance: &Balance<support::Served, NoKey, AtResponse>,
    calls: usize,
) -> HashMap<String, usize> {
    let mut shares = HashMap::new();
    for _ in 0..calls {
        let name = balance.clone().oneshot(Ask::default()).await.unwrap();
        *shares.entry(name).or_default() += 1;
    }
    shares
}

/// Port 0 cannot be dialled: it is left out and named, and the others serve. A set of nothing else
/// is a mistake, not an answer.
#[tokio::test(start_paused = true)]
async fn port_0_is_left_out_and_named_while_others_serve() {
    let zero = Endpoint::new(([10, 0, 0, 9], 0));
    let (feed, source) = feed();
    let balance = over(source).make(Plain(World::new())).unwrap();
    feed.say(Update::Set([endpoint(1), zero.clone(), endpoint(2)].into()));
    quiet().await;
    assert_eq!(shares(&balance, 4).await.len(), 2);
    let error = balance.status().discovery.error.unwrap().to_string();
    assert_eq!(error, "1 endpoints with port 0 are left out, first 10.0.0.9:0");
    let second = endpoint(3).with_more_addresses([Address::from(([10, 0, 0, 3], 0))]);
    for none in [
        Update::Set([zero.clone(), second].into()),
        Update::Partial([zero.clone()].into(), DiscoverError::new("partial")),
    ] {
        feed.say(none);
        quiet().await;
        let status = balance.status();
        assert_eq!(names(&status), [name(1), name(2)]);
        assert!(status.discovery.error.is_some());
    }
    feed.say(set([1]));
    quiet().await;
    assert!(balance.status().discovery.error.is_none());

    // A registry refuses it at the door.
    let registry = Registry::new();
    let _one = registry.register(endpoint(1)).unwrap();
    registry.register(zero).unwrap_err();
    let balance = over(registry).make(Plain(World::new())).unwrap();
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(1));
}

/// What was registered before `ready()` is known after it, whatever the driver has had the time to do:
/// else the first requests of a policy by key would go to endpoints that their keys do not belong to.
#[tokio::test(start_paused = true)]
async fn all_that_was_registered_is_known_once_ready() {
    let registry = Registry::new();
    let balance = over(registry.clone()).make(Plain(World::new())).unwrap();
    let mut listed = Vec::new();
    for last in 1..=20 {
        listed.push(registry.register(endpoint(last)).unwrap());
        balance.handle().ready().await.unwrap();
        assert_eq!(balance.status().endpoints.len(), listed.len());
    }
}

/// T16: weight 0 takes nothing new, and is shown; all of weight 0 are equal.
#[tokio::test(start_paused = true)]
async fn t16_weight_0_takes_nothing_unless_all_are_0() {
    let weighing = |weights: [u32; 3]| {
        let listed = (1..).zip(weights).map(|(i, weight)| endpoint(i).with_weight(Weight(weight)));
        Update::Set(listed.collect())
    };
    let world = World::new();
    let (feed, source) = feed();
    let balance = over(source).make(Plain(Arc::clone(&world))).unwrap();
    feed.say(weighing([0, 1, 3]));
    quiet().await;
    let got = shares(&balance, 400).await;
    assert_eq!((got.get(&name(1)), got[&name(2)], got[&name(3)]), (None, 100, 300));
    let status = balance.status();
    assert_eq!(of(&status, 1).state, EndpointState::LeftOut);
    assert_eq!(of(&status, 2).state, EndpointState::Serving);
    feed.say(weighing([0, 0, 0]));
    quiet().await;
    let got = shares(&balance, 300).await;
    assert!((1..=3).all(|last| got[&name(last)] == 100), "{got:?}");
    assert!((1..=3).all(|last| of(&balance.status(), last).state == EndpointState::Serving));
    assert_eq!(world.made(), 3);
}

/// T16: more than 1,024 endpoints at once, and back.
#[tokio::test(start_paused = true)]
async fn t16_thousands_of_endpoints_at_once() {
    let world = World::new();
    let (feed, source) = feed();
    let balance = over(source).make(Plain(Arc::clone(&world))).unwrap();
    feed.say(set(1..=3_000));
    balance.ready().await.unwrap();
    let got = shares(&balance, 3_000).await;
    assert_eq!((got.len(), world.made(), world.live()), (3_000, 3_000, 3_000));
    feed.say(set(2_999..=3_001));
    while names(&balance.status()).len() > 3 {
        tokio::task::yield_now().await;
    }
    quiet().await;
    assert_eq!((world.made(), world.live()), (3_001, 3));
}

/// R15 and pingora's trap: a change of value keeps the node with all it knows, and its service.
#[tokio::test(start_paused = true)]
async fn r15_a_change_of_value_keeps_the_node_and_its_service() {
    let world = World::new();
    let (feed, source) = feed();
    let balance = over(source).measure_latency(true).make(Plain(Arc::clone(&world))).unwrap();
    feed.say(set([1]));
    quiet().await;
    let (gate, ask) = Ask::held();
    let held = tokio::spawn(balance.clone().oneshot(ask));
    let (broken, ask) = Ask::held();
    drop(broken);
    balance.clone().oneshot(ask).await.unwrap_err();
    quiet().await;
    let before = of(&balance.status(), 1);
    assert_eq!(before.in_flight, 1);
    assert!(before.success < 1.0);
    for weight in [5, 0, 7] {
        let changed = endpoint(1).with_weight(Weight(weight)).with_metadata("zone", "a");
        feed.say(Update::Set([changed.clone()].into()));
        quiet().await;
        let after = of(&balance.status(), 1);
        assert_eq!(after.endpoint, changed);
        assert_eq!(after.in_flight, 1);
        assert!(
            (after.success - before.success).abs() < 0.01,
            "{} {}",
            after.success,
            before.success
        );
    }
    assert_eq!(world.made(), 1);
    gate.send(()).unwrap();
    held.await.unwrap().unwrap();
    assert_eq!(of(&balance.status(), 1).in_flight, 0);
}

/// R15: an update that changes nothing, whatever its order, makes nothing and publishes nothing.
#[tokio::test(start_paused = true)]
async fn r15_an_unchanged_update_changes_nothing() {
    let world = World::new();
    let (feed, source) = feed();
    let balance = over(source).make(Plain(Arc::clone(&world))).unwrap();
    feed.say(set(1..=3));
    quiet().await;
    let order = |balance: &Balance<_, _, _>| -> Vec<_> {
        balance.status().endpoints.iter().map(|one| one.endpoint.to_string()).collect()
    };
    let before = order(&balance);
    for _ in 0..1_000 {
        feed.say(set([3, 1, 2, 1]));
    }
    quiet().await;
    assert_eq!(order(&balance), before, "no snapshot was published");
    assert_eq!(world.made(), 3);
}

/// R14, R15, T8: listed again while it drains, it is the same node with the same service; after
/// that it is another, and what the first still has in flight is no concern of the second.
#[tokio::test(start_paused = true)]
async fn t8_an_endpoint_listed_again_while_it_drains_is_the_same_node() {
    let world = World::new();
    let (feed, source) = feed();
    let balance = over(source).drain_timeout(10 * SECOND).make(Plain(Arc::clone(&world))).unwrap();
    let hold = |balance: &Balance<support::Served, NoKey, AtResponse>| {
        let (gate, ask) = Ask::held();
        (gate, tokio::spawn(balance.clone().oneshot(ask)))
    };
    feed.say(set([1]));
    quiet().await;
    let first = hold(&balance);
    for _ in 0..5 {
        quiet().await;
        feed.say(set([2]));
        quiet().await;
        let draining = of(&balance.status(), 1);
        assert_eq!((draining.state, draining.in_flight), (EndpointState::Draining, 1));
        feed.say(set([1]));
        quiet().await;
        let back = of(&balance.status(), 1);
        assert_eq!((back.state, back.in_flight), (EndpointState::Serving, 1));
    }
    assert_eq!(world.made_of(1), 1);

    feed.say(set([2]));
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!(names(&balance.status()), [name(2)], "its time to drain is over");
    feed.say(set([1]));
    quiet().await;
    assert_eq!((world.made_of(1), of(&balance.status(), 1).in_flight), (2, 0));
    let second = hold(&balance);
    quiet().await;
    feed.say(set([2]));
    quiet().await;
    first.0.send(()).unwrap();
    first.1.await.unwrap().unwrap();
    quiet().await;
    let draining = of(&balance.status(), 1);
    assert_eq!((draining.state, draining.in_flight), (EndpointState::Draining, 1));
    second.0.send(()).unwrap();
    second.1.await.unwrap().unwrap();
    quiet().await;
    assert_eq!(names(&balance.status()), [name(2)]);
    assert_eq!((in_flight(&balance.status()), world.live()), (0, 1));
}

/// R8: ten thousand updates without a request leave nothing behind.
#[tokio::test(start_paused = true)]
async fn r8_ten_thousand_updates_without_traffic_leave_nothing_behind() {
    let world = World::new();
    let (feed, source) = feed();
    let balance = over(source).make(Plain(Arc::clone(&world))).unwrap();
    let start = now();
    for i in 0..10_000_u16 {
        feed.say(set([2 * i, 2 * i + 1, 60_000]));
        if i % 100 == 0 {
            quiet().await;
            assert!(world.live() <= 3, "{}", world.live());
        }
    }
    quiet().await;
    assert!(now() - start < SECOND);
    assert_eq!((names(&balance.status()).len(), world.live(), world.made_of(60_000)), (3, 3, 1));
    drop(balance);
    quiet().await;
    assert_eq!(world.live(), 0);
}
