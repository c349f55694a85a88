//! Clients that own their connections: who is dialled, when, and where requests go meanwhile.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel::{
    Balance, Builder, Priority,
    discovery::{Discover, RefreshRequests, Update},
    node::LinkState,
    policy::{IntoPolicy, P2c, Random, Rendezvous, RequestKey},
    pool::Settings,
};
use futures::{FutureExt, Stream};
use support::{Ask, Managed, Road, World, endpoint, feed, just, name, now, of, quiet, set};
use tokio::task::JoinSet;
use tower::ServiceExt;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn key_of(key: u64) -> impl Fn(&Ask) -> Option<u64> + Clone + Send + Sync + 'static {
    move |_: &Ask| Some(key)
}

fn over<D: Discover>(source: D) -> Builder<D> {
    Balance::builder(source).seed(7)
}

/// R8, T9: 64 of a hundred are dialled with no request in sight, in random order, at most 16 at once.
#[tokio::test(start_paused = true)]
async fn r8_the_first_64_are_dialled_without_traffic_sixteen_at_once() {
    let world = World::new();
    world.roads(Road::UpAfter(100 * MS));
    let balance =
        over(just(set(1..=100))).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    tokio::time::sleep(10 * SECOND).await;
    {
        let inner = world.look();
        assert_eq!((inner.dials.len(), inner.most_dialling), (64, 16));
        let order: Vec<_> = inner.dials.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), 64, "each once");
        // In the list's order this would be its first 64.
        assert_ne!(order, (1..=64).map(name).collect::<Vec<_>>());
    }
    balance.update(Settings::new().keep_connected(100)).unwrap();
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(world.dials(), 100);
}

/// T9: a call that finds nothing connected dials for itself, and not all that there is.
#[tokio::test(start_paused = true)]
async fn t9_a_cold_start_dials_for_the_call_and_not_for_all() {
    let world = World::new();
    world.roads(Road::UpAfter(100 * MS));
    let balance = over(just(set(1..=500)))
        .keep_connected(0)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    balance.clone().oneshot(Ask::default()).await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    // The one that was picked; and one more for each time that the call looked before it was dialled.
    assert!((1..=3).contains(&world.dials()), "{} dials", world.dials());
}

/// Rule 9: a wanted node is dialled at once, while the request goes to one that is up.
#[tokio::test(start_paused = true)]
async fn a_wanted_node_is_dialled_while_its_request_goes_elsewhere() {
    let world = World::new();
    world.roads(Road::UpAfter(SECOND));
    let balance = over(just(set(1..=10)))
        .policy(Random)
        .keep_connected(1)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    balance.ready().await.unwrap();
    assert_eq!(world.dials(), 1);
    let up = world.look().dials[0].0.clone();
    let start = now();
    // One that none of 200 picks wants: 10 x 0.9^200, or 1 in 10^8; and the seed is fixed.
    for _ in 0..200 {
        assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), up);
    }
    assert_eq!(now(), start, "no request waited");
    quiet().await;
    assert_eq!(world.dials(), 10, "each was wanted, and dialled once");
    tokio::time::sleep(2 * SECOND).await;
    let mut answered = HashSet::new();
    for _ in 0..200 {
        answered.insert(balance.clone().oneshot(Ask::default()).await.unwrap());
    }
    assert_eq!(answered.len(), 10);
    assert_eq!(world.dials(), 10);
}

/// Rule 9: with none up, a request waits for whichever comes first, and for no other.
#[tokio::test(start_paused = true)]
async fn with_none_up_the_first_to_come_serves() {
    let world = World::new();
    world.roads(Road::Lost);
    world.road(2, Road::UpAfter(300 * MS));
    world.road(3, Road::UpAfter(700 * MS));
    let balance =
        over(just(set(1..=3))).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    let start = now();
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(2));
    assert_eq!(now() - start, 300 * MS);
    assert_eq!(balance.status().waiting, 0);
}

/// Rule 9: a keyed request waits for the first dial of its node; once that failed it walks on, and
/// comes back when the node is up.
#[tokio::test(start_paused = true)]
async fn a_keyed_request_waits_for_its_node_and_walks_on_once_that_failed() {
    let world = World::new();
    let build = |world: &Arc<World>| {
        over(just(set(1..=5)))
            .policy(Rendezvous::by(key_of(42)))
            .complete_at_response()
            .make(Managed(Arc::clone(world)))
            .unwrap()
    };
    let start = now();
    let owner = build(&world).oneshot(Ask::default()).await.unwrap();
    assert_eq!(now() - start, 10 * MS, "as long as its dial takes");

    let world = World::new();
    let last = (1..=5).find(|last| name(*last) == owner).unwrap();
    world.road(last, Road::FailsAfter(500 * MS));
    let balance = build(&world);
    let start = now();
    let other = balance.clone().oneshot(Ask::default()).await.unwrap();
    assert_ne!(other, owner);
    assert_eq!(now() - start, 500 * MS, "until its node had failed");
    world.road(last, Road::UpAfter(500 * MS));
    for _ in 0..1_000 {
        let start = now();
        let answer = balance.clone().oneshot(Ask::default()).await.unwrap();
        assert_eq!(now(), start, "a node that failed is waited for no more");
        if answer == owner {
            // Backoff 0.25 s, 20 % more or less, and the dial.
            return;
        }
        assert_eq!(answer, other, "the next in line stays the next");
        tokio::time::sleep(10 * MS).await;
    }
    panic!("its node never came back");
}

/// R1: under a policy that walks past what has failed no request wants a failed node, so the pool
/// dials it again by itself, also beyond those that it keeps connected.
#[tokio::test(start_paused = true)]
async fn r1_a_failed_node_of_a_hash_comes_back_beyond_those_kept_connected() {
    let world = World::new();
    let balance = over(just(set(1..=3)))
        .policy(Rendezvous::by(|ask: &Ask| Some(std::ptr::from_ref(ask) as u64)))
        .keep_connected(3)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(world.dials(), 3);
    balance.update(Settings::new().keep_connected(1)).unwrap();
    quiet().await;
    world.link(2).failed("reset");
    tokio::time::sleep(SECOND).await;
    assert_eq!(of(&balance.status(), 2).link, LinkState::Up);
    assert_eq!(world.dials_of(2).len(), 2);
}

/// R1: one dial a step, steps of 0.25 s x 1.6 up to 10 s, each 20 % more or less; traffic again
/// within one step of its return; no request noticed.
#[tokio::test(start_paused = true)]
async fn r1_a_refusing_node_is_dialled_with_a_capped_jittered_backoff() {
    let world = World::new();
    world.road(3, Road::FailsAfter(Duration::ZERO));
    let balance =
        over(just(set(1..=3))).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    for _ in 0..10_000 {
        balance.clone().oneshot(Ask::default()).await.unwrap();
        tokio::time::sleep(10 * MS).await;
    }
    let dials = world.dials_of(3);
    let mut step: f64 = 0.25;
    let mut exact = 0;
    for (i, pair) in dials.windows(2).enumerate() {
        let took = (pair[1] - pair[0]).as_secs_f64();
        // 20 ms for the timers' grain and for the request that wants the dial.
        assert!((0.8 * step..=1.2 * step + 0.02).contains(&took), "step {i}: {took}, not {step}");
        exact += usize::from((took - step).abs() < 0.01 * step);
        step = (step * 1.6).min(10.0);
    }
    assert!(dials.len() >= 12, "{}", dials.len());
    // Each step is within 1 % of its middle with chance 1/20.
    assert!(exact < dials.len() / 2, "without jitter");
    assert_eq!(world.dials(), 2 + dials.len());

    world.road(3, Road::UpAfter(10 * MS));
    let start = now();
    while balance.clone().oneshot(Ask::default()).await.unwrap() != name(3) {
        tokio::time::sleep(10 * MS).await;
    }
    assert!(now() - start <= 13 * SECOND, "{:?}", now() - start);
}

struct Refreshed<S>(S, std::sync::mpsc::Sender<RefreshRequests>);

impl<S: Stream<Item = Update> + Send + 'static> Discover for Refreshed<S> {
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        self.1.send(refresh).unwrap();
        self.0
    }
}

/// R1, R6: a thousand failing endpoints cost bounded dials, and ask the source to look again, as one.
#[tokio::test(start_paused = true)]
async fn r6_a_thousand_failures_are_one_request_to_look_again() {
    let world = World::new();
    world.roads(Road::FailsAfter(100 * MS));
    let (sender, receiver) = std::sync::mpsc::channel();
    let balance = over(Refreshed(just(set(1..=1_000)), sender))
        .keep_connected(1_000)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    quiet().await;
    let mut requests = receiver.recv().unwrap();
    assert!(requests.requested().now_or_never().is_none(), "nothing failed yet");
    tokio::time::sleep(60 * SECOND).await;
    assert!(requests.requested().now_or_never().is_some());
    assert!(requests.requested().now_or_never().is_none(), "a thousand are one");
    let inner = world.look();
    assert_eq!(inner.most_dialling, 16);
    // 16 at once of 0.1 s each, and those under way now.
    assert!(inner.dials.len() <= 16 * 601, "{}", inner.dials.len());
    drop(inner);
    assert_eq!(balance.status().endpoints.len(), 1_000);
}

/// R1: sixteen dials of which nothing is ever heard hold up the others for a time, not for ever;
/// requests that want a node meanwhile cost no memory.
#[tokio::test(start_paused = true)]
async fn r1_a_client_that_never_reports_does_not_block_the_others_for_ever() {
    let world = World::new();
    world.roads(Road::Lost);
    let (feed, source) = feed();
    let balance = over(source).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    tokio::time::sleep(SECOND).await;
    feed.say(set(1..=16));
    quiet().await;
    assert_eq!(world.dials(), 16);
    world.road(17, Road::UpAfter(10 * MS));
    feed.say(set(1..=17));
    let start = now();
    balance.ready().await.unwrap();
    assert!(now() - start <= 11 * SECOND, "{:?}", now() - start);
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(17));
}

/// R1: a dial of which nothing is heard has failed after a while, and is tried again.
#[tokio::test(start_paused = true)]
async fn r1_a_dial_that_nobody_hears_of_is_tried_again() {
    let world = World::new();
    world.roads(Road::Lost);
    let balance =
        over(just(set([1]))).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(world.dials(), 1);
    world.roads(Road::UpAfter(10 * MS));
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(1));
    assert_eq!(world.dials(), 2);
}

/// R8: dials of endpoints that discovery no longer lists hold nobody up.
#[tokio::test(start_paused = true)]
async fn r8_dials_of_removed_endpoints_do_not_hold_up_new_ones() {
    let world = World::new();
    world.roads(Road::Lost);
    let (feed, source) = feed();
    let balance = over(source).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    tokio::time::sleep(SECOND).await;
    feed.say(set(1..=16));
    quiet().await;
    assert_eq!(world.dials(), 16);
    world.roads(Road::UpAfter(10 * MS));
    feed.say(set(101..=103));
    let start = now();
    assert!(balance.clone().oneshot(Ask::default()).await.is_ok());
    assert!(now() - start < SECOND, "{:?}", now() - start);
    assert_eq!(world.closed().len(), 16);
}

/// One endpoint is up and 400 swallow their dials, under traffic for so long that all have failed;
/// another joins them: it is up soon, and no call waits longer than for that.
async fn joins_four_hundred_black_holes<P>(policy: P)
where
    P: IntoPolicy,
    P::Key: RequestKey<Ask>,
{
    let world = World::new();
    world.roads(Road::FailsAfter(SECOND));
    world.road(401, Road::UpAfter(10 * MS));
    world.road(402, Road::UpAfter(10 * MS));
    let (feed, source) = feed();
    feed.say(set(1..=401));
    let balance = over(source)
        .policy(policy)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    let mut calls = JoinSet::new();
    let begin = now();
    while now() - begin < 60 * SECOND {
        calls.spawn(balance.clone().oneshot(Ask::default()));
        tokio::time::sleep(20 * MS).await;
    }
    calls.abort_all();

    feed.say(set(1..=402));
    let joined = now();
    let mut answers = Vec::new();
    let mut up_after = None;
    while now() - joined < 2 * SECOND {
        let call = balance.clone().oneshot(Ask::default());
        answers.push(tokio::spawn(async move {
            let asked = now();
            call.await.map(|_| now() - asked)
        }));
        tokio::time::sleep(20 * MS).await;
        if up_after.is_none() && of(&balance.status(), 402).link == LinkState::Up {
            up_after = Some(now() - joined);
        }
    }
    let limit = 1_500 * MS;
    assert!(up_after.is_some_and(|after| after <= limit), "up after {up_after:?}");
    for answer in answers {
        let took = answer.await.unwrap().unwrap();
        assert!(took <= limit, "a call took {took:?}");
    }
}

/// R4: dials of nodes that fail again and again, each for as long as it may, do not hold up a new one.
#[tokio::test(start_paused = true)]
async fn r4_a_new_endpoint_beside_many_black_holes_is_up_at_once() {
    joins_four_hundred_black_holes(P2c::default()).await;
    let count = Arc::new(AtomicU64::new(0));
    let another = move |_: &Ask| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        Some(count.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    };
    joins_four_hundred_black_holes(Rendezvous::by(another)).await;
}

/// Rule 9 and R1: a connection that breaks within a second of its start is a failure; one that
/// lasted is dialled anew at once.
#[tokio::test(start_paused = true)]
async fn r1_a_connection_lost_soon_backs_off_and_one_lost_later_is_dialled_at_once() {
    let world = World::new();
    let balance =
        over(just(set([1]))).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    balance.ready().await.unwrap();
    tokio::time::sleep(900 * MS).await;
    world.link(1).lost("reset");
    quiet().await;
    assert!(matches!(of(&balance.status(), 1).link, LinkState::Failed { .. }));
    assert_eq!(world.dials(), 1);
    balance.ready().await.unwrap();
    assert_eq!(world.dials(), 2);
    tokio::time::sleep(1_100 * MS).await;
    let start = now();
    world.link(1).lost("reset");
    balance.ready().await.unwrap();
    assert_eq!(now() - start, 10 * MS, "only as long as the dial takes");
    assert_eq!(world.dials(), 3);
}

/// R1: a node that failed, was removed with a request in flight, and is listed again is dialled.
#[tokio::test(start_paused = true)]
async fn r1_a_node_that_failed_and_drained_is_dialled_when_it_is_listed_again() {
    let world = World::new();
    let (feed, source) = feed();
    feed.say(set([1]));
    let balance = over(source).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    balance.ready().await.unwrap();
    let (_gate, ask) = Ask::held();
    let mut call = tokio::spawn(balance.clone().oneshot(ask));
    quiet().await;
    assert!((&mut call).now_or_never().is_none());
    feed.say(set([2]));
    quiet().await;
    world.link(1).failed("reset");
    tokio::time::sleep(20 * SECOND).await;
    feed.say(set([1]));
    tokio::time::sleep(SECOND).await;
    assert_eq!(of(&balance.status(), 1).link, LinkState::Up);
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(1));
    call.abort();
}

/// R2: a preferred tier that is known to be down does not hold up requests each time it is dialled;
/// one that comes up for the first time is waited for.
#[tokio::test(start_paused = true)]
async fn r2_a_failing_tier_is_not_waited_for_while_the_next_serves() {
    let world = World::new();
    world.road(1, Road::FailsAfter(SECOND));
    let listed = [endpoint(1), endpoint(2).with_priority(Priority(1))];
    let balance = over(just(Update::Set(listed.into())))
        .policy(P2c::default())
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    let start = now();
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(2));
    assert_eq!(now() - start, SECOND, "its first dial");
    while now() - start < 60 * SECOND {
        let asked = now();
        assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(2));
        assert_eq!(now(), asked, "a second dial is nobody's concern");
        tokio::time::sleep(10 * MS).await;
    }
    world.road(1, Road::UpAfter(10 * MS));
    tokio::time::sleep(15 * SECOND).await;
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(1));
}

/// R9, R25: an error without an attempt says which connection failed, and why.
#[tokio::test(start_paused = true)]
async fn r25_an_error_without_an_attempt_names_the_connection_that_failed() {
    let world = World::new();
    world.roads(Road::FailsAfter(10 * MS));
    let balance = over(just(set([1])))
        .wait_for_endpoints(100 * MS)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    let error = balance.clone().oneshot(Ask::default()).await.unwrap_err();
    assert!(error.is_no_endpoint() && error.is_unprocessed(), "{error}");
    assert_eq!(error.census().map(|census| (census.known, census.failed)), Some((1, 1)));
    assert_eq!(error.endpoint().map(ToString::to_string), Some(name(1)));
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.downcast_ref::<std::io::Error>().is_some(), "{source}");
}

/// R1: what came up by itself and failed again after a good while begins its backoff anew, and does
/// not sit out the rest of an old one.
#[tokio::test(start_paused = true)]
async fn r1_a_new_failure_does_not_sit_out_the_old_backoff() {
    let world = World::new();
    world.road(1, Road::FailsAfter(Duration::ZERO));
    let balance =
        over(just(set([1]))).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    tokio::time::sleep(60 * SECOND).await;
    let before = world.dials();
    while world.dials() == before {
        tokio::time::sleep(10 * MS).await;
    }
    // From here on it rests for at least 8 s.
    world.road(1, Road::UpAfter(10 * MS));
    world.link(1).up();
    tokio::time::sleep(2 * SECOND).await;
    world.link(1).failed("reset");
    let start = now();
    balance.ready().await.unwrap();
    assert!(now() - start <= 320 * MS, "{:?}", now() - start);
}
