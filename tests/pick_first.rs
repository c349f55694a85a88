//! One connection for all requests: which one, for how long, and where to when it fails. With a
//! client told by hand in paused time, and over real sockets.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "http_balance/server.rs"]
#[allow(dead_code, reason = "no test uses all of it")]
mod server;
mod support;

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Balance, BoxError, Endpoint, Priority,
    client::HttpService,
    discovery::{Endpoints, Update},
    node::LinkState,
    policy::PickFirst,
};
use http::Request;
use http_body_util::{BodyExt, Empty};
use server::{Server, refusing_port, within};
use support::{Ask, Managed, Road, Served, World, endpoint, feed, just, name, now, of, quiet, set};
use tower::ServiceExt;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Told = Balance<Served, evenkeel::policy::NoKey, evenkeel::AtResponse>;

fn over(update: Update, world: &Arc<World>, policy: PickFirst) -> Told {
    Balance::builder(just(update))
        .policy(policy)
        .complete_at_response()
        .make(Managed(Arc::clone(world)))
        .unwrap()
}

async fn ask(balance: &Told) -> String {
    balance.clone().oneshot(Ask::default()).await.unwrap()
}

/// gRFC A62: the first of the list is connected, without a request, and no other ever is.
#[tokio::test(start_paused = true)]
async fn only_the_first_is_connected() {
    let world = World::new();
    let balance = over(set(1..=100), &world, PickFirst::new());
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((world.dials(), world.dials_of(1).len()), (1, 1), "before any request");
    for _ in 0..1_000 {
        assert_eq!(ask(&balance).await, name(1));
    }
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(world.dials(), 1);
}

/// What cannot be dialled is passed over, one dial after the other, with no request in sight.
#[tokio::test(start_paused = true)]
async fn dials_go_down_the_list_until_one_is_up() {
    let world = World::new();
    world.roads(Road::FailsAfter(50 * MS));
    world.road(4, Road::UpAfter(50 * MS));
    let start = now();
    let balance = over(set(1..=9), &world, PickFirst::new());
    balance.ready().await.unwrap();
    assert_eq!(now() - start, 200 * MS, "three failures, then the fourth");
    assert_eq!(world.look().most_dialling, 1);
    // The failed ones come back meanwhile; nobody wants them.
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(world.dials(), 4);
    assert_eq!(ask(&balance).await, name(4));
}

/// All refuse: none is tried more often than its backoff lets it, and the first that is up serves,
/// wherever in the list it stands.
#[tokio::test(start_paused = true)]
async fn when_all_fail_each_is_dialled_again_in_its_time() {
    let world = World::new();
    world.roads(Road::FailsAfter(10 * MS));
    let balance = over(set(1..=3), &world, PickFirst::new());
    tokio::time::sleep(5 * SECOND).await;
    let before = world.dials();
    // 0.25, 0.4, 0.64, 1.02, 1.64 s: some five dials each in 5 s, and their jitter.
    assert!((9..=21).contains(&before), "{before} dials");
    world.road(3, Road::UpAfter(10 * MS));
    let start = now();
    assert_eq!(ask(&balance).await, name(3));
    assert!(now() - start < 4 * SECOND, "within one step of its backoff");
    let dials = world.dials();
    tokio::time::sleep(60 * SECOND).await;
    assert!(world.dials() <= dials + 1, "one dial may have been under way");
}

/// The requests move on when the connection fails, and do not move back.
#[tokio::test(start_paused = true)]
async fn a_failure_moves_the_requests_on_and_not_back() {
    let world = World::new();
    let balance = over(set(1..=5), &world, PickFirst::new());
    assert_eq!(ask(&balance).await, name(1));
    world.road(1, Road::FailsAfter(10 * MS));
    // Young connections that break count as failed.
    world.link(1).lost("reset");
    quiet().await;
    assert_eq!(world.dials_of(2).len(), 1, "the next is dialled without a request");
    assert_eq!(ask(&balance).await, name(2));
    world.road(1, Road::UpAfter(10 * MS));
    tokio::time::sleep(30 * SECOND).await;
    for _ in 0..100 {
        assert_eq!(ask(&balance).await, name(2));
    }
    assert_eq!((world.dials_of(1).len(), world.dials()), (1, 2), "one connection, no more");
    assert_eq!(of(&balance.status(), 1).link, LinkState::Idle);
}

/// A connection that served its time is dialled anew, on the same node.
#[tokio::test(start_paused = true)]
async fn a_goaway_is_no_reason_to_move() {
    let world = World::new();
    let balance = over(set(1..=3), &world, PickFirst::new());
    assert_eq!(ask(&balance).await, name(1));
    tokio::time::sleep(5 * SECOND).await;
    world.link(1).outlived("GOAWAY");
    assert_eq!(ask(&balance).await, name(1));
    assert_eq!((world.dials_of(1).len(), world.dials()), (2, 2));
}

/// Updates: the node in use stays as long as it is listed; then the first of the new list is used.
#[tokio::test(start_paused = true)]
async fn updates_move_nothing_as_long_as_the_node_is_listed() {
    let world = World::new();
    let (feed, source) = feed();
    let balance: Told = Balance::builder(source)
        .policy(PickFirst::new())
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    feed.say(set([5, 6, 7]));
    assert_eq!(ask(&balance).await, name(5));
    for lasts in [[1, 5, 6], [9, 8, 5], [6, 5, 7]] {
        feed.say(set(lasts));
        quiet().await;
        assert_eq!(ask(&balance).await, name(5));
    }
    assert_eq!(world.dials(), 1);
    feed.say(set([3, 6, 7]));
    quiet().await;
    assert_eq!(ask(&balance).await, name(3));
    tokio::time::sleep(SECOND).await;
    assert_eq!(world.dials(), 2);
}

/// A tier that is preferred gets the requests back, since that is what priority means; the one
/// connection moves with them.
#[tokio::test(start_paused = true)]
async fn a_preferred_tier_comes_back() {
    let world = World::new();
    world.road(1, Road::FailsAfter(10 * MS));
    let tiers = [endpoint(1), endpoint(2).with_priority(Priority(1))];
    let balance = over(Update::Set(Endpoints::from(tiers)), &world, PickFirst::new());
    assert_eq!(ask(&balance).await, name(2));
    world.road(1, Road::UpAfter(10 * MS));
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(ask(&balance).await, name(1));
}

/// A62's shuffle: balancers over one list spread, each keeps to its own node.
#[tokio::test(start_paused = true)]
async fn t9_shuffled_balancers_do_not_herd() {
    let mut used = HashSet::new();
    for seed in 0..50 {
        let world = World::new();
        let balance: Told = Balance::builder(just(set(1..=10)))
            .policy(PickFirst::new().shuffle())
            .seed(seed)
            .complete_at_response()
            .make(Managed(Arc::clone(&world)))
            .unwrap();
        let first = ask(&balance).await;
        assert_eq!(ask(&balance).await, first);
        assert_eq!(world.dials(), 1);
        used.insert(first);
    }
    // One of ten is missed by 50 balancers with a chance of 10 x 0.9^50, 5 %; two with 0.1 %; and
    // the seeds are fixed.
    assert!(used.len() >= 9, "{used:?}");
}

async fn get(balance: &Balance<HttpService>) -> Result<SocketAddr, BoxError> {
    let request = Request::get("http://users.example/").body(Empty::<Bytes>::new()).unwrap();
    let response = within(balance.clone().oneshot(request)).await?;
    let answered = response.body().endpoint().addr().socket().unwrap();
    within(response.into_body().collect()).await?;
    Ok(answered)
}

/// Over real sockets: past a port that refuses to the first server, one connection there and none
/// elsewhere; when the server dies they move to the next, and when it is back none returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_one_connection_over_real_sockets() {
    let refusing = refusing_port().await;
    let (first, second) = (Server::start_http2().await, Server::start_http2().await);
    let listed = [Endpoint::new(refusing), first.endpoint(), second.endpoint()]
        .map(|endpoint| endpoint.with_protocol(evenkeel::Protocol::Http2));
    let source = just(Update::Set(Endpoints::from(listed)));
    let balance = Balance::builder(source).policy(PickFirst::new()).http().unwrap();
    for _ in 0..200 {
        assert_eq!(get(&balance).await.unwrap(), first.address);
    }
    let accepted = |server: &Server| server.seen.accepted.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((accepted(&first), accepted(&second)), (1, 0));

    let address = first.address;
    drop(first);
    // Until the server's tasks are gone it may answer yet, and it may cut a request off.
    while get(&balance).await.ok() != Some(second.address) {}
    for _ in 0..200 {
        assert_eq!(get(&balance).await.unwrap(), second.address);
    }
    let first = Server::at(address, true).await;
    for _ in 0..200 {
        assert_eq!(get(&balance).await.unwrap(), second.address);
    }
    assert_eq!((accepted(&first), accepted(&second)), (0, 1));
}
