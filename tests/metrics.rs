//! The gauges of balancers: what they say, whose they are, and when they go.
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "support/gauges.rs"]
mod gauges;
mod support;

use std::time::Duration;

use evenkeel::{
    AtResponse, Balance, Builder, DiscoverError,
    discovery::{Discover, OnEmpty, Reason, Registry, Update},
    policy::NoKey,
    pool::{Settings, Subset},
};
use gauges::Gauges;
use support::{Plain, Served, World, endpoint, endpoints, feed, quiet, set};

fn made<D: Discover>(gauges: &Gauges, builder: Builder<D>) -> Balance<Served, NoKey, AtResponse> {
    let builder = builder.metrics().complete_at_response();
    gauges.with(|| builder.make(Plain(World::new())).unwrap())
}

/// R12: a list and a registry never fail; their gauges are there from the beginning and end at 0.
#[tokio::test(start_paused = true)]
async fn r12_a_list_and_a_registry_are_counted() {
    let gauges = Gauges::default();
    let list = "static://10.0.0.1:80,10.0.0.2:80";
    let balance = made(&gauges, Balance::to(list).unwrap());
    assert_eq!(gauges.of(list), Some((0.0, 0.0)), "before it is heard");
    quiet().await;
    assert_eq!(gauges.of(list), Some((0.0, 2.0)));
    drop(balance);
    quiet().await;
    assert_eq!(gauges.of(list), Some((0.0, 0.0)));

    let registry = Registry::new();
    let balance = made(&gauges, Balance::builder(registry.clone()));
    let registered: Vec<_> =
        (1..=3).map(|last| registry.register(endpoint(last)).unwrap()).collect();
    quiet().await;
    assert_eq!(gauges.of("registry"), Some((0.0, 3.0)));
    drop(registered);
    quiet().await;
    assert_eq!(gauges.of("registry"), Some((0.0, 0.0)));
    drop(balance);
    assert_eq!(gauges.count(), 4, "two for each target, and none for an endpoint");
}

/// R12: while the last word is an error; the endpoints are those that are kept.
#[tokio::test(start_paused = true)]
async fn r12_failures_show_until_an_answer() {
    let gauges = Gauges::default();
    let (feed, source) = feed();
    let kept = Duration::from_secs(10);
    let _balance = made(&gauges, Balance::builder(source).on_empty(OnEmpty::KeepFor(kept)));
    let failed = || DiscoverError::new("refused");
    let of_two = || endpoints([1, 2]);
    for (update, expected) in [
        (Update::Failed(failed()), (1.0, 0.0)),
        (set([1, 2, 3]), (0.0, 3.0)),
        (Update::Failed(failed()), (1.0, 3.0)),
        (Update::Failed(failed()), (1.0, 3.0)),
        (Update::Partial(of_two(), failed()), (1.0, 2.0)),
        (Update::Set(of_two()), (0.0, 2.0)),
        (Update::Failed(failed()), (1.0, 2.0)),
        (Update::Empty(Reason::says("no such name")), (0.0, 2.0)),
    ] {
        let text = format!("{update:?}");
        feed.say(update);
        quiet().await;
        assert_eq!(gauges.of("custom"), Some(expected), "{text}");
    }
    tokio::time::sleep(kept).await;
    assert_eq!(gauges.of("custom"), Some((0.0, 0.0)), "it was kept long enough");
}

/// R12: what is outside of a subset is known, too.
#[tokio::test(start_paused = true)]
async fn r12_endpoints_outside_of_the_subset_count() {
    let gauges = Gauges::default();
    let (feed, source) = feed();
    let balance = made(&gauges, Balance::builder(source).subset(Subset::random(2)));
    feed.say(set(1..=9));
    quiet().await;
    assert_eq!(gauges.of("custom"), Some((0.0, 9.0)));
    balance.update(Settings::new().subset(Subset::all())).unwrap();
    quiet().await;
    assert_eq!(gauges.of("custom"), Some((0.0, 9.0)));
}

/// R12: of balancers of one target none hides what the others say, nor leaves anything behind.
#[tokio::test(start_paused = true)]
async fn r12_balancers_of_a_target_add_up() {
    let gauges = Gauges::default();
    let ((good, good_source), (bad, bad_source)) = (feed(), feed());
    let one = made(&gauges, Balance::builder(good_source));
    let other = made(&gauges, Balance::builder(bad_source));
    good.say(set([1, 2, 3]));
    bad.say(set([1, 2]));
    bad.say(Update::Failed(DiscoverError::new("refused")));
    quiet().await;
    assert_eq!(gauges.of("custom"), Some((1.0, 5.0)));
    good.say(Update::Failed(DiscoverError::new("refused")));
    quiet().await;
    assert_eq!(gauges.of("custom"), Some((2.0, 5.0)));
    drop(one);
    quiet().await;
    assert_eq!(gauges.of("custom"), Some((1.0, 2.0)));
    drop(other);
    quiet().await;
    assert_eq!(gauges.of("custom"), Some((0.0, 0.0)));
}

/// A source that panics takes the balancer with it, and the gauges do not stay behind.
#[tokio::test(start_paused = true)]
async fn r12_a_task_that_dies_takes_back_what_it_added() {
    let gauges = Gauges::default();
    let mut updates = [set([1, 2])].into_iter();
    let source = futures::stream::poll_fn(move |_| {
        std::task::Poll::Ready(Some(updates.next().expect("this source panics")))
    });
    let balance = made(&gauges, Balance::builder(source));
    quiet().await;
    assert!(balance.status().closed);
    assert_eq!(gauges.of("custom"), Some((0.0, 0.0)));
}

/// Without the call there is nothing; and a recorder that comes too late is not lied to.
#[tokio::test(start_paused = true)]
async fn r12_gauges_are_of_the_recorder_that_was_there_first() {
    let gauges = Gauges::default();
    let (feed, source) = feed();
    let builder = Balance::builder(source).complete_at_response();
    let _without = gauges.with(|| builder.make(Plain(World::new())).unwrap());
    feed.say(set([1]));
    quiet().await;
    assert_eq!(gauges.count(), 0);

    let list = "static://10.0.0.1:80";
    let builder = Balance::to(list).unwrap().metrics().complete_at_response();
    let early = builder.make(Plain(World::new())).unwrap();
    quiet().await;
    let _later = made(&gauges, Balance::to(list).unwrap());
    quiet().await;
    drop(early);
    quiet().await;
    assert_eq!(gauges.of(list), Some((0.0, 1.0)));
}
