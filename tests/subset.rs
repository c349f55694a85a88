//! A subset of the endpoints: who is dialled, what drains, what shows, and that clients together are
//! fair to servers.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod numbered;
mod support;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use evenkeel::{
    AtResponse, Balance, Error, Priority,
    discovery::Update,
    node::Outcome,
    policy::{LoadMetric, NoKey, P2c, RoundRobin},
    pool::{EndpointState, Settings, Status, Subset, TestBed},
};
use numbered::index_of;
use support::{Ask, Feed, Managed, Road, Served, World, endpoints, feed, names, quiet, set};
use tower::ServiceExt;

const SECOND: Duration = Duration::from_secs(1);

type Told = Balance<Served, NoKey, AtResponse>;

fn over(subset: Subset, world: &Arc<World>) -> (Feed, Told) {
    let (feed, source) = feed();
    let balance = Balance::builder(source)
        .subset(subset)
        .seed(7)
        .complete_at_response()
        .make(Managed(Arc::clone(world)))
        .unwrap();
    (feed, balance)
}

fn in_state(status: &Status, state: EndpointState) -> Vec<String> {
    let of_state = status.endpoints.iter().filter(|one| one.state == state);
    let mut names: Vec<_> = of_state.map(|one| one.endpoint.to_string()).collect();
    names.sort();
    names
}

/// Of a thousand endpoints twenty have a service and a connection; all are known.
#[tokio::test(start_paused = true)]
async fn only_the_subset_is_dialled() {
    let world = World::new();
    let (feed, balance) = over(Subset::random(20), &world);
    feed.say(set(1..=1_000));
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((world.dials(), world.made()), (20, 20));
    for _ in 0..500 {
        balance.clone().oneshot(Ask::default()).await.unwrap();
    }
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!((world.dials(), world.made()), (20, 20), "no request wants another");

    let status = balance.status();
    assert_eq!(status.endpoints.len(), 1_000);
    assert_eq!(in_state(&status, EndpointState::Serving).len(), 20);
    assert_eq!(in_state(&status, EndpointState::OutsideSubset).len(), 980);
    assert_eq!(status.to_string().matches("OutsideSubset").count(), 980);
}

/// R22: of few primaries and many backups a client has all primaries and twenty backups, connected
/// before they are needed; and uses the backups only while no primary can be used.
#[tokio::test(start_paused = true)]
async fn r22_backups_outside_and_inside_wait_for_the_primaries() {
    let world = World::new();
    let (feed, balance) = over(Subset::random(20), &world);
    let listed = endpoints(1..=1_000).into_iter().enumerate();
    let listed = listed.map(|(at, one)| one.with_priority(Priority(u32::from(at >= 10))));
    feed.say(Update::Set(listed.collect()));
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((world.dials(), world.made()), (30, 30));
    let primaries: BTreeSet<_> = (1..=10).map(support::name).collect();
    let answering = async || {
        let mut answering = BTreeSet::new();
        for _ in 0..500 {
            answering.insert(balance.clone().oneshot(Ask::default()).await.unwrap());
        }
        answering
    };
    assert_eq!(answering().await, primaries);

    for last in 1..=10 {
        world.road(last, Road::Lost);
        world.link(last).failed(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
    }
    quiet().await;
    let standing_in = answering().await;
    assert_eq!((standing_in.len(), standing_in.intersection(&primaries).count()), (20, 0));
    assert_eq!(world.made(), 30, "what is outside stays there");
}

/// One that goes is replaced by one, and nothing else moves; one that leaves the subset drains, and
/// is known as outside from then on.
#[tokio::test(start_paused = true)]
async fn r15_churn_moves_one_and_what_leaves_drains() {
    let world = World::new();
    let (feed, balance) = over(Subset::random(20), &world);
    feed.say(set(1..=100));
    quiet().await;
    let members = in_state(&balance.status(), EndpointState::Serving);

    let gone = members[3].clone();
    let lasts: Vec<_> = (1..=100).filter(|last| support::name(*last) != gone).collect();
    feed.say(set(lasts.iter().copied()));
    tokio::time::sleep(SECOND).await;
    let now = in_state(&balance.status(), EndpointState::Serving);
    let stayed = now.iter().filter(|member| members.contains(member)).count();
    assert_eq!((now.len(), stayed, world.made(), world.dials()), (20, 19, 21, 21));

    // It comes back, and takes its place from the one that had replaced it, which has a request.
    let (gates, calls): (Vec<_>, Vec<_>) = (0..200).map(|_| Ask::held()).unzip();
    let calls: Vec<_> =
        calls.into_iter().map(|ask| tokio::spawn(balance.clone().oneshot(ask))).collect();
    quiet().await;
    feed.say(set(1..=100));
    quiet().await;
    let status = balance.status();
    assert_eq!(in_state(&status, EndpointState::Serving), members);
    let draining = in_state(&status, EndpointState::Draining);
    assert_eq!(draining.len(), 1);
    assert!(!members.contains(&draining[0]) && now.contains(&draining[0]));
    assert_eq!(names(&status).len(), 100, "none is named twice");
    gates.into_iter().for_each(|gate| gate.send(()).unwrap());
    for call in calls {
        call.await.unwrap().unwrap();
    }
    quiet().await;
    assert_eq!(world.closed(), [gone, draining[0].clone()]);
    let status = balance.status();
    assert_eq!(in_state(&status, EndpointState::Draining).len(), 0);
    assert_eq!(in_state(&status, EndpointState::OutsideSubset).len(), 80);
}

/// The subset changes while it runs: members of both keep their connections.
#[tokio::test(start_paused = true)]
async fn the_subset_is_a_setting() {
    let world = World::new();
    let (feed, balance) = over(Subset::random(10), &world);
    feed.say(set(1..=50));
    quiet().await;
    balance.update(Settings::new().subset(Subset::random(12))).unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!((world.dials(), world.closed().len()), (12, 0));
    balance.update(Settings::new().subset(Subset::all())).unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!((world.dials(), world.closed().len()), (50, 0));
    balance.update(Settings::new().subset(Subset::aperture(3, 10))).unwrap();
    tokio::time::sleep(SECOND).await;
    let members = in_state(&balance.status(), EndpointState::Serving).len();
    assert_eq!((world.dials(), world.closed().len()), (50, 50 - members));

    let error = balance.update(Settings::new().subset(Subset::aperture(3, 3))).unwrap_err();
    assert!(error.to_string().contains("subset"), "{error}");
}

/// The error of a call counts what is outside.
#[tokio::test(start_paused = true)]
async fn r9_the_error_counts_what_is_outside() {
    let world = World::new();
    world.roads(Road::Lost);
    let (feed, balance) = over(Subset::random(3), &world);
    feed.say(set(1..=10));
    quiet().await;
    let error: Error = balance.oneshot(Ask::default()).await.unwrap_err();
    let census = error.census().unwrap();
    assert_eq!((census.known, census.outside, census.unconnected), (10, 7, 3));
    assert!(error.to_string().contains("7 outside of the subset"), "{error}");
}

/// A hundred clients of a hundred servers: each server is dialled by twelve.
#[tokio::test(start_paused = true)]
async fn apertures_connect_every_server_alike() {
    let world = World::new();
    let mut clients = Vec::new();
    for instance in 0..100 {
        let (feed, balance) = over(Subset::aperture(instance, 100), &world);
        feed.say(set(1..=100));
        clients.push((feed, balance));
    }
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(world.dials(), 1_200);
    assert!((1..=100).all(|last| world.dials_of(last).len() == 12));
}

/// The picks of seven clients of thirty servers, each by the parts of servers that it sees: every
/// server gets the same from all of them together.
#[test]
fn apertures_give_every_server_the_same() {
    let mut turns = HashMap::new();
    let mut draws = HashMap::new();
    for instance in 0..7 {
        let endpoints = || (0..30).map(numbered::endpoint);
        let subset = Subset::aperture(instance, 7);
        let bed = TestBed::new(RoundRobin::new(), endpoints()).unwrap().seed(1).subset(subset);
        for _ in 0..10_000 {
            *turns.entry(index_of(&bed.pick(None).unwrap())).or_insert(0_u64) += 1;
        }
        // By requests in flight, which looks at no clock: nothing is in flight, and the draw decides.
        let policy = P2c::by(LoadMetric::InFlight);
        let bed = TestBed::new(policy, endpoints()).unwrap().seed(1).subset(subset);
        for _ in 0..10_000 {
            let mut lease = bed.pick(None).unwrap();
            *draws.entry(index_of(&lease)).or_insert(0_u64) += 1;
            lease.finish(Outcome::Success.into());
        }
    }
    let mean = 70_000 / 30;
    assert_eq!(turns.len(), 30);
    // In turns a client is off by less than two for each of its endpoints, since turns begin within a
    // cycle and end within one; some four clients see each endpoint.
    assert!(turns.values().all(|turns| turns.abs_diff(mean) <= 8), "{turns:?}");
    // By draws a server's count has a standard deviation of 48 at the most; five of them.
    assert!(draws.values().all(|draws| draws.abs_diff(mean) <= 240), "{draws:?}");
}
