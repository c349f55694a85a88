//! A subset over real servers: who is connected, and who is not.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "http_balance/server.rs"]
#[allow(dead_code, reason = "no test uses all of it")]
mod server;

use std::{collections::BTreeSet, net::SocketAddr, sync::atomic::Ordering};

use bytes::Bytes;
use evenkeel::{
    Balance,
    client::HttpService,
    discovery::Registry,
    policy::RoundRobin,
    pool::{EndpointState, Subset},
};
use http::Request;
use http_body_util::{BodyExt, Empty};
use server::{Server, within};
use tower::ServiceExt;

async fn get(balance: &Balance<HttpService>) -> SocketAddr {
    let request = Request::get("http://users.example/").body(Empty::<Bytes>::new()).unwrap();
    let response = within(balance.clone().oneshot(request)).await.unwrap();
    let answered = response.body().endpoint().addr().socket().unwrap();
    within(response.into_body().collect()).await.unwrap();
    answered
}

fn serving(balance: &Balance<HttpService>) -> BTreeSet<SocketAddr> {
    let status = balance.status();
    let serving = status.endpoints.iter().filter(|one| one.state == EndpointState::Serving);
    serving.map(|one| one.endpoint.addr().socket().unwrap()).collect()
}

fn connected(servers: &[Server]) -> BTreeSet<SocketAddr> {
    let accepted = |server: &&Server| server.seen.accepted.load(Ordering::SeqCst) > 0;
    servers.iter().filter(accepted).map(|server| server.address).collect()
}

/// Three of ten servers are connected and answer. When one of them is deregistered its connection is
/// closed, and one other is connected in its place; nobody else hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_subset_hears_of_the_client() {
    let mut servers = Vec::new();
    for _ in 0..10 {
        servers.push(Server::start().await);
    }
    let registry = Registry::new();
    let mut registered: Vec<_> =
        servers.iter().map(|server| Some(registry.register(server.endpoint()).unwrap())).collect();
    let builder = Balance::builder(registry).policy(RoundRobin::new()).subset(Subset::random(3));
    let balance = builder.http().unwrap();
    within(balance.ready()).await.unwrap();

    let members = serving(&balance);
    assert_eq!(members.len(), 3);
    let mut answered = BTreeSet::new();
    within(async {
        while answered.len() < 3 {
            answered.insert(get(&balance).await);
        }
    })
    .await;
    for _ in 0..300 {
        answered.insert(get(&balance).await);
    }
    assert_eq!(answered, members);
    assert_eq!(connected(&servers), members);

    let gone = servers.iter().position(|server| members.contains(&server.address)).unwrap();
    registered[gone] = None;
    // A request may have dialled, too, while the first dial was under way.
    let all_closed = |seen: &server::Seen| {
        seen.closed.load(Ordering::SeqCst) == seen.accepted.load(Ordering::SeqCst)
    };
    servers[gone].until(all_closed).await;
    let now = within(async {
        loop {
            let now = serving(&balance);
            if now != members {
                return now;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((now.len(), now.intersection(&members).count()), (3, 2));
    within(async {
        let mut answered = BTreeSet::new();
        while answered != now {
            answered.insert(get(&balance).await);
        }
    })
    .await;
    assert_eq!(connected(&servers), &now | &members);
}
