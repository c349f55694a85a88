//! Calls that find no place: how long they wait and for what, and what their errors say.
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "waiting/room.rs"]
mod room;
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel::{
    AtResponse, Balance, DiscoverError, Endpoint,
    discovery::{Registry, Update},
    policy::{NoKey, Pick, PickContext, Picker, Policy, RoundRobin, Tier},
    pool::Settings,
};
use futures::{FutureExt, future::join_all, stream};
use support::{
    Ask, Feed, Managed, Mood, Plain, Road, Served, World, endpoint, feed, guard, in_flight, just,
    name, now, quiet, set,
};
use tower::{Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Balancer = Balance<Served, NoKey, AtResponse>;

fn fed() -> (Feed, Balancer) {
    let (feed, source) = feed();
    let balance =
        Balance::builder(source).complete_at_response().make(Plain(World::new())).unwrap();
    (feed, balance)
}

/// R9: 5 s by default, then an error that names the target, what is known, and what discovery said.
#[tokio::test(start_paused = true)]
async fn r9_waits_five_seconds_for_endpoints_and_then_says_why() {
    let (feed, balance) = fed();
    feed.say(Update::Failed(DiscoverError::new("the resolver is down")));
    let start = now();
    let error = balance.clone().oneshot(Ask::default()).await.unwrap_err();
    assert_eq!(now() - start, 5 * SECOND);
    assert!(error.is_no_endpoint() && error.is_unprocessed() && !error.is_overloaded());
    assert_eq!(error.census().unwrap().known, 0);
    assert_eq!(error.discovery().unwrap().to_string(), "the resolver is down");
    assert_eq!(error.target(), Some("custom"));
    assert_eq!(
        balance.status().to_string(),
        "custom: 0 endpoints, 0 calls waiting, not discovered yet\n  discovery error: the resolver is down"
    );
    assert_eq!(
        error.to_string(),
        "no endpoint of `custom` can be used: 0 known; discovery last said: the resolver is down"
    );
    // Known to be empty is worth as long a wait: the next set may come.
    feed.say(set([]));
    let start = now();
    assert!(balance.clone().oneshot(Ask::default()).await.unwrap_err().is_no_endpoint());
    assert_eq!(now() - start, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn r9_a_wait_of_nothing_fails_at_once_and_recovers() {
    let (feed, balance) = fed();
    balance.update(Settings::new().wait_for_endpoints(Duration::ZERO)).unwrap();
    quiet().await;
    let start = now();
    assert!(balance.clone().oneshot(Ask::default()).await.unwrap_err().is_no_endpoint());
    assert_eq!(now(), start);
    feed.say(set([1]));
    quiet().await;
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(1));
}

/// Counts the looks of requests, and has all of them wait.
#[derive(Clone)]
struct Looks(Arc<AtomicUsize>);

impl Policy for Looks {
    fn build(&mut self, _: &Tier<'_>) -> Arc<dyn Picker> {
        Arc::new(self.clone())
    }
}

impl Picker for Looks {
    fn pick(&self, _: &mut PickContext<'_>) -> Pick {
        self.0.fetch_add(1, Ordering::Relaxed);
        Pick::Wait
    }
}

/// Rule 11: in an outage of everything, calls that wait do not look again for each dial that fails.
#[tokio::test(start_paused = true)]
async fn r9_many_calls_that_wait_do_not_look_at_every_failure() {
    const CALLS: usize = 2_000;
    let looks = Arc::new(AtomicUsize::new(0));
    let world = World::new();
    world.roads(Road::FailsAfter(Duration::ZERO));
    let balance = Balance::builder(just(set(1..=500)))
        .policy(Looks(Arc::clone(&looks)))
        .keep_connected(500)
        .wait_for_endpoints(60 * SECOND)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    let calls: Vec<_> =
        (0..CALLS).map(|_| tokio::spawn(balance.clone().oneshot(Ask::default()))).collect();
    tokio::time::sleep(SECOND).await;
    let (looked, dialled) = (looks.load(Ordering::Relaxed), world.dials());
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(balance.status().waiting, CALLS);
    assert!(world.dials() > dialled + 500, "nodes fail all the time");
    // At 100 ns for each node that each of them looks at: every 0.1 s.
    let looks = looks.load(Ordering::Relaxed) - looked;
    assert!(looks <= 41 * CALLS, "{} times each", looks / CALLS);
    calls.into_iter().for_each(|call| call.abort());
}

#[tokio::test(start_paused = true)]
async fn r9_an_endpoint_that_comes_serves_all_who_wait() {
    let (feed, balance) = fed();
    let start = now();
    let calls: Vec<_> =
        (0..100).map(|_| tokio::spawn(balance.clone().oneshot(Ask::default()))).collect();
    let ready = tokio::spawn({
        let handle = balance.handle();
        async move { handle.ready().await }
    });
    quiet().await;
    assert_eq!(balance.status().waiting, 100);
    assert!(!ready.is_finished());
    feed.say(set([1]));
    for call in join_all(calls).await {
        assert_eq!(call.unwrap().unwrap(), name(1));
    }
    ready.await.unwrap().unwrap();
    assert!(now() - start < 10 * MS);
    assert_eq!((balance.status().waiting, in_flight(&balance.status())), (0, 0));
}

/// Rule 14: who waits is counted, and those beyond the bound fail at once.
#[tokio::test(start_paused = true)]
async fn r9_only_so_many_calls_wait() {
    let (feed, balance) = fed();
    balance.update(Settings::new().max_waiting(3)).unwrap();
    quiet().await;
    let mut calls: Vec<_> =
        (0..5).map(|_| Box::pin(balance.clone().oneshot(Ask::default()))).collect();
    for call in &mut calls[..3] {
        assert!(call.now_or_never().is_none());
    }
    for call in &mut calls[3..] {
        let error = call.now_or_never().unwrap().unwrap_err();
        assert!(error.is_overloaded() && error.is_unprocessed() && !error.is_no_endpoint());
        assert_eq!(error.to_string(), "3 calls wait for an endpoint of `custom` already");
    }
    assert_eq!(balance.status().waiting, 3);
    calls.truncate(2);
    assert_eq!(balance.status().waiting, 2, "a dropped call gives up its place");
    feed.say(set([1]));
    for call in calls {
        assert_eq!(call.await.unwrap(), name(1));
    }
    assert_eq!(balance.status().waiting, 0);
}

/// Lost wake-ups: on several threads, endpoints come and go while calls wait for them. A call that
/// misses a wake-up waits for 1,000 s, and the guard ends the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r9_no_wake_up_is_lost() {
    let registry = Registry::new();
    let balance = Balance::builder(registry.clone())
        .wait_for_endpoints(1_000 * SECOND)
        .complete_at_response()
        .make(|_: &Endpoint| tower::service_fn(|_: ()| async { Ok::<_, std::io::Error>(()) }))
        .unwrap();
    let callers = (0..8).map(|_| {
        let balance = balance.clone();
        tokio::spawn(async move {
            for _ in 0..500 {
                balance.clone().oneshot(()).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let publisher = tokio::spawn(async move {
        loop {
            let listed = registry.register(endpoint(1)).unwrap();
            tokio::task::yield_now().await;
            drop(listed);
            tokio::task::yield_now().await;
        }
    });
    for caller in guard(join_all(callers)).await {
        caller.unwrap();
    }
    publisher.abort();
    assert_eq!(balance.status().waiting, 0);
}

/// The same for connections: they come up and are lost while calls wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r9_no_connection_that_comes_up_is_missed() {
    let world = World::new();
    world.roads(Road::UpAfter(Duration::ZERO));
    let balance = Balance::builder(just(set([1])))
        .wait_for_endpoints(1_000 * SECOND)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    guard(balance.ready()).await.unwrap();
    let link = world.link(1);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for _ in 0..500 {
                    balance.clone().oneshot(Ask::default()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let flapper = tokio::spawn(async move {
        loop {
            link.connecting();
            tokio::task::yield_now().await;
            link.up();
            tokio::task::yield_now().await;
        }
    });
    for caller in guard(join_all(callers)).await {
        caller.unwrap();
    }
    flapper.abort();
}

/// Rule 14: with no hope left a call fails at once, and its error counts each class.
#[tokio::test(start_paused = true)]
async fn r9_without_hope_a_call_fails_at_once_and_counts_why() {
    let world = World::new();
    let balance = Balance::builder(just(set(1..=3)))
        .wait_for_endpoints(100 * MS)
        .max_in_flight(1)
        .complete_at_response()
        .make(Plain(Arc::clone(&world)))
        .unwrap();
    balance.ready().await.unwrap();
    let mut gates = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..2 {
        let (gate, ask) = Ask::held();
        gates.push(gate);
        calls.push(tokio::spawn(balance.clone().oneshot(ask)));
    }
    quiet().await;
    let status = balance.status();
    let free = status.endpoints.iter().find(|one| one.in_flight == 0).unwrap();
    world.look().moods.insert(free.endpoint.to_string(), Mood::Broken);
    let start = now();
    let error = balance.clone().oneshot(Ask::default()).await.unwrap_err();
    assert_eq!(now(), start);
    let census = error.census().unwrap();
    assert_eq!((census.known, census.full, census.tried, census.failed), (3, 2, 1, 0));
    assert_eq!(error.endpoint(), Some(&free.endpoint));
    assert!(error.to_string().contains("2 at the cap of requests in flight"), "{error}");
    // Its backoff is longer than a call would wait.
    let error = balance.clone().oneshot(Ask::default()).await.unwrap_err();
    assert_eq!(now(), start);
    let census = error.census().unwrap();
    assert_eq!((census.known, census.full, census.tried, census.failed), (3, 2, 0, 1));
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        format!("{} is broken", free.endpoint)
    );
    drop(gates);
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(error.is_ambiguous() && error.endpoint().is_some());
    }
}

/// Caps are exact under concurrency, fail fast, and never wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn max_in_flight_is_exact_and_fails_fast() {
    const CAP: u32 = 3;
    let counts: Arc<[AtomicU32; 2]> = Arc::default();
    let most = Arc::new(AtomicU32::new(0));
    let make = {
        let (counts, most) = (Arc::clone(&counts), Arc::clone(&most));
        move |endpoint: &Endpoint| {
            let at = usize::from(endpoint.to_string().ends_with("2:80"));
            let (counts, most) = (Arc::clone(&counts), Arc::clone(&most));
            tower::service_fn(move |_: ()| {
                let (counts, most) = (Arc::clone(&counts), Arc::clone(&most));
                async move {
                    most.fetch_max(counts[at].fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    counts[at].fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, std::io::Error>(())
                }
            })
        }
    };
    let balance = Balance::builder(just(set(1..=2)))
        .max_in_flight(CAP)
        .wait_for_endpoints(1_000 * SECOND)
        .complete_at_response()
        .make(make)
        .unwrap();
    guard(balance.ready()).await.unwrap();
    let callers = (0..16).map(|_| {
        let balance = balance.clone();
        tokio::spawn(async move {
            let mut refused = 0;
            for _ in 0..500 {
                if let Err(error) = balance.clone().oneshot(()).await {
                    assert!(error.is_overloaded(), "{error}");
                    refused += 1;
                }
            }
            refused
        })
    });
    let refused: Vec<u32> =
        guard(join_all(callers)).await.into_iter().map(Result::unwrap).collect();
    assert!(refused.iter().sum::<u32>() < 16 * 500);
    assert!(most.load(Ordering::SeqCst) <= CAP);
    assert_eq!(in_flight(&balance.status()), 0);

    // As many futures as there are places, and not one more.
    let mut held: Vec<_> = (0..2 * CAP).map(|_| balance.clone().call(())).collect();
    assert_eq!(in_flight(&balance.status()), 2 * CAP);
    let error = balance.clone().oneshot(()).now_or_never().unwrap().unwrap_err();
    assert!(error.is_overloaded());
    assert_eq!(error.census().unwrap().full, 2);
    drop(held.pop());
    balance.clone().oneshot(()).await.unwrap();
}

/// A picker may ask to wait although all is up; then its call does.
#[tokio::test(start_paused = true)]
async fn a_picker_may_ask_to_wait_for_another_set() {
    #[derive(Clone)]
    struct Pair;
    impl Policy for Pair {
        fn build(&mut self, _tier: &Tier<'_>) -> Arc<dyn Picker> {
            Arc::new(Pair)
        }
    }
    impl Picker for Pair {
        fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
            if cx.len() < 2 { Pick::Wait } else { Pick::Use(0) }
        }
    }
    let (feed, source) = feed();
    let balance = Balance::builder(source)
        .policy(Pair)
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    feed.say(set([1]));
    quiet().await;
    let mut call = Box::pin(balance.clone().oneshot(Ask::default()));
    assert!((&mut call).now_or_never().is_none());
    feed.say(set([1, 2]));
    assert_eq!(call.await.unwrap(), name(1));
}

// --- closed ---

#[derive(Clone)]
struct Panics;

impl Policy for Panics {
    fn build(&mut self, _tier: &Tier<'_>) -> Arc<dyn Picker> {
        panic!("on purpose")
    }
}

async fn assert_closed(balance: Balancer) {
    let mut waiting = Box::pin(balance.clone().oneshot(Ask::default()));
    let ready = balance.ready();
    let error = guard(&mut waiting).await.unwrap_err();
    assert!(error.is_closed() && error.is_unprocessed(), "{error}");
    assert!(guard(ready).await.unwrap_err().is_closed());
    let status = balance.status();
    assert!(status.closed && status.to_string().lines().next().unwrap().ends_with(", closed"));
    let mut later = balance.clone();
    assert!(later.ready().now_or_never().unwrap().unwrap_err().is_closed());
    assert!(
        Service::call(&mut later, Ask::default()).now_or_never().unwrap().unwrap_err().is_closed()
    );
}

/// Rule 10: when the driver dies, waiting and later calls fail, and never hang.
#[tokio::test]
async fn r9_a_panic_of_source_policy_or_make_closes_the_balancer() {
    let builder = || Balance::builder(just(set([1]))).wait_for_endpoints(1_000 * SECOND);
    let source = stream::poll_fn(|_| -> std::task::Poll<Option<Update>> { panic!("on purpose") });
    let balance = Balance::builder(source)
        .wait_for_endpoints(1_000 * SECOND)
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    assert_closed(balance).await;
    let world = World::new();
    assert_closed(builder().policy(Panics).complete_at_response().make(Plain(world)).unwrap())
        .await;
    let make = |_: &Endpoint| -> Served { panic!("on purpose") };
    assert_closed(builder().complete_at_response().make(make).unwrap()).await;
    // Off the worker, for a large set.
    let large = Balance::builder(just(set(1..=600))).wait_for_endpoints(1_000 * SECOND);
    assert_closed(large.policy(Panics).complete_at_response().make(Plain(World::new())).unwrap())
        .await;
    // Later, by a change of settings.
    let balance = builder()
        .policy(RoundRobin::new())
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    guard(balance.ready()).await.unwrap();
    balance.update(Settings::new().policy(Panics)).unwrap();
    loop {
        match balance.clone().oneshot(Ask::default()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break assert!(error.is_closed()),
        }
    }
    assert_closed(balance).await;
}

/// Rule 10: what clients have open is closed then as at any other end.
#[tokio::test]
async fn r9_a_panic_closes_what_the_clients_have_open() {
    let world = World::new();
    let balance = Balance::builder(just(set(1..=2)))
        .policy(RoundRobin::new())
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    guard(balance.ready()).await.unwrap();
    balance.update(Settings::new().policy(Panics)).unwrap();
    let closed = async {
        while world.closed().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    guard(closed).await;
    assert_closed(balance).await;
}

/// Rule 10: the timer of an attempt goes with the runtime of its balancer, and takes nobody along: a
/// call that is polled on another, through a client of its own, fails and says that a server may have it.
#[test]
fn r9_the_end_of_its_runtime_ends_an_attempt_that_is_timed() {
    let [runtime, other] = [(); 2]
        .map(|()| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let balance = runtime.block_on(async {
        let balance = Balance::builder(just(set([1])))
            .attempt_timeout(1_000 * SECOND)
            .complete_at_response()
            .make(Plain(World::new()))
            .unwrap();
        balance.ready().await.unwrap();
        balance
    });
    let (_gates, asks): (Vec<_>, Vec<_>) = (0..2).map(|_| Ask::held()).unzip();
    let calls = asks.into_iter().map(|ask| Box::pin(balance.clone().call(ask)));
    let [mut polled, unpolled] = <[_; 2]>::try_from(calls.collect::<Vec<_>>()).ok().unwrap();
    other.block_on(async { assert!((&mut polled).now_or_never().is_none()) });
    let polled = other.spawn(polled);
    other.block_on(tokio::task::yield_now());
    drop(runtime);
    other.block_on(async {
        for call in [polled, tokio::spawn(unpolled)] {
            let error = guard(call).await.unwrap().unwrap_err();
            assert!(error.is_closed() && error.is_ambiguous(), "{error:?}");
            assert_eq!(error.endpoint(), Some(&endpoint(1)));
        }
    });
}

/// The balancer's task may go before the last of its calls, whose timers run on.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_outlives_its_balancer_is_timed_all_the_same() {
    let balance = Balance::builder(just(set([1])))
        .attempt_timeout(60 * SECOND)
        .drain_timeout(5 * SECOND)
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    balance.ready().await.unwrap();
    let (_gate, ask) = Ask::held();
    let start = now();
    let call = tokio::spawn(balance.clone().oneshot(ask));
    drop(balance);
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 1, "its own");
    assert!(call.await.unwrap().unwrap_err().is_timeout());
    assert_eq!(now() - start, 60 * SECOND);
}

/// Rule 10: its runtime may end, also before the driver ever ran.
#[test]
fn r9_the_end_of_its_runtime_closes_the_balancer() {
    for ran in [true, false] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_feed, source) = feed();
        let balance = {
            let _inside = runtime.enter();
            Balance::builder(source)
                .wait_for_endpoints(1_000 * SECOND)
                .complete_at_response()
                .make(Plain(World::new()))
                .unwrap()
        };
        if ran {
            runtime.block_on(tokio::task::yield_now());
        }
        let other = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let waiting = other.spawn(balance.clone().oneshot(Ask::default()));
        drop(runtime);
        other.block_on(async {
            assert!(guard(waiting).await.unwrap().unwrap_err().is_closed());
            assert_closed(balance).await;
        });
    }
}
