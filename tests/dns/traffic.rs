//! What callers see of it.

use std::{net::IpAddr, sync::atomic::Ordering};

use axum::{Router, http::HeaderMap, routing::get};
use bytes::Bytes;
use evenkeel::{
    Balance,
    discovery::{Dns, Failover, Merge, Resolver},
    node::Clock,
    policy::RoundRobin,
};
use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::net::UdpSocket;
use tower::ServiceExt;

use crate::{
    NAME, SECOND, guard, host,
    http_server::Server,
    over,
    server::{DnsServer, Reply},
    v4,
};

const SERVICE: &str = "_http._tcp.users.shop.test.";

fn request(uri: &str) -> Request<Empty<Bytes>> {
    Request::get(uri).body(Empty::new()).unwrap()
}

/// SRV records for these servers, all on 127.0.0.1.
fn publish(dns: &DnsServer, servers: &[Server]) {
    dns.addresses("local.test.", 1, [IpAddr::from([127, 0, 0, 1])]);
    let records: Vec<_> =
        servers.iter().map(|server| (0, 1, server.address.port(), "local.test.")).collect();
    dns.services(SERVICE, 1, &records);
}

/// R4: a server that is added gets its share as soon as it is seen, and no connection is closed for
/// it. Round robin: what is missed of the share is the rounding of one turn.
#[tokio::test]
async fn r4_a_new_address_gets_its_share_and_costs_no_connection() {
    let dns = DnsServer::start().await.unwrap();
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(Server::start().await);
    }
    publish(&dns, &servers);
    let source = over(Dns::srv(SERVICE).unwrap(), &dns);
    let balance = Balance::builder(source).policy(RoundRobin::new()).http().unwrap();
    let call = || {
        let call = balance.clone().oneshot(request("http://users.shop.test/"));
        async { guard(call).await.unwrap().into_body().collect().await.unwrap().to_bytes() }
    };
    let served = |server: &Server| server.seen.requests.load(Ordering::SeqCst);
    while servers.iter().any(|server| served(server) == 0) {
        call().await;
    }
    let accepted = |servers: &[Server]| -> Vec<_> {
        servers.iter().map(|server| server.seen.accepted.load(Ordering::SeqCst)).collect()
    };
    let before = accepted(&servers);
    servers.push(Server::start().await);
    publish(&dns, &servers);
    guard(async {
        while served(&servers[4]) == 0 {
            call().await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    let begin = served(&servers[4]);
    for _ in 0..1_000 {
        call().await;
    }
    let share = served(&servers[4]) - begin;
    assert!(share >= 160, "0.8 of a fifth of 1,000: {share}");
    assert_eq!(accepted(&servers[..4]), before);
    assert!(servers.iter().all(|server| server.seen.closed.load(Ordering::SeqCst) == 0));
}

/// R9: without endpoints a call waits as long as it is told to, then says what it waited for, why
/// there is none, and what discovery last said; and it recovers with the next look.
#[tokio::test]
async fn r9_without_endpoints_a_call_says_why_and_recovers() {
    let dns = DnsServer::start().await.unwrap();
    let server = Server::start().await;
    let target = || Dns::host(NAME, server.address.port()).unwrap();
    let balance =
        Balance::builder(over(target(), &dns)).wait_for_endpoints(SECOND / 2).http().unwrap();
    let call = || guard(balance.clone().oneshot(request("/")));
    // On a slow machine a call may give up before there is an answer.
    guard(async {
        while balance.status().discovery.empty.is_none() {
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await;
    let error = call().await.unwrap_err();
    assert!(error.is_no_endpoint() && error.is_unprocessed());
    assert_eq!(error.census().unwrap().known, 0);
    let name = format!("dns://{NAME}:{}", server.address.port());
    assert!(error.to_string().contains(&name), "{error}");
    assert!(balance.status().discovery.empty.unwrap().to_string().contains("NXDOMAIN"));

    dns.reply(NAME, RecordType::A, Reply::code(ResponseCode::ServFail));
    guard(async {
        while balance.status().discovery.error.is_none() {
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await;
    let error = call().await.unwrap_err();
    assert!(error.discovery().unwrap().to_string().contains("A: SERVFAIL"), "{error}");
    assert!(error.to_string().contains("A: SERVFAIL"), "{error}");

    dns.addresses(NAME, 1, [IpAddr::from([127, 0, 0, 1])]);
    guard(async { while balance.ready().await.is_err() {} }).await;
    assert_eq!(call().await.unwrap().status(), 200);
}

/// R9: where no nameserver has answered yet, a call that gives up after the 5 s that are the default says
/// so, and which nameservers were asked.
#[tokio::test]
async fn r9_a_call_names_the_nameservers_that_are_silent() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nameserver = silent.local_addr().unwrap();
    let source = Dns::host(NAME, 80).unwrap().resolver(Resolver::nameservers([nameserver]));
    let balance = Balance::builder(source).http().unwrap();
    let error = guard(balance.clone().oneshot(request("/"))).await.unwrap_err();
    assert!(error.is_no_endpoint());
    let expected = format!("`{NAME}`: no answer yet from {nameserver}");
    assert_eq!(error.discovery().unwrap().to_string(), expected);
    assert!(error.to_string().contains(&expected), "{error}");
}

/// R6: a thousand endpoints that refuse ask for a look each time; there is one set of questions a
/// floor interval of 1 s, and not none, though the TTL is 30 s. Looks begin a second apart at the
/// least, so `n` of them take more than `n - 1` seconds, however slow this machine is.
#[tokio::test]
async fn r6_a_thousand_refusing_endpoints_are_one_look_a_second() {
    let dns = DnsServer::start().await.unwrap();
    let refused = Server::start().await.address.port();
    let addresses = (0..1_000_u16).map(|i| {
        let [high, low] = i.to_be_bytes();
        IpAddr::from([127, 101, high, low])
    });
    dns.addresses(NAME, 30, addresses);
    let begin = Clock::default().now();
    let source = Dns::host(NAME, refused).unwrap().resolver(Resolver::nameservers([dns.address]));
    let balance = Balance::builder(source).keep_connected(1_000).http().unwrap();
    // Of each look that for A goes over UDP, is cut short, and goes over TCP; that for AAAA does not.
    let mut looks = 0;
    guard(async {
        while looks < 4 {
            let asked = dns.asked();
            looks += asked.iter().filter(|asked| asked.kind == RecordType::AAAA).count();
            tokio::time::sleep(SECOND / 50).await;
        }
    })
    .await;
    let took = Clock::default().now().saturating_duration_since(begin);
    let most = took.as_secs() + 1;
    assert!(looks as u64 <= most, "{looks} looks in {took:?}");
    assert_eq!(balance.status().endpoints.len(), 1_000);
}

/// R20: the name that was asked for is the `Host` of requests that bring none, and no other's.
#[tokio::test]
async fn r20_the_name_asked_for_stays_the_host() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = |headers: HeaderMap| async move { headers["host"].to_str().unwrap().to_owned() };
    let server = axum::serve(listener, Router::new().route("/", get(echo)));
    let _server = tokio::task::JoinSet::from_iter([async { server.await.unwrap() }]);
    let dns = DnsServer::start().await.unwrap();
    dns.addresses(NAME, 1, [IpAddr::from([127, 0, 0, 1])]);
    let balance = Balance::builder(over(Dns::host(NAME, port).unwrap(), &dns)).http().unwrap();
    for (uri, host) in [("/", "users.shop.test"), ("http://other.test:81/", "other.test:81")] {
        let response = guard(balance.clone().oneshot(request(uri))).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, host);
    }
}

/// R22: strict priorities over two names: the backup takes over while the primary refuses, and gives
/// back. And a union of the two names serves both.
#[tokio::test]
async fn r22_failover_and_merge_over_two_names() {
    let dns = DnsServer::start().await.unwrap();
    let (primary, backup) = (Server::start().await, Server::start().await);
    let (first, second) = ("_http._tcp.first.test.", "_http._tcp.second.test.");
    dns.addresses("local.test.", 1, [IpAddr::from([127, 0, 0, 1])]);
    dns.services(first, 1, &[(0, 1, primary.address.port(), "local.test.")]);
    dns.services(second, 1, &[(0, 1, backup.address.port(), "local.test.")]);
    let source = |name| over(Dns::srv(name).unwrap(), &dns);
    let failover = Failover::new().then(source(first)).then(source(second));
    let balance = Balance::builder(failover).http().unwrap();
    guard(balance.ready()).await.unwrap();
    let by = async || -> Option<u16> {
        match guard(balance.clone().oneshot(request("/"))).await {
            Ok(response) => response.body().endpoint().addr().port(),
            // What was on its way when the server went: nobody knows whether it was served.
            Err(error) if error.is_ambiguous() => None,
            Err(error) => panic!("{error}"),
        }
    };
    let port = primary.address.port();
    for _ in 0..20 {
        assert_eq!(by().await, Some(port));
    }
    drop(primary);
    guard(async { while by().await != Some(backup.address.port()) {} }).await;

    let merge = Merge::new().with(source(first)).with(source(second));
    let merged = Balance::builder(merge).policy(RoundRobin::new()).http().unwrap();
    guard(merged.ready()).await.unwrap();
    let mut ports: Vec<_> =
        merged.status().endpoints.iter().map(|one| one.endpoint.addr().port().unwrap()).collect();
    ports.sort_unstable();
    let mut expected = [port, backup.address.port()];
    expected.sort_unstable();
    assert_eq!(ports, expected);
}

/// R8: with no handle left nothing asks any more.
#[tokio::test]
async fn r8_without_a_balancer_nobody_asks() {
    let dns = DnsServer::start().await.unwrap();
    dns.addresses(NAME, 0, [v4(1)]);
    let balance = Balance::builder(host(&dns)).http().unwrap();
    guard(async {
        while dns.asked().is_empty() {
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await;
    drop(balance);
    // What was on its way may still come, on a slow machine late; then, for several times the pace, nothing.
    guard(async {
        loop {
            dns.asked();
            tokio::time::sleep(SECOND).await;
            if dns.asked().is_empty() {
                break;
            }
        }
    })
    .await;
}
