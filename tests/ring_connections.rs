//! What a ring does with endpoints that are not connected, by the rules of gRFC A42, A61 and A76 and
//! the cases of grpc-go's `balancer/ringhash/picker_test.go`.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{sync::Arc, time::Duration};

use evenkeel::{
    Balance,
    policy::{HashKey, RingHash},
};
use support::{Ask, Managed, Road, World, just, name, set};
use tower::ServiceExt;

const MS: Duration = Duration::from_millis(1);
const LASTS: std::ops::RangeInclusive<u16> = 1..=5;

/// Five endpoints of which none is dialled unless a request wants it.
async fn call(world: &Arc<World>, key: Option<u64>, calls: usize) -> Vec<String> {
    let balance = Balance::builder(just(set(LASTS)))
        .policy(RingHash::grpc().keyed(HashKey::of(move |_: &Ask| key)))
        .keep_connected(0)
        .seed(7)
        .complete_at_response()
        .make(Managed(Arc::clone(world)))
        .unwrap();
    tokio::time::sleep(10 * MS).await;
    let mut answers = Vec::new();
    for _ in 0..calls {
        answers.push(balance.clone().oneshot(Ask::default()).await.unwrap());
    }
    answers
}

/// "picked is Idle, connect and queue", "picked is connecting, queue": the owner of the key is dialled,
/// the request waits for it, and no other is dialled.
#[tokio::test(start_paused = true)]
async fn a_key_waits_for_the_first_dial_of_its_endpoint() {
    let world = World::new();
    world.roads(Road::UpAfter(100 * MS));
    let answers = call(&world, Some(7), 3).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(world.dials(), 1);
}

/// R19: "picked is TransientFailure, next is Idle, connect and queue": the next on the ring, and not
/// the one that failed.
#[tokio::test(start_paused = true)]
async fn r19_a_key_walks_on_where_its_endpoint_fails() {
    let world = World::new();
    let owner = call(&world, Some(7), 1).await.remove(0);
    let failing = LASTS.clone().find(|&last| name(last) == owner).unwrap();
    let world = World::new();
    world.road(failing, Road::FailsAfter(10 * MS));
    let answers = call(&world, Some(7), 3).await;
    assert!(answers.iter().all(|answer| *answer == answers[0] && *answer != owner), "{answers:?}");
    let dialled = LASTS.clone().filter(|&last| !world.dials_of(last).is_empty());
    assert_eq!(dialled.count(), 2, "the owner and the next");
}

/// gRFC A76: a request without a key goes to an endpoint that is ready, where there is one, and wants
/// at most one more on its way.
#[tokio::test(start_paused = true)]
async fn no_key_prefers_what_is_connected() {
    let world = World::new();
    world.roads(Road::Lost);
    let balance = Balance::builder(just(set(LASTS)))
        .policy(RingHash::grpc().keyed(HashKey::of(|_: &Ask| None)))
        .keep_connected(0)
        .seed(7)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    tokio::time::sleep(10 * MS).await;
    world.link(3).up();
    for calls in 1..=20 {
        let begin = support::now();
        let answer = balance.clone().oneshot(Ask::default()).await.unwrap();
        assert_eq!(answer, name(3));
        assert_eq!(support::now(), begin, "no request waits");
        tokio::time::sleep(MS).await;
        assert!(world.dials() <= 1 + calls, "at most one dial a request");
    }
}
