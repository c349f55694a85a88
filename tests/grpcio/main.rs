//! Against a foreign gRPC server, grpcio's with its health service, and for a foreign client. They run with
//! the Python that `EVENKEEL_GRPCIO_PYTHON` names, which needs grpcio and grpcio-health-checking; `.ci/run`
//! makes one.

#![cfg(feature = "tonic")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod forwarding;
#[path = "../support/relay.rs"]
mod relay;
#[allow(unreachable_pub, dead_code, reason = "as it is generated")]
#[path = "../../examples/tonic/shop.rs"]
mod shop;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../tonic/server.rs"]
mod shop_server;
#[path = "../support/skip.rs"]
mod skip;

use std::{
    error::Error as StdError,
    ffi::OsString,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use evenkeel::{Balance, client::TonicChannel, policy::RoundRobin};
use futures::StreamExt;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use self::{relay::Relay, shop_server::guard};

/// The server's process; it ends when this is dropped.
struct Grpcio {
    child: Child,
    port: u16,
}

/// Where there is no such Python, the test is skipped, and says so.
fn python() -> Option<OsString> {
    let python = std::env::var_os("EVENKEEL_GRPCIO_PYTHON");
    if python.is_none() {
        skip::skipped("EVENKEEL_GRPCIO_PYTHON names no Python with grpcio");
    }
    python
}

impl Grpcio {
    fn start(arguments: &[&str]) -> Option<Self> {
        let mut child = Command::new(python()?)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpcio/server.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("no port but {line:?}"));
        Some(Self { child, port })
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

/// A client of this server and of a port where nobody listens.
fn client(server: SocketAddr) -> (HealthClient<TonicChannel>, TonicChannel) {
    let target = format!("static://{server},127.0.0.1:1");
    let channel = Balance::to(&target).unwrap().policy(RoundRobin::new()).tonic().unwrap();
    (HealthClient::new(channel.clone()), channel)
}

impl Drop for Grpcio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// R1, R24: unary calls, errors in trailers alone, a stream with a deadline.
#[tokio::test]
async fn r24_a_foreign_server_answers_and_refuses() {
    let Some(server) = Grpcio::start(&[]) else { return };
    guard(async {
        let (mut health, channel) = client(server.address());
        for (service, status) in [("up", 1), ("down", 2), ("", 1)] {
            if !service.is_empty() {
                assert_eq!(health.check(of(service)).await.unwrap().into_inner().status, status);
            }
        }
        let status = health.check(of("unheard of")).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert!(status.source().is_none(), "nothing went wrong on the way");

        // On a busy machine the first message may come too late, and then a longer deadline is what
        // to try.
        let mut limit = Duration::from_millis(200);
        loop {
            let mut request = Request::new(of("up"));
            request.set_timeout(limit);
            let watched: Vec<_> = match health.watch(request).await {
                Ok(watched) => watched.into_inner().collect().await,
                Err(status) => vec![Err(status)],
            };
            let status = watched.last().unwrap().as_ref().unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
            // What ends the body is said twice by tonic.
            if let [Ok(first), Err(_), ..] = &watched[..] {
                assert_eq!(first.status, 1);
                break;
            }
            limit *= 2;
        }
        assert!(channel.status().endpoints.iter().all(|one| one.in_flight == 0));
    })
    .await;
}

/// R21: a server that ends its connections by age, with GOAWAY, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r21_a_foreign_server_ends_connections_by_age() {
    let Some(server) = Grpcio::start(&["150"]) else { return };
    guard(async {
        let relay = Arc::new(Relay::to(server.address()).await);
        let (health, _) = client(relay.address);
        let workers = (0..8).map(|_| {
            let (mut health, relay) = (health.clone(), Arc::clone(&relay));
            tokio::spawn(async move {
                // Until the server has ended four connections.
                while relay.accepted() < 5 {
                    health.check(of("up")).await.unwrap();
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
    })
    .await;
}
