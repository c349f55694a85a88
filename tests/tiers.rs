//! Priorities and nearness: which endpoints are used before which.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel::{
    Balance, Endpoint, Hints, Locality, Priority,
    discovery::{Discover, Here, RefreshRequests, Update},
    node::LinkState,
    policy::RoundRobin,
    pool::{LocalityPreference, Settings},
};
use futures::{Stream, StreamExt, stream};
use support::{Ask, Managed, Road, Served, World, endpoint, feed, just, name, quiet};
use tower::ServiceExt;

type Balanced = Balance<Served, evenkeel::policy::NoKey, evenkeel::AtResponse>;

async fn ask(balance: &Balanced) -> String {
    balance.clone().oneshot(Ask::default()).await.expect("somebody serves")
}

/// How many of `requests` each endpoint answers.
async fn shares(balance: &Balanced, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        *shares.entry(ask(balance).await).or_default() += 1;
    }
    shares
}

fn only(lasts: &[u16], each: usize) -> BTreeMap<String, usize> {
    lasts.iter().map(|&last| (name(last), each)).collect()
}

fn balanced<D: Discover>(source: D, world: &Arc<World>) -> Balanced {
    Balance::builder(source)
        .policy(RoundRobin::new())
        .seed(7)
        .complete_at_response()
        .make(Managed(Arc::clone(world)))
        .expect("a runtime is here")
}

fn of_priority(last: u16, priority: u32) -> Endpoint {
    endpoint(last).with_priority(Priority(priority))
}

fn fail(world: &World, last: u16) {
    world.link(last).failed(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
}

/// A lower priority is used only while the higher has nothing usable; its nodes are connected before
/// that, so that nobody waits.
#[tokio::test(start_paused = true)]
async fn a_lower_priority_serves_only_while_the_higher_cannot() {
    let world = World::new();
    let listed = [of_priority(1, 0), of_priority(2, 0), of_priority(3, 1), of_priority(4, 7)];
    let balance = balanced(just(Update::Set(listed.into())), &world);
    balance.ready().await.unwrap();
    quiet().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shares(&balance, 20).await, only(&[1, 2], 10));
    world.roads(Road::FailsAfter(Duration::from_millis(1)));
    fail(&world, 1);
    assert_eq!(shares(&balance, 20).await, only(&[2], 20), "one is left, and takes all");
    fail(&world, 2);
    assert_eq!(shares(&balance, 20).await, only(&[3], 20));
    fail(&world, 3);
    assert_eq!(shares(&balance, 20).await, only(&[4], 20));
}

/// No flapping: a preferred endpoint whose connection comes and goes gets nothing until one has
/// lasted for a second.
#[tokio::test(start_paused = true)]
async fn a_higher_priority_takes_over_once_its_connection_lasts() {
    let world = World::new();
    let balance =
        balanced(just(Update::Set([of_priority(1, 0), of_priority(2, 1)].into())), &world);
    balance.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shares(&balance, 5).await, only(&[1], 5));

    let mut changes = 0;
    let mut last = name(1);
    let link = world.link(1);
    for _ in 0..20 {
        fail(&world, 1);
        for _ in 0..9 {
            let now = ask(&balance).await;
            changes += usize::from(now != last);
            last = now;
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Whatever the backoff: it is up for less than a second each time.
            link.up();
        }
    }
    assert_eq!(changes, 1, "away once, and not back");

    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(shares(&balance, 5).await, only(&[1], 5), "now it has lasted");
    // A blink of the lower one is none of the higher's concern.
    fail(&world, 2);
    assert_eq!(shares(&balance, 5).await, only(&[1], 5));
}

/// Nor does a connection count that the peer accepts and closes at once, however often it does.
#[tokio::test(start_paused = true)]
async fn a_higher_priority_whose_connections_carry_nothing_stays_out() {
    let world = World::new();
    let balance =
        balanced(just(Update::Set([of_priority(1, 0), of_priority(2, 1)].into())), &world);
    balance.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let link = world.link(1);
    fail(&world, 1);
    let before = world.dials_of(1).len();
    for _ in 0..600 {
        assert_eq!(ask(&balance).await, name(2));
        tokio::time::sleep(Duration::from_millis(100)).await;
        if link.state() == LinkState::Up {
            link.closed_unused("the peer closed it");
            assert!(matches!(link.state(), LinkState::Failed { .. }));
        }
    }
    let dials = world.dials_of(1).len() - before;
    // 0.25 s and 1.6 times that each, up to 4 s: six in the first 6.6 s, and thirteen in the rest.
    assert!((15..=24).contains(&dials), "{dials} dials in a minute");

    // One that lasted, and was closed then, had been good: idle connections are closed.
    while link.state() != LinkState::Up {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    link.closed_unused("the peer closed it");
    assert_eq!(link.state(), LinkState::Resting);
    assert_eq!(shares(&balance, 5).await, only(&[1], 5));
}

/// A tier that is not trusted yet is better than none.
#[tokio::test(start_paused = true)]
async fn a_tier_that_just_came_back_serves_if_no_other_can() {
    let world = World::new();
    let balance =
        balanced(just(Update::Set([of_priority(1, 0), of_priority(2, 1)].into())), &world);
    balance.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.roads(Road::FailsAfter(Duration::from_millis(1)));
    fail(&world, 1);
    assert_eq!(ask(&balance).await, name(2));
    world.link(1).up();
    assert_eq!(ask(&balance).await, name(2));
    fail(&world, 2);
    assert_eq!(ask(&balance).await, name(1));
}

/// However many of a lower priority are connected, one of the higher is dialled after its backoff, with
/// no update and no request that could want it.
#[tokio::test(start_paused = true)]
async fn a_higher_priority_is_dialled_again_whatever_else_is_connected() {
    for keep_connected in [0, 1, 64] {
        let world = World::new();
        let listed = [of_priority(1, 0), of_priority(2, 1), of_priority(3, 1)];
        let balance = Balance::builder(just(Update::Set(listed.into())))
            .policy(RoundRobin::new())
            .seed(7)
            .keep_connected(keep_connected)
            .complete_at_response()
            .make(Managed(Arc::clone(&world)))
            .expect("a runtime is here");
        assert_eq!(ask(&balance).await, name(1));
        tokio::time::sleep(Duration::from_secs(2)).await;
        fail(&world, 1);
        assert_eq!(shares(&balance, 4).await.len(), 2, "both of the lower are connected by then");
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(shares(&balance, 5).await, only(&[1], 5), "keeping {keep_connected}");
    }
}

fn at(last: u16, zone: &str) -> Endpoint {
    endpoint(last).with_locality(Locality { zone: Some(zone.into()), ..Locality::default() })
}

fn hinted(last: u16, zones: &[&str]) -> Endpoint {
    let zones = zones.iter().map(|&zone| Arc::from(zone)).collect();
    let hints = Some(Arc::new(Hints { zones, ..Hints::default() }));
    endpoint(last).with_locality(Locality { hints, ..Locality::default() })
}

fn zone(zone: &str) -> Locality {
    Locality { zone: Some(zone.into()), ..Locality::default() }
}

fn in_zone<D: Discover>(source: D, here: &str, world: &Arc<World>) -> Balanced {
    Balance::builder(source)
        .policy(RoundRobin::new())
        .seed(7)
        .here(zone(here))
        .complete_at_response()
        .make(Managed(Arc::clone(world)))
        .expect("a runtime is here")
}

/// Hints decide by default: kube-proxy's rules, and the rest of the set as a fall-back.
#[tokio::test(start_paused = true)]
async fn hints_make_a_tier_and_the_rest_is_the_fall_back() {
    let world = World::new();
    let (say, source) = feed();
    let balance = in_zone(source, "a", &world);
    let hints = [hinted(1, &["a"]), hinted(2, &["a", "b"]), hinted(3, &["b"])];
    say.say(Update::Set(hints.clone().into()));
    balance.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shares(&balance, 20).await, only(&[1, 2], 10));
    world.roads(Road::FailsAfter(Duration::from_millis(1)));
    fail(&world, 1);
    fail(&world, 2);
    assert_eq!(shares(&balance, 20).await, only(&[3], 20));
    world.link(1).up();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(shares(&balance, 20).await, only(&[1], 20));

    // One endpoint without a hint, and hints count no more.
    world.link(2).up();
    let [first, second, _] = hints;
    say.say(Update::Set([first, second, endpoint(3)].into()));
    quiet().await;
    assert_eq!(shares(&balance, 30).await, only(&[1, 2, 3], 10));
}

/// The same preference for any source whose endpoints say where they run; and it can be changed.
#[tokio::test(start_paused = true)]
async fn any_source_with_localities_can_be_near() {
    let world = World::new();
    let target = "static://10.0.0.1:80;zone=a,10.0.0.2:80;zone=b,10.0.0.3:80;zone=a";
    let target: evenkeel::discovery::Target = target.parse().unwrap();
    let balance = in_zone(target, "a", &world);
    balance.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shares(&balance, 30).await, only(&[1, 2, 3], 10), "places alone are no hints");
    balance.update(Settings::new().prefer_locality(LocalityPreference::Nearest)).unwrap();
    quiet().await;
    assert_eq!(shares(&balance, 30).await, only(&[1, 3], 15));
    assert_eq!(world.made(), 3, "nodes and connections stay");
    balance.update(Settings::new().prefer_locality(LocalityPreference::Off)).unwrap();
    quiet().await;
    assert_eq!(shares(&balance, 30).await, only(&[1, 2, 3], 10));
}

/// Priority goes before nearness.
#[tokio::test(start_paused = true)]
async fn a_far_endpoint_of_a_better_priority_goes_first() {
    let world = World::new();
    let listed = [at(1, "b"), at(2, "a").with_priority(Priority(1))];
    let balance = in_zone(just(Update::Set(listed.into())), "a", &world);
    balance.update(Settings::new().prefer_locality(LocalityPreference::Nearest)).unwrap();
    balance.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shares(&balance, 10).await, only(&[1], 10));
}

/// A source that finds out, with its second word, where it runs.
struct Learns(Here);

impl Discover for Learns {
    fn watch(self, _refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        let set = || Update::Set([hinted(1, &["a"]), hinted(2, &["b"])].into());
        let later = stream::once(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.0.set(zone("b"));
            set()
        });
        stream::iter([set()]).chain(later).chain(stream::pending())
    }

    fn here(&self) -> Here {
        self.0.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn the_source_may_find_out_where_it_runs() {
    for (configured, later) in [(Locality::default(), 2), (zone("a"), 1)] {
        let world = World::new();
        let balance = Balance::builder(Learns(Here::default()))
            .policy(RoundRobin::new())
            .seed(7)
            .here(configured.clone())
            .complete_at_response()
            .make(Managed(Arc::clone(&world)))
            .unwrap();
        balance.ready().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        if configured == Locality::default() {
            assert_eq!(shares(&balance, 10).await, only(&[1, 2], 5));
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(shares(&balance, 10).await, only(&[later], 10), "what is configured counts");
    }
}

/// Where only the own node is known, an endpoint on it tells the zone.
#[tokio::test(start_paused = true)]
async fn the_own_node_tells_the_own_zone() {
    let world = World::new();
    let place = |zone: &str, node: &str| Locality {
        zone: Some(zone.into()),
        node: Some(node.into()),
        hints: Some(Arc::new(Hints { zones: vec![zone.into()], nodes: Vec::new() })),
        ..Locality::default()
    };
    let listed = [
        endpoint(1).with_locality(place("a", "n1")),
        endpoint(2).with_locality(place("a", "n2")),
        endpoint(3).with_locality(place("b", "n3")),
    ];
    let balance = Balance::builder(just(Update::Set(listed.into())))
        .policy(RoundRobin::new())
        .seed(7)
        .here(Locality { node: Some("n1".into()), ..Locality::default() })
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    balance.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shares(&balance, 20).await, only(&[1, 2], 10));
}
