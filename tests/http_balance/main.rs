//! The whole way, over real sockets: a balancer over the plain HTTP transport and real servers.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../support/causes.rs"]
mod causes;
mod endings;
mod failover;
mod faults;
mod restart;
mod server;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Balance, Endpoint, Error,
    client::{Http, HttpService},
    discovery::{Registry, StaticList},
    node::LinkState,
    policy::{IntoPolicy, LeastRequest, NoKey, P2c, RoundRobin},
};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Channel, Empty, Full, StreamBody};
use tokio::{
    net::TcpSocket,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tower::ServiceExt;

use server::{Server, refusing_port, within};

type Http1Balance = Balance<HttpService>;

async fn get(balance: Http1Balance) -> Result<SocketAddr, Error> {
    let request = Request::get("http://users.example/").body(Empty::<Bytes>::new()).unwrap();
    let response = within(balance.oneshot(request)).await?;
    let endpoint = response.body().endpoint();
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, endpoint.to_string(), "the endpoint named is the one that answered");
    Ok(endpoint.addr().socket().unwrap())
}

/// So many requests, so many of them at once; how many each endpoint answered, and the errors.
async fn load(
    balance: &Http1Balance,
    requests: usize,
    at_once: usize,
) -> (HashMap<SocketAddr, usize>, Vec<Error>) {
    let (mut answered, mut errors) = (HashMap::new(), Vec::new());
    let mut calls = JoinSet::new();
    for number in 0..requests + at_once {
        if number < requests {
            calls.spawn(get(balance.clone()));
        }
        if number >= at_once {
            match calls.join_next().await.unwrap().unwrap() {
                Ok(address) => *answered.entry(address).or_default() += 1,
                Err(error) => errors.push(error),
            }
        }
    }
    (answered, errors)
}

fn over(endpoints: &[Endpoint], policy: impl IntoPolicy<Key = NoKey>) -> (Http1Balance, Registry) {
    let registry = Registry::new();
    for endpoint in endpoints {
        // These stay registered for as long as the registry lives.
        std::mem::forget(registry.register(endpoint.clone()).unwrap());
    }
    let balance = Balance::builder(registry.clone()).policy(policy).seed(7).http().unwrap();
    (balance, registry)
}

/// R1: a port that refuses costs no request, and serves again soon after it listens again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_refused_endpoint_costs_no_request() {
    let (one, two) = (Server::start().await, Server::start().await);
    let dead = refusing_port().await;
    let endpoints = [one.endpoint(), two.endpoint(), Endpoint::new(dead)];
    let (balance, _registry) = over(&endpoints, P2c::default());
    let (answered, errors) = load(&balance, 10_000, 50).await;
    assert!(errors.is_empty(), "{} errors, first {:?}", errors.len(), errors.first());
    assert_eq!(answered.values().sum::<usize>(), 10_000);
    assert!(!answered.contains_key(&dead));

    let back = Server::at(dead, false).await;
    within(async {
        while back.requests() == 0 {
            assert!(load(&balance, 20, 5).await.1.is_empty());
        }
    })
    .await;
}

/// R1, as a table: one that lives and one that refuses. Round robin picks the dead one every other time;
/// tonic's `balance_list` loses a third and more of its calls here (`benches/clients.rs` prints both).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_no_policy_loses_a_request_to_a_refused_endpoint() {
    let one = Server::start().await;
    let endpoints = [one.endpoint(), Endpoint::new(refusing_port().await)];
    for (balance, _registry) in [
        over(&endpoints, RoundRobin::new()),
        over(&endpoints, LeastRequest::new()),
        over(&endpoints, P2c::peak_ewma()),
    ] {
        let (answered, errors) = load(&balance, 10_000, 32).await;
        assert!(errors.is_empty(), "{} errors, first {:?}", errors.len(), errors.first());
        assert_eq!(answered, HashMap::from([(one.address, 10_000)]));
    }
}

/// R2: nobody waits for an endpoint whose connect hangs, while another is connected. The connect
/// timeout is longer than the guard of this test, so one request that waited would show.
#[tokio::test]
async fn r2_a_swallowed_connect_holds_up_nobody() {
    let one = Server::start().await;
    // A full backlog swallows further connects.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let swallowing = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(swallowing))
            .await
    {
        held.push(stream.unwrap());
    }
    let registry = Registry::new();
    let _one = registry.register(one.endpoint()).unwrap();
    let _swallowing = registry.register(Endpoint::new(swallowing)).unwrap();
    let balance = Balance::builder(registry)
        .policy(RoundRobin::new())
        .make(Http::default().connect_timeout(Duration::from_secs(600)))
        .unwrap();
    balance.ready().await.unwrap();
    let (answered, errors) = load(&balance, 300, 10).await;
    assert!(errors.is_empty(), "{:?}", errors.first());
    assert_eq!(answered[&one.address], 300);
    let status = balance.status();
    let links: Vec<_> = status.endpoints.iter().map(|endpoint| endpoint.link).collect();
    assert!(links.contains(&LinkState::Connecting), "{links:?}");
}

/// R4: a new endpoint gets its share as soon as it is connected, and nothing is closed for it.
#[tokio::test]
async fn r4_a_new_endpoint_gets_its_share_and_closes_no_connection() {
    for policy in [0, 1] {
        let (one, two) = (Server::start().await, Server::start().await);
        let (balance, registry) = match policy {
            0 => over(&[one.endpoint(), two.endpoint()], RoundRobin::new()),
            _ => over(&[one.endpoint(), two.endpoint()], LeastRequest::new()),
        };
        assert!(load(&balance, 500, 20).await.1.is_empty());

        let three = Server::start().await;
        let _three = registry.register(three.endpoint()).unwrap();
        three.until(|seen| seen.accepted.load(Ordering::SeqCst) > 0).await;
        within(async {
            // Accepted by the server; the client's side needs a moment more.
            while three.requests() == 0 {
                load(&balance, 1, 1).await;
            }
        })
        .await;
        // 3,000 requests at a fair third: mean 1,000, and with independent picks a deviation of 26;
        // the bound of 0.8 is 7.7 of those away.
        let (answered, errors) = load(&balance, 3_000, 20).await;
        assert!(errors.is_empty());
        assert!(answered[&three.address] >= 800, "{answered:?}");
        for server in [&one, &two] {
            assert_eq!(server.seen.closed.load(Ordering::SeqCst), 0);
        }
    }
}

/// R8: without a request, connections are opened, and those of a removed endpoint closed; and when
/// the last handle goes, all are.
#[tokio::test]
async fn r8_connections_follow_the_set_without_a_request() {
    let servers = [Server::start().await, Server::start().await];
    let registry = Registry::new();
    let one = registry.register(servers[0].endpoint()).unwrap();
    let _two = registry.register(servers[1].endpoint()).unwrap();
    let balance = Balance::builder(registry.clone()).http().unwrap();
    for server in &servers {
        server.until(|seen| seen.accepted.load(Ordering::SeqCst) == 1).await;
    }
    drop(one);
    servers[0].until(|seen| seen.closed.load(Ordering::SeqCst) == 1).await;
    drop(balance);
    servers[1].until(|seen| seen.closed.load(Ordering::SeqCst) == 1).await;
}

/// R14: an endpoint that is removed takes nothing new, and its running response goes on to its end.
#[tokio::test]
async fn r14_a_removed_endpoint_finishes_what_it_began() {
    let (go_on, goes_on) = watch::channel(false);
    let slow = Server::answering(move |_| {
        let mut goes_on = goes_on.clone();
        async move {
            let (mut sender, body) = Channel::<Bytes>::new(1);
            tokio::spawn(async move {
                sender.send_data(Bytes::from("first ")).await.unwrap();
                goes_on.wait_for(|go_on| *go_on).await.unwrap();
                sender.send_data(Bytes::from("last")).await.unwrap();
            });
            Some(Response::new(body.boxed_unsync()))
        }
    })
    .await;
    let registry = Registry::new();
    let registration = registry.register(slow.endpoint()).unwrap();
    let balance = Balance::builder(registry.clone()).http().unwrap();
    let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
    let response = within(balance.clone().oneshot(request)).await.unwrap();
    assert_eq!(balance.status().endpoints[0].in_flight, 1);

    let other = Server::start().await;
    let _other = registry.register(other.endpoint()).unwrap();
    drop(registration);
    other.until(|seen| seen.accepted.load(Ordering::SeqCst) == 1).await;
    let (answered, errors) = load(&balance, 50, 5).await;
    assert!(errors.is_empty());
    assert_eq!(answered[&other.address], 50);
    assert_eq!(slow.seen.closed.load(Ordering::SeqCst), 0);

    go_on.send_replace(true);
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, "first last");
    slow.until(|seen| seen.closed.load(Ordering::SeqCst) == 1).await;
}

/// T14: a connection that dies after the request was sent is ambiguous; it is not tried elsewhere.
#[tokio::test]
async fn t14_a_request_that_was_sent_is_sent_once() {
    let servers =
        [Server::answering(|_| async { None }).await, Server::answering(|_| async { None }).await];
    let (balance, _registry) = over(&servers.each_ref().map(Server::endpoint), RoundRobin::new());
    let request = Request::post("/").body(Full::new(Bytes::from("pay"))).unwrap();
    let error = within(balance.clone().oneshot(request)).await.unwrap_err();
    assert!(error.is_ambiguous() && !error.is_unprocessed(), "{error:?}");
    assert!(error.endpoint().is_some(), "R25");
    assert_eq!(servers.iter().map(Server::requests).sum::<usize>(), 1);
}

/// HTTP/2: requests are balanced one by one, not pinned to the server that a connection leads to.
#[tokio::test]
async fn http2_requests_are_balanced_one_by_one() {
    let servers = [Server::start_http2().await, Server::start_http2().await];
    let registry = Registry::new();
    let _held = servers.each_ref().map(|server| registry.register(server.endpoint()).unwrap());
    let balance = Balance::builder(registry)
        .policy(RoundRobin::new())
        .make(Http::default().http2_prior_knowledge())
        .unwrap();
    for server in &servers {
        server.until(|seen| seen.accepted.load(Ordering::SeqCst) == 1).await;
    }
    within(async {
        while balance.status().endpoints.iter().any(|endpoint| endpoint.link != LinkState::Up) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (answered, errors) = load(&balance, 200, 20).await;
    assert!(errors.is_empty(), "{:?}", errors.first());
    for server in &servers {
        assert_eq!(answered[&server.address], 100);
        assert_eq!(server.seen.accepted.load(Ordering::SeqCst), 1, "one connection carries all");
    }
}

/// A body that breaks off because its own source refused says nothing of the endpoint, and the
/// request was sent.
#[tokio::test]
async fn r3_a_refusal_inside_the_request_body_is_not_the_endpoints() {
    let server = Server::answering(|request| async {
        let _ = request.into_body().collect().await;
        Some(Response::new(Full::<Bytes>::default().boxed_unsync()))
    })
    .await;
    let (balance, _registry) = over(&[server.endpoint()], RoundRobin::new());
    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let frames = [Ok(Frame::data(Bytes::from("begun"))), Err(refused())];
    let body = StreamBody::new(futures::stream::iter(frames));
    let request = Request::post("/").body(body).unwrap();
    let error = within(balance.clone().oneshot(request)).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error:?}");
    let status = balance.status();
    assert!(!matches!(status.endpoints[0].link, LinkState::Failed { .. }), "{status}");
}

/// R25: the endpoint is in the response's extensions, unless that is switched off.
#[tokio::test]
async fn r25_the_endpoint_is_told() {
    let server = Server::start().await;
    for tell in [true, false] {
        let registry = Registry::new();
        let _held = registry.register(server.endpoint()).unwrap();
        let balance = Balance::builder(registry).tell_endpoint(tell).http().unwrap();
        let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
        let response = within(balance.oneshot(request)).await.unwrap();
        let told = response.extensions().get::<Endpoint>().cloned();
        assert_eq!(told, tell.then(|| server.endpoint()));
        assert_eq!(response.body().endpoint(), server.endpoint());
    }
}

/// One balancer serves requests with bodies of any type, and streams them both ways.
#[tokio::test]
async fn bodies_of_any_type_go_both_ways() {
    let echo = Server::answering(|request| async {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Some(Response::new(Full::new(body).boxed_unsync()))
    })
    .await;
    let (balance, _registry) = over(&[echo.endpoint()], RoundRobin::new());
    let whole =
        balance.clone().oneshot(Request::new(Full::new(Bytes::from("whole")))).await.unwrap();
    let text = balance.clone().oneshot(Request::new("text".to_owned())).await.unwrap();
    let (mut sender, streamed) = Channel::<Bytes>::new(1);
    let streamed =
        tokio::spawn(balance.clone().oneshot(Request::post("/").body(streamed).unwrap()));
    for part in ["in ", "parts"] {
        sender.send_data(Bytes::from(part)).await.unwrap();
    }
    drop(sender);
    let streamed = within(streamed).await.unwrap().unwrap();
    for (response, expected) in [(whole, "whole"), (text, "text"), (streamed, "in parts")] {
        assert_eq!(within(response.into_body().collect()).await.unwrap().to_bytes(), expected);
    }
}

/// A layer over a client that knows nothing of balancing: the URI is pointed at the endpoint, and
/// the name that the caller used stays the `Host`. A refused port costs one request a backoff.
#[tokio::test]
async fn a_layer_balances_a_plain_client() {
    let (hosts, mut host) = mpsc::unbounded_channel();
    let server = Server::answering(move |request| {
        hosts.send(request.headers()["host"].clone()).unwrap();
        async { Some(Response::new(Full::<Bytes>::default().boxed_unsync())) }
    })
    .await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Empty<Bytes>>();
    let target = format!("static://{},{}", server.address, refusing_port().await);
    let layer = Balance::to(&target).unwrap().policy(RoundRobin::new()).layer().unwrap();
    let balance = tower::ServiceBuilder::new().layer(layer).service(client);
    let failed = AtomicUsize::new(0);
    for _ in 0..50 {
        let request = Request::get("http://users.example:81/x").body(Empty::new()).unwrap();
        match within(balance.clone().oneshot(request)).await {
            Ok(_) => assert_eq!(host.recv().await.unwrap(), "users.example:81"),
            Err(error) => {
                assert!(error.is_unprocessed(), "{error:?}");
                failed.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    assert_eq!(failed.into_inner(), 1, "from then on its link is known to have failed");
}
