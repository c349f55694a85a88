//! Weighted round robin over real servers: from the load reports in their headers and trailers to
//! their shares of the requests.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "http_balance/server.rs"]
#[allow(dead_code, reason = "no test uses all of it")]
mod server;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Balance, Protocol,
    client::HttpService,
    discovery::Registry,
    policy::{RoundRobin, WeightedRoundRobin},
    pool::Settings,
};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use server::{Server, within};
use tokio::net::TcpListener;
use tower::ServiceExt;

/// How a server reports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Header,
    Trailer,
    /// As gRPC does.
    TrailerOfHttp2,
}

/// An `OrcaLoadReport` with its fields 1 (CPU) and 6 (requests a second: 100), in base64.
fn base64_of_report(cpu: f64) -> String {
    let mut bytes = vec![0x09];
    bytes.extend(cpu.to_le_bytes());
    bytes.push(0x31);
    bytes.extend(100_f64.to_le_bytes());
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 18 bytes are six whole groups.
    let groups = bytes.chunks_exact(3).flat_map(|group| {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(bits >> shift & 63) as usize]))
    });
    groups.collect()
}

/// A server that says that its CPU is used to so many per cent.
async fn reporting(by: By, per_cent: &Arc<AtomicU64>) -> Server {
    let per_cent = Arc::clone(per_cent);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::serve(listener, by == By::TrailerOfHttp2, move |_| {
        let per_cent = per_cent.load(Ordering::SeqCst);
        async move {
            let mut response = Response::new(());
            let mut trailers = HeaderMap::new();
            match by {
                By::Header => {
                    let utilization = per_cent as f64 / 100.0;
                    let text = format!("TEXT cpu_utilization={utilization},rps_fractional=100");
                    let name = "endpoint-load-metrics";
                    response.headers_mut().insert(name, text.parse().unwrap());
                }
                By::Trailer | By::TrailerOfHttp2 => {
                    let name = "endpoint-load-metrics-bin";
                    response.headers_mut().insert("trailer", name.parse().unwrap());
                    trailers
                        .insert(name, base64_of_report(per_cent as f64 / 100.0).parse().unwrap());
                }
            }
            let frames = [Frame::data(Bytes::from_static(b"ok")), Frame::trailers(trailers)];
            let frames = futures::stream::iter(frames.map(Ok));
            Some(response.map(|()| BodyExt::boxed_unsync(StreamBody::new(frames))))
        }
    })
}

async fn shares(balance: &Balance<HttpService>, requests: usize) -> HashMap<SocketAddr, usize> {
    let mut answered = HashMap::new();
    for _ in 0..requests {
        let request = Request::get("http://users.example/")
            .header("te", "trailers")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = within(balance.clone().oneshot(request)).await.unwrap();
        let address = response.body().endpoint().addr().socket().unwrap();
        *answered.entry(address).or_default() += 1;
        within(response.into_body().collect()).await.unwrap();
    }
    answered
}

/// The shares follow what the servers report, one in a header and one in a trailer; and change when
/// they report otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_follow_the_reports_of_real_servers() {
    follow([By::Header, By::Trailer], Protocol::Http1).await;
}

/// The same in the trailers of HTTP/2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_follow_the_reports_in_trailers_of_http2() {
    follow([By::TrailerOfHttp2; 2], Protocol::Http2).await;
}

async fn follow(by: [By; 2], protocol: Protocol) {
    let (light, heavy) = (Arc::new(AtomicU64::new(20)), Arc::new(AtomicU64::new(80)));
    let one = reporting(by[0], &light).await;
    let other = reporting(by[1], &heavy).await;
    let registry = Registry::new();
    let _registered = [&one, &other]
        .map(|server| registry.register(server.endpoint().with_protocol(protocol)).unwrap());
    let policy = WeightedRoundRobin::new()
        .blackout_period(Duration::ZERO)
        .update_period(Duration::from_millis(100));
    let balance = Balance::builder(registry).policy(policy).http().unwrap();

    // When the schedule takes the weights up, time says; then 400 requests are 320 to 80, and the
    // turns at both ends.
    let wait_for = async |weights: [usize; 2]| {
        within(async {
            loop {
                let found = shares(&balance, 400).await;
                let found =
                    [&one, &other].map(|server| found.get(&server.address).copied().unwrap_or(0));
                let wanted = weights.map(|weight| 400 * weight / (weights[0] + weights[1]));
                if found[0].abs_diff(wanted[0]) <= 4 && found[1].abs_diff(wanted[1]) <= 4 {
                    return;
                }
            }
        })
        .await;
    };
    wait_for([4, 1]).await;
    light.store(60, Ordering::SeqCst);
    heavy.store(20, Ordering::SeqCst);
    wait_for([1, 3]).await;

    // Another policy wants no reports: from then on both have the same.
    balance.update(Settings::new().policy(RoundRobin::new())).unwrap();
    wait_for([1, 1]).await;
}
